"""Sends a command as an operator, and hears what the devices reply, over as many connections as it takes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from typing_extensions import override

from edge_agent.core.sending import Replies, Reply
from edge_agent.core.topics import parse_up
from edge_agent.errors import EdgeAgentError, TooLargeError, UnreachableError
from edge_agent.ports import REFUSED_FROM, Delivery, Message
from edge_agent.services.session import Session
from edge_agent.services.watcher import Watcher

NO_SUBSCRIBERS = 0x10  # MQTT 5 §2.4


class Sender(Watcher):
    """Publishes once it has subscribed, on each connection: a device obeys one id once, and says its reply again.

    Attributes:
        message: the command.
        replies: takes in what is replied.
        heard: is called with each reply that is news.
        give_up: is called with the reason why there will never be one.
        offline: whether a device whose status it hears is offline.
    """

    message: Message
    replies: Replies
    heard: Callable[[Reply], None]
    give_up: Callable[[EdgeAgentError], None]
    offline: bool = False
    _used: Session | None = None
    _sent: bool = False

    @override
    def _hear(self, delivery: Delivery) -> None:
        where = parse_up(delivery.topic, self.topics[0])
        if where is not None and where[1] == "status":
            self.offline = delivery.payload == b"offline"
        elif (reply := self.replies.take(delivery.topic, delivery.payload)) is not None:
            self.heard(reply)

    @override
    async def _subscribed(self, session: Session) -> None:
        if session is self._used or self.replies.complete or self.topics[1][0] in session.refused:
            return
        self._used, topic = session, self.message.topic
        if not await session.connection.room():
            return
        try:
            reason = await asyncio.shield(session.connection.send(self.message))
        except TooLargeError as error:
            self.give_up(error)
            return
        if reason is None:  # it ended; nobody knows
            return
        if reason >= REFUSED_FROM:
            why = f"the broker refuses {topic} (0x{reason:02X}); may this user publish to it?"
            self.give_up(EdgeAgentError(why))
        elif reason == NO_SUBSCRIBERS and not self._sent:
            why = f"nobody listens on {topic}; is the name right, and has an agent ever run under it at this broker?"
            self.give_up(UnreachableError(why))
        self._sent = True
