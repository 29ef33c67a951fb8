"""What became of the numbers of one stream: delivered, named as a gap, or missing.

Knowledge comes late and out of order: a gap may be named after its successors were sent, and what is to be expected is
known only from a heartbeat. So what is heard is kept as ranges of numbers, and judged when a report is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from edge_agent.core.number_ranges import NumberRanges, Range, count, holes
from edge_agent.core.records import SEQ_MASK, Gap

MAX_CHANNELS: Final = 256


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
            younger than the connection.
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
        known: what is counted at once, and of the rest what is forgotten.
        floor: what lies below is judged and forgotten.
        highest: that was seen.
        blind: something about them may have passed unheard; up to ``SEQ_MASK`` while that goes on.
        seen: arrived.
        gaps: named, each number of them.
        coarse: gaps of fewer numbers than they span, and how many.
        late: named as sent later than their successors.
        disordered: seen first after a higher one.
        held: from which number on a channel's records may come later than others.
    """

    known: StreamReport
    floor: int = 1
    highest: int = 0
    blind: NumberRanges = field(default_factory=NumberRanges)
    seen: NumberRanges = field(default_factory=NumberRanges)
    gaps: NumberRanges = field(default_factory=NumberRanges)
    coarse: dict[Range, int] = field(default_factory=dict)
    late: NumberRanges = field(default_factory=NumberRanges)
    disordered: NumberRanges = field(default_factory=NumberRanges)
    held: dict[str, int] = field(default_factory=dict)

    def see(self, seq: int, channel: str) -> bool:
        """Take note of a number, on a channel if that is known; return whether it is new."""
        if seq < self.floor or seq in self.seen:
            return False
        if seq > self.highest:
            self.highest = seq
        elif seq not in self.blind and not any(
            first <= seq for held, first in self.held.items() if channel in (held, "")
        ):
            self.disordered.add(seq, seq)
        self.seen.add(seq, seq)
        self.known.delivered += 1
        return True

    def name(self, gap: Gap) -> None:
        """Take note of a gap."""
        first, last = max(gap.first, self.floor), gap.last
        if first > last or (first, last) in self.coarse:
            return
        if (
            gap.reason == "unclean_stop" and gap.first > 1
        ):  # with it went what had yet to be said of an order that was not kept
            self.late.add(1, gap.first - 1)
        if gap.count == gap.last - gap.first + 1 or gap.reason == "unclean_stop":
            self.known.named += count(holes([self.gaps], first, last))
            self.gaps.add(first, last)
        else:
            self.known.named += gap.count
            self.coarse[first, last] = gap.count

    def hold(self, channel: str, first: int) -> None:
        """Take note that a channel waits from a number on, which it may have done before this was heard."""
        if channel in self.held or len(self.held) < MAX_CHANNELS:
            self.held[channel] = min(first, self.held.get(channel, first))
            self.disordered.keep(0, first - 1)

    def shrink(self, room: int) -> int:
        """Judge and forget all if it takes more than ``room`` ranges; return how many numbers are not judged then."""
        sets = (self.seen, self.gaps, self.late, self.disordered)
        if sum(map(len, sets)) + len(self.coarse) <= room:
            return 0
        top = max(last for one in (*sets, self.coarse) for _, last in one)
        report = self.report(top)
        self.known.missing, self.known.out_of_order = report.missing, report.out_of_order
        self.floor = top + 1
        for one in sets:
            one.keep(self.floor, SEQ_MASK)
        self.coarse.clear()
        return report.open

    def report(self, last: int | None = None) -> StreamReport:
        """Return what is known by now of the numbers up to ``last``; ``None`` = all that were heard of."""
        settled, sets = min(last or SEQ_MASK, self.known.settled), [self.seen, self.gaps, self.blind]
        missing, spans = [], NumberRanges()
        for low, high, numbers in self._coarse_spans():
            unseen = count(holes(sets, low, min(high, settled)))
            if unseen > numbers:
                missing.append((low, high, unseen - numbers))
            spans.add(low, high)
        sets.append(spans)
        missing += [(low, high, high - low + 1) for low, high in holes(sets, self.floor, settled)]
        disordered = tuple(hole for one in self.disordered for hole in holes([self.late], *one))
        return replace(
            self.known,
            missing=self.known.missing + sum(numbers for *_, numbers in missing),
            out_of_order=self.known.out_of_order + count(disordered),
            open=count(holes(sets, max(self.floor, settled + 1), last or self.highest)),
            judged=SEQ_MASK not in self.blind,
            missing_ranges=tuple(sorted(missing)),
            out_of_order_ranges=disordered,
        )

    def _coarse_spans(self) -> list[tuple[int, int, int]]:
        """Return the coarse gaps; those that overlap as one."""
        found: list[tuple[int, int, int]] = []
        for (first, last), numbers in sorted(self.coarse.items()):
            if found and first <= found[-1][1]:
                low, high, so_far = found.pop()
                found.append((low, max(high, last), so_far + numbers))
            else:
                found.append((first, last, numbers))
        return found
