"""``edge-agent demo``: a broker, an agent, an outage and its recovery, with nothing installed or left behind."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import signal
import socket
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, Final

from edge_agent.adapters import embedded_broker
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.cli.fleet_view import make_view
from edge_agent.cli.operating import find_target, until
from edge_agent.cli.options import add
from edge_agent.core.fleet import Change, Fleet, printable
from edge_agent.core.timebase import elapsed, later, seconds, to_seconds
from edge_agent.errors import EdgeAgentError
from edge_agent.services.watcher import Happening, Watcher

DEVICE: Final = "demo-1"
PREFIX: Final = "edge"
USUAL_PORT: Final = 1883
BEFORE_OUTAGE_S: Final = 8.0
OUTAGE_S: Final = 6.0
BROKER_PROBES: Final = 500
AGENT_BACK_AFTER_S: Final = 5.0
STOP_WITHIN_S: Final = 5.0
PROBE_EVERY_S: Final = 0.02
LOG_LINES_SHOWN: Final = 10
_PR_SET_PDEATHSIG: Final = 1  # prctl(2)

_CONFIG: Final = """\
device.id = "{device}"
mqtt = {{ brokers = ["{broker}"], prefix = "{prefix}", will_delay = "0s" }}
heartbeat.every = "2s"
state.dir = "{folder}/state"
control.socket = "{folder}/control.sock"
jobs.system = {{ kind = "system", every = "5s", options = {{ what = ["cpu", "memory", "load"] }} }}
jobs.disk = {{ kind = "system", cron = "0 6 * * *", options = {{ what = ["disk"] }} }}
"""
_HINTS: Final = """\
now try, in another terminal:
  edge-agent watch --broker {broker} --prefix {prefix}
  edge-agent send {device} job-run '{{"job": "disk"}}' --broker {broker} --prefix {prefix}
  mosquitto_sub -V 5 -p {port} -t '{prefix}/#' -v
  echo '{{"c": 21.5}}' | edge-agent publish data/t --socket {folder}/control.sock
  edge-agent jobs list --socket {folder}/control.sock
  edge-agent jobs run disk --wait --socket {folder}/control.sock
  kill -9 {pid}    # the broker publishes the agent's Will: offline
  $EDITOR {folder}/edge-agent.toml  # it notices by itself; then:
  edge-agent config history --socket {folder}/control.sock"""


def describe(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options to its parser."""
    parser.description = (
        "Start an MQTT broker and an agent with two jobs, show its heartbeats, take the broker away and bring it back. "
        "Needs nothing else, leaves nothing behind. Times are UTC. Ctrl-C ends it."
    )
    add(parser, "--seconds")
    parser.add_argument("--port", metavar="P", type=int, help="the broker's port; default: 1883 or a free one")


def run(args: argparse.Namespace) -> int:
    """Show it; return 0 unless the broker or the agent failed.

    Raises:
        EdgeAgentError: with what failed.
    """
    embedded_broker.require()
    port = choose_port(args.port)
    with tempfile.TemporaryDirectory(prefix="edge-agent-demo-") as folder:
        demo = Demo(port, Path(folder))
        if args.port is None and port != USUAL_PORT:
            demo.say(f"port {USUAL_PORT} is taken: {port} is used instead")
        asyncio.run(demo.run(args.seconds))
    return 0


def choose_port(asked: int | None) -> int:
    """Return the port that is asked for, else the usual one if it is free, else a free one.

    Raises:
        EdgeAgentError: the port that is asked for cannot be used.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((embedded_broker.LISTEN, USUAL_PORT if asked is None else asked))
        except (OSError, OverflowError) as error:
            if asked is None:
                return choose_port(0)
            why = f"port {asked} cannot be used: {error}; name another with --port, or leave it out"
            raise EdgeAgentError(why) from None
        return int(probe.getsockname()[1])


class Demo:
    """The broker, the agent, what is seen of them, and the story."""

    def __init__(self, port: int, folder: Path) -> None:
        self._clock, self._over, self._folder, fleet = SystemClock(), asyncio.Event(), folder, Fleet()
        url, config = f"mqtt://{embedded_broker.LISTEN}:{port}", folder / "edge-agent.toml"
        self._facts: dict[str, Any] = {"broker": url, "port": port, "prefix": PREFIX, "folder": folder}
        config.write_text(_CONFIG.format(device=DEVICE, **self._facts))
        self._argv = {
            "broker": ("edge_agent.adapters.embedded_broker", str(port)),
            "agent": ("edge_agent", "run", "--config", str(config)),
        }
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        target = find_target(argparse.Namespace(broker=url, prefix=PREFIX), {}, verb="demo")
        self._view = make_view(f"{url} {PREFIX}/", fleet, self._clock, self._over.set)
        self._watcher = target.watcher(Watcher, fleet, self._clock, self._tell)
        self._heartbeat = asyncio.Event()
        self._waits_for = "no heartbeat came"  # what is wrong if this is the end
        self._finished = False
        self._failure: EdgeAgentError | None = None

    async def run(self, seconds_: float | None) -> None:
        """Run until told to stop.

        Raises:
            EdgeAgentError: something failed; the end of its log is on stderr.
        """
        await self._start_broker()
        async with asyncio.TaskGroup() as group:
            acting = [group.create_task(self._story()), group.create_task(self._guard())]
            seeing = [group.create_task(self._view.run()), group.create_task(self._watcher.run())]
            try:
                if not await until(self._over, seconds_) and self._waits_for:
                    self._fail(f"{self._waits_for} in {seconds_:g} s", "agent")
            finally:
                await _cancelled(acting)
                await self._end("agent", signal.SIGTERM)  # while its last words can be seen
                await _cancelled(seeing)
                await self._end("broker", signal.SIGKILL)
        if self._failure is not None:
            raise self._failure

    async def _story(self) -> None:
        pid = self._start("agent")
        self.say(f"broker: {self._facts['broker']}; agent {DEVICE}: process {pid}, a heartbeat every 2 s")
        self.say(f"the agent's log: {self._folder}/agent.log")
        await self._see_heartbeat()
        await self._pause(BEFORE_OUTAGE_S)
        self.say(f"outage: taking the broker away for {OUTAGE_S:g} s (SIGKILL)")
        begun = self._clock.monotonic()
        await self._end("broker", signal.SIGKILL)
        await self._pause(OUTAGE_S)
        self._heartbeat.clear()
        self._waits_for = "no heartbeat came after the outage"
        await self._start_broker()
        self.say("broker is back on the same port, and remembers nothing")
        back = self._clock.monotonic()
        await self._see_heartbeat()
        whole, rest = (to_seconds(elapsed(instant, self._clock.monotonic())) for instant in (begun, back))
        self.say(f"recovered after {whole:.1f} s, {rest:.1f} s after the broker was back")
        self._finished = True
        for line in _HINTS.format(device=DEVICE, pid=pid, **self._facts).splitlines():
            self.say(line)

    async def _start_broker(self) -> None:
        """Start it, and wait until it answers."""
        self._start("broker")
        for _ in range(BROKER_PROBES):
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection(embedded_broker.LISTEN, self._facts["port"])
                return writer.close()
            await self._pause(PROBE_EVERY_S)
        return self._fail("the broker did not answer", "broker")

    async def _see_heartbeat(self) -> None:
        await self._heartbeat.wait()
        self._waits_for = ""

    # -- the children

    def _start(self, name: str) -> int:
        """Start a child that ends with this process, however this one ends; return its process id."""
        libc = ctypes.CDLL(None)
        with (self._folder / f"{name}.log").open("ab") as log:
            child = self._running[name] = subprocess.Popen(  # noqa: S603  # this very program
                [sys.executable, "-m", *self._argv[name]],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                start_new_session=True,  # Ctrl-C is for this process alone
                preexec_fn=partial(libc.prctl, _PR_SET_PDEATHSIG, signal.SIGKILL),  # noqa: PLW1509  # calls C alone
            )
        return child.pid

    async def _end(self, name: str, number: signal.Signals) -> None:
        """Send a child a signal and reap it; what is not gone after a while ends with this process."""
        if (child := self._running.pop(name, None)) is not None:
            child.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(child.wait, STOP_WITHIN_S)

    async def _guard(self) -> None:
        """See a child that ends by itself: what a person killed after the story comes back, the rest is a failure."""
        while True:
            await self._pause(PROBE_EVERY_S)
            for name, child in list(self._running.items()):
                code = child.poll()
                if code is None:
                    continue
                how = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with exit code {code}"
                if not self._finished or name == "broker" or code > 0:
                    return self._fail(f"the {name} {how}", name)
                self.say(f"the agent {how}; it comes back in {AGENT_BACK_AFTER_S:g} s, as under systemd")
                await self._pause(AGENT_BACK_AFTER_S)
                self.say(f"the agent is process {self._start(name)}")

    def _fail(self, text: str, name: str) -> None:
        """End with a failure of a child, and the end of its log."""
        words = (self._folder / f"{name}.log").read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
        sys.stderr.writelines(f"{name}: {printable(line)}\n" for line in words)
        self._failure = EdgeAgentError(f"{text}; {'above is the end of its log' if words else 'its log is empty'}")
        self._over.set()

    # -- small things

    def say(self, text: str) -> None:
        """Tell what is done."""
        self._view.say(f"== {text}")

    def _tell(self, happening: Happening) -> None:
        if isinstance(happening, Change) and happening.kind == "heartbeat" and happening.row.device == DEVICE:
            self._heartbeat.set()
        self._view.show(happening)

    async def _pause(self, seconds_: float) -> None:
        await self._clock.sleep_until(later(self._clock.monotonic(), seconds(seconds_)))


async def _cancelled(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
