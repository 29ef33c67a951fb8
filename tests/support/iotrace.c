/* LD_PRELOAD shim: sees, delays and fails what a process does to the files below one folder.
 *
 *   IOTRACE_DIR=DIR          the folder: absolute, without symbolic links
 *   IOTRACE_LOG=FILE         log every change and every sync, one record each, as power_cut.py reads them
 *   IOTRACE_SYNC_US=N        each fsync and fdatasync takes N microseconds longer
 *   IOTRACE_STATS=FILE       at exit: counts and bytes, as JSON
 *   IOTRACE_WRITE_FAIL=FILE  while this is there, every write fails
 *   IOTRACE_SYNC_FAIL=FILE   while this is there, every sync fails
 *
 * The last two are symbolic links to nowhere whose target is the errno, so that one system call makes them and one
 * reads them. A file called MARKS is the test's own: it never fails.
 *
 * The folder is a filesystem of its own: nothing can be renamed into it or out of it, and copying goes through write.
 * Not seen: stores through mmap, duplicated descriptors, pwrite with O_APPEND, hard links, and what the C library does
 * behind its own symbols (FILE streams). Caught is what CPython and SQLite call; 64-bit machines only, where open64 is
 * open.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

_Static_assert(sizeof(off_t) == 8, "open64 and its like are defined here as aliases");

enum { TRACED = 1, DURABLE = 2, MARKS = 4 }; /* DURABLE: opened with O_DSYNC or O_SYNC */
enum { DESCRIPTORS = 65536 };

struct __attribute__((packed)) record {
  char op;
  uint64_t inode, value;
  uint32_t length; /* of the data that follows */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned char kinds[DESCRIPTORS];
static char folder[PATH_MAX];
static size_t folder_length;
static const char *write_fail, *sync_fail;
static long sync_us;
static int log_fd = -1;
static unsigned long writes, bytes, syncs, changes;

#define REAL(result, name, ...)           \
  static result (*real_##name)(__VA_ARGS__); \
  if (!real_##name) *(void **)&real_##name = dlsym(RTLD_NEXT, #name)
#define ALIAS(result, alias_name, name, ...) result alias_name(__VA_ARGS__) __attribute__((alias(#name)))

static int really_open(int at, const char *path, int flags, mode_t mode) {
  REAL(int, openat, int, const char *, int, ...);
  return real_openat(at, path, flags, mode);
}

__attribute__((constructor)) static void begin(void) {
  const char *dir = getenv("IOTRACE_DIR"), *log = getenv("IOTRACE_LOG"), *delay = getenv("IOTRACE_SYNC_US");
  if (dir) folder_length = (size_t)snprintf(folder, sizeof folder, "%s", dir);
  if (delay) sync_us = atol(delay);
  write_fail = getenv("IOTRACE_WRITE_FAIL");
  sync_fail = getenv("IOTRACE_SYNC_FAIL");
  if (log && (log_fd = really_open(AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644)) < 0) abort();
}

__attribute__((destructor)) static void end(void) {
  const char *stats = getenv("IOTRACE_STATS");
  FILE *out = stats ? fopen(stats, "w") : NULL;
  if (!out) return;
  fprintf(out, "{\"writes\":%lu,\"bytes\":%lu,\"syncs\":%lu,\"changes\":%lu}\n", writes, bytes, syncs, changes);
  fclose(out);
}

/* ---------------------------------------------------------------- helpers */
static int kind(int fd) { return fd >= 0 && fd < DESCRIPTORS ? kinds[fd] : 0; }

static uint64_t inode(int fd) {
  struct stat found;
  return fstat(fd, &found) ? 0 : found.st_ino;
}

/* The errno that a switch demands, 0 while it is off. */
static int demanded(const char *path) {
  char target[16];
  int saved = errno;
  ssize_t length = path ? readlink(path, target, sizeof target - 1) : -1;
  int code = path && length < 0 && errno == EINVAL ? EIO : 0; /* a plain file */
  if (length > 0) {
    target[length] = 0;
    code = atoi(target);
  }
  errno = saved;
  return code;
}

/* Whether a path is below the folder; relative becomes what stands after the folder. */
static int below(int at, const char *path, char *relative) {
  char base[PATH_MAX] = "", link[32], full[2 * PATH_MAX];
  if (!folder_length) return 0;
  if (path[0] != '/') {
    snprintf(link, sizeof link, at == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", at);
    if (readlink(link, base, sizeof base - 1) < 0) return 0;
  }
  snprintf(full, sizeof full, "%s%s%s", base, base[0] ? "/" : "", path);
  if (strncmp(full, folder, folder_length) || (full[folder_length] && full[folder_length] != '/')) return 0;
  strncpy(relative, full + folder_length + (full[folder_length] == '/'), PATH_MAX - 1);
  relative[PATH_MAX - 1] = 0;
  return 1;
}

/* Appends one record; the data are the first `length` bytes of the vectors. */
static void record(char op, uint64_t node, uint64_t value, const struct iovec *data, int count, size_t length) {
  REAL(ssize_t, write, int, const void *, size_t);
  if (log_fd < 0) return;
  struct record head = {op, node, value, (uint32_t)length};
  char *line = malloc(sizeof head + length), *to = line + sizeof head;
  if (!line) abort();
  memcpy(line, &head, sizeof head);
  for (size_t left = length; count && left; data++, count--) {
    size_t part = data->iov_len < left ? data->iov_len : left;
    memcpy(to, data->iov_base, part);
    to += part, left -= part;
  }
  if (real_write(log_fd, line, (size_t)(to - line)) != to - line) abort();
  free(line);
}

static void change(char op, uint64_t node, uint64_t value, const char *path, size_t length) {
  struct iovec data = {(void *)path, length};
  changes++;
  record(op, node, value, &data, 1, length);
}

/* ---------------------------------------------------------------- descriptors */
static int traced_open(int at, const char *path, int flags, mode_t mode) {
  char name[PATH_MAX];
  if ((flags & O_TMPFILE) == O_TMPFILE || !below(at, path, name)) return really_open(at, path, flags, mode);
  pthread_mutex_lock(&lock);
  int saved = errno, there = !faccessat(at, path, F_OK, 0);
  errno = saved;
  int fd = really_open(at, path, flags, mode);
  if (fd >= 0 && fd < DESCRIPTORS) {
    kinds[fd] = TRACED | (flags & O_DSYNC ? DURABLE : 0) | (strcmp(name, "MARKS") ? 0 : MARKS);
    if (!there) change('C', inode(fd), 0, name, strlen(name));
    else if (flags & O_TRUNC) change('T', inode(fd), 0, NULL, 0);
  }
  pthread_mutex_unlock(&lock);
  return fd;
}
#define MODE(flags)                         \
  mode_t mode = 0;                          \
  if (flags & (O_CREAT | O_TMPFILE)) {      \
    va_list rest;                           \
    va_start(rest, flags);                  \
    mode = va_arg(rest, mode_t);            \
    va_end(rest);                           \
  }
int open(const char *path, int flags, ...) { MODE(flags) return traced_open(AT_FDCWD, path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { MODE(flags) return traced_open(at, path, flags, mode); }
int __open_2(const char *path, int flags) { return traced_open(AT_FDCWD, path, flags, 0); }
ALIAS(int, open64, open, const char *, int, ...);
ALIAS(int, openat64, openat, int, const char *, int, ...);
ALIAS(int, __open64_2, __open_2, const char *, int);

int close(int fd) {
  REAL(int, close, int);
  if (kind(fd)) kinds[fd] = 0; /* before the number can be given out again */
  return real_close(fd);
}

/* ---------------------------------------------------------------- writes */
static ssize_t traced_write(int fd, const struct iovec *data, int count, off_t offset, int flags) {
  REAL(ssize_t, pwritev64v2, int, const struct iovec *, int, off_t, int);
  int code = kind(fd) & MARKS ? 0 : demanded(write_fail);
  if (code) return errno = code, -1;
  pthread_mutex_lock(&lock); /* the offset afterwards is this write's, not another thread's */
  ssize_t written = real_pwritev64v2(fd, data, count, offset, flags);
  if (written > 0) {
    int durable = kind(fd) & DURABLE || flags & (RWF_DSYNC | RWF_SYNC);
    off_t at = offset >= 0 ? offset : lseek(fd, 0, SEEK_CUR) - written;
    writes++, bytes += (unsigned long)written, syncs += (unsigned long)durable;
    record(durable ? 'Y' : 'W', inode(fd), (uint64_t)at, data, count, (size_t)written);
  }
  pthread_mutex_unlock(&lock);
  return written;
}
ssize_t write(int fd, const void *data, size_t length) {
  REAL(ssize_t, write, int, const void *, size_t);
  struct iovec one = {(void *)data, length};
  return kind(fd) ? traced_write(fd, &one, 1, -1, 0) : real_write(fd, data, length);
}
ssize_t pwrite64(int fd, const void *data, size_t length, off_t offset) {
  REAL(ssize_t, pwrite64, int, const void *, size_t, off_t);
  struct iovec one = {(void *)data, length};
  return kind(fd) ? traced_write(fd, &one, 1, offset, 0) : real_pwrite64(fd, data, length, offset);
}
ssize_t writev(int fd, const struct iovec *data, int count) {
  REAL(ssize_t, writev, int, const struct iovec *, int);
  return kind(fd) ? traced_write(fd, data, count, -1, 0) : real_writev(fd, data, count);
}
ssize_t pwritev64v2(int fd, const struct iovec *data, int count, off_t offset, int flags) {
  REAL(ssize_t, pwritev64v2, int, const struct iovec *, int, off_t, int);
  return kind(fd) ? traced_write(fd, data, count, offset, flags) : real_pwritev64v2(fd, data, count, offset, flags);
}
ALIAS(ssize_t, pwrite, pwrite64, int, const void *, size_t, off_t);
ALIAS(ssize_t, pwritev2, pwritev64v2, int, const struct iovec *, int, off_t, int);

/* Callers fall back to write, which is seen. */
ssize_t sendfile64(int out, int in, off_t *offset, size_t count) {
  REAL(ssize_t, sendfile64, int, int, off_t *, size_t);
  return kind(out) ? (errno = EINVAL, -1) : real_sendfile64(out, in, offset, count);
}
ssize_t copy_file_range(int in, off_t *from, int out, off_t *to, size_t count, unsigned flags) {
  REAL(ssize_t, copy_file_range, int, off_t *, int, off_t *, size_t, unsigned);
  return kind(out) ? (errno = EXDEV, -1) : real_copy_file_range(in, from, out, to, count, flags);
}

/* ---------------------------------------------------------------- sizes */
int ftruncate64(int fd, off_t size) {
  REAL(int, ftruncate64, int, off_t);
  if (!kind(fd)) return real_ftruncate64(fd, size);
  pthread_mutex_lock(&lock);
  int failed = real_ftruncate64(fd, size);
  if (!failed) change('T', inode(fd), (uint64_t)size, NULL, 0);
  pthread_mutex_unlock(&lock);
  return failed;
}
int truncate64(const char *path, off_t size) {
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  int failed = ftruncate64(fd, size), code = errno;
  close(fd);
  errno = code;
  return failed;
}
int posix_fallocate64(int fd, off_t offset, off_t length) {
  REAL(int, posix_fallocate64, int, off_t, off_t);
  if (!kind(fd)) return real_posix_fallocate64(fd, offset, length);
  int code = demanded(write_fail);
  if (code) return code;
  struct stat before;
  pthread_mutex_lock(&lock);
  code = fstat(fd, &before) ? errno : real_posix_fallocate64(fd, offset, length);
  if (!code && offset + length > before.st_size) change('T', before.st_ino, (uint64_t)(offset + length), NULL, 0);
  pthread_mutex_unlock(&lock);
  return code;
}
ALIAS(int, ftruncate, ftruncate64, int, off_t);
ALIAS(int, truncate, truncate64, const char *, off_t);
ALIAS(int, posix_fallocate, posix_fallocate64, int, off_t, off_t);

/* ---------------------------------------------------------------- syncs */
/* A sync vouches for what was in the log when it began, not for what other threads have written meanwhile. */
static int traced_sync(int fd, char op, int (*sync)(int)) {
  struct stat log;
  uint64_t begun = log_fd >= 0 && !fstat(log_fd, &log) ? (uint64_t)log.st_size : 0;
  if (sync_us) usleep((useconds_t)sync_us);
  int code = demanded(sync_fail);
  int failed = code ? (errno = code, -1) : sync(fd);
  code = errno;
  pthread_mutex_lock(&lock);
  syncs++;
  record(failed ? 'F' : op, inode(fd), begun, NULL, 0, 0);
  pthread_mutex_unlock(&lock);
  errno = code;
  return failed;
}
int fsync(int fd) {
  REAL(int, fsync, int);
  return kind(fd) ? traced_sync(fd, 'S', real_fsync) : real_fsync(fd);
}
int fdatasync(int fd) {
  REAL(int, fdatasync, int);
  return kind(fd) ? traced_sync(fd, 'D', real_fdatasync) : real_fdatasync(fd);
}

/* ---------------------------------------------------------------- names */
int unlinkat(int at, const char *path, int flags) {
  REAL(int, unlinkat, int, const char *, int);
  char name[PATH_MAX];
  if (!below(at, path, name)) return real_unlinkat(at, path, flags);
  pthread_mutex_lock(&lock);
  int failed = real_unlinkat(at, path, flags);
  if (!failed) change('U', 0, 0, name, strlen(name));
  pthread_mutex_unlock(&lock);
  return failed;
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int mkdirat(int at, const char *path, mode_t mode) {
  REAL(int, mkdirat, int, const char *, mode_t);
  char name[PATH_MAX];
  if (!below(at, path, name)) return real_mkdirat(at, path, mode);
  pthread_mutex_lock(&lock);
  int failed = real_mkdirat(at, path, mode);
  if (!failed) change('M', 0, 0, name, strlen(name));
  pthread_mutex_unlock(&lock);
  return failed;
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

int renameat(int from_at, const char *from, int to_at, const char *to) {
  REAL(int, renameat, int, const char *, int, const char *);
  char names[2 * PATH_MAX], target[PATH_MAX];
  int from_here = below(from_at, from, names), to_here = below(to_at, to, target);
  if (from_here != to_here) return errno = EXDEV, -1;
  if (!from_here) return real_renameat(from_at, from, to_at, to);
  size_t length = strlen(names) + 1 + strlen(target); /* old name, NUL, new name */
  strcpy(names + strlen(names) + 1, target);
  pthread_mutex_lock(&lock);
  int failed = real_renameat(from_at, from, to_at, to);
  if (!failed) change('R', 0, 0, names, length);
  pthread_mutex_unlock(&lock);
  return failed;
}
int rename(const char *from, const char *to) { return renameat(AT_FDCWD, from, AT_FDCWD, to); }
