"""Finds missing, repeated and disordered records of all devices, from the messages alone.

Nothing that arrives is trusted, and whatever comes the memory is bounded: a stream with too many ranges of numbers is
judged up to its middle, which is then forgotten.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeGuard

import orjson

from edge_agent.core.config_types import NAME_PATTERN
from edge_agent.core.events import HEARTBEAT
from edge_agent.core.records import SEQ_MASK
from edge_agent.core.verified_stream import MAX_CHANNELS, Stream, StreamReport

MAX_MESSAGE: Final = 1024 * 1024
MAX_STREAMS: Final = 24  # of a device: eight incarnations of its outbox
MAX_RANGES: Final = 1_000_000  # of all streams together; each has its share
MIN_RANGES: Final = 16
RECENT: Final = 100_000  # messages whose content is remembered, to be compared with what comes under the same id
MAX_CONFLICTS: Final = 100  # that are named

_STREAM: Final = r"[A-Za-z0-9_:-]{1,64}-(?:critical|normal|bulk)"
_ID: Final = re.compile(rf"({_STREAM})\.([1-9][0-9]{{0,15}})")
_SOURCE: Final = re.compile(rf"/devices/({NAME_PATTERN})")
_BRANCHES: Final = {"edge.data.v1": "data", "edge.event.v1": "event", "edge.reply.v1": "reply"}
_CHANNEL: Final = re.compile(r"/up/((?:data|event|reply)/.+)")


@dataclass(slots=True)
class _Device:
    """A device: its streams, and what its last heartbeats say.

    Attributes:
        marked: the streams with a settled mark in the last one.
        idle: whether nothing waited then.
        heard: the first and the last heartbeat since all is heard, in seconds; empty before.
        beat: the id of the last one.
        all_heard: whether nothing that is put from now on can have passed unheard.
    """

    all_heard: bool
    streams: dict[str, Stream] = field(default_factory=dict)
    marked: tuple[str, ...] = ()
    idle: bool = False
    heard: tuple[float, ...] = ()
    beat: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What became of all that was heard of.

    Attributes:
        messages: CloudEvents that were taken in.
        unreadable: messages, and parts of them, that are not what the contract says.
        left_out: messages of devices and streams for which there was no room.
        streams: sorted by device and stream.
    """

    messages: int
    unreadable: int
    left_out: int
    streams: tuple[StreamReport, ...]

    @property
    def ok(self) -> bool:
        """Whether all is as promised, as far as it can be judged."""
        return not self.left_out and all(stream.ok for stream in self.streams)


class Verification:
    """Takes messages in, and says what became of every record.

    Attributes:
        messages: so far.
        unreadable: so far.
    """

    def __init__(self, *, from_start: bool, only: Collection[str] = (), max_devices: int = 100_000) -> None:
        """Prepare.

        Args:
            from_start: whether all was heard since the first number of each stream.
            only: the devices that count; none = all.
            max_devices: of more than that nothing is remembered.
        """
        self._from_start = from_start
        self._only = frozenset(only)
        self._max_devices = max_devices
        self._devices: dict[str, _Device] = {}
        self._streams = 0
        self._recent: OrderedDict[tuple[Stream, int], int] = OrderedDict()
        self.messages = 0
        self.unreadable = 0
        self._left_out = 0

    def take(self, payload: bytes, topic: str = "", *, now_s: float = 0) -> None:
        """Take a message in: an event or an array of events.

        Args:
            payload: as it arrived.
            topic: where; empty = unknown.
            now_s: when, in seconds of any steady clock.
        """
        if topic.endswith("/up/status"):
            return
        try:
            parsed = orjson.loads(payload) if len(payload) <= MAX_MESSAGE else None
        except orjson.JSONDecodeError:
            parsed = None
        self.take_parsed(parsed, topic, now_s=now_s)

    def take_parsed(self, parsed: object, topic: str = "", *, now_s: float = 0) -> None:
        """Take in a message that was parsed before; see ``take``."""
        for event in parsed if isinstance(parsed, list) else [parsed]:
            if isinstance(event, dict) and self._take_event(event, topic, now_s):
                self.messages += 1
            else:
                self.unreadable += 1

    def disconnected(self) -> None:
        """Nothing was heard since the last message, up to the next."""
        for device in self._devices.values():
            device.heard, device.all_heard = (), False
            for stream in device.streams.values():
                if stream.blind_since is None:
                    stream.blind_since = stream.settled + 1

    def is_settled(self) -> bool:
        """Return whether every device has said that nothing waits on it and that all that was seen is settled."""
        return self._only <= self._devices.keys() != set() and all(
            device.idle and all(device.streams[name].highest <= device.streams[name].settled for name in device.marked)
            for device in self._devices.values()
        )

    def report(self) -> Report:
        """Return what is known by now."""
        streams = (
            stream.report(name, stream_name)
            for name, device in sorted(self._devices.items())
            for stream_name, stream in sorted(device.streams.items())
        )
        return Report(self.messages, self.unreadable, self._left_out, tuple(streams))

    def _take_event(self, event: Mapping[str, Any], topic: str, now_s: float) -> bool:
        """Take note of an event; return whether it is one."""
        source, number, data = event.get("source"), event.get("id"), event.get("data")
        found = _SOURCE.fullmatch(source) if isinstance(source, str) else None
        if found is None or not isinstance(number, str) or not isinstance(data, dict):
            return False
        device = self._device(found[1])
        if device is None:
            return True
        if event.get("type") == HEARTBEAT:
            return self._take_heartbeat(device, number, data.get("outbox"), now_s)
        record = _ID.fullmatch(number)
        # others are of a session's stream, where a hole means nothing
        return record is None or self._take_record(device, record[1], int(record[2]), event, topic)

    def _device(self, name: str) -> _Device | None:
        """Return what is known of a device; ``None`` when it does not count, or there is no room for it."""
        if self._only and name not in self._only:
            return None
        device = self._devices.get(name)
        if device is None:
            if len(self._devices) >= self._max_devices:
                self._left_out += 1
                return None
            device = self._devices[name] = _Device(self._from_start)
        return device

    def _stream(self, device: _Device, name: str) -> Stream | None:
        stream = device.streams.get(name)
        if stream is None:
            if len(device.streams) >= MAX_STREAMS:
                self._left_out += 1
                return None
            self._streams += 1
            stream = Stream(None, 0) if device.all_heard else Stream(1, SEQ_MASK)
            device.streams[name] = stream
        return stream

    def _take_heartbeat(self, device: _Device, number: str, outbox: object, now_s: float) -> bool:
        settled = outbox.get("settled") if isinstance(outbox, dict) else None
        if not isinstance(outbox, dict) or not isinstance(settled, dict):
            return False
        marks = {name: seq for name, seq in settled.items() if re.fullmatch(_STREAM, name) and _is_seq(seq)}
        for name, seq in marks.items():
            stream = self._stream(device, name)
            if stream is not None:
                stream.settled = max(stream.settled, seq)
        device.marked = tuple(name for name in marks if name in device.streams)
        device.idle = outbox.get("records") == 0
        if number != device.beat:
            # It was measured after the one before had arrived, and so after the verifier began to hear: if all that
            # waits has been put later still, nothing from before can be named or sent any more.
            age_s = outbox.get("oldest_age_s")
            room_s = device.heard[1] - device.heard[0] if device.heard else 0
            if device.heard and (device.idle or (isinstance(age_s, int | float) and age_s < room_s)):
                device.all_heard = True
                for name in device.marked:
                    device.streams[name].close_blind(device.streams[name].settled)
            device.heard, device.beat = ((device.heard or (now_s,))[0], now_s), number
        return len(marks) == len(settled)

    def _take_record(self, device: _Device, name: str, seq: int, event: Mapping[str, Any], topic: str) -> bool:
        if event.get("sequence") != f"{seq:016d}" or seq > SEQ_MASK:
            return False
        stream = self._stream(device, name)
        if stream is None:
            return True
        kind, subject = str(event.get("type")), str(event.get("subject"))
        found = _CHANNEL.search(topic)
        channel = found[1] if found else f"{_BRANCHES.get(kind)}/{subject}"
        digest = hash(orjson.dumps([kind, subject, event["data"]], option=orjson.OPT_SORT_KEYS))
        if stream.see(seq, channel):
            self._shrink(stream)
        elif self._recent.get((stream, seq), digest) == digest:
            stream.duplicates += 1
        else:
            stream.conflicting += 1
            stream.conflicts = [*stream.conflicts, seq][:MAX_CONFLICTS]
        self._recent.setdefault((stream, seq), digest)
        if len(self._recent) > RECENT:
            self._recent.popitem(last=False)
        if kind == "edge.event.v1" and subject == "outbox":
            self._take_outbox_event(device, event["data"])
        return True

    def _take_outbox_event(self, device: _Device, data: Mapping[str, Any]) -> None:
        """Take note of what is not delivered, or not in order."""
        for word in ("gaps", "late", "held"):
            items = data.get(word, [])
            for item in items if isinstance(items, list) else [items]:
                note = _parse_note(item)
                if note is None:
                    self.unreadable += 1
                elif (stream := self._stream(device, note.stream)) is not None:
                    _apply(note, word, stream)
                    self._shrink(stream)

    def _shrink(self, stream: Stream) -> None:
        stream.shrink(max(MIN_RANGES, MAX_RANGES // self._streams))


@dataclass(frozen=True, slots=True)
class _Note:
    """What an outbox event says of some numbers; ``topic`` only of what is held."""

    stream: str
    first: int
    last: int
    count: int
    reason: object
    topic: str


def _parse_note(item: object) -> _Note | None:
    if not isinstance(item, dict):
        return None
    stream, first, topic = item.get("stream"), item.get("first"), item.get("topic", "")
    last = item.get("last", first)
    if not isinstance(stream, str) or not re.fullmatch(_STREAM, stream) or not isinstance(topic, str):
        return None
    if not _is_seq(first) or not _is_seq(last) or not 1 <= first <= last:
        return None
    numbers = item.get("count", last - first + 1)
    valid = _is_seq(numbers) and 1 <= numbers <= last - first + 1
    return _Note(stream, first, last, numbers, item.get("reason"), topic) if valid else None


def _apply(note: _Note, word: str, stream: Stream) -> None:
    if word == "late":
        stream.late.add(note.first, note.last)
    elif word == "gaps":
        stream.name(note.first, note.last, note.count, unclean=note.reason == "unclean_stop")
    elif note.topic in stream.held or len(stream.held) < MAX_CHANNELS:
        stream.held[note.topic] = min(note.first, stream.held.get(note.topic, note.first))


def _is_seq(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= SEQ_MASK
