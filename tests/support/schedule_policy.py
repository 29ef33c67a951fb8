"""What should become of a job's slots, said once more by brute force: for each of them, and by sets.

It knows of a job what its settings promise, is told of everything that happens to the device, and is shown what was
seen of its runs. Instants are whole nanoseconds of the device's clock, or, named ``raw``, of its counter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

S: Final = 10**9
WRITING: Final = S // 100
LATE: Final = 2 * S // 1000
"""Firings are a millisecond apart, and a timer aims a little too late."""

FAR: Final = 86_400 * S
MIDNIGHT: Final = 1_800_000_000 * S - 1_800_000_000 * S % FAR


@dataclass(frozen=True)
class Rules:
    """What a job's settings promise.

    Attributes:
        period: between its slots; ``None`` = it has one.
        once: that one, or its distance from when the job was put.
        has_date: whether it waits until time is known.
        booked: whether it survives a restart.
        misfire: what becomes of missed slots, with the window.
        tolerance: how late is not missed.
        repeats: whether a run that was cut off comes again.
        queues: whether one run waits for the end of another.
    """

    period: int | None
    once: int | None = None
    has_date: bool = True
    booked: bool = True
    misfire: Literal["skip", "run_once", "run_all"] = "skip"
    window: int = 0
    tolerance: int = 60 * S
    repeats: bool = False
    queues: bool = False

    @property
    def counts(self) -> bool:
        """Whether its slot depends on when it was put."""
        return self.period is None and not self.has_date


@dataclass
class Books:
    """What outlives a crash: up to which instant slots are decided, which ones are owed, and what has begun."""

    last: int | None = None
    owed: set[int] = field(default_factory=set)
    begun: set[int] = field(default_factory=set)
    put: int | None = None

    def copy(self) -> Books:
        """Return what is written down now."""
        return Books(self.last, set(self.owed), set(self.begun), self.put)


class Expected:
    """One job: which runs it owes, which it has missed; raises ``AssertionError`` when something else happens."""

    def __init__(self, name: str, rules: Rules) -> None:
        self.name = name
        self.rules = rules
        self.enabled = True
        self.paused = False
        self.missed = 0
        self.books = Books()
        self.written: list[tuple[int, Books]] = [(-1, Books())]
        self.soon: dict[int, int] = {}  # slots to be run at once, and by when
        self.active: set[int] = set()
        self.again: set[int] = set()

    # -- slots

    def slots(self, since: int, until: int) -> list[int]:
        """Return every slot later than ``since`` and not later than ``until``."""
        if self.rules.period is None:
            one = self.instant
            return [one] if since < one <= until else []
        period = self.rules.period
        return [number * period for number in range(since // period + 1, until // period + 1)]

    @property
    def done(self) -> bool:
        """Whether it has one slot, and that is decided."""
        return self.rules.period is None and self.books.last == self.instant

    @property
    def instant(self) -> int:
        """The slot of a job that has one."""
        assert self.rules.once is not None
        return self.rules.once + (self.books.put or 0 if self.rules.counts else 0)

    # -- what happens to the device

    def start(self, now: int, raw: int) -> None:
        """The job begins to be looked after; nothing is decided yet."""
        self.since_raw, self.last, self.here, self.goes = raw, now, now, False
        if self.rules.counts:
            if self.books.put is None:
                self.books.put = now
            self.last = self.books.put - 1
        self.active.clear()
        self.soon.clear()
        self.cut, self.books.begun = set(self.books.begun), set()
        self.runs = self.rules.period is not None and not self.rules.has_date
        self.runs = self.runs or (self.rules.counts and self.books.last is None)

    def resume(self, now: int, raw: int, *, known: bool) -> None:
        """Time is known, or believed in at last: the books count."""
        self.goes = self.runs = True
        books, rules, last = self.books, self.rules, self.last
        if rules.booked and books.last is not None and (self.done or books.last <= now + FAR):
            self.last = books.last
            self.decide(now - (raw - self.since_raw), now, raw)
            if rules.period is not None:
                self.last = max(self.last, last)
        if known or not rules.counts:
            keeps = rules.period is None or (rules.booked and self.enabled)
            books.last = self.last if keeps else None
        for slot in [slot for slot in books.owed - books.begun if now - slot > rules.window]:
            books.owed.discard(slot)
            self.soon.pop(slot, None)
            self.missed += 1
        self.write(raw)

    def begins(self, begun: Sequence[int], owed: Sequence[int]) -> None:
        """Runs are noted down as begun, some of them so that they come again, by what the settings were until now."""
        for slot in self.books.owed.intersection(begun) - self.books.begun:
            self.books.begun.add(slot)
            if slot in owed:
                self.again.add(slot)
            else:
                self.books.owed.discard(slot)

    def slept(self, raw: int, by: int) -> None:
        """The device was suspended: what was about to happen happens later by so much."""
        self.soon = {slot: at + by for slot, at in self.soon.items()}
        self.written = [(at + by if at > raw else at, books) for at, books in self.written]

    def move(self, by: int, *, believed: bool) -> None:
        """The clock was wrong by so much while nobody knew; ``believed``: books were kept by it."""
        books, rules = self.books, self.rules
        if rules.counts:
            self.put_off(by)
            return
        if self.done:
            return
        if abs(by) <= rules.tolerance:
            return
        if believed and books.last is not None:
            books.last += by
        self.last += by

    def put_off(self, by: int) -> None:
        """What counts from when the job was put does so by the counter, unless it is done."""
        books = self.books
        assert books.put is not None
        if self.last < self.instant:
            books.put += by
            books.last = None if books.last is None else books.last + by
            self.last += by

    def stepped(self, now: int, by: int, raw: int) -> None:
        """True time was corrected."""
        if self.rules.counts:
            self.put_off(by)
            self.write(raw)
        elif self.last > now + (FAR if self.rules.booked else self.rules.tolerance):
            self.last = now

    def pause(self, now: int, *, paused: bool) -> None:
        """Somebody lets it pause, or go on."""
        self.paused = paused
        if self.rules.period is not None:
            self.last = max(self.last, now)
            if self.goes:
                self.books.last = self.last

    def edit(self, rules: Rules, now: int, raw: int, *, enabled: bool) -> None:
        """Somebody has changed its settings; if that changes no slot, all goes on."""
        if (rules.period, rules.once) != (self.rules.period, self.rules.once) or not self.enabled:
            self.last, self.since_raw, self.books.last = now, raw, None
        self.rules, self.enabled = rules, enabled

    def write(self, raw: int) -> None:
        """Note down the books; a little later they are on the disk."""
        self.written.append((raw + WRITING, self.books.copy()))
        del self.written[:-200]

    def stop(self, raw: int, *, crash: bool) -> None:
        """The agent ends; what is left is what was written."""
        if crash:
            self.books = [books for at, books in self.written if at <= raw][-1].copy()
        self.written = [(-1, self.books.copy())]

    # -- what is due

    def decide(self, until: int, now: int, raw: int) -> None:
        """All slots until then have come, but were not looked at before now."""
        if self.paused or not self.enabled or not self.runs:
            return
        booked = self.rules.booked and (self.goes or self.rules.period is None)
        come = self.slots(self.last, until)
        if not come:
            return
        run = [slot for slot in come if until - slot <= self.rules.tolerance]
        caught = [slot for slot in come if slot not in run and until - slot <= self.rules.window]
        if not booked or self.rules.misfire == "skip" or (self.rules.misfire == "run_once" and run):
            caught = []
        elif self.rules.misfire == "run_once":
            caught = caught[-1:]
        self.missed += len(come) - len(run) - len(caught)
        self.last = come[-1]
        for slot in run:
            if now - slot <= self.rules.tolerance and not (booked and slot in self.books.owed):
                self.soon[slot] = raw + LATE + (WRITING + LATE if booked or slot in self.books.owed else 0)
        if booked:
            self.books.last = self.last
            self.books.owed |= {*run, *caught}
            self.write(raw)

    def look(self, now: int, raw: int) -> None:
        """Something has happened: what has come by now is decided now, what comes from here on when it comes."""
        self.here = now
        self.decide(now, now, raw)

    def pass_until(self, now: int, raw: int) -> None:
        """The device was awake and its clock ran until now."""
        for slot in self.slots(max(self.last, self.here), now):
            self.decide(slot, slot, raw - (now - slot))

    # -- what is seen

    def saw(self, when: int, raw: int, slot: int, what: str) -> None:
        """A run has begun or ended."""
        said = f"{self.name}: {what} slot {(slot - MIDNIGHT) / S} at {(when - MIDNIGHT) / S}"
        if what == "begun":
            self._submitted(slot, raw, said)
            assert not self.active, f"{said}: while another run is under way"
            self.active.add(slot)
        elif slot in self.cut:
            assert what == "interrupted", said
            self.cut.discard(slot)
            self.write(raw)
        else:
            if what == "skipped" or slot not in self.active:
                assert what in ("skipped", "interrupted", "cancelled"), said
                self._submitted(slot, raw, said)
            else:
                self.active.discard(slot)
            self.books.begun.discard(slot)
            if what != "interrupted":
                self.books.owed.discard(slot)
            self.write(raw)

    def _submitted(self, slot: int, raw: int, said: str) -> None:
        promised = slot in {*self.books.owed, *self.soon, *self.books.begun}
        assert promised, f"{said}: it is not due yet, or comes again"
        assert self.rules.queues or self.soon.get(slot, raw) >= raw, f"{said}: too late"
        if slot in self.books.owed:
            self.books.begun.add(slot)
            assert any(slot in books.owed for at, books in self.written if at <= raw), f"{said}: before it was written"
            for _, books in self.written:  # the note that it begins is on the disk by now
                books.begun.add(slot)
            if not self.rules.repeats and slot not in self.again:
                for books in (self.books, *(books for _, books in self.written)):
                    books.owed.discard(slot)
        self.soon.pop(slot, None)

    def check(self, raw: int) -> None:
        """Nothing that was due is late."""
        if self.rules.queues and self.active:
            return
        late = {(slot - MIDNIGHT) / S for slot, by in self.soon.items() if by < raw}
        assert not late, f"{self.name}: {late} did not run"
