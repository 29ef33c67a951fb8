"""What became of the numbers of one stream: delivered, named as a gap, or missing.

Knowledge comes late and out of order: a gap may be named after its successors were sent, and what is to be expected is
known only from a heartbeat. So what is heard is kept as ranges of numbers, and judged when a report is asked for.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from edge_agent.core.number_ranges import NumberRanges, Range, count, holes
from edge_agent.core.records import SEQ_MASK

MAX_CHANNELS: Final = 256


@dataclass(frozen=True, slots=True)
class StreamReport:
    """What became of the numbers of one stream.

    Attributes:
        device: whose stream it is.
        stream: its name.
        last: the highest number that was seen; 0 = none.
        settled: up to which number the device says that all is delivered or named.
        delivered: different numbers that were seen.
        named: numbers that an outbox event names as not delivered, or perhaps never used.
        missing: settled, neither seen nor named.
        duplicates: messages that repeat a number; consumers drop them.
        conflicting: messages that repeat a number with another content.
        out_of_order: numbers seen first after a higher one, without being named as late.
        contradicted: numbers named as gaps and seen all the same.
        open: not seen below ``last``, and not settled either.
        while_disconnected: neither seen nor named, but what became of them may have passed before the verifier was
            connected, or while it was not.
        unjudged: numbers that there was no room to remember until it was known what became of them.
        judging: whether all is judged that comes from now on; otherwise the device has yet to say that what it holds
            is younger than the connection.
        missing_ranges: where they are missing; with a count below the range's length it is not known which.
        out_of_order_ranges: which came out of order.
        conflicting_numbers: the first of them.
    """

    device: str
    stream: str
    last: int
    settled: int
    delivered: int
    named: int
    missing: int
    duplicates: int
    conflicting: int
    out_of_order: int
    contradicted: int
    open: int
    while_disconnected: int
    unjudged: int
    judging: bool
    missing_ranges: tuple[tuple[int, int, int], ...]
    out_of_order_ranges: tuple[Range, ...]
    conflicting_numbers: tuple[int, ...]

    @property
    def ok(self) -> bool:
        """Whether all is as promised."""
        return not (self.missing or self.conflicting or self.out_of_order or self.unjudged)


@dataclass(slots=True)
class _Judgement:
    """What became of a range of numbers; the fields are those of ``StreamReport``."""

    missing: list[tuple[int, int, int]] = field(default_factory=list)
    out_of_order: list[Range] = field(default_factory=list)
    named: int = 0
    contradicted: int = 0
    open: int = 0
    while_disconnected: int = 0

    def counts(self) -> dict[str, int]:
        """Return how many numbers it is of each; but ``open``, which may become something else yet."""
        return {
            "missing": sum(numbers for *_, numbers in self.missing),
            "out_of_order": count(self.out_of_order),
            "named": self.named,
            "contradicted": self.contradicted,
            "while_disconnected": self.while_disconnected,
        }


@dataclass(slots=True, eq=False)
class Stream:
    """What is known of the numbers of one stream.

    Attributes:
        blind_since: the first number about which something may have passed unheard; ``None`` while all is heard.
        joined: the last number from before the verifier's time.
        settled: the device's mark.
        floor: what lies below is judged and forgotten.
        full: named as gaps, each number of them.
        maybe: named as used or not.
        partial: named as gaps of fewer numbers than they span.
        blind: something about them may have passed unheard.
        late: named as sent later than their successors.
        held: from which number on a channel's records may come later than others.
        disordered: seen first after a higher one, by channel.
    """

    blind_since: int | None
    joined: int
    settled: int = 0
    floor: int = 1
    seen: NumberRanges = field(default_factory=NumberRanges)
    full: NumberRanges = field(default_factory=NumberRanges)
    maybe: NumberRanges = field(default_factory=NumberRanges)
    partial: dict[Range, int] = field(default_factory=dict)
    blind: NumberRanges = field(default_factory=NumberRanges)
    late: NumberRanges = field(default_factory=NumberRanges)
    held: dict[str, int] = field(default_factory=dict)
    disordered: dict[str, NumberRanges] = field(default_factory=dict)
    delivered: int = 0
    duplicates: int = 0
    conflicting: int = 0
    conflicts: list[int] = field(default_factory=list)
    highest: int = 0
    past: Counter[str] = field(default_factory=Counter)

    def see(self, seq: int, channel: str) -> bool:
        """Take note of a number; return whether it is new."""
        if seq < self.floor or seq in self.seen:
            return False
        if seq > self.highest:
            self.highest = seq
        elif seq not in self.blind and (self.blind_since is None or seq < self.blind_since):
            name = channel if channel in self.disordered or len(self.disordered) < MAX_CHANNELS else ""
            self.disordered.setdefault(name, NumberRanges()).add(seq, seq)
        self.joined = min(self.joined, seq - 1)
        self.seen.add(seq, seq)
        self.delivered += 1
        return True

    def close_blind(self, last: int) -> None:
        """Nothing about what lies above ``last`` has passed unheard."""
        if self.blind_since is not None:
            self.joined = min(self.joined, last)
            if last >= self.blind_since:
                self.blind.add(self.blind_since, last)
            self.blind_since = None

    def name(self, first: int, last: int, numbers: int, *, unclean: bool) -> None:
        """Take note of a gap."""
        if unclean:
            self.maybe.add(first, last)
        elif numbers == last - first + 1:
            self.full.add(first, last)
        else:
            self.partial[first, last] = numbers

    def judge(self, low: int, high: int) -> _Judgement:
        """Return what became of the numbers from ``low`` to ``high``, as far as it is known by now."""
        result, settled = _Judgement(), min(high, self.settled)
        unheard = NumberRanges()
        if self.blind_since is not None:
            unheard.add(self.blind_since, SEQ_MASK)
        known = [self.seen, self.full, self.maybe, self.blind, unheard]
        partial = NumberRanges()
        for first, last, numbers in self._coarse_gaps():
            unseen = count(holes(known, max(low, first), min(last, settled)))
            if low <= last <= high and unseen > numbers:
                result.missing.append((first, last, unseen - numbers))
            partial.add(first, last)
            if low <= last <= high:
                result.named += numbers
                result.contradicted += max(0, self.seen.count(first, last) - (last - first + 1 - numbers))
        exact = holes([*known, partial], low, settled)
        result.missing = sorted(result.missing + [(first, last, last - first + 1) for first, last in exact])
        result.open = count(holes([*known, partial], max(low, settled + 1), min(high, self.highest)))
        top = min(high, max(self.highest, self.settled))
        result.while_disconnected = sum(
            count(holes([self.seen, self.full, self.maybe, partial], first, last))
            for blind in (self.blind, unheard)
            for first, last in blind.within(max(low, self.joined + 1), top)
        )
        result.named += self.full.count(low, high) + self.maybe.count(low, high)
        result.contradicted += sum(self.seen.count(first, last) for first, last in self.full.within(low, high))
        result.out_of_order = sorted(
            found
            for channel, numbers in self.disordered.items()
            for first, last in numbers.within(low, min(high, self.held.get(channel, high + 1) - 1))
            for found in holes([self.late], first, last)
        )
        return result

    def _coarse_gaps(self) -> list[tuple[int, int, int]]:
        """Return the gaps of fewer numbers than they span; those that overlap as one."""
        found: list[tuple[int, int, int]] = []
        for (first, last), numbers in sorted(self.partial.items()):
            if found and first <= found[-1][1]:
                low, high, so_far = found.pop()
                found.append((low, max(high, last), so_far + numbers))
            else:
                found.append((first, last, numbers))
        return found

    def shrink(self, room: int) -> None:
        """Judge and forget the lower half when there are more ranges than there is room for."""
        sets = [self.seen, self.full, self.maybe, self.blind, self.late, *self.disordered.values()]
        if sum(map(len, sets)) + len(self.partial) <= room:
            return
        largest = max(sets, key=len)
        if len(self.partial) > len(largest):
            cut = sorted(self.partial)[len(self.partial) // 2][1] + 1
        else:
            cut = largest.middle()
        judged = self.judge(self.floor, cut - 1)
        self.past.update(judged.counts())
        self.past["unjudged"] += judged.open
        for one in sets:
            one.drop_below(cut)
        self.partial = {gap: numbers for gap, numbers in self.partial.items() if gap[1] >= cut}
        self.disordered = {channel: numbers for channel, numbers in self.disordered.items() if len(numbers)}
        self.floor = cut

    def report(self, device: str, stream: str) -> StreamReport:
        """Return what is known by now."""
        judged = self.judge(self.floor, SEQ_MASK)
        counts = self.past + Counter(judged.counts())
        return StreamReport(
            device=device,
            stream=stream,
            last=self.highest,
            settled=self.settled,
            delivered=self.delivered,
            named=counts["named"],
            missing=counts["missing"],
            duplicates=self.duplicates,
            conflicting=self.conflicting,
            out_of_order=counts["out_of_order"],
            contradicted=counts["contradicted"],
            open=judged.open,
            while_disconnected=counts["while_disconnected"],
            unjudged=counts["unjudged"],
            judging=self.blind_since is None,
            missing_ranges=tuple(judged.missing),
            out_of_order_ranges=tuple(judged.out_of_order),
            conflicting_numbers=tuple(self.conflicts),
        )
