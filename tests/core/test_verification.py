"""What is said of missing, repeated and disordered records: short histories, and random ones against a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core import verification
from edge_agent.core.events import HEARTBEAT
from edge_agent.core.records import Gap
from edge_agent.core.timebase import MonotonicNs
from edge_agent.core.verification import MAX_MESSAGE, MAX_STREAMS, Report, Stream, StreamReport, Verification

NORMAL, CRITICAL = "ob-normal", "ob-critical"
COUNTS = ("missing", "duplicates", "conflicting", "out_of_order", "open")
Event = dict[str, Any]
History = tuple[list[Event | None], dict[str, int]]


def record(seq: int, *, stream: str = NORMAL, data: object = None, device: str = "d", **more: object) -> Event:
    """Return a record's event."""
    return {
        "type": "edge.data.v1",
        "source": f"/devices/{device}",
        "id": f"{stream}.{seq}",
        "sequence": f"{seq:016d}",
        "subject": "temp",
        "time": "2026-01-01T00:00:00Z",
        "data": {"n": seq} if data is None else data,
    } | more


def said(seq: int, **data: object) -> Event:
    """Return an outbox event."""
    return record(seq, stream=CRITICAL, type="edge.event.v1", subject="outbox", data=data)


def gap(first: int, last: int, count: int | None = None, reason: str = "full", stream: str = NORMAL) -> Event:
    """Return an entry of an outbox event."""
    numbers = last - first + 1 if count is None else count
    return {"stream": stream, "first": first, "last": last, "count": numbers, "reason": reason}


def beat(number: int, *, records: int = 0, age_s: float | None = None, device: str = "d", **settled: int) -> Event:
    """Return a heartbeat; ``settled`` by priority."""
    marks = {f"ob-{name}": seq for name, seq in settled.items()}
    outbox = {"records": records, "oldest_age_s": age_s, "settled": marks}
    return {
        "type": HEARTBEAT,
        "source": f"/devices/{device}",
        "id": f"session.{number}",
        "sequence": f"{number:016d}",
        "data": {"outbox": outbox},
    }


def heard(history: Sequence[Event | None], *, from_start: bool = True) -> Verification:
    """Return a verification that has heard a history; ``None`` is a lost connection. A second passes at each."""
    heard_by = Verification(from_start=from_start)
    for now_s, event in enumerate(history):
        if event is None:
            heard_by.disconnected()
        else:
            heard_by.take(orjson.dumps(event), MonotonicNs(now_s * 10**9))
    return heard_by


def stream_of(report: Report, name: str = NORMAL) -> StreamReport:
    """Return what is said of a stream."""
    (found,) = [stream for stream in report.streams if stream.stream == name]
    return found


def counts(report: Report, name: str = NORMAL) -> dict[str, int]:
    """Return what is not as it should be, by its name."""
    found = stream_of(report, name)
    return {word: number for word in COUNTS if (number := getattr(found, word))}


def records(*numbers: int) -> list[Event | None]:
    """Return records in an order."""
    return [record(seq) for seq in numbers]


HISTORIES: dict[str, History] = {
    "all there": ([*records(1, 2, 3), beat(1, normal=3)], {}),
    "one lost": ([*records(1, 3), beat(1, normal=3)], {"missing": 1}),
    "all lost": ([beat(1, normal=3)], {"missing": 3}),
    "the tail lost": ([*records(1, 2), beat(1, normal=4)], {"missing": 2}),
    "not settled yet": ([*records(1, 3), beat(1, normal=1)], {"open": 1}),
    "no mark at all": (records(1, 3), {"open": 1}),
    "a mark that goes back": ([*records(1, 3), beat(1, normal=3), beat(2, normal=1)], {"missing": 1}),
    "named before": ([said(1, gaps=[gap(2, 3)]), *records(1, 4), beat(1, normal=4)], {}),
    "named afterwards": ([*records(1, 4), beat(1, normal=4), said(1, gaps=[gap(2, 3)])], {}),
    "named and lost": ([*records(1, 4), said(1, gaps=[gap(2, 2)]), beat(1, normal=4)], {"missing": 1}),
    "named twice": ([*records(1, 4), *[said(1, gaps=[gap(2, 3)])] * 2, beat(1, normal=4)], {}),
    "named coarsely": ([*records(1, 3, 5, 6), said(1, gaps=[gap(2, 5, 2)]), beat(1, normal=6)], {}),
    "named coarsely and lost": (
        [*records(1, 3, 6), said(1, gaps=[gap(2, 5, 2)]), beat(1, normal=6)],
        {"missing": 1},
    ),
    "named coarsely, not settled": ([*records(1, 3, 6), said(1, gaps=[gap(2, 5, 2)]), beat(1, normal=4)], {}),
    "named coarsely and delivered": (
        [*records(1, 2, 3, 4, 6), said(1, gaps=[gap(2, 5, 2)]), beat(1, normal=6)],
        {},
    ),
    "named coarsely, half of it settled": (
        [*records(1, 6), said(1, gaps=[gap(2, 5, 1)]), beat(1, normal=4)],
        {"missing": 2},
    ),
    "named coarsely, one within the other": (
        [*records(1, 4), said(1, gaps=[gap(2, 6, 2)]), said(2, gaps=[gap(3, 5, 2)]), beat(1, normal=6)],
        {},
    ),
    "named and delivered": ([said(1, gaps=[gap(2, 2)]), *records(1, 2), beat(1, normal=2)], {}),
    "unclean stop": (
        [said(1, gaps=[gap(3, 4096, reason="unclean_stop")]), *records(1, 2, 3, 4097), beat(1, normal=4097)],
        {},
    ),
    "twice": ([*records(1, 1, 2, 1), beat(1, normal=2)], {"duplicates": 2}),
    "twice, the time corrected": (
        [record(1), record(1, time="2026-01-01T00:00:09Z", timeerrorms=3)],
        {"duplicates": 1},
    ),
    "twice, the keys in another order": (
        [record(1, data={"a": 1, "b": 2}), record(1, data={"b": 2, "a": 1})],
        {"duplicates": 1},
    ),
    "with another content": ([record(1), record(1, data={"n": 9})], {"conflicting": 1}),
    "out of order": ([*records(1, 3, 2), beat(1, normal=3)], {"out_of_order": 1}),
    "a repeat is not out of order": (records(1, 2, 1), {"duplicates": 1}),
    "named as late": (
        [*records(1, 3, 2), said(1, late=[{"stream": NORMAL, "first": 2, "last": 2, "reason": "refused"}])],
        {},
    ),
    "out of order before a crash": (
        [*records(1, 3, 2), said(1, gaps=[{"stream": NORMAL, "first": 4, "last": 9, "reason": "unclean_stop"}])],
        {},
    ),
    "out of order after a crash": (
        [said(1, gaps=[{"stream": NORMAL, "first": 2, "last": 9, "reason": "unclean_stop"}]), *records(1, 10, 12, 11)],
        {"out_of_order": 1},
    ),
    "held": (
        [said(1, held={"stream": NORMAL, "topic": "data/temp", "first": 2, "reason": "refused"}), *records(1, 3, 2)],
        {},
    ),
    "held from later on": (
        [said(1, held={"stream": NORMAL, "topic": "data/temp", "first": 3, "reason": "x"}), *records(1, 4, 3, 2)],
        {"out_of_order": 1},
    ),
    "lost while disconnected": ([*records(1, 2), beat(1, normal=2), None, *records(5), beat(2, normal=5)], {}),
    "perhaps named while disconnected": ([*records(1, 4), beat(1, records=1, normal=1), None, beat(2, normal=4)], {}),
    "lost before the disconnection": (
        [*records(1, 3), beat(1, normal=3), None, *records(4), beat(2, normal=4)],
        {"missing": 1},
    ),
    "lost after the disconnection": (
        [*records(1), beat(1, normal=1), None, beat(2, normal=3), beat(3, normal=3), *records(5), beat(4, normal=5)],
        {"missing": 1},
    ),
    "an older incarnation": ([record(7, stream="old-normal"), *records(1, 2), beat(1, normal=2)], {}),
}


@pytest.mark.parametrize("name", HISTORIES)
def test_a_history_has_its_verdict(name: str) -> None:
    """Heard from the first number on."""
    history, expected = HISTORIES[name]
    report = heard(history).report()
    assert counts(report) == expected
    bad = {"missing", "conflicting", "out_of_order"} & expected.keys()
    assert report.ok == (not bad)
    assert report.unreadable == 0


def test_what_is_wrong_is_named() -> None:
    """By its numbers."""
    history = [*records(1, 4, 3, 9, 14), record(4, data={}), said(1, gaps=[gap(10, 12, 1)]), beat(1, normal=14)]
    found = stream_of(heard(history).report())
    assert found.missing_ranges == ((2, 2, 1), (5, 8, 4), (10, 12, 2), (13, 13, 1))
    assert (found.missing, found.out_of_order_ranges, found.conflicting) == (8, ((3, 3),), 1)
    assert (found.delivered, found.named, found.settled) == (5, 1, 14)


def test_the_tail_of_an_older_incarnation_is_open() -> None:
    """No heartbeat speaks of it any more."""
    history = [record(seq, stream="old-normal") for seq in (1, 4)] + [beat(1, normal=0)]
    assert counts(heard(history).report(), "old-normal") == {"open": 2}


# ---------------------------------------------------------------- joining in the middle
def test_who_joins_late_misses_nothing_from_before() -> None:
    """Neither what was delivered, nor what was named while nobody listened."""
    history = [*records(100, 4200), beat(1, records=5, age_s=60, normal=4200), *records(4300), beat(2, normal=4300)]
    report = heard(history, from_start=False).report()
    assert report.ok
    assert counts(report) == {}


def test_who_joins_late_finds_what_is_lost_once_all_from_before_is_gone() -> None:
    """The device says so in two heartbeats, the second with nothing waiting."""
    history = [beat(1, normal=9), beat(2, normal=10), *records(11, 13), beat(3, normal=13)]
    assert counts(heard(history, from_start=False).report()) == {"missing": 1}
    assert not stream_of(heard(history[:1], from_start=False).report()).judged
    assert stream_of(heard(history, from_start=False).report()).judged


def test_who_joins_late_goes_by_the_age_of_what_waits() -> None:
    """On a device on which something always waits; here a second passes with each message."""
    beats = [beat(n, records=1, age_s=1.5, normal=10) for n in range(1, 5)]
    history = [*beats, *records(11, 13), beat(5, records=1, age_s=1.5, normal=13)]
    assert counts(heard(history, from_start=False).report()) == {"missing": 1}
    old = [beat(n, records=1, age_s=100, normal=10) for n in range(1, 5)]
    history = [*old, *records(11, 13), beat(5, records=1, age_s=100, normal=13)]
    assert counts(heard(history, from_start=False).report()) == {}


def test_the_same_heartbeat_twice_proves_nothing() -> None:
    """A repeat was not measured later."""
    history = [beat(1, normal=9), beat(1, normal=9), *records(11), beat(1, normal=11)]
    assert heard(history, from_start=False).report().ok


def test_a_stream_that_begins_later_is_judged_from_its_first_number() -> None:
    """Nothing of it can have been before."""
    history = [beat(1, normal=9), beat(2, normal=9), record(2, stream="ob-bulk"), beat(3, normal=9, bulk=2)]
    assert counts(heard(history, from_start=False).report(), "ob-bulk") == {"missing": 1}


def test_a_record_held_since_before_is_not_out_of_order() -> None:
    """Nobody heard that it was."""
    history = [*records(500), beat(1, normal=4), *records(5), beat(2, normal=500)]
    assert heard(history, from_start=False).report().ok


# ---------------------------------------------------------------- nonsense
@pytest.mark.parametrize(
    "event",
    [
        *(None, 5, "x", {}, record(1, source="d"), record(1, source="/devices/a b"), record(1, id=5)),
        *(record(1, sequence="1"), record(1, sequence=1), record(2) | {"data": []}, record((1 << 48) + 1)),
        *(beat(1) | {"data": {}}, beat(1) | {"data": {"outbox": {"settled": 5}}}),
        *(beat(1, normal=-1), beat(1, normal=1 << 48), beat(1) | {"data": {"outbox": {"settled": {"x": 1}}}}),
    ],
)
def test_nonsense_is_counted(event: object) -> None:
    """And has no other effect on the verdict."""
    verification_ = Verification(from_start=True)
    verification_.take(orjson.dumps(event))
    report = verification_.report()
    assert (report.messages, report.unreadable, report.ok) == (0, 1, True)


@pytest.mark.parametrize("payload", [b"", b"{", b"\xff", b"[" * 5000, b" " * MAX_MESSAGE + b"[]"])
def test_bytes_that_are_no_event_are_counted(payload: bytes) -> None:
    """Once each."""
    verification_ = Verification(from_start=True)
    verification_.take(payload)
    assert verification_.report().unreadable == 1


@pytest.mark.parametrize(
    "entry",
    [
        *(5, {}, gap(0, 3), gap(3, 2), gap(1, 2, 3), gap(1, 2, 0), gap(1, 1 << 48), gap(1, 2, stream="x")),
        *(gap(1, 2) | {"first": True}, gap(1, 2) | {"count": None}, gap(1, 2) | {"stream": 5}),
    ],
)
def test_a_gap_that_cannot_be_names_nothing(entry: Event) -> None:
    """It is counted."""
    report = heard([*records(1, 3), said(1, gaps=[entry]), beat(1, normal=3)]).report()
    assert (counts(report), report.unreadable) == ({"missing": 1}, 1)


def test_what_is_not_in_the_outbox_is_not_judged() -> None:
    """A session's stream, and the status, which is no event."""
    verification_ = heard([record(5, stream="session", type="edge.health.v1"), record(9, stream="session")])
    verification_.take(b"online")
    report = verification_.report()
    assert (report.messages, report.unreadable, report.streams) == (2, 0, ())


def test_an_array_is_taken_one_by_one() -> None:
    """What is no event in it is counted."""
    verification_ = Verification(from_start=True)
    hold = said(1, held=[{"stream": NORMAL, "topic": "data/a/b", "first": 1, "reason": "x"}])
    verification_.take(orjson.dumps([hold, *records(1, 3, 2), 7]))
    report = verification_.report()
    assert (counts(report), report.messages, report.unreadable) == ({}, 4, 1)


# ---------------------------------------------------------------- bounds
def test_what_is_remembered_of_many_messages_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """With every second one lost: what there was room for is judged, of the rest nothing is claimed but that it is."""
    monkeypatch.setattr(verification, "MAX_RANGES", 100)
    monkeypatch.setattr(verification, "RECENT", 1000)
    lossy = Verification(from_start=True)
    for seq in range(1, 20_001, 2):
        lossy.take(orjson.dumps(record(seq)))
        lossy.take(orjson.dumps(beat(seq, normal=seq)))
    report = lossy.report()
    (found,) = report.streams
    assert (found.delivered, report.left_out, report.ok) == (100, 9900, False)
    assert found.missing_ranges[:99] == tuple((seq, seq, 1) for seq in range(2, 200, 2))
    assert not {seq for seq, _, _ in found.missing_ranges} & set(range(1, 20_001, 2))
    assert len(lossy._recent) == 1000


def test_after_too_many_ranges_nobody_cries_wolf(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not remembered is not missing, whatever is settled later."""
    monkeypatch.setattr(verification, "MAX_RANGES", 0)
    monkeypatch.setattr(verification, "MIN_RANGES", 2)
    history = [*records(1, 3), beat(1, normal=3), *records(4, 5), beat(2, normal=5), *records(6), beat(3, normal=6)]
    assert counts(heard(history).report()) == {"missing": 1}


def test_gaps_and_disorder_take_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever can publish can name as many as there are."""
    monkeypatch.setattr(verification, "MAX_RANGES", 50)
    notes = [gap(4 * n, 4 * n + 1, count, why) for n in range(1, 300) for count, why in ((None, "full"), (1, "full"))]
    named = [said(n, gaps=[note], late=[note]) for n, note in enumerate(notes, 1)]
    backwards = [record(seq) for seq in (5000, *range(2, 4000, 2))]
    for history in (named, [*backwards, beat(1, normal=0)]):
        assert heard(history)._devices["d"].streams[NORMAL].size <= 51


def test_there_is_room_for_so_many_devices_and_streams() -> None:
    """What is left out is counted, and the verdict is no longer good."""
    full = Verification(from_start=True, max_devices=2)
    for device in ("a", "b", "c", "a"):
        full.take(orjson.dumps(record(1, device=device)))
    for number in range(MAX_STREAMS + 2):
        full.take(orjson.dumps(record(1, device="b", stream=f"o{number}-normal")))
    report = full.report()
    assert (len(report.streams), report.left_out, report.ok) == (1 + MAX_STREAMS, 1 + 3, False)


# ---------------------------------------------------------------- random histories
class Device:
    """A model of a device: what is put waits, is sent in order, or is dropped and named; and what is lost underway.

    Time is the number of messages that it has sent.
    """

    def __init__(self, draw: Random, *, loss: float, drop: float) -> None:
        self.draw = draw
        self.loss, self.drop = loss, drop
        self.waiting: list[tuple[int, int]] = []  # number, when it was put
        self.next = 1
        self.said = 0
        self.beats = 0
        self.now = 0
        self.settled = 0
        self.sent: list[Event] = []
        self.lost: set[int] = set()
        self.repeats = 0

    def run(self, steps: int) -> None:
        """Live a while."""
        for _ in range(steps):
            dice = self.draw.random()
            if dice < 0.1:
                self.beat()
            elif dice < 0.1 + self.drop:
                self.draw.choice([self.drop_some, self.stop_uncleanly])()
            elif dice < 0.6:
                self.put(self.draw.randrange(4))
            else:
                self.send(self.draw.randrange(6))

    def put(self, count: int) -> None:
        """Accept some records."""
        self.waiting += [(self.next + n, self.now) for n in range(count)]
        self.next += count

    def send(self, count: int) -> None:
        """Send some, of which some are lost, and some arrive again later."""
        for number, _ in self.waiting[:count]:
            if self.draw.random() < self.loss:
                self.lost.add(number)
                continue
            self.publish(record(number))
            if self.draw.random() < 0.1:
                self.publish(record(number))
                self.repeats += 1
        del self.waiting[:count]

    def drop_some(self) -> None:
        """Drop some of what waits, not always the oldest, and name each or all of them coarsely."""
        some = [number for number, _ in self.waiting[self.draw.randrange(3) :][: self.draw.randrange(6)]]
        dropped = [number for number in some if self.draw.random() < 0.7]
        self.waiting = [one for one in self.waiting if one[0] not in dropped]
        if dropped and self.draw.random() < 0.5:
            self.say(gap(dropped[0], dropped[-1], len(dropped)))
        elif dropped:
            self.say(*(gap(number, number) for number in dropped))

    def stop_uncleanly(self) -> None:
        """Forget how far the numbers were used."""
        last = self.next + self.draw.randrange(10)
        self.say(gap(self.next, last, reason="unclean_stop"))
        self.waiting += [(n, self.now) for n in range(self.next, last + 1) if self.draw.random() < 0.2]
        self.next = last + 1

    def say(self, *gaps: Event) -> None:
        """Send an outbox event ahead of what waits."""
        self.said += 1
        self.publish(said(self.said, gaps=list(gaps)))

    def beat(self) -> None:
        """Send a heartbeat."""
        self.beats += 1
        number, made = self.waiting[0] if self.waiting else (self.next, self.now)
        self.settled = number - 1
        age_s = self.now - made if self.waiting else None
        waiting = len(self.waiting)
        self.publish(beat(self.beats, records=waiting, age_s=age_s, normal=self.settled, critical=self.said))

    def publish(self, event: Event) -> None:
        """Take note of what arrives."""
        self.now += 1
        self.sent.append(event)


devices = st.builds(
    Device, st.randoms(use_true_random=False), loss=st.sampled_from([0, 0, 0.02, 0.3]), drop=st.sampled_from([0, 0.2])
)


def missing_in(found: StreamReport) -> set[int]:
    """Return the numbers that are missing, where it is known which; where not, all that it may be."""
    return {n for first, last, _ in found.missing_ranges for n in range(first, last + 1)}


def cries_no_wolf(found: StreamReport, device: Device) -> bool:
    """Return whether in each range that is reported at least so many were lost."""
    return all(
        count <= sum(first <= number <= last for number in device.lost) for first, last, count in found.missing_ranges
    )


def _numbers(device: Device, which: Callable[[Event], bool]) -> set[int]:
    """Return the numbers within some of the gaps that it has named."""
    entries = [entry for event in device.sent for entry in event["data"].get("gaps", []) if which(entry)]
    return {n for entry in entries for n in range(entry["first"], entry["last"] + 1)}


@given(devices, st.integers(1, 120))
def test_from_the_start_exactly_what_was_lost_is_missing(device: Device, steps: int) -> None:
    """Up to the settled mark, but of what may never have been used; nothing is out of order, and a repeat is one."""
    device.run(steps)
    device.beat()
    report = heard(device.sent).report()
    found = stream_of(report)
    unsure = _numbers(device, lambda entry: entry["reason"] == "unclean_stop")
    lost = {n for n in device.lost if n <= device.settled} - unsure
    assert cries_no_wolf(found, device)
    # of a coarse gap it is not known which are lost, nor whether any, as long as all that it counts may be the others
    coarse = _numbers(device, lambda entry: entry["count"] < entry["last"] - entry["first"] + 1)
    assert lost - coarse <= missing_in(found)
    assert (found.duplicates, found.out_of_order) == (device.repeats, 0)
    assert report.ok == (not found.missing)
    assert report.unreadable == 0


@given(devices, st.integers(0, 80), st.integers(0, 80), st.sampled_from(["joins late", "comes back"]))
def test_who_was_not_there_never_cries_wolf(device: Device, before: int, after: int, who: str) -> None:
    """And finds what is lost from when all that was before is gone."""
    device.run(before)
    back = who == "comes back"
    history: list[Event | None] = [*device.sent, None] if back else []
    device.sent.clear()
    device.run(after)
    early = heard([*history, *device.sent, beat(0, normal=0)], from_start=back)
    assert cries_no_wolf(stream_of(early.report()), device)
    device.send(len(device.waiting))
    device.beat()
    device.beat()
    bound = device.settled
    device.drop = 0
    device.run(after)
    device.beat()
    found = stream_of(heard([*history, *device.sent], from_start=back).report())
    assert cries_no_wolf(found, device)
    assert missing_in(found) >= {n for n in device.lost if bound < n <= device.settled}
    assert found.out_of_order == 0


# ---------------------------------------------------------------- the numbers of one stream
def test_a_million_numbers_in_order_are_one_range() -> None:
    """However long it goes on, it takes no more memory."""
    stream = Stream(StreamReport("d", "s"))
    for seq in range(1, 1_000_001):
        stream.see(seq)
    assert (stream.size, stream.known.delivered) == (1, 1_000_000)


@given(st.lists(st.sampled_from(["see", "lose", "name"]), max_size=200))
def test_every_settled_number_is_delivered_named_or_missing(fates: list[str]) -> None:
    """Each is one of the three."""
    stream = Stream(StreamReport("d", "s", settled=len(fates)))
    for seq, fate in enumerate(fates, 1):
        if fate == "see":
            stream.see(seq)
        elif fate == "name":
            stream.name(Gap("s", seq, seq, 1, "full"))
    found = stream.report()
    assert (found.delivered, found.missing, found.named) == tuple(map(fates.count, ("see", "lose", "name")))


def test_what_is_doubted_is_not_missing() -> None:
    """As long as it was not settled before."""
    stream = Stream(StreamReport("d", "s", settled=2))
    stream.see(1)
    stream.doubt()
    stream.known.settled = 9
    found = stream.report()
    assert (found.missing_ranges, found.judged) == (((2, 2, 1),), False)
