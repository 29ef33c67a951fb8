"""``edge-agent run``: the daemon, in the foreground."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping
from typing import Any, Final

from edge_agent.adapters import logs
from edge_agent.adapters.config_files import default_path
from edge_agent.adapters.config_reader import ConfigReader
from edge_agent.adapters.config_store import ConfigStore
from edge_agent.adapters.host import boot_id
from edge_agent.adapters.places import state_dir
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.agent import Agent
from edge_agent.cli.lean import spare_heap
from edge_agent.cli.options import add
from edge_agent.core.config import stated_dir
from edge_agent.core.config_document import Source
from edge_agent.errors import ConfigError
from edge_agent.jobs import kinds
from edge_agent.services.config_start import begin

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
    return _ended(asyncio.run(_run(make(args.config, os.environ))))


def make(config: str | None, environ: Mapping[str, str]) -> Agent:
    """Return the agent that a configuration file makes, and have it log from now on.

    Raises:
        ConfigError: it is not valid, and was not when the agent ran last.
    """
    logs.configure("info", None)  # until it is known what the configuration says of that: it may be what is wrong
    files = ConfigReader(default_path(config, environ).absolute(), environ, kinds)
    found: list[Source] | ConfigError
    try:
        found = files.read()
    except ConfigError as unreadable:
        found = unreadable
    store, clocks = ConfigStore(state_dir(stated_dir(found), environ)), SystemClock()
    begun = begin(files, found, store, boot=boot_id(), raw=clocks.raw())
    logs.configure(begun.loaded.config.log.level, begun.loaded.config.log.format)
    spare_heap()
    return Agent(begun, files=files, store=store, clocks=clocks, environ=environ)


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
