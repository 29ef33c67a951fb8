"""How an operator's verb finds its broker, listens to it, and ends."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import random
import secrets
import signal
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from pydantic import ValidationError

from edge_agent.adapters.config_files import default_path, read_secret
from edge_agent.adapters.mqtt_connector import Login, MqttConnector
from edge_agent.cli.loading import load
from edge_agent.core.config_models import Operator, Tls
from edge_agent.core.config_types import BrokerUrl
from edge_agent.core.connection import ConnectionPolicy
from edge_agent.core.fleet import Fleet
from edge_agent.core.timebase import seconds
from edge_agent.core.topics import fleet_filters
from edge_agent.errors import UnreachableError, UsageError
from edge_agent.ports import Clock
from edge_agent.services.watcher import Happening, Watcher

W = TypeVar("W", bound=Watcher)

RECONNECT_MAX: Final = seconds(2)


@dataclass(frozen=True, slots=True)
class Target:
    """What is listened to: the broker, the prefix, and who connects."""

    broker: BrokerUrl
    prefix: str
    login: Login

    def watcher(
        self, kind: type[W], fleet: Fleet, clock: Clock, tell: Callable[[Happening], None], filters: Sequence[str] = ()
    ) -> W:
        """Return what listens to some topics; none = all that a fleet understands."""
        # what is logged by the parts would tear a table; what a person has to know is told
        logging.getLogger("edge_agent").addHandler(logging.NullHandler())
        uniform = random.SystemRandom().random
        policy = ConnectionPolicy((self.broker,), protocol=None, reconnect_max=RECONNECT_MAX, uniform=uniform)
        connector, topics = MqttConnector(self.login, clock=clock), (self.prefix, filters or fleet_filters(self.prefix))
        return kind(connector, policy, clock=clock, fleet=fleet, topics=topics, tell=tell)


# ---------------------------------------------------------------- where to
def find_target(args: argparse.Namespace, environ: Mapping[str, str], *, verb: str) -> Target:
    """Return the broker that the options name, without a login, or else the configuration's.

    The session is a clean one, under a client id that no one else has.

    Raises:
        UsageError: an option is wrong, or neither names a broker.
        ConfigError: the configuration, or the password's file, is wrong.
    """
    given = {name: value for name in ("broker", "prefix") if (value := getattr(args, name))}
    try:
        options = Operator.model_validate(given)
    except ValidationError as invalid:
        wrong = invalid.errors(include_url=False)[0]
        raise UsageError(f"--{wrong['loc'][-1]}: {wrong['ctx']['error']}") from None
    chosen = options if args.broker else _configured(args.config, environ)
    assert chosen.broker is not None, "the options or the configuration name one"
    password = chosen.password_file and read_secret(chosen.password_file, environ=environ)
    client_id, keepalive, none = f"edge-agent-{verb}-{secrets.token_hex(4)}", seconds(30), seconds(0)
    login = Login(client_id, keepalive, none, none, chosen.tls, chosen.username, lambda: password)
    return Target(chosen.broker, options.prefix or chosen.prefix or "edge", login)


def _configured(path: str | None, environ: Mapping[str, str]) -> Operator:
    file = default_path(path, environ)
    if not os.access(file, os.R_OK):
        raise UsageError(f"no broker named, and {file} cannot be read; give --broker, like mqtt://localhost:1883")
    config = load(path, environ).config
    operator, mqtt = config.operator, config.mqtt
    # the device's own login stays the device's; whom it trusts is true for the operator too
    tls = operator.tls if operator.broker or operator.tls != Tls() else Tls(ca=mqtt.tls.ca)
    broker, prefix = operator.broker or mqtt.brokers[0], operator.prefix or mqtt.prefix
    return operator.model_copy(update={"broker": broker, "prefix": prefix, "tls": tls})


# ---------------------------------------------------------------- until when
async def observe(
    watcher: Watcher, *others: Coroutine[None, None, None], over: asyncio.Event, seconds_: float | None
) -> None:
    """Watch, and do others' work beside it, until told to stop.

    Raises:
        UnreachableError: the broker was never reached.
    """
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work) for work in (watcher.run(), *others)]
        await until(over, seconds_)
        for task in tasks:
            task.cancel()
    if watcher.obstacle is not None:
        raise UnreachableError(f"not reached: {watcher.obstacle}")


async def until(over: asyncio.Event, seconds_: float | None) -> bool:
    """Wait for an event or a signal, at most ``seconds_``; return whether it came."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, over.set)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds_):
            await over.wait()
    return over.is_set()
