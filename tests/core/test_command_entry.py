"""One command in the journal: when it may begin, when it is too late, and what is written down of it."""

from __future__ import annotations

import orjson
import pytest

from edge_agent.core.command_entry import Entry, ReplyTo, entry_of, load, refused
from edge_agent.core.command_request import Code, CommandError, Request
from edge_agent.core.command_states import Happened, State
from edge_agent.core.timebase import UtcNs
from tests.fakes import EPOCH
from tests.support.dispatching import TO, S, an_entry, at


def arriving(now: float = 0, *, known: bool = True, expiry_s: int | None = None, **said: float) -> Entry:
    """Return a command that arrives; its times are seconds after the epoch."""
    times = {name: EPOCH + int(value * S) for name, value in said.items() if name in ("expires", "not_before")}
    waits = {name: int(value * S) for name, value in said.items() if name in ("ttl", "delay")}
    request = Request("do", "c-1", {}, **times, **waits)  # type: ignore[arg-type]
    return entry_of(request, "d", "c-1", TO, at(now, known=known), expiry_s=expiry_s)


def code(*, known: bool = True, **said: float) -> Code:
    """Return why one is refused."""
    with pytest.raises(CommandError) as raised:
        arriving(0, known=known, expiry_s=None, **said)
    return raised.value.code


# ---------------------------------------------------------------- when
def test_a_command_without_times_is_due_and_never_late() -> None:
    """Whether or not time is known."""
    for known in (True, False):
        entry = arriving(known=known)
        assert entry.is_due(at(0, known=False))
        assert not entry.is_late(at(1e9, known=False))
        assert entry.next_look(at(0)) is None


def test_a_delay_is_counted_and_never_early() -> None:
    """To the nanosecond, and whatever the clock says meanwhile."""
    entry = arriving(delay=30)
    assert not entry.is_due(at(0, age=29.999_999))
    assert not entry.is_due(at(1e6, age=29))
    assert entry.is_due(at(-1e6, age=30))
    assert entry.is_due(at(0, age=30, known=False))
    assert entry.next_look(at(0, age=10)) == 20 * S


def test_a_delay_goes_on_while_the_device_is_off() -> None:
    """By true time, once that is known again; by the counter till then, which is never early."""
    entry = arriving(delay=30)
    assert not entry.is_due(at(100, age=1, boot=1, known=False))
    assert entry.is_due(at(100, age=1, boot=1))
    assert not arriving(delay=30, known=False).is_due(at(100, age=1, boot=1))


def test_not_before_is_true_time() -> None:
    """It waits until that is known."""
    entry = arriving(not_before=100)
    assert not entry.is_due(at(99.9))
    assert not entry.is_due(at(200, known=False))
    assert entry.is_due(at(100))
    assert entry.next_look(at(40)) == 60 * S
    assert entry.next_look(at(40, known=False)) is None


def test_of_a_delay_and_a_time_the_later_one_counts() -> None:
    """Both have to be over."""
    entry = arriving(delay=30, not_before=20)
    assert not entry.is_due(at(25))
    assert entry.next_look(at(25)) == 5 * S
    entry = arriving(delay=30, not_before=40)
    assert not entry.is_due(at(35))
    assert entry.is_due(at(40))


def test_a_ttl_counts_from_receipt() -> None:
    """By the counter, and by true time over a reboot."""
    entry = arriving(ttl=60, delay=1)
    assert not entry.is_late(at(1e6, age=59))
    assert entry.is_late(at(0, age=60))
    assert entry.is_late(at(61, age=1, boot=1))
    assert entry.next_look(at(50)) == 10 * S


def test_an_expiry_is_true_time() -> None:
    """What may have expired is not begun while nobody knows."""
    entry = arriving(expires=60)
    assert not entry.is_late(at(59))
    assert entry.is_late(at(60))
    assert not entry.is_late(at(1e6, known=False))
    assert not entry.is_due(at(1e6, known=False))


def test_the_earlier_end_wins() -> None:
    """Of ttl, expires and MQTT's own message expiry."""
    for entry in (
        arriving(ttl=60, expires=90),
        arriving(ttl=90, expires=60),
        arriving(ttl=90, expiry_s=60),
        arriving(ttl=60, expiry_s=90),
    ):
        assert not entry.is_late(at(59))
        assert entry.is_late(at(60))


def test_what_cannot_be_judged_or_never_begins_is_refused_at_receipt() -> None:
    """Each with its own word."""
    assert code(expires=60, known=False) is Code.TIME_UNKNOWN
    assert code(not_before=60, known=False) is Code.TIME_UNKNOWN
    assert code(expires=0) is Code.EXPIRED
    assert code(ttl=0) is Code.EXPIRED
    assert code(expires=60, not_before=60) is Code.INVALID_ARGS
    assert code(ttl=60, delay=60) is Code.INVALID_ARGS
    assert code(ttl=60, not_before=61) is Code.INVALID_ARGS
    assert code(expires=60, delay=61) is Code.INVALID_ARGS
    assert code(ttl=60, delay=60, known=False) is Code.INVALID_ARGS
    assert arriving(ttl=60, delay=59, known=False).ttl == 60 * S


def test_what_the_broker_may_deliver_again_is_kept_as_long() -> None:
    """Its expiry says how long that is."""
    assert arriving(expires=60).keep_until == EPOCH + 60 * S
    assert arriving(5, expiry_s=60).keep_age == 65 * S


# ---------------------------------------------------------------- what is said and written
def test_it_goes_from_state_to_state() -> None:
    """And remembers when, how often it was begun, and nothing that is of no use after its end."""
    entry = an_entry()
    entry.step(Happened.BEGUN, at(1))
    assert (entry.started, entry.starts) == (EPOCH + S, 1)
    entry.step(Happened.AGAIN, at(2))
    entry.step(Happened.BEGUN, at(3))
    assert (entry.started, entry.starts) == (EPOCH + 3 * S, 2)
    entry.step(Happened.DONE, at(4, age=9))
    assert (entry.finished, entry.finished_age, entry.args) == (EPOCH + 4 * S, 9 * S, None)
    with pytest.raises(ValueError, match="succeeded"):
        entry.step(Happened.CALLED_OFF, at(5))


def test_a_reply_says_where_it_stands() -> None:
    """With a result, or an error, never both."""
    entry = an_entry()
    assert entry.data() == {"command": "do", "id": "c-1", "state": "accepted", "started": None, "finished": None}
    entry.step(Happened.BEGUN, at(1))
    entry.result = '{"a":1}'
    entry.step(Happened.DONE, at(2))
    said = orjson.loads(orjson.dumps(entry.data()))
    assert said["result"] == {"a": 1}
    assert (said["started"], said["finished"]) == ("2027-01-15T08:00:01.000000Z", "2027-01-15T08:00:02.000000Z")
    entry.error = ("failed", "why")
    said = orjson.loads(orjson.dumps(entry.data()))
    assert said["error"] == {"code": "failed", "message": "why"}
    assert "result" not in said


def test_what_is_written_down_comes_back() -> None:
    """All of it, and that the disk knows it."""
    entry = an_entry(copies=(ReplyTo("reply/x", "00ff", "t"), TO), error=("busy", "so"), delay=5, keep_until=7)
    again = load(entry.dump())
    assert again.stored
    again.stored = False
    assert again == entry
    assert len(an_entry().dump()) < 250


def test_what_another_version_wrote_is_read_as_far_as_it_is_known() -> None:
    """New keys are left out; a state that nobody knows here is an error."""
    said = orjson.loads(an_entry(copies=(TO,)).dump())
    said["new"] = said["reply"]["new"] = said["copies"][0]["new"] = 1
    assert load(orjson.dumps(said)).copies == (TO,)
    with pytest.raises(ValueError, match="paused"):
        load(orjson.dumps(said | {"state": "paused"}))


def test_a_refusal_is_rejected_or_expired() -> None:
    """It says when, and why."""
    said = refused("do", "c-1", Code.BUSY, "why", UtcNs(EPOCH))
    assert said["error"] == {"code": "busy", "message": "why"}
    assert (said["state"], said["started"], said["finished"]) == ("rejected", None, "2027-01-15T08:00:00.000000Z")
    assert refused("do", "c-1", Code.EXPIRED, "why", UtcNs(EPOCH))["state"] == State.EXPIRED.value
