"""The composition root: builds every part, starts them in dependency order, stops them in reverse."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import secrets
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from edge_agent import __version__
from edge_agent.adapters import logs
from edge_agent.adapters.clock_file import ClockFile
from edge_agent.adapters.config_files import read_secret
from edge_agent.adapters.config_watch import ConfigWatch
from edge_agent.adapters.control_socket import ControlSocket
from edge_agent.adapters.host import boot_id, rss_bytes
from edge_agent.adapters.host_servers import host_servers
from edge_agent.adapters.inbox_folder import InboxFolder
from edge_agent.adapters.kernel_clock import read_discipline, wait_for_step
from edge_agent.adapters.mqtt_connector import Login, MqttConnector
from edge_agent.adapters.network_changes import wait_for_network_change
from edge_agent.adapters.ntp_client import NtpClient
from edge_agent.adapters.places import socket_path, state_dir
from edge_agent.adapters.store_file import StoreFile
from edge_agent.adapters.store_thread import StoreThread
from edge_agent.adapters.systemd import Systemd, watchdog_period
from edge_agent.clock_ports import Clocks, HostClock
from edge_agent.commanding import Commanding, all_commands
from edge_agent.commands.agent import Host
from edge_agent.config_ports import Commit, ConfigFiles, MemoryStore
from edge_agent.core.config import Loaded
from edge_agent.core.config_models import Config
from edge_agent.core.config_models import Control as ControlConfig
from edge_agent.core.config_models import Time as TimeConfig
from edge_agent.core.connection import ConnectionPolicy
from edge_agent.core.discipline import HOST, Discipline
from edge_agent.core.events import AgentData, ConfigData, HeartbeatData
from edge_agent.core.pace import Pace
from edge_agent.core.refusals import Pauses
from edge_agent.core.sample import host_vote
from edge_agent.core.submission import ENVELOPE
from edge_agent.core.timebase import BUILD_EPOCH, DurationNs, elapsed, later, seconds, to_seconds
from edge_agent.core.topics import Topics
from edge_agent.errors import ConfigError, EdgeAgentError
from edge_agent.scheduling import Scheduling
from edge_agent.services.config_door import ConfigDoor
from edge_agent.services.config_start import Begun
from edge_agent.services.config_tools import ConfigTools
from edge_agent.services.configuring import Configuring
from edge_agent.services.control import Control, command_methods, publish_method
from edge_agent.services.device_clock import DeviceClock
from edge_agent.services.drain import Drain
from edge_agent.services.heartbeat import Heartbeat
from edge_agent.services.inbox import Intake
from edge_agent.services.keeping import Keeping
from edge_agent.services.link import Door, Link
from edge_agent.services.outbox import Outbox
from edge_agent.services.outbox_writer import OutboxWriter
from edge_agent.services.presence import Presence
from edge_agent.services.queue_tools import QueueTools
from edge_agent.services.timekeeping import Timekeeping, policy
from edge_agent.services.upkeep import Upkeep
from edge_agent.services.watchdog import Liveness, feed_watchdog

log = logging.getLogger(__name__)

MAX_CHANNELS_SAID: Final = 20
CONTROL_AGAIN: Final = seconds(60)
ANSWER_WITHIN_S: Final = 0.5
STOPS_WITHIN: Final = seconds(30)
"""Beside the grace of jobs."""


@dataclass(slots=True)
class _Part:
    """A service that runs, and what of the configuration it is run with: a change of that restarts it."""

    name: str
    uses: Callable[[Config], tuple[Any, ...]]
    run: Callable[..., Coroutine[Any, Any, None]]
    task: asyncio.Task[None] | None = None


class Agent:
    """The daemon."""

    def __init__(
        self, begun: Begun, *, files: ConfigFiles, store: MemoryStore, clocks: Clocks, environ: Mapping[str, str]
    ) -> None:
        """Prepare.

        Args:
            begun: the configuration to start with.
            files: of the configuration.
            store: what is remembered of it.
            clocks: of the machine.
            environ: the process's environment: how the service manager is told things.
        """
        loaded = begun.loaded
        self._files = files
        self._environ = environ
        self._boot_id = boot_id()
        self._uniform = random.random  # noqa: TID251  # here the randomness enters
        self._state_dir = state_dir(loaded.config.state.dir, environ)
        self._discipline = _recall_clock(ClockFile(self._state_dir), loaded.config.time, self._boot_id)
        self._clock = DeviceClock(clocks, self._discipline)
        clock = self._clock
        self._notifier = Systemd(environ, clock=clock)
        self._liveness = Liveness()
        self._started = clock.monotonic()
        self._pace = Pace(loaded.config.outbox.rate, uniform=self._uniform)
        self._pauses = Pauses(uniform=self._uniform)
        self._keeping = Keeping(
            StoreFile(self._state_dir), StoreThread(), max_bytes=loaded.config.outbox.max_bytes, new_name=_new_name
        )
        self._outbox = Outbox(
            self._keeping, config=loaded.config.outbox, clock=clock, boot_id=self._boot_id, new_name=_new_name
        )
        self._config = Configuring(begun, files, store, self._outbox, clock=clock, boot=self._boot_id)
        self._time = Timekeeping(
            self._discipline,
            NtpClient(pair=clocks.pair, near=BUILD_EPOCH),
            HostClock(
                lambda: host_vote(HOST, read_discipline(), clocks.pair()),
                wait_for_step,
                wait_for_network_change,
                ClockFile(self._state_dir).save,
            ),
            clocks=clocks,
            outbox=self._outbox,
            uniform=self._uniform,
        )
        self._jobs = Scheduling(
            loaded.config, self._outbox, clock=clock, uniform=self._uniform, state_dir=self._state_dir
        )
        self._time.changed = self._time_changed
        outbox, keeping = self._outbox, self._keeping
        upkeep = Upkeep(outbox, keeping, clock=clock)
        upkeep.adopted = self._recall
        self._queue = QueueTools(outbox, keeping, device=loaded.config.device.id)
        self._registry = all_commands(self._host(), self._time, self._jobs.commands(), self._queue)
        self._commands = Commanding(loaded.config, self._registry, outbox, clock=clock, new_name=_new_name)
        self._link = Link(*self._connecting(loaded.config), clock, self._liveness, _new_name)
        outbox.said = self._config.changed = self._link.review
        self._stopping = asyncio.Event()
        self.restarting = self._control_fails = False
        # in dependency order
        self._parts = [
            _Part("watchdog", lambda _: (), self._run_watchdog),
            _Part("outbox", lambda _: (), OutboxWriter(outbox, keeping, clock=clock).run),
            _Part("upkeep", lambda _: (), upkeep.run),
            _Part("time", lambda new: (new.time,), self._run_time),
            _Part("commands", lambda _: (), self._commands.dispatcher.run),
            _Part("link", _connection, lambda *_: self._link.run()),
            _Part("heartbeat", lambda new: (_topics(new), new.heartbeat.every), self._run_heartbeat),
            _Part("drain", _connection, self._run_drain),
            _Part("jobs", lambda _: (), self._run_jobs),
            _Part("control", lambda new: (new.control, new.outbox.max_record), self._run_control),
            _Part("inbox", lambda new: (new.control.group, new.outbox.max_record), self._run_inbox),
            _Part("config", lambda _: (), self._run_config),
        ]

    async def run(self, *, stop: asyncio.Event, reload: asyncio.Event) -> None:
        """Run until ``stop`` is set; read the configuration again whenever ``reload`` is.

        A service that fails brings everything down: its bug is logged and the service manager restarts the process.
        """
        self._stopping = stop
        await self._outbox.open()
        self._recall()
        async with asyncio.TaskGroup() as group:
            self._group = group
            self._start(self._parts)
            self._notifier.ready(f"device {self._loaded.config.device.id}")
            who = {"version": __version__, "device": self._loaded.config.device.id, "config": self._loaded.digest}
            log.info("started", extra=who | {"not_used_yet": list(self._loaded.unused)})
            reloading = group.create_task(self._reload_on(reload), name="reload")
            await stop.wait()
            reloading.cancel()
            self._notifier.stopping(DurationNs(max(self._jobs.graces(), default=0) + STOPS_WITHIN))
            await self._stop(self._parts)
            await self._config.note_stop()
        log.info("stopped")

    @property
    def _loaded(self) -> Loaded:
        return self._config.now.loaded

    async def _reload_on(self, asked: asyncio.Event) -> None:
        while True:
            await asked.wait()
            asked.clear()
            self._notifier.reloading()
            with contextlib.suppress(ConfigError):  # it is logged, and published
                await self._config.reload()
            self._notifier.ready(f"device {self._loaded.config.device.id}")

    def _recall(self) -> None:
        """Take up what the store has of jobs and commands."""
        self._jobs.configure(self._loaded.config, self._loaded.cloud_jobs)
        self._commands.dispatcher.recall()

    # -- parts

    def _start(self, parts: list[_Part]) -> None:
        for part in parts:
            part.task = self._group.create_task(part.run(*part.uses(self._loaded.config)), name=part.name)

    async def _stop(self, parts: list[_Part]) -> None:
        for part in reversed(parts):
            if part.task is not None:
                part.task.cancel()
                await asyncio.wait((part.task,))

    async def _run_watchdog(self) -> None:
        period = watchdog_period(self._environ)
        if period is not None:
            await feed_watchdog(self._notifier, period=period, clock=self._clock, liveness=self._liveness)

    async def _run_config(self) -> None:
        await self._config.run(ConfigWatch(Path(self._files.main), clock=self._clock).run, self._prepare)

    async def _run_time(self, config: TimeConfig) -> None:
        await self._time.run(config, partial(_time_servers, config))

    async def _run_jobs(self) -> None:
        await self._jobs.run(self._loaded.config.time.first_sync_wait, trusts_os=self._discipline.policy.is_os_alone)

    async def _run_drain(self, topics: Topics, *_: object) -> None:
        pace, pauses = self._pace, self._pauses
        await Drain(self._outbox, self._link, topics=topics, pace=pace, pauses=pauses, clock=self._clock).run()

    async def _run_control(self, config: ControlConfig, max_record: int) -> None:
        publish = publish_method(self._outbox.accept, max_record=max_record)
        commands = self._commands.dispatcher
        own = {"publish": publish, "command": commands.command, **self._queue.methods(), **self._time.methods()}
        own |= ConfigTools(self._config, self._jobs.jobs).methods()
        answer = Control(own | command_methods(self._registry, commands.perform)).answer
        while True:
            try:
                path = socket_path(config.socket, self._environ)
                control = ControlSocket(path, config.group, answer, max_line=max_record + ENVELOPE)
                await control.run(partial(self._note_control, fails=False))
            except EdgeAgentError as error:
                log.error("control_unavailable", extra={"error": str(error)})  # noqa: TRY400  # no bug of ours
                self._note_control(fails=True)
                await self._clock.sleep_until(later(self._clock.monotonic(), CONTROL_AGAIN))

    def _note_control(self, *, fails: bool) -> None:
        if fails != self._control_fails:
            self._control_fails = fails
            self._link.review()

    async def _run_inbox(self, group: str, max_record: int) -> None:
        folder = InboxFolder(self._state_dir / "inbox", group, max_record)
        await Intake(folder, self._outbox.accept, max_record, self._clock, self._uniform).run()

    async def _run_heartbeat(self, topics: Topics, every: DurationNs) -> None:
        await Heartbeat(self._link, topics, every, self._measure, self._clock, self._liveness).run()

    def _connecting(self, config: Config) -> tuple[MqttConnector, ConnectionPolicy, Presence, Sequence[Door]]:
        """Return what the link is built from."""
        mqtt = config.mqtt
        password = partial(_secret, mqtt.password_file, self._environ)
        password()  # at start and reload a secret that cannot be read is an error of the configuration
        login = Login(
            client_id=mqtt.client_id,
            keepalive=mqtt.keepalive,
            session_expiry=mqtt.session_expiry,
            will_delay=mqtt.will_delay,
            tls=mqtt.tls,
            username=mqtt.username,
            password=password,
        )
        policy = ConnectionPolicy(
            mqtt.brokers,
            protocol=None if mqtt.protocol == "auto" else mqtt.protocol,
            reconnect_max=mqtt.reconnect_max,
            uniform=self._uniform,
        )
        presence = Presence(_topics(config), config.device.groups, self._clock, self._conditions)
        desired = ConfigDoor(self._config, _topics(config), lambda: self._commands.dispatcher.authority, self._clock)
        return MqttConnector(login, clock=self._clock), policy, presence, (self._commands.door(config), desired)

    def _time_changed(self, stepped: bool) -> None:  # noqa: FBT001
        self._jobs.time_changed(stepped)
        self._commands.dispatcher.time_changed()

    def _measure(self) -> HeartbeatData:
        config = self._loaded.config
        return HeartbeatData(
            uptime_s=int(to_seconds(elapsed(self._started, self._clock.monotonic()))),
            boot_id=self._boot_id,
            session=None,
            interval_s=to_seconds(config.heartbeat.every),
            agent=AgentData(__version__, os.getpid(), rss_bytes()),
            config=ConfigData(self._loaded.digest, self._loaded.version),
            clock=self._time.measure(),
            outbox=self._outbox.measure(),
            jobs=self._jobs.measure(),
        )

    def _conditions(self) -> list[str]:
        channels = self._pauses.channels()
        if (more := len(channels) - MAX_CHANNELS_SAID) > 0:
            channels[MAX_CHANNELS_SAID:] = [f"{more} more"]
        wrong = self._outbox.conditions() + self._commands.dispatcher.conditions() + self._config.conditions()
        wrong += ["control_unavailable"] if self._control_fails else []
        return wrong + [f"channel_refused: {channel}" for channel in channels]

    # -- what commands need of it

    def _host(self) -> Host:
        return Host(
            self._clock,
            self._state_dir,
            self._environ,
            loaded=lambda: self._loaded,
            jobs=self._jobs.jobs,
            standing=self._config,
            measure=self._measure,
            session=lambda: self._link.session(),  # noqa: PLW0108  # it is made after the commands
            reload=self._config.reload,
            restart=self._restart,
            cancel=lambda command_id: self._commands.dispatcher.cancel(command_id),  # noqa: PLW0108  # so are they
        )

    def _restart(self) -> None:
        """Stop, for the process to begin anew; the answer gets a moment to reach whoever asked."""
        self.restarting = True
        asyncio.get_running_loop().call_later(ANSWER_WITHIN_S, self._stopping.set)

    # -- another configuration

    def _prepare(self, old: Loaded, new: Loaded) -> Commit:
        """Prepare the parts that a change touches; they are restarted, the others go by it from then on."""
        touched = [part for part in self._parts if part.uses(old.config) != part.uses(new.config)]
        connecting = self._connecting(new.config)

        async def commit() -> list[str]:
            await self._stop(touched)
            if _connection(old.config) != _connection(new.config):
                self._link.connector, self._link.policy, self._link.presence, self._link.doors = connecting
            self._pace.rate = new.config.outbox.rate
            self._outbox.configure(new.config.outbox)
            self._jobs.configure(new.config, new.cloud_jobs)
            self._commands.configure(new.config)
            self._link.review()
            await self._keeping.resize(new.config.outbox.max_bytes)
            logs.configure(new.config.log.level, new.config.log.format)
            self._start(touched)
            return [part.name for part in touched]

        return commit


def _connection(config: Config) -> tuple[Any, ...]:
    """Return what the connection is built from."""
    return _topics(config), config.mqtt, config.device.groups


def _new_name() -> str:
    return secrets.token_hex(8)


def _topics(config: Config) -> Topics:
    return Topics(config.mqtt.prefix, config.device.id)


def _time_servers(config: TimeConfig) -> tuple[str, ...]:
    return tuple(host_servers()) if config.servers is None else config.servers


def _secret(file: str | None, environ: Mapping[str, str]) -> str | None:
    return None if file is None else read_secret(file, environ=environ, key="mqtt.password_file")


def _recall_clock(file: ClockFile, config: TimeConfig, boot: str) -> Discipline:
    """Begin with what was known of the clock when the agent stopped."""
    saved, problem = file.load()
    if problem is not None:
        log.warning("clock_file_unusable", extra={"error": problem})
    return Discipline(policy(config, _time_servers(config)), saved=saved, boot=boot)
