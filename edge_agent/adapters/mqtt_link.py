"""One MQTT connection: pipelined publishing in a window of our own, acknowledgements seen and given."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, cast

import aiomqtt
from paho.mqtt.client import MQTTMessage
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions
from typing_extensions import override

from edge_agent.adapters.mqtt_transport import MqttTransport
from edge_agent.core.connection import ClosedBy, Closing, ProtocolVersion
from edge_agent.core.silence import ANSWER_WITHIN
from edge_agent.core.timebase import to_seconds
from edge_agent.errors import TooLargeError
from edge_agent.ports import Clock, Delivery, Message

WINDOW: Final = 100  # unacknowledged publishes; more gains nothing, and covers a round trip of a second at 100 a second
WINDOW_3_1_1: Final = 20  # what brokers of that protocol, which cannot announce a limit, commonly keep
WINDOW_BYTES: Final = 256 * 1024
MAX_QUEUED_INBOUND: Final = 32  # messages; beyond them nothing more is read from the socket
MAX_QUEUED_BYTES: Final = 512 * 1024
DISCONNECT_WITHIN_S: Final = 2.0
PACKET_OVERHEAD: Final = 64  # fixed header, lengths, packet id and the few properties that are sent

_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")  # W3C Trace Context §3.2


class _Packed:
    """Properties packed once, for all messages of a kind: paho only asks them for their bytes."""

    def __init__(self, properties: Properties) -> None:
        self._packed: bytes = properties.pack()  # type: ignore[no-untyped-call]

    def pack(self) -> bytes:
        """Return what goes on the wire."""
        return self._packed


def properties(kind: int, **given: object) -> Properties:
    """Return the properties of a kind of packet; those that are ``None`` are left out."""
    made = Properties(kind)  # type: ignore[no-untyped-call]
    for name, value in given.items():
        if value is not None:
            setattr(made, name, value)
    return made


@lru_cache(maxsize=64)
def _publish_properties(expiry_s: int | None, content_type: str | None, correlation: bytes | None) -> Properties:
    made = properties(
        PacketTypes.PUBLISH, MessageExpiryInterval=expiry_s, ContentType=content_type, CorrelationData=correlation
    )
    return cast("Properties", _Packed(made))


def _delivery(topic: str, message: MQTTMessage) -> Delivery:
    said: Any = message.properties  # what the packet does not have, its properties do not either
    user = getattr(said, "UserProperty", ())
    return Delivery(
        topic,
        bytes(message.payload),
        message.retain,
        message.qos,
        message.mid,
        message.dup,
        expiry_s=getattr(said, "MessageExpiryInterval", None),
        response_topic=getattr(said, "ResponseTopic", None),
        correlation=getattr(said, "CorrelationData", None),
        traceparent=next((text for name, text in user if name == "traceparent" and _TRACEPARENT.fullmatch(text)), None),
    )


class MqttConnection(MqttTransport):
    """One established MQTT connection; its methods promise what ``ports.Connection`` says."""

    def __init__(self, hostname: str, port: int, *, clock: Clock, protocol: ProtocolVersion, **options: Any) -> None:  # noqa: ANN401  # aiomqtt's own
        """Prepare a connection; the arguments are those of ``MqttTransport``."""
        super().__init__(hostname, port, clock=clock, protocol=protocol, **options)
        self._client.on_publish, self._client.on_message = self._puback_came, self._message_came
        self._unacknowledged: dict[int, tuple[asyncio.Future[int | None], int]] = {}
        self._unacknowledged_bytes = 0
        self._room = asyncio.Event()
        self._inbound: deque[Delivery] = deque()
        self._inbound_bytes = 0
        self._arrived = asyncio.Event()

    def has_room(self) -> bool:
        """See ``ports.Connection``."""
        window = WINDOW if self.protocol == 5 else WINDOW_3_1_1
        return (
            len(self._unacknowledged) < min(window, self.limits.receive_maximum)
            and self._unacknowledged_bytes < WINDOW_BYTES
            and not self._end.done()
        )

    async def room(self) -> bool:
        """See ``ports.Connection``."""
        while not self.has_room():
            if self._end.done():
                return False
            self._room.clear()
            await self._room.wait()
        return True

    def send(self, message: Message) -> asyncio.Future[int | None]:
        """See ``ports.Connection``."""
        size = len(message.payload) + len(message.topic) + PACKET_OVERHEAD
        if size > self.limits.maximum_packet_size:
            raise TooLargeError(f"{message.topic}: {size} bytes, the broker accepts {self.limits.maximum_packet_size}")
        acknowledged: asyncio.Future[int | None] = self._loop.create_future()
        if self._end.done():
            acknowledged.set_result(None)
            return acknowledged
        more = _publish_properties(*message[3:]) if self.protocol == 5 else None
        retain = message.retain and self.limits.retain_available
        mid = self._client.publish(message.topic, message.payload, 1, retain, more).mid
        if not self._unacknowledged:
            self._silence.owed_since = self._clock.monotonic()
            self._look_in_time()
        self._unacknowledged[mid] = (acknowledged, size)
        self._unacknowledged_bytes += size
        return acknowledged

    async def subscribe_to(self, filters: Sequence[str]) -> list[int] | None:
        """See ``ports.Connection``."""
        if self._end.done():
            return None
        how: Any = SubscribeOptions(qos=1, retainAsPublished=True) if self.protocol == 5 else 1
        topics = [(name, how) for name in filters]
        asked = self._loop.create_task(self.subscribe(topics, timeout=to_seconds(ANSWER_WITHIN)))
        try:
            await asyncio.wait((asked, self._end), return_when=asyncio.FIRST_COMPLETED)
            if not asked.done():
                return None
            codes = asked.result()
        except aiomqtt.MqttError:
            self._give_up(Closing(ClosedBy.SILENCE, detail="no SUBACK came"))
            return None
        finally:
            asked.cancel()
        if len(codes) != len(filters):
            detail = f"a SUBACK of {len(codes)} codes for {len(filters)} filters"
            self._give_up(Closing(ClosedBy.PROTOCOL, detail=detail))
            return None
        return [code.value if isinstance(code, ReasonCode) else code for code in codes]

    async def receive(self) -> Delivery | None:
        """See ``ports.Connection``."""
        while not self._inbound:
            if self._end.done():
                return None
            self._arrived.clear()
            await self._arrived.wait()
        delivery = self._inbound.popleft()
        self._inbound_bytes -= len(delivery.payload)
        if not self._reading and self._inbound_room(2):
            self._resume_reading()
        return delivery

    def acknowledge(self, delivery: Delivery) -> None:
        """See ``ports.Connection``."""
        if delivery.qos > 0 and not self._end.done():
            self._client.ack(delivery.packet_id, delivery.qos)

    async def closed(self) -> Closing:
        """See ``ports.Connection``."""
        return await asyncio.shield(self._end)

    async def disconnect(self) -> None:
        """See ``ports.Connection``."""
        if self._end.done():
            return
        self._giving_up = Closing(ClosedBy.US)
        self._client.disconnect()
        self._flush()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DISCONNECT_WITHIN_S):
                await self.closed()
        self._give_up(self._giving_up)

    # -- what paho calls

    def _puback_came(self, _: object, __: object, mid: int, code: ReasonCode, ___: object) -> None:
        entry = self._unacknowledged.pop(mid, None)
        if entry is None:
            return
        acknowledged, size = entry
        self._unacknowledged_bytes -= size
        self._silence.owed_since = self._clock.monotonic() if self._unacknowledged else None
        if not acknowledged.done():
            acknowledged.set_result(code.value)
        self._room.set()

    def _message_came(self, _: object, __: object, message: MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            # Not at once: paho holds a lock while it calls this, and would want it again to close the socket.
            self._loop.call_soon(self._give_up, Closing(ClosedBy.PROTOCOL, detail="a topic that is not UTF-8"))
            return
        self._inbound.append(_delivery(topic, message))
        self._inbound_bytes += len(message.payload)
        self._arrived.set()
        if not self._inbound_room(1):
            self._pause_reading()

    def _inbound_room(self, share: int) -> bool:
        """Return whether one ``share``-th of the room for what nobody has taken yet is free of it."""
        return len(self._inbound) < MAX_QUEUED_INBOUND // share and self._inbound_bytes < MAX_QUEUED_BYTES // share

    @override
    def _ended(self, closing: Closing) -> None:
        super()._ended(closing)
        for acknowledged, _ in self._unacknowledged.values():
            if not acknowledged.done():
                acknowledged.set_result(None)
        self._unacknowledged.clear()
        self._room.set()
        self._arrived.set()
