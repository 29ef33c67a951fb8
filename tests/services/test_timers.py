"""Timers in virtual time, by the loop's alarm, with a true time that is slewed and stepped."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import threading
from collections.abc import AsyncIterator, Callable

import pytest

from edge_agent.adapters.timerfd import LoopAlarm
from edge_agent.core.timebase import UtcNs, seconds
from edge_agent.services.timers import APART, LONG, Timer, Timers
from tests.fakes import EPOCH

MS = 1_000_000


class Counting:
    """Makes alarms of the loop, and counts how often they ring."""

    def __init__(self) -> None:
        self.rings = 0

    def __call__(self, ring: Callable[[], None]) -> LoopAlarm:
        """Make one."""

        def counted() -> None:
            self.rings += 1
            ring()

        return LoopAlarm(counted)


class TrueTime:
    """True time by the loop's, at a rate that may be changed; a slew that ends by itself tells nobody."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._pieces: list[tuple[float, int, float]] = [(self._loop.time(), EPOCH, 1.0)]

    def __call__(self) -> UtcNs:
        """Return it."""
        return self.at(self._loop.time())

    def at(self, when: float) -> UtcNs:
        """Return it at an instant of the loop."""
        since, utc, rate = next(piece for piece in reversed(self._pieces) if piece[0] <= when)
        return UtcNs(utc + int((when - since) * 1e9 * rate))

    def slew(self, rate: float, *, for_s: float) -> None:
        """Run at a rate for so long, in seconds of the loop, and then at that of the loop."""
        now, end = self._loop.time(), self._loop.time() + for_s
        self._pieces += [(now, self(), rate)]
        self._pieces += [(end, self.at(end), 1.0)]

    def step(self, by_s: float) -> None:
        """Jump."""
        self._pieces = [(self._loop.time(), self() + seconds(by_s), 1.0)]


class Fired:
    """What fired, and how late by true time, in nanoseconds."""

    def __init__(self, now: Callable[[], UtcNs]) -> None:
        self._now = now
        self.names: list[str] = []
        self.late: list[int] = []

    def at(self, name: str, due: UtcNs) -> Callable[[], None]:
        """Return the callback of a timer."""

        def callback() -> None:
            self.names.append(name)
            self.late.append(self._now() - due)

        return callback


@contextlib.asynccontextmanager
async def running(timers: Timers) -> AsyncIterator[None]:
    """Run them."""
    task = asyncio.get_running_loop().create_task(timers.run())
    await asyncio.sleep(0)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error


def put_all(timers: Timers, fired: Fired, dues: list[UtcNs]) -> None:
    """Put timers that are named by their number."""
    for number, due in enumerate(dues):
        timers.put(str(number), due, fired.at(str(number), due))


@pytest.mark.virtual
async def test_every_timer_fires_once_at_its_time_in_order() -> None:
    """Put in any order, also before they run; nothing is left."""
    now = TrueTime()
    timers, fired = Timers(LoopAlarm, now), Fired(now)
    dues = [UtcNs(EPOCH + number * 7919 % 200 * 10 * MS) for number in range(200)]
    put_all(timers, fired, dues)
    async with running(timers):
        await asyncio.sleep(10)
    assert fired.names == [str(number) for number in sorted(range(200), key=dues.__getitem__)]
    assert min(fired.late) >= 0
    assert max(fired.late) < MS
    assert timers.names() == []


@pytest.mark.virtual
async def test_replaced_and_cancelled_timers_do_not_fire() -> None:
    """A name stands for the last that was put."""
    now = TrueTime()
    timers, fired = Timers(LoopAlarm, now), Fired(now)
    async with running(timers):
        first, second = UtcNs(EPOCH + seconds(1)), UtcNs(EPOCH + seconds(2))
        timers.put("a", second, fired.at("old a", second))
        timers.put("a", first, fired.at("new a", first))
        timers.put("b", first, fired.at("b", first))
        assert (timers.names(), timers.due("a"), timers.due("c")) == (["a", "b"], first, None)
        assert timers.cancel("b")
        assert not timers.cancel("b")
        await asyncio.sleep(5)
    assert fired.names == ["new a"]


@pytest.mark.virtual
async def test_timers_due_together_fire_in_one_pass() -> None:
    """However many, the alarm rings once for them; it rings no second time for what was put while they fired."""
    now, alarm = TrueTime(), Counting()
    timers, fired = Timers(alarm, now), Fired(now)
    async with running(timers):
        await asyncio.sleep(10)
        timers.put("first", UtcNs(now() + 1), lambda: None)
        await asyncio.sleep(10)  # from here on the rate is known
        before, due = alarm.rings, UtcNs(now() + seconds(5))
        put_all(timers, fired, [due] * 1000)
        timers.put("again", due, lambda: timers.put("again", UtcNs(due + seconds(5)), fired.at("again", due)))
        await asyncio.sleep(9)
        assert len(fired.names) == 1000
        assert alarm.rings == before + 1
        await asyncio.sleep(2)
        assert alarm.rings == before + 2


@pytest.mark.virtual
async def test_timers_that_are_due_densely_fire_some_at_a_time() -> None:
    """Ten in a millisecond cost one wake-up, in order, and none is later than that."""
    now, alarm = TrueTime(), Counting()
    timers, fired = Timers(alarm, now), Fired(now)
    async with running(timers):
        await asyncio.sleep(10)
        before, due = alarm.rings, now() + seconds(5)
        put_all(timers, fired, [UtcNs(due + number * MS // 10) for number in range(1000)])
        await asyncio.sleep(9)
        assert fired.names == [str(number) for number in range(1000)]
        assert 0 <= min(fired.late) <= max(fired.late) <= APART + MS // 100
        assert alarm.rings - before < 150


@pytest.mark.virtual
async def test_what_a_callback_cancels_does_not_fire_in_the_same_pass() -> None:
    """And what it puts for now fires in the next, after the loop has turned."""
    now = TrueTime()
    timers, order = Timers(LoopAlarm, now), list[str]()

    def first() -> None:
        order.append("first")
        timers.cancel("second")
        timers.put("third", UtcNs(0), lambda: order.append("third"))
        asyncio.get_running_loop().call_soon(order.append, "others")

    async with running(timers):
        timers.put("first", EPOCH, first)
        timers.put("second", EPOCH, lambda: order.append("second"))
        await asyncio.sleep(1)
    assert order == ["first", "others", "third"]


@pytest.mark.virtual
async def test_a_callback_that_raises_ends_the_run_after_the_others_were_called() -> None:
    """All that was raised in the pass comes out; what is due later is not touched."""
    now = TrueTime()
    timers, fired = Timers(LoopAlarm, now), Fired(now)
    bugs = [KeyError("one"), ZeroDivisionError("two")]

    def fail(bug: Exception) -> None:
        raise bug

    timers.put("bad", EPOCH, lambda: fail(bugs[0]))
    timers.put("good", EPOCH, fired.at("good", EPOCH))
    timers.put("worse", EPOCH, lambda: fail(bugs[1]))
    timers.put("later", UtcNs(EPOCH + seconds(1)), lambda: fail(bugs[0]))
    with pytest.raises(ExceptionGroup) as raised:
        await timers.run()
    assert list(raised.value.exceptions) == bugs
    assert fired.names == ["good"]
    assert timers.names() == ["later"]


@pytest.mark.virtual
async def test_a_cancelled_future_in_a_callback_is_a_bug_too() -> None:
    """It is no cancellation of the run, and does not end it in silence."""
    now = TrueTime()
    timers = Timers(LoopAlarm, now)
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    timers.put("bad", EPOCH, future.result)
    with pytest.raises(BaseExceptionGroup) as raised:
        await timers.run()
    assert [type(bug) for bug in raised.value.exceptions] == [asyncio.CancelledError]


@pytest.mark.virtual
async def test_a_second_failure_before_the_run_has_ended_does_no_harm() -> None:
    """The estimate changes in the same turn of the loop, and the next timer fails, too."""
    now = TrueTime()
    timers = Timers(LoopAlarm, now)

    def fail() -> None:
        timers.put("again", EPOCH, fail)
        timers.rearm()
        raise KeyError("bug")

    timers.put("bad", EPOCH, fail)
    with pytest.raises(ExceptionGroup, match="callbacks of timers failed"):
        await timers.run()


@pytest.mark.virtual
async def test_a_timer_starts_is_put_off_stops_and_starts_again() -> None:
    """The first start counts, the last reset counts, and a stopped one is quiet."""
    now = TrueTime()
    timers, fired = Timers(LoopAlarm, now), list[float]()
    loop = asyncio.get_running_loop()
    timer = Timer(timers, "t", lambda: fired.append(round(loop.time(), 3)))

    def after(wait_s: float) -> UtcNs:
        return UtcNs(now() + seconds(wait_s))

    async with running(timers):
        active = [timer.is_active]
        assert not timer.stop()
        timer.start(after(1))
        timer.start(after(0.5))
        active.append(timer.is_active)
        await asyncio.sleep(2)
        active.append(timer.is_active)
        assert fired == [1.0]
        assert active == [False, True, False]
        timer.reset(after(1))
        await asyncio.sleep(0.5)
        timer.reset(after(1))
        await asyncio.sleep(0.75)
        assert fired == [1.0]
        await asyncio.sleep(0.75)
        assert fired == [1.0, 3.5]
        timer.start(after(1))
        assert timer.stop()
        assert timers.names() == []
        await asyncio.sleep(2)
        timer.start(after(1))
        await asyncio.sleep(2)
    assert fired == [1.0, 3.5, 7.0]


@pytest.mark.virtual
async def test_a_timer_may_start_itself_again() -> None:
    """From its callback, where it is not active any more."""
    now = TrueTime()
    timers, states = Timers(LoopAlarm, now), list[bool]()

    def again() -> None:
        states.append(timer.is_active)
        timer.start(UtcNs(now() + seconds(1)))

    timer = Timer(timers, "t", again)
    async with running(timers):
        timer.start(EPOCH)
        await asyncio.sleep(4.5)
    assert states == [False] * 5


@pytest.mark.virtual
async def test_several_tasks_may_use_the_set_at_once() -> None:
    """Each with timers of its own, adding, moving and cancelling; every one fires as its task last said."""
    now = TrueTime()
    timers, fired = Timers(LoopAlarm, now), Fired(now)
    expected: list[str] = []

    async def use(task: int) -> None:
        draw = random.Random(task)  # noqa: S311  # a test's own dice
        for number in range(50):
            name, due = f"{task}-{number}", UtcNs(now() + seconds(draw.uniform(0, 3)))
            timers.put(name, UtcNs(now() + seconds(3)), fired.at("replaced", now()))
            await asyncio.sleep(draw.uniform(0, 0.1))
            timers.put(name, due, fired.at(name, due))
            if draw.random() < 0.5:
                expected.append(name)
            else:
                timers.cancel(name)

    async with running(timers):
        await asyncio.gather(*map(use, range(20)))
        await asyncio.sleep(5)
    assert sorted(fired.names) == sorted(expected)


async def test_other_threads_have_a_way_in() -> None:
    """Ten of them, each with a hundred timers, half of them cancelled again."""
    now, fired = TrueTime(), list[str]()
    timers = Timers(LoopAlarm, now)
    with pytest.raises(RuntimeError, match=r"await run\(\) first"):
        timers.call_threadsafe(timers.cancel, "x")

    def use(thread: int) -> None:
        for number in range(100):
            name = f"{thread}-{number}"
            timers.call_threadsafe(timers.put, name, UtcNs(EPOCH + seconds(3600)), lambda name=name: fired.append(name))
            if number % 2:
                timers.call_threadsafe(timers.cancel, name)

    async with running(timers):
        threads = [threading.Thread(target=use, args=(thread,)) for thread in range(10)]
        for thread in threads:
            thread.start()
        done = asyncio.Event()
        timer = Timer(timers, "done", done.set)
        timers.call_threadsafe(timer.start, UtcNs(EPOCH + seconds(0.1)))
        await done.wait()
        for thread in threads:
            await asyncio.to_thread(thread.join)
        done.clear()
        now.step(3600)  # however long the threads took
        timers.rearm()
        timer.start(now())
        await done.wait()
    assert sorted(fired) == sorted(f"{thread}-{number}" for thread in range(10) for number in range(0, 100, 2))
    with pytest.raises(RuntimeError, match=r"await run\(\) first"):
        timers.call_threadsafe(timers.cancel, "x")


# -- true time is not the alarm's


@pytest.mark.virtual
@pytest.mark.parametrize("rate", [0.949, 0.995, 0.9995, 0.99999, 1.00001, 1.0005, 1.005, 1.051])
async def test_nothing_fires_early_or_late_while_true_time_is_slewed(rate: float) -> None:
    """A timer every second and every minute, through the begin, the middle and the unannounced end of a slew."""
    now, alarm = TrueTime(), Counting()
    timers, fired = Timers(alarm, now), Fired(now)
    dues = [UtcNs(EPOCH + seconds(second)) for second in itertools.chain(range(200, 260), range(260, 1200, 60))]
    put_all(timers, fired, dues)
    async with running(timers):
        await asyncio.sleep(180)
        now.slew(rate, for_s=333.3)
        timers.rearm()
        await asyncio.sleep(1200)
    assert len(fired.late) == len(dues)
    assert min(fired.late) >= 0
    assert max(fired.late) < 7 * MS, "one ten-thousandth of what the last wait may be"
    assert alarm.rings < 8 * len(dues), "it does not spin"


@pytest.mark.virtual
async def test_a_change_of_rate_that_nobody_announces_makes_late_by_a_part_of_the_last_wait_only() -> None:
    """The host slews its own clock by a twelfth while a timer is an hour away."""
    now = TrueTime()
    timers, fired = Timers(LoopAlarm, now), Fired(now)
    due = UtcNs(EPOCH + seconds(3600))
    async with running(timers):
        timers.put("hour", due, fired.at("hour", due))
        await asyncio.sleep(600)
        now.slew(1 / (1 - 0.0833), for_s=5000)
        await asyncio.sleep(4000)
    assert 0 <= fired.late[0] < LONG * 0.1


@pytest.mark.virtual
@pytest.mark.parametrize("by_s", [3600.0, 59.0, -59.0, -3600.0])
async def test_a_step_is_heeded_at_once(by_s: float) -> None:
    """What was crossed fires now, what has moved away waits again; none fires twice."""
    now = TrueTime()
    timers, fired = Timers(LoopAlarm, now), Fired(now)
    dues = [UtcNs(EPOCH + seconds(second)) for second in (20, 40, 60, 4000)]
    put_all(timers, fired, dues)
    async with running(timers):
        await asyncio.sleep(30)
        now.step(by_s)
        timers.rearm()
        await asyncio.sleep(0.001)
        assert len(fired.names) == sum(due <= now() or due == dues[0] for due in dues)
        await asyncio.sleep(9000)
    assert fired.names == ["0", "1", "2", "3"]
    assert min(fired.late) >= 0
    assert fired.late[3] < 7 * MS


@pytest.mark.virtual
@pytest.mark.parametrize(("apart_s", "count"), [(60.0, 100), (0.6, 1000), (0.1, 1000), (3600.0, 10), (86_400.0, 10)])
async def test_idle_timers_wake_nobody_in_vain(apart_s: float, count: int) -> None:
    """A minute apart and closer together one wake-up for each; far apart a few more, and less than one a minute."""
    now, alarm = TrueTime(), Counting()
    timers, fired = Timers(alarm, now), Fired(now)
    put_all(timers, fired, [UtcNs(EPOCH + seconds(apart_s * number)) for number in range(1, count + 1)])
    async with running(timers):
        await asyncio.sleep(apart_s * (count + 1))
    assert len(fired.names) == count
    assert max(fired.late) < MS
    assert alarm.rings <= (1.2 * count if apart_s <= 60 else 5 * count)


@pytest.mark.virtual
async def test_with_nothing_to_wait_for_it_sleeps_until_something_is_put() -> None:
    """Not one wake-up in a day; a sooner timer is heeded though a later one was armed."""
    now, alarm = TrueTime(), Counting()
    timers, fired = Timers(alarm, now), Fired(now)
    async with running(timers):
        await asyncio.sleep(86_400)
        assert alarm.rings == 0
        later, sooner = UtcNs(now() + seconds(3000)), UtcNs(now() + seconds(3))
        timers.put("later", later, fired.at("later", later))
        await asyncio.sleep(1)
        timers.put("sooner", sooner, fired.at("sooner", sooner))
        await asyncio.sleep(4)
        assert fired.names == ["sooner"]
        await asyncio.sleep(3000)
    assert fired.names == ["sooner", "later"]


@pytest.mark.virtual
async def test_the_end_of_time_can_be_waited_for() -> None:
    """A deadline of the year 292,000,000 is one more timer."""
    now = TrueTime()
    timers, fired = Timers(LoopAlarm, now), Fired(now)
    async with running(timers):
        timers.put("never", UtcNs(10**25), fired.at("never", UtcNs(0)))
        await asyncio.sleep(10 * 86_400)
    assert (fired.names, timers.names()) == ([], ["never"])
