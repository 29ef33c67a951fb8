"""``edge-agent run``: the daemon, in the foreground."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
import threading
from functools import partial
from typing import Any, Final

from edge_agent.adapters import logs
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.agent import Agent
from edge_agent.cli.lean import spare_heap
from edge_agent.cli.loading import load
from edge_agent.cli.options import add
from edge_agent.jobs import kinds

log = logging.getLogger(__name__)

LEAVING_S: Final = 2.0
"""How long the process may take to end once the agent has stopped: a job may have left what cannot be ended."""

RESTART: Final = 75
"""EX_TEMPFAIL (sysexits.h): the unit has systemd start the agent again after it, and not call it a failure."""


def describe(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options to its parser."""
    parser.description = "Run the daemon. SIGTERM and SIGINT stop it gracefully, SIGHUP rereads its configuration."
    add(parser, "--config")


def run(args: argparse.Namespace) -> int:
    """Run until a signal says otherwise; return 0 after a graceful stop, 1 after a bug of ours, 75 to be restarted."""
    read = partial(load, args.config, os.environ, kinds=kinds())
    loaded = read()
    logs.configure(loaded.config.log.level, loaded.config.log.format)
    spare_heap()
    agent = Agent(loaded, load=read, clocks=SystemClock(), environ=os.environ)
    return _ended(asyncio.run(_run(agent)))


async def _run(agent: Agent) -> int:
    loop = asyncio.get_running_loop()
    stop, reload = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, reload.set)
    bug: asyncio.Future[None] = loop.create_future()

    def caught(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """End the process on a bug in a callback too, which asyncio by itself only logs."""
        log.critical("callback_failed", extra={"reason": context["message"]}, exc_info=context.get("exception"))
        if "handle" in context and not bug.done():
            bug.set_exception(context["exception"])

    loop.set_exception_handler(caught)
    code = 0
    try:
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(_wait(bug), name="bugs")
            await agent.run(stop=stop, reload=reload)
            watching.cancel()
    except Exception:
        log.critical("crashed", exc_info=True)
        code = 1
    code = RESTART if agent.restarting and code == 0 else code
    leaving = threading.Timer(LEAVING_S, _leave, (code,))  # asyncio waits for tasks, and Python for threads, for ever
    leaving.daemon = True
    leaving.start()
    return code


def _leave(code: int) -> None:
    log.warning("left_behind", extra={"reason": "something that the agent could not end"})
    os._exit(_ended(code))


def _ended(code: int) -> int:
    """Return the exit code; where nobody restarts the process, it begins anew here.

    ``INVOCATION_ID`` would tell less: whoever is started by a service inherits it.
    """
    is_service = "NOTIFY_SOCKET" in os.environ or os.environ.get("SYSTEMD_EXEC_PID") == str(os.getpid())
    if code == RESTART and not is_service:
        os.execv(sys.executable, sys.orig_argv)  # noqa: S606  # what runs already
    return code


async def _wait(bug: asyncio.Future[None]) -> None:
    await bug
