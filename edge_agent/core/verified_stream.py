"""What became of the numbers of one stream: delivered, named as a gap, or missing.

Knowledge comes late and out of order: a gap may be named after its successors were sent, and what is to be expected is
known only from a heartbeat. So what is heard is kept as ranges of numbers, and judged when a report is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from edge_agent.core.number_ranges import NumberRanges, Range, count, holes
from edge_agent.core.records import SEQ_MASK, Gap


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
