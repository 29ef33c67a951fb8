/* libfaketime takes the instants of all of the kernel's timers for those of the wall clock: past it, to the kernel. */
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

int timerfd_settime(int timer, int flags, const struct itimerspec *value, struct itimerspec *old) {
    return syscall(SYS_timerfd_settime, timer, flags, value, old);
}
