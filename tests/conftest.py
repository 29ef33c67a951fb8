"""How tests run: coroutines on a loop with a deadline, hypothesis by profile, side by side, and nothing left behind.

``async def`` tests need no plugin and no marker. They run on a real loop in debug mode; with ``@pytest.mark.virtual``
on a loop whose time jumps. Async fixtures are not supported: use ``async with`` in the test.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import inspect
import math
import os
import signal
from collections.abc import Callable, Coroutine, Generator, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import pytest
from _pytest.runner import runtestprotocol

from tests.support.virtual_time import VirtualTimeLoop

if TYPE_CHECKING:
    from xdist.workermanage import WorkerController

with contextlib.suppress(ModuleNotFoundError):  # examples run without hypothesis, property tests ask for it
    import hypothesis

    hypothesis.settings.register_profile("dev", max_examples=25, deadline=None)
    hypothesis.settings.register_profile("ci", max_examples=200, deadline=None, derandomize=True, print_blob=True)
    hypothesis.settings.register_profile("nightly", max_examples=5000, deadline=None)
    _default_profile = "ci" if os.environ.get("CI") else "dev"
    hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", _default_profile))

IN_CI: Final = bool(os.environ.get("CI"))
DEFAULT_TIMEOUT_S: Final = 120.0  # it finds what hangs, also where four tests share a processor
BLOCKED_GRACE_S: Final = 2.0

CoroutineFunction = Callable[..., Coroutine[Any, Any, None]]


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers that the hooks here understand."""
    config.addinivalue_line("markers", "alone: run while no other test does: it judges lateness, or sets the clock")
    config.addinivalue_line("markers", "virtual(grace_s=0.0): run on a loop whose time jumps")
    config.addinivalue_line("markers", f"timeout_s(n): fail an async test after n s, not {DEFAULT_TIMEOUT_S:g}")


# ---------------------------------------------------------------- coroutines
class _DeadlineError(SystemExit):
    """Breaks through an event loop, which would log any other exception in a callback and go on."""


@contextlib.contextmanager
def _real_deadline(timeout_s: float) -> Iterator[None]:
    """Interrupt the main thread after some real seconds, whatever it does."""

    def expired(_signal: int, _frame: FrameType | None) -> None:
        raise _DeadlineError

    before = signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, timeout_s)
    try:
        yield
    except _DeadlineError:
        raise TimeoutError(f"the test takes longer than {timeout_s:g} s of real time") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _patience(item: pytest.Item) -> float:
    mark = item.get_closest_marker("timeout_s")
    return float(mark.args[0]) if mark else DEFAULT_TIMEOUT_S


def _synchronous(item: pytest.Item, function: CoroutineFunction) -> Callable[..., None]:
    """Return a plain function that runs a coroutine function as the test's markers say."""
    virtual = item.get_closest_marker("virtual")
    timeout_s = _patience(item)

    def factory() -> asyncio.AbstractEventLoop:
        loop = VirtualTimeLoop(**virtual.kwargs) if virtual else asyncio.SelectorEventLoop()
        loop.slow_callback_duration = math.inf  # on a busy machine all are slow, and the log is what tests look at
        return loop

    async def main(**arguments: object) -> None:
        async with asyncio.timeout(None if virtual else timeout_s) as deadline:
            try:
                await function(**arguments)
            except TimeoutError as error:
                if deadline.expired():
                    raise TimeoutError(f"the test takes longer than {timeout_s:g} s") from error
                raise

    @functools.wraps(function)
    def run(**arguments: object) -> None:
        limit = timeout_s if virtual else timeout_s + BLOCKED_GRACE_S
        # a virtual week makes so many futures that noting where each was made would cost more than all else
        with _real_deadline(limit), asyncio.Runner(debug=not virtual, loop_factory=factory) as runner:
            runner.run(main(**arguments))

    return run


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run an ``async def`` test; leave every other to pytest."""
    handle = getattr(pyfuncitem.obj, "hypothesis", None)
    if handle is not None and inspect.iscoroutinefunction(handle.inner_test):
        handle.inner_test = _synchronous(pyfuncitem, handle.inner_test)
        return None
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    _synchronous(pyfuncitem, pyfuncitem.obj)(**{name: pyfuncitem.funcargs[name] for name in names})
    return True


# ---------------------------------------------------------------- side by side
ROOM: Final = Path(__file__)
DOOR: Final = ROOM.with_name("fakes.py")  # both are only locked: any two files that are there


def _alone(item: pytest.Item) -> bool:
    return item.get_closest_marker("alone") is not None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with what may take long, so that none of it is left when all else is done; end with what runs alone."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: (_alone(item), -_patience(item)))


@contextlib.contextmanager
def _in_the_room(*, alone: bool) -> Iterator[None]:
    """Share the room with the other workers' tests, or have it alone; who waits for that lets nobody else in."""
    with DOOR.open() as door, ROOM.open() as room:
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(door, fcntl.LOCK_UN)
        yield


FIRST_TRY: Final = "failed at first"
"""The property of a test's report that tells how."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Run a test among those of the other workers; if it fails, try it once more, alone: that counts.

    Real processes with real deadlines share few cores here: what their neighbours took from them is not their fault.
    """
    if not hasattr(item.config, "workerinput"):
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    with _in_the_room(alone=_alone(item)):
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
    failed = [report for report in reports if report.failed]
    if failed:
        with _in_the_room(alone=True):
            item._initrequest()  # type: ignore[attr-defined]  # its fixtures are made anew
            reports = runtestprotocol(item, log=False, nextitem=nextitem)
        if not any(report.failed for report in reports):
            reports[-1].user_properties.append((FIRST_TRY, failed[0].longreprtext))
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name what has failed at first and passed alone, and how: it may yet be a fault."""
    for report in (one for reports in terminalreporter.stats.values() for one in reports):
        for name, text in getattr(report, "user_properties", ()):
            if name == FIRST_TRY:
                terminalreporter.section(f"{report.nodeid} {FIRST_TRY}, and passed alone")
                terminalreporter.line(str(text))


# ---------------------------------------------------------------- strictness
def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    return str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where everything must be there, a skipped test has failed."""
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not allow: {_reason(report)}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Where everything must be there, a skipped module has failed."""
    report = yield
    if IN_CI and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not allow: {_reason(report)}"
    return report


def _children() -> list[str]:
    """Return the command lines of the processes that this one started and that still run."""
    found: list[str] = []
    for listing in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread, or a child, that ends meanwhile
            for pid in listing.read_text().split():
                command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if command:  # a zombie has none
                    found.append(f"{pid} {command.strip()}")
    return found


LEFT_BEHIND: Final = pytest.StashKey[list[str]]()
"""What the workers have told of theirs."""


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: WorkerController) -> None:
    """Hear what a worker has left behind."""
    node.config.stash.setdefault(LEFT_BEHIND, []).extend(getattr(node, "workeroutput", {}).get("left_behind", []))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the whole run when a test has left a process behind; of workers, the one who started them is told."""
    config = session.config
    distributes = config.pluginmanager.has_plugin("dsession")
    left = config.stash.get(LEFT_BEHIND, []) if distributes else _children()
    if hasattr(config, "workeroutput"):
        config.workeroutput["left_behind"] = left
    elif left:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.write_line(f"\nprocesses left behind: {left}", red=True)
