"""``edge-agent watch``: the fleet as its heartbeats show it; a live table on a terminal, lines in a pipe."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import random
import re
import secrets
import signal
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

from edge_agent.adapters.config_files import default_path, read_secret
from edge_agent.adapters.mqtt_connector import Login, MqttConnector
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.cli.fleet_view import Lines, make_view
from edge_agent.cli.loading import load
from edge_agent.core.config_models import Operator, Tls
from edge_agent.core.config_types import NAME_PATTERN, BrokerUrl
from edge_agent.core.connection import ConnectionPolicy
from edge_agent.core.fleet import Fleet
from edge_agent.core.timebase import DurationNs, seconds
from edge_agent.core.topics import Topics, fleet_filters
from edge_agent.errors import UnreachableError, UsageError
from edge_agent.ports import Clock
from edge_agent.services.watcher import Happening, Watcher

RECONNECT_MAX: Final = seconds(10)
MAX_SECONDS: Final = 1e9


@dataclass(frozen=True, slots=True)
class Target:
    """What is watched: the broker, the prefix, and who connects."""

    broker: BrokerUrl
    prefix: str
    login: Login
    reconnect_max: DurationNs = RECONNECT_MAX

    @property
    def title(self) -> str:
        """The broker and the prefix, to be shown."""
        return f"{self.broker} {self.prefix}/"


def describe(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options to its parser."""
    parser.description = (
        "Show the fleet live: a table on a terminal, a line for each change in a pipe. Times are UTC. "
        "Without --broker, the configuration's [operator] table says where to connect, else its [mqtt] table."
    )
    parser.add_argument("devices", metavar="DEVICE", nargs="*", help="only these; default: all")
    add_target_options(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object a line for each change")
    parser.add_argument("--seconds", metavar="N", type=length, help="end after N seconds")


def add_target_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that ``find_target`` reads."""
    parser.add_argument("--broker", metavar="URL", help="like mqtt://localhost:1883; mqtt, mqtts, ws, wss")
    parser.add_argument("--prefix", metavar="P", help="first levels of the topics; default: edge")
    parser.add_argument("--config", metavar="PATH", help="configuration file, read if --broker is not given")


def length(text: str) -> float:
    """Return a number of seconds, as an option's type.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    with contextlib.suppress(ValueError):
        if 0 <= (value := float(text)) <= MAX_SECONDS:  # nan is not
            return value
    raise argparse.ArgumentTypeError(f"found {text!r}; a number of seconds from 0 to {MAX_SECONDS:g} is needed")


def run(args: argparse.Namespace) -> int:
    """Watch until a signal or ``--seconds``; return 0."""
    for device in args.devices:
        if not re.fullmatch(NAME_PATTERN, device):
            raise UsageError(f"{device!r} is no device id: 1 to 64 of A-Z a-z 0-9 _ : -")
    clock, fleet, over = SystemClock(), Fleet(), asyncio.Event()
    target = find_target(args, os.environ, verb="watch")
    view = Lines(clock, over.set, json=True) if args.json else make_view(target.title, fleet, clock, over.set)
    watcher = make_watcher(target, fleet, clock, view.show, args.devices)
    asyncio.run(observe(watcher, view.run(), over=over, seconds_=args.seconds))
    return 0


async def observe(
    watcher: Watcher, *others: Coroutine[None, None, None], over: asyncio.Event, seconds_: float | None
) -> None:
    """Watch, and do others' work beside it, until told to stop.

    Raises:
        UnreachableError: the broker was never reached.
    """
    stop_on_signals(over)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work) for work in (watcher.run(), *others)]
        await wait_for(over, seconds_)
        for task in tasks:
            task.cancel()
    if watcher.obstacle is not None:
        raise UnreachableError(f"not reached: {watcher.obstacle}")


def stop_on_signals(over: asyncio.Event) -> None:
    """Have SIGINT, SIGTERM and SIGHUP set an event."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, over.set)


async def wait_for(over: asyncio.Event, seconds_: float | None) -> bool:
    """Wait for an event, at most ``seconds_``; return whether it was set."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds_):
            await over.wait()
    return over.is_set()


def make_watcher(
    target: Target, fleet: Fleet, clock: Clock, tell: Callable[[Happening], None], devices: Sequence[str] = ()
) -> Watcher:
    """Wire a watcher of the target's devices; none = all."""
    topics = [Topics(target.prefix, device) for device in devices]
    filters = [name for one in topics for name in (one.status, one.health, one.heartbeat)]
    return Watcher(
        *connecting(target, clock),
        clock=clock,
        fleet=fleet,
        topics=(target.prefix, filters or fleet_filters(target.prefix)),
        tell=tell,
    )


def connecting(target: Target, clock: Clock) -> tuple[MqttConnector, ConnectionPolicy]:
    """Return what makes connections to the target, and what decides when."""
    # what is logged by the parts would tear the table; what a person has to know is told
    logging.getLogger("edge_agent").addHandler(logging.NullHandler())
    policy = ConnectionPolicy(
        (target.broker,), protocol=None, reconnect_max=target.reconnect_max, uniform=random.SystemRandom().random
    )
    return MqttConnector(target.login, clock=clock), policy


# ---------------------------------------------------------------- where to
def find_target(args: argparse.Namespace, environ: Mapping[str, str], *, verb: str) -> Target:
    """Return the broker that the options name, without a login, or else the configuration's.

    Raises:
        UsageError: an option is wrong, or neither names a broker.
        ConfigError: the configuration, or the password's file, is wrong.
    """
    table = {"broker": args.broker, "prefix": args.prefix}
    try:
        given = Operator.model_validate({name: value for name, value in table.items() if value})
    except ValidationError as invalid:
        wrong = invalid.errors(include_url=False)[0]
        raise UsageError(f"--{wrong['loc'][-1]}: {wrong['ctx']['error']}") from None
    chosen = given if given.broker is not None else _from_config(args.config, environ)
    assert chosen.broker is not None, "the options or the configuration name one"
    password = None if chosen.password_file is None else read_secret(chosen.password_file, environ=environ)
    login = clean_login(verb, tls=chosen.tls, username=chosen.username, password=password)
    return Target(chosen.broker, given.prefix or chosen.prefix or "edge", login)


def clean_login(
    verb: str, *, tls: Tls | None = None, username: str | None = None, password: str | None = None
) -> Login:
    """Return a login without a session, under a client id that no one else has."""
    return Login(
        client_id=f"edge-agent-{verb}-{secrets.token_hex(4)}",
        keepalive=seconds(30),
        session_expiry=seconds(0),
        will_delay=seconds(0),
        tls=tls or Tls(),
        username=username,
        password=lambda: password,
    )


def _from_config(path: str | None, environ: Mapping[str, str]) -> Operator:
    file = default_path(path, environ)
    if not os.access(file, os.R_OK):
        raise UsageError(f"no broker named, and {file} cannot be read; give --broker, like mqtt://localhost:1883")
    config = load(path, environ).config
    operator, mqtt = config.operator, config.mqtt
    update: dict[str, object] = {"prefix": operator.prefix or mqtt.prefix}
    if operator.broker is None:
        # the device's own login stays the device's; whom it trusts is true for the operator too
        update["broker"] = mqtt.brokers[0]
        update["tls"] = operator.tls if operator.tls != Tls() else Tls(ca=mqtt.tls.ca)
    return operator.model_copy(update=update)
