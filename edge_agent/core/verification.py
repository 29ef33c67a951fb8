"""Finds missing, repeated and disordered records of all devices, from the messages alone.

Nothing that arrives is trusted, and whatever comes the memory is bounded: what there is no room for is counted, and not
judged.

Knowledge comes late and out of order: a gap may be named after its successors were sent, and what is to be expected is
known only from a heartbeat. So what is heard of a stream is kept as ranges of numbers, and judged when a report is
asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, TypeGuard

import orjson

from edge_agent.core.config_types import NAME_PATTERN
from edge_agent.core.events import HEARTBEAT
from edge_agent.core.number_ranges import NumberRanges, Range, count, holes
from edge_agent.core.records import SEQ_MASK, Gap
from edge_agent.core.timebase import MonotonicNs, elapsed, to_seconds

MAX_MESSAGE: Final = 1024 * 1024
MAX_STREAMS: Final = 24  # of a device: eight incarnations of its outbox
MAX_RANGES: Final = 1_000_000  # of all streams together; each has its share
MIN_RANGES: Final = 16
RECENT: Final = 100_000  # messages whose content is remembered, to be compared with what comes under the same id

_UNKNOWN: Final = MonotonicNs(0)
_STREAM: Final = r"[A-Za-z0-9_:-]{1,64}-(?:critical|normal|bulk)"
_ID: Final = re.compile(rf"({_STREAM})\.([1-9][0-9]{{0,15}})")
_SOURCE: Final = re.compile(rf"/devices/({NAME_PATTERN})")


@dataclass(slots=True)
class StreamReport:
    """What became of the numbers of one stream.

    Attributes:
        device: whose stream it is.
        stream: its name.
        settled: up to which number the device says that all is delivered or named.
        delivered: different numbers that were seen.
        named: numbers that an outbox event names as not delivered, or perhaps never used.
        missing: settled, neither seen nor named.
        duplicates: messages that repeat a number; consumers drop them.
        conflicting: messages that repeat a number with another content.
        out_of_order: numbers seen first after a higher one, without being named as late.
        open: neither seen nor named below the highest that was seen, and not settled either.
        judged: whether all that comes from now on is; otherwise the device has yet to say that what waits on it is
            younger than the connection, or there is no room for more.
        missing_ranges: first, last, and how many between them; where that is fewer it is not known which.
        out_of_order_ranges: which came out of order.
    """

    device: str
    stream: str
    settled: int = 0
    delivered: int = 0
    named: int = 0
    missing: int = 0
    duplicates: int = 0
    conflicting: int = 0
    out_of_order: int = 0
    open: int = 0
    judged: bool = False
    missing_ranges: tuple[tuple[int, int, int], ...] = ()
    out_of_order_ranges: tuple[Range, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether all is as promised."""
        return not (self.missing or self.conflicting or self.out_of_order)


@dataclass(slots=True, eq=False)
class Stream:
    """What is known of the numbers of one stream.

    Attributes:
        known: what is counted at once.
        highest: that was seen.
        blind: something about them may have passed unheard; up to ``SEQ_MASK`` while that goes on.
        seen: arrived.
        gaps: named, each number of them.
        coarse: gaps of fewer numbers than they span, and how many.
        late: named as sent, or perhaps sent, later than their successors.
        disordered: seen first after a higher one.
    """

    known: StreamReport
    highest: int = 0
    blind: NumberRanges = field(default_factory=NumberRanges)
    seen: NumberRanges = field(default_factory=NumberRanges)
    gaps: NumberRanges = field(default_factory=NumberRanges)
    coarse: dict[Range, int] = field(default_factory=dict)
    late: NumberRanges = field(default_factory=NumberRanges)
    disordered: NumberRanges = field(default_factory=NumberRanges)

    @property
    def size(self) -> int:
        """How many ranges it takes."""
        return len(self.coarse) + sum(map(len, (self.seen, self.gaps, self.late, self.disordered)))

    def see(self, seq: int, *, conflicting: bool = False) -> None:
        """Take note of a number; ``conflicting`` = it was seen with another content."""
        if seq in self.seen:
            self.known.conflicting += conflicting
            self.known.duplicates += not conflicting
            return
        if seq < self.highest and seq not in self.blind:
            self.disordered.add(seq, seq)
        self.highest = max(self.highest, seq)
        self.seen.add(seq, seq)
        self.known.delivered += 1

    def name(self, gap: Gap) -> None:
        """Take note of a gap."""
        if (gap.first, gap.last) in self.coarse:
            return
        unclean = gap.reason == "unclean_stop"
        if unclean and gap.first > 1:  # with it went what had yet to be said of an order that was not kept
            self.late.add(1, gap.first - 1)
        if unclean or gap.count == gap.last - gap.first + 1:
            self.known.named += count(holes([self.gaps], gap.first, gap.last))
            self.gaps.add(gap.first, gap.last)
        else:
            self.known.named += gap.count
            self.coarse[gap.first, gap.last] = gap.count

    def doubt(self) -> None:
        """Take note that something about what is not settled yet may have passed, or will pass, unheard."""
        self.blind.add(self.known.settled + 1, SEQ_MASK)

    def report(self) -> StreamReport:
        """Return what is known by now."""
        settled, sets = self.known.settled, [self.seen, self.gaps, self.blind]
        missing, spans = [], NumberRanges()
        for low, high, numbers in self._coarse_spans():
            unseen = count(holes(sets, low, min(high, settled)))
            if unseen > numbers:
                missing.append((low, high, unseen - numbers))
            spans.add(low, high)
        sets.append(spans)
        missing += [(low, high, high - low + 1) for low, high in holes(sets, 1, settled)]
        disordered = tuple(hole for one in self.disordered for hole in holes([self.late], *one))
        return replace(
            self.known,
            missing=sum(numbers for *_, numbers in missing),
            out_of_order=count(disordered),
            open=count(holes(sets, settled + 1, self.highest)),
            judged=SEQ_MASK not in self.blind,
            missing_ranges=tuple(sorted(missing)),
            out_of_order_ranges=disordered,
        )

    def _coarse_spans(self) -> list[tuple[int, int, int]]:
        """Return the coarse gaps; those that overlap as one."""
        found: list[tuple[int, int, int]] = []
        for (first, last), numbers in sorted(self.coarse.items()):
            low, high, so_far = found.pop() if found and first <= found[-1][1] else (first, last, 0)
            found.append((low, max(high, last), so_far + numbers))
        return found


@dataclass(slots=True)
class _Device:
    """A device: its streams, and when it was heard.

    Attributes:
        name: its id.
        all_heard: whether nothing that is put from now on can have passed unheard.
        heard: the first and the last heartbeat since the connection stands; ``None`` before.
        beat: the id of the last one.
    """

    name: str
    all_heard: bool
    streams: dict[str, Stream] = field(default_factory=dict)
    heard: tuple[MonotonicNs, MonotonicNs] | None = None
    beat: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What became of all that was heard of.

    Attributes:
        messages: CloudEvents that were taken in.
        unreadable: messages, and parts of them, that are not what the contract says.
        left_out: messages for which there was no room.
        interruptions: how often something may have passed unheard.
        streams: sorted by device and stream.
    """

    messages: int
    unreadable: int
    left_out: int
    interruptions: int
    streams: tuple[StreamReport, ...]

    @property
    def ok(self) -> bool:
        """Whether all is as promised, as far as it can be judged."""
        return not self.left_out and all(stream.ok for stream in self.streams)


class Verification:
    """Takes messages in, and says what became of every record."""

    def __init__(self, *, from_start: bool, max_devices: int = 100_000) -> None:
        """Prepare.

        Args:
            from_start: whether all was heard since the first number of each stream.
            max_devices: of more than that nothing is remembered.
        """
        self._from_start = from_start
        self._max_devices = max_devices
        self._devices: dict[str, _Device] = {}
        self._streams = 0
        self._recent: dict[tuple[str, str, int], int] = {}
        self._messages = self._unreadable = self._left_out = self._interruptions = 0

    def take(self, payload: bytes, now: MonotonicNs = _UNKNOWN) -> None:
        """Take a message in: an event or an array of events; a status is passed over.

        Args:
            payload: as it arrived.
            now: when; without, only a device on which nothing waits shows that all from before is gone.
        """
        if payload in (b"online", b"offline"):
            return
        try:
            parsed = orjson.loads(payload) if len(payload) <= MAX_MESSAGE else None
        except orjson.JSONDecodeError:
            parsed = None
        for event in parsed if isinstance(parsed, list) else [parsed]:
            if isinstance(event, dict) and self._take_event(event, now):
                self._messages += 1
            else:
                self._unreadable += 1

    def disconnected(self) -> None:
        """Nothing was heard since the last message, up to the next."""
        self._interruptions += 1
        for device in self._devices.values():
            device.heard, device.all_heard = None, False
            for stream in device.streams.values():
                stream.doubt()

    def report(self) -> Report:
        """Return what is known by now."""
        reports = [stream.report() for device in self._devices.values() for stream in device.streams.values()]
        reports.sort(key=lambda report: (report.device, report.stream))
        return Report(self._messages, self._unreadable, self._left_out, self._interruptions, tuple(reports))

    def _take_event(self, event: Mapping[str, Any], now: MonotonicNs) -> bool:
        """Take note of an event; return whether it is one."""
        source, number, data = event.get("source"), event.get("id"), event.get("data")
        found = _SOURCE.fullmatch(source) if isinstance(source, str) else None
        if found is None or not isinstance(number, str) or not isinstance(data, dict):
            return False
        if found[1] not in self._devices and len(self._devices) >= self._max_devices:
            self._left_out += 1
            return True
        device = self._devices.setdefault(found[1], _Device(found[1], self._from_start))
        if event.get("type") == HEARTBEAT:
            return self._take_heartbeat(device, number, data.get("outbox"), now)
        record = _ID.fullmatch(number)
        # others are of a session's stream, where a hole means nothing
        return record is None or self._take_record(device, record[1], int(record[2]), event)

    def _stream(self, device: _Device, name: str) -> Stream | None:
        """Return what is known of a stream; ``None`` where there is no room for it."""
        stream = device.streams.get(name)
        if stream is None:
            if len(device.streams) >= MAX_STREAMS:
                self._left_out += 1
                return None
            self._streams += 1
            stream = device.streams[name] = Stream(StreamReport(device.name, name))
            if not device.all_heard:
                stream.blind.add(1, SEQ_MASK)
        return stream

    def _take_heartbeat(self, device: _Device, number: str, outbox: object, now: MonotonicNs) -> bool:
        marks = outbox.get("settled") if isinstance(outbox, dict) else None
        if not isinstance(outbox, dict) or not isinstance(marks, dict):
            return False
        if not all(re.fullmatch(_STREAM, name) and _is_seq(seq) for name, seq in marks.items()):
            return False
        streams = [(stream, seq) for name, seq in marks.items() if (stream := self._stream(device, name)) is not None]
        for stream, seq in streams:
            stream.known.settled = max(stream.known.settled, seq)
        if number == device.beat:
            return True
        if device.heard is not None:
            # It was measured after the one before had arrived, and so after the verifier began to hear: if all that
            # waits has been put later still, nothing from before can be named or sent any more.
            age_s = outbox.get("oldest_age_s")
            room_s = to_seconds(elapsed(*device.heard))
            if outbox.get("records") == 0 or (isinstance(age_s, int | float) and age_s < room_s):
                device.all_heard = True
                for stream, _ in streams:
                    stream.blind.keep(1, stream.known.settled)
        device.heard, device.beat = (device.heard[0] if device.heard else now, now), number
        return True

    def _take_record(self, device: _Device, name: str, seq: int, event: Mapping[str, Any]) -> bool:
        if event.get("sequence") != f"{seq:016d}" or seq > SEQ_MASK:
            return False
        kind, subject, data = event.get("type"), event.get("subject"), event["data"]
        digest = hash(orjson.dumps([kind, subject, data], option=orjson.OPT_SORT_KEYS))
        conflicting = self._recent.setdefault((device.name, name, seq), digest) != digest
        if len(self._recent) > RECENT:
            del self._recent[next(iter(self._recent))]
        self._note(device, name, lambda stream: stream.see(seq, conflicting=conflicting))
        if kind == "edge.event.v1" and subject == "outbox":
            self._take_outbox_event(device, data)
        return True

    def _take_outbox_event(self, device: _Device, data: Mapping[str, Any]) -> None:
        """Take note of what is not delivered, or not in order."""
        for word, note in _NOTES.items():
            items = data.get(word, [])
            for item in items if isinstance(items, list) else [items]:
                gap = _parse(item)
                if gap is None:
                    self._unreadable += 1
                else:
                    self._note(device, gap.stream, partial(note, gap))

    def _note(self, device: _Device, name: str, note: Callable[[Stream], None]) -> None:
        """Take note of something about a stream, if there is room for it."""
        stream = self._stream(device, name)
        if stream is not None and stream.size < max(MIN_RANGES, MAX_RANGES // self._streams):
            note(stream)
        elif stream is not None:
            self._left_out += 1
            stream.doubt()


def _parse(item: object) -> Gap | None:
    """Return what an entry of an outbox event is about; ``None`` for nothing."""
    if not isinstance(item, dict):
        return None
    stream, first, why = item.get("stream"), item.get("first"), item.get("reason")
    last = item.get("last", first)
    named = isinstance(stream, str) and re.fullmatch(_STREAM, stream)
    if not named or not _is_seq(first) or not _is_seq(last) or not 1 <= first <= last:
        return None
    numbers = item.get("count", last - first + 1)
    valid = _is_seq(numbers) and 1 <= numbers <= last - first + 1
    return Gap(str(stream), first, last, numbers, str(why)) if valid else None


_NOTES: Final[Mapping[str, Callable[[Gap, Stream], None]]] = {
    "gaps": lambda gap, stream: stream.name(gap),
    "late": lambda gap, stream: stream.late.add(gap.first, gap.last),
    "held": lambda gap, stream: stream.late.add(gap.first, SEQ_MASK),  # a channel waits: from there on any may be late
}


def _is_seq(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= SEQ_MASK
