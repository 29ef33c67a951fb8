"""The journal on the disk: what is in it together, what comes back, and what has to wait for room or for the disk."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from edge_agent.core.command_entry import MAX_COPIES, Entry, ReplyTo
from edge_agent.core.command_states import Happened
from edge_agent.core.journal import MAX_AGE, MAX_BYTES
from edge_agent.core.records import Priority
from edge_agent.core.submission import Submission
from edge_agent.core.timebase import UtcNs
from edge_agent.services.command_book import LOCAL, PREFIX, CommandBook
from tests.fakes import EPOCH
from tests.support.dispatching import TO, Desk, Handlers, S, an_entry

pytestmark = pytest.mark.virtual


def desk(folder: Path, **config: Any) -> Desk:  # noqa: ANN401
    """Return one life of an agent."""
    return Desk(folder, Handlers().registry(), **config)


def running(book: CommandBook, name: str = "c-1", **changes: object) -> Entry:
    """Return a command that is begun."""
    entry = an_entry(name, **changes)
    entry.step(Happened.BEGUN, book.moment())
    return entry


async def test_what_is_kept_comes_back_in_its_order(tmp_path: Path) -> None:
    """Open ones as they arrived, ended ones as they ended; not what the disk never had."""
    one = desk(tmp_path)
    async with one.running():
        for name, age in (("z", 1), ("a", 2), ("m", 0)):
            assert await one.book.keep(an_entry(name, age=age))
        for name in ("y", "b"):
            _ = one.book.end(running(one.book, name), Happened.DONE, "1", None)
            await asyncio.sleep(1)
        assert await one.book.keep(an_entry("l", reply=LOCAL, deduplicated=False))
    two = desk(tmp_path)
    await two.outbox.open()
    assert [entry.id for entry in two.book.recall()] == ["m", "z", "a"]
    assert list(two.book.journal.ended) == ["y", "b"]
    assert two.book.journal.find("l") is None
    assert two.book.recall() == []
    await two.keeping.close(None)


async def test_an_end_and_its_replies_are_in_one_transaction(tmp_path: Path) -> None:
    """However many there are, and however many records go before them."""
    one = desk(tmp_path)
    async with one.running():
        entry = running(one.book)
        assert await one.book.keep(entry)
        for n in range(MAX_COPIES - 1):
            assert await one.book.repeat(entry, ReplyTo(f"reply/{n}"))
        before = one.keeping.commits
        for _ in range(999):
            one.outbox.put(Submission("event/x", b"{}", Priority.CRITICAL))
        await one.book.end(entry, Happened.DONE, '"' + "x" * 30_000 + '"', None)
        assert one.keeping.commits == before + 1
        assert one.states("c-1") == ["succeeded"] * MAX_COPIES
    two = desk(tmp_path)
    await two.outbox.open()
    assert two.book.recall() == []
    assert two.book.journal.ended["c-1"].copies == ()
    await two.keeping.close(None)


async def test_what_nobody_can_ask_for_again_is_forgotten_at_its_end(tmp_path: Path) -> None:
    """Its reply is durable all the same."""
    one = desk(tmp_path)
    async with one.running():
        entry = running(one.book, "x-1", deduplicated=False)
        assert await one.book.keep(entry)
        assert PREFIX + "x-1" in one.outbox.notes
        await one.book.end(entry, Happened.DONE, "1", None)
        assert PREFIX + "x-1" not in one.outbox.notes
        assert one.book.journal.find("x-1") is None
        assert one.states() == ["succeeded"]


async def test_a_full_outbox_gets_the_reply_later_and_once(tmp_path: Path) -> None:
    """Also when the agent is stopped meanwhile."""
    config = {"when_full": "refuse", "max_bytes": "256KiB", "max_record": "64KiB"}
    one = desk(tmp_path, **config)
    async with one.running():
        entry = running(one.book)
        assert await one.book.keep(entry)
        await asyncio.sleep(0)
        fill = [one.outbox.put(Submission("event/x", b'"%s"' % (b"x" * 60_000), Priority.CRITICAL)) for _ in range(4)]
        await one.outbox.written()
        await one.book.end(entry, Happened.DONE, '"' + "x" * 60_000 + '"', None)
        await one.book.repeat(entry, ReplyTo("reply/again"))
        assert list(one.book.owed) == ["c-1"]
        assert one.states() == []
    two = desk(tmp_path, **config)
    async with two.running():
        assert list(two.book.owed) == ["c-1"]
        assert two.book.journal.outlived(two.book.moment(), may_repeat=frozenset()) == []
        two.outbox.pending.doom([record.key for record in fill], "purged")
        two.outbox.must_write()
        await asyncio.sleep(21)
        assert two.states() == ["succeeded"] * 2
        assert two.book.owed == {}
        await asyncio.sleep(60)
        assert two.states() == ["succeeded"] * 2


async def test_while_the_disk_fails_nothing_is_said_of_an_end_that_it_should_know(tmp_path: Path) -> None:
    """After a crash it would be cut off: so it is said when the disk is mended, once."""
    one = desk(tmp_path)
    async with one.running():
        entry = running(one.book)
        assert await one.book.keep(entry)
        await asyncio.sleep(0)
        one.keeping.fails = True
        durable = one.book.end(entry, Happened.DONE, "1", None)
        await asyncio.sleep(1)
        assert durable.cancelled()
        assert one.states() == []
        again = one.book.repeat(entry, ReplyTo("reply/again"))
        assert await again is False
        assert one.states() == []
        await one.mend()
        assert one.states() == ["succeeded"] * 2
        assert [gap.reason for gap in one.outbox.state.gaps] == ["withdrawn"]


async def test_what_the_disk_does_not_know_is_said_although_it_fails(tmp_path: Path) -> None:
    """After a crash nothing contradicts it."""
    one = desk(tmp_path)
    async with one.running():
        one.keeping.fails = True
        entry = running(one.book)
        assert not await one.book.keep(entry)
        durable = one.book.end(entry, Happened.DONE, "1", None)
        await asyncio.sleep(1)
        assert one.states() == ["succeeded"]
        assert not durable.done()
        await one.mend()
        assert durable.done()


async def test_so_many_copies_are_kept_and_no_more(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever repeats a command cannot make the journal grow without end."""
    one = desk(tmp_path)
    async with one.running():
        entry = an_entry()
        for _ in range(MAX_COPIES + 5):
            await one.book.repeat(entry, TO)
        assert len(entry.copies) == MAX_COPIES
        assert caplog.messages.count("command_repeated") == 5


async def test_a_repetition_of_what_has_ended_writes_nothing_but_its_reply(tmp_path: Path) -> None:
    """The journal says so already."""
    one = desk(tmp_path)
    async with one.running():
        entry = running(one.book)
        await one.book.end(entry, Happened.DONE, "1", None)
        text = one.outbox.notes[PREFIX + "c-1"]
        await one.book.repeat(entry, ReplyTo("reply/again", "00ff"))
        assert one.outbox.notes[PREFIX + "c-1"] is text
        first, second = one.replies()
        assert first == second


async def test_the_journal_stays_bounded(tmp_path: Path) -> None:
    """By its size at once, by its age when somebody looks."""
    one = desk(tmp_path, max_record="1MiB")
    async with one.running():
        for n in range(30):
            _ = one.book.end(running(one.book, f"c-{n}"), Happened.DONE, '"' + "x" * 100_000 + '"', None)
        assert sum(len(text) for text in one.outbox.notes.values()) <= MAX_BYTES
        assert "c-29" in one.book.journal.ended
        await asyncio.sleep(MAX_AGE / S + 1)
        one.book.forget_old()
        assert one.outbox.notes == {}


async def test_what_cannot_be_read_is_lost(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """That some are missing is what has to be known of it."""
    one = desk(tmp_path)
    await one.outbox.open()
    one.outbox.note(PREFIX + "c-1", b'{"state": "paused"}')
    with caplog.at_level(logging.ERROR):
        assert one.book.recall() == []
    assert "command_unreadable" in caplog.messages
    assert PREFIX + "c-1" not in one.outbox.notes
    assert one.book.is_lost
    await one.keeping.close(None)


async def test_a_store_that_was_put_aside_may_have_known_more(tmp_path: Path) -> None:
    """Also after a restart; a fresh device has lost nothing."""
    one = desk(tmp_path)
    async with one.running():
        assert not one.book.is_lost
    (tmp_path / "outbox.db").write_bytes(b"no database at all, but long enough to be taken for one" * 100)
    two = desk(tmp_path)
    async with two.running():
        assert two.book.is_lost
    three = desk(tmp_path)
    async with three.running():
        assert three.book.is_lost


async def test_nothing_can_be_remembered_while_the_disk_fails(tmp_path: Path) -> None:
    """Until it was mended."""
    one = desk(tmp_path)
    async with one.running():
        seen = [one.book.can_remember]
        one.keeping.fails = True
        one.outbox.note("x", b"")
        await asyncio.sleep(1)
        seen.append(one.book.can_remember)
        await one.mend()
        assert [*seen, one.book.can_remember] == [True, False, True]


async def test_times_are_true_ones(tmp_path: Path) -> None:
    """When it ended."""
    one = desk(tmp_path)
    async with one.running():
        await asyncio.sleep(5)
        entry = running(one.book)
        await one.book.end(entry, Happened.OVERTIME, None, ("timeout", "why"))
        assert entry.finished == UtcNs(EPOCH + 5 * S)
