"""The door of MQTT: what arrives on the command topics, what is said to its senders, and what this agent obeys."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from edge_agent.core.command_entry import REPLY, ReplyTo, refused
from edge_agent.core.command_request import Code, CommandError
from edge_agent.core.events import CONTENT_TYPE
from edge_agent.core.timebase import later, seconds
from edge_agent.core.topics import Topics
from edge_agent.ports import Clock, Delivery, Message
from edge_agent.services.dispatcher import Dispatcher, Incoming
from edge_agent.services.session import Session

log = logging.getLogger(__name__)

COMMANDS: Final = "edge.commands.v1"
REFUSAL_EVERY: Final = seconds(0.01)
MAX_UNSAID: Final = 1000
"""Refusals that wait to be told; beyond them a flood of bad commands gets none."""


@dataclass(slots=True)
class CommandDoor:
    """Commands over MQTT, on one session after another.

    Attributes:
        dispatcher: obeys them.
        topics: of this device.
        advertised: returns ``data`` of ``edge.commands.v1``.
        clock: where the time comes from.
    """

    dispatcher: Dispatcher
    topics: Topics
    advertised: Callable[[], Mapping[str, Any]]
    clock: Clock
    _session: Session | None = None
    _said: tuple[str, Mapping[str, Any]] | None = None
    _unsaid: deque[tuple[ReplyTo, str, str, Code, str]] = field(default_factory=deque)
    _more: asyncio.Event = field(default_factory=asyncio.Event)

    def begin(self, session: Session) -> None:
        """Take commands from a session from now on; what an earlier one has not acknowledged comes again."""
        self._session = session
        self.dispatcher.runs.tell = self._tell

    async def advertise(self, session: Session) -> bool:
        """Say what is obeyed if it is not what was said last; return ``False`` when the connection ended first."""
        said = session.name, self.advertised()
        if said == self._said:
            return True
        self._said = said
        return await session.publish_event(COMMANDS, self.topics.commands, said[1], retain=True)

    def hear(self, delivery: Delivery) -> bool:
        """Take a delivery if it is a command for this device, to be acknowledged when it is durable."""
        found = self.topics.command(delivery.topic)
        authority = self.dispatcher.authority
        if self._session is None or found is None or found[0] not in authority.addresses:
            return False
        if not delivery.payload and (delivery.retained or self._session.connection.protocol == 4):
            self._session.acknowledge(delivery)  # somebody has cleared what was retained; MQTT 3.1.1 does not say that
            return True
        address, command = found
        wanted = delivery.response_topic
        channel = self.topics.channel(wanted, authority.commands.answers) if wanted else None
        incoming = Incoming(command, address, delivery, channel)
        try:
            self._session.acknowledge(delivery, self.dispatcher.take(incoming))
        except CommandError as error:
            self._refuse(incoming, error)
            self._session.acknowledge(delivery)
        return True

    def _refuse(self, incoming: Incoming, error: CommandError) -> None:
        """Have it said that a command is not obeyed, unless there is too much of that already."""
        assert error.id is not None, "the dispatcher names every command"
        if len(self._unsaid) < MAX_UNSAID:
            # and not the error itself: with it would stay all that was read
            self._unsaid.append((incoming.reply_to(error.id), incoming.command[:64], error.id, error.code, str(error)))
            self._more.set()

    async def serve(self, session: Session) -> None:
        """Tell refusals, so many a second, for as long as a session lasts."""
        while True:
            await self._more.wait()
            self._more.clear()
            begun, count = self.clock.monotonic(), len(self._unsaid)
            for _ in range(count):
                if not await session.connection.room():
                    return
                reply, command, command_id, code, reason = self._unsaid.popleft()
                said = {"command": command, "id": command_id, "code": code.value, "reason": reason}
                log.warning("command_refused", extra=said)
                self._tell(reply, refused(command, command_id, code, reason, self.clock.now().time))
                begun = later(begun, REFUSAL_EVERY)
                await self.clock.sleep_until(begun)

    def _tell(self, reply: ReplyTo, data: Mapping[str, object]) -> None:
        """Say something now, if there is a session that has room for it."""
        if self._session is None or not reply.channel or not self._session.connection.has_room():
            return
        payload = self._session.event(REPLY, data, subject=str(data["command"]), traceparent=reply.traceparent)
        correlation = bytes.fromhex(reply.correlation) if reply.correlation else None
        topic = self.topics.up(reply.channel)
        self._session.offer(Message(topic, payload, content_type=CONTENT_TYPE, correlation=correlation))
