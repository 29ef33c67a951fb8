"""``edge-agent demo``: a broker, an agent, an outage and its recovery, with nothing installed or left behind."""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import os
import shutil
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import Final

from edge_agent.adapters import embedded_broker
from edge_agent.adapters.mqtt_connector import MqttConnector
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.cli.fleet_view import View, make_view
from edge_agent.cli.watch import Target, clean_login, length, make_watcher, stop_on_signals, wait_for
from edge_agent.core.config_types import BrokerUrl
from edge_agent.core.connection import Attempt
from edge_agent.core.fleet import Change, Fleet, printable
from edge_agent.core.timebase import MonotonicNs, elapsed, later, seconds, to_seconds
from edge_agent.errors import EdgeAgentError
from edge_agent.ports import Clock
from edge_agent.services.watcher import Happening

DEVICE: Final = "demo-1"
PREFIX: Final = "edge"
USUAL_PORT: Final = 1883
BEFORE_OUTAGE_S: Final = 8.0
OUTAGE_S: Final = 6.0
HEARTBEAT_WITHIN_S: Final = 30.0
BROKER_WITHIN_S: Final = 10.0
AGENT_BACK_AFTER_S: Final = 5.0
STOP_WITHIN_S: Final = 5.0
PROBE_EVERY_S: Final = 0.02
LOG_LINES_SHOWN: Final = 10
_PR_SET_PDEATHSIG: Final = 1  # prctl(2)

_CONFIG: Final = """\
[device]
id = "{device}"
[mqtt]
brokers = ["{broker}"]
prefix = "{prefix}"
will_delay = "0s"
[heartbeat]
every = "2s"
[state]
dir = "{folder}/state"
[control]
socket = "{folder}/control.sock"
"""


def describe(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options to its parser."""
    parser.description = (
        "Start an MQTT broker and an agent, show its heartbeats, take the broker away and bring it back. "
        "Needs nothing else, leaves nothing behind. Times are UTC. Ctrl-C ends it."
    )
    parser.add_argument("--seconds", metavar="N", type=length, help="end after N seconds")
    parser.add_argument("--port", metavar="P", type=int, help="the broker's port; default: 1883 or a free one")


def run(args: argparse.Namespace) -> int:
    """Show it; return 0 unless the broker or the agent failed.

    Raises:
        EdgeAgentError: with what failed.
    """
    embedded_broker.require()
    port = choose_port(args.port)
    clock, fleet, over = SystemClock(), Fleet(), asyncio.Event()
    with tempfile.TemporaryDirectory(prefix="edge-agent-demo-") as folder:
        broker = BrokerUrl("mqtt", embedded_broker.LISTEN, port)
        target = Target(broker, PREFIX, clean_login("demo"), reconnect_max=seconds(1))
        view = make_view(target.title, fleet, clock, over.set)
        if args.port is None and port != USUAL_PORT:
            view.say(f"== port {USUAL_PORT} is taken: {port} is used instead")
        demo = Demo(target, fleet, view, folder=Path(folder), over=over)
        asyncio.run(demo.run(args.seconds))
    return 0


def choose_port(asked: int | None) -> int:
    """Return the port that is asked for, else the usual one if it is free, else a free one.

    Raises:
        EdgeAgentError: the port that is asked for cannot be used.
    """
    reason = ""
    for port in (USUAL_PORT, 0) if asked is None else (asked,):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((embedded_broker.LISTEN, port))
            except (OSError, OverflowError) as error:
                reason = f"port {port} cannot be used: {error}; name another with --port, or leave it out"
                continue
            return int(probe.getsockname()[1])
    raise EdgeAgentError(reason)


class Child:
    """A process that ends with this one, however this one ends, and writes to a file."""

    def __init__(self, name: str, argv: list[str], folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._argv = argv
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """The process id; 0 when it does not run."""
        return 0 if self._process is None else self._process.pid

    async def start(self) -> None:
        """Start it, in a session of its own so that Ctrl-C is for this process alone."""
        parent, libc = os.getpid(), ctypes.CDLL(None)

        def die_with_parent() -> None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:  # it died before the kernel was asked
                os._exit(1)

        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", *self._argv),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )

    async def died(self) -> int | None:
        """Wait for its end; return its exit code (negative: the signal), ``None`` when it was ended from here."""
        process = self._process
        assert process is not None, "it was started"
        code = await process.wait()
        return code if process is self._process else None

    async def end(self, number: signal.Signals) -> None:
        """Send a signal, if need be SIGKILL after a while, and reap it."""
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        process.send_signal(number)
        try:
            async with asyncio.timeout(STOP_WITHIN_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    def last_words(self) -> list[str]:
        """Return the end of what it wrote."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return [printable(line) for line in lines[-LOG_LINES_SHOWN:]]


class Demo:
    """The broker, the agent, what is seen of them, and the story."""

    def __init__(self, target: Target, fleet: Fleet, view: View, *, folder: Path, over: asyncio.Event) -> None:
        self._target = target
        self._view = view
        self._over = over
        self._clock: Clock = SystemClock()
        self._config = folder / "edge-agent.toml"
        config = {"device": DEVICE, "broker": target.broker, "prefix": PREFIX, "folder": folder}
        self._config.write_text(_CONFIG.format(**config))
        self._broker = Child("broker", ["edge_agent.adapters.embedded_broker", str(target.broker.port)], folder)
        self._agent = Child("agent", ["edge_agent", "run", "--config", str(self._config)], folder)
        self._watcher = make_watcher(target, fleet, self._clock, self._tell)
        self._heartbeat = asyncio.Event()
        self._broker_answers = asyncio.Event()
        self._guards = asyncio.TaskGroup()
        self._waits_for = "no heartbeat came"  # what is wrong if this is the end
        self._finished = False
        self._failure: tuple[str, Child] | None = None

    async def run(self, seconds_: float | None) -> None:
        """Run until told to stop.

        Raises:
            EdgeAgentError: something failed; the end of its log is on stderr.
        """
        stop_on_signals(self._over)
        async with asyncio.TaskGroup() as group:
            story = group.create_task(self._story())
            seeing = [group.create_task(self._view.run()), group.create_task(self._watch())]
            try:
                told = await wait_for(self._over, seconds_)
                if not told and self._waits_for:
                    self._fail(f"{self._waits_for} in {seconds_:g} s", self._agent)
            finally:
                story.cancel()
                await asyncio.wait([story])
                await self._agent.end(signal.SIGTERM)  # while its last words can be seen
                for task in seeing:
                    task.cancel()
                await asyncio.wait(seeing)
                await self._broker.end(signal.SIGKILL)
        if self._failure is not None:
            text, child = self._failure
            words = child.last_words()
            sys.stderr.writelines(f"{child.name}: {line}\n" for line in words)
            raise EdgeAgentError(f"{text}; {'above is the end of its log' if words else 'its log is empty'}")

    async def _watch(self) -> None:
        await self._broker_answers.wait()
        await self._watcher.run()

    # -- the story

    async def _story(self) -> None:
        async with self._guards:
            await self._start(self._broker)
            await self._start(self._agent)
            self._say(
                f"broker: {self._target.broker}; agent {DEVICE}: process {self._agent.pid}, a heartbeat every 2 s"
            )
            self._say(f"the agent's log: {self._agent.log}")
            await self._see_heartbeat()
            await self._pause(BEFORE_OUTAGE_S)
            self._say(f"outage: taking the broker away for {OUTAGE_S:g} s (SIGKILL)")
            begun = self._clock.monotonic()
            await self._broker.end(signal.SIGKILL)
            await self._pause(OUTAGE_S)
            self._heartbeat.clear()
            self._waits_for = "no heartbeat came after the outage"
            await self._start(self._broker)
            self._say("broker is back on the same port, and remembers nothing")
            back = self._clock.monotonic()
            await self._see_heartbeat()
            self._say(
                f"recovered after {self._since(begun):.1f} s, {self._since(back):.1f} s after the broker was back"
            )
            self._finished = True
            self._tell_what_to_try()

    async def _see_heartbeat(self) -> None:
        try:
            async with asyncio.timeout(HEARTBEAT_WITHIN_S):
                await self._heartbeat.wait()
        except TimeoutError:
            self._fail(f"{self._waits_for} in {HEARTBEAT_WITHIN_S:g} s", self._agent)
            await asyncio.Event().wait()  # until this is cancelled
        self._waits_for = ""

    def _tell_what_to_try(self) -> None:
        port, pid, folder = self._target.broker.port, self._agent.pid, self._config.parent
        self._say("now try, in another terminal:")
        self._say(f"  edge-agent watch --broker {self._target.broker} --prefix {PREFIX}")
        if shutil.which("mosquitto_sub"):
            self._say(f"  mosquitto_sub -V 5 -p {port} -t '{PREFIX}/#' -v")
        self._say(f"  echo '{{\"c\": 21.5}}' | edge-agent publish data/t --socket {folder}/control.sock")
        self._say(f"  kill -9 {pid}    # the broker publishes the agent's Will: offline")
        self._say(f"  kill -HUP {pid}  # after an edit of {self._config}")

    async def _start(self, child: Child) -> None:
        """Start a child and watch over it; of the broker, wait until it answers."""
        await child.start()
        self._guards.create_task(self._guard(child))
        if child is not self._broker:
            return
        connector = MqttConnector(self._target.login, clock=self._clock)
        attempt = Attempt(self._target.broker, 5, will_retained=False, wait=seconds(0))
        begun = self._clock.monotonic()
        while not await connector.reachable(attempt):
            if self._since(begun) > BROKER_WITHIN_S:
                self._fail(f"the broker did not answer in {BROKER_WITHIN_S:g} s", child)
            await self._pause(PROBE_EVERY_S)
        self._broker_answers.set()

    async def _guard(self, child: Child) -> None:
        """See a child that ends by itself: what a person killed after the story comes back, the rest is a failure."""
        code = await child.died()
        if code is None:
            return
        how = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with exit code {code}"
        if not self._finished or child is not self._agent or code > 0:
            self._fail(f"the {child.name} {how}", child)
            return
        self._say(f"the agent {how}; it comes back in {AGENT_BACK_AFTER_S:g} s, as under systemd")
        await self._pause(AGENT_BACK_AFTER_S)
        await self._start(child)
        self._say(f"the agent is process {child.pid}")

    # -- small things

    def _tell(self, happening: Happening) -> None:
        if isinstance(happening, Change) and happening.kind == "heartbeat" and happening.row.device == DEVICE:
            self._heartbeat.set()
        self._view.show(happening)

    def _say(self, text: str) -> None:
        self._view.say(f"== {text}")

    def _fail(self, text: str, child: Child) -> None:
        self._failure = self._failure or (text, child)
        self._over.set()

    def _since(self, instant: MonotonicNs) -> float:
        return to_seconds(elapsed(instant, self._clock.monotonic()))

    async def _pause(self, seconds_: float) -> None:
        await self._clock.sleep_until(later(self._clock.monotonic(), seconds(seconds_)))
