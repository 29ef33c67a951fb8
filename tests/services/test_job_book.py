"""Which jobs there are: the files', and over them what was changed at run time."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from typing import Any

import pytest

from edge_agent.core.config_jobs import Job
from edge_agent.core.job_memory import JobMemory
from edge_agent.core.timebase import UtcNs
from edge_agent.errors import EdgeAgentError, JobError
from edge_agent.services.job_book import MAX_BYTES, MAX_PUT, JobBook
from tests.support.schedules import Notebook

FILED = {"kind": "filed", "every": "1m"}
PUT = {"kind": "put", "every": "5m"}

pytestmark = pytest.mark.virtual


def read(name: str, document: Mapping[str, Any]) -> Job:
    """Take no kind but two."""
    if document["kind"] not in ("filed", "put"):
        raise JobError(f"jobs.{name}.kind: unknown")
    return Job.model_validate(document)


def book_of(notebook: Notebook, *filed: str) -> JobBook:
    """Return the book as an agent that starts has it, with these jobs in its files."""
    book = JobBook(notebook)
    book.configure({name: Job.model_validate(FILED) for name in filed}, read)
    return book


def found(book: JobBook) -> dict[str, str]:
    """Return the kind and the origin of each job."""
    jobs = {name: book.job(name) for name in sorted(book.names())}
    return {name: f"{job[0].kind} {job[1]}" for name, job in jobs.items() if job is not None}


async def test_what_is_put_takes_the_place_of_the_files_job_and_a_deletion_hides_it() -> None:
    """Also after a restart, and whatever becomes of the files; a restored one is the files' again."""
    notebook = Notebook()
    book = book_of(notebook, "kept", "over", "gone")
    book.put("over", PUT)
    book.put("new", PUT)
    book.delete("gone")
    expected = {"kept": "filed file", "new": "put runtime", "over": "put runtime"}
    assert (found(book), book.hidden()) == (expected, ["gone"])
    assert found(book_of(notebook, "kept", "over", "gone")) == expected
    assert found(book_of(notebook, "gone")) == {"new": "put runtime", "over": "put runtime"}
    book.put("over", None)
    book.put("gone", None)
    everything = {"gone": "filed file", "kept": "filed file", "new": "put runtime", "over": "filed file"}
    assert (found(book), book.hidden()) == (everything, [])
    assert found(book_of(notebook, "kept", "over", "gone")) == everything
    assert [*notebook.notes] == ["job/new"]


@pytest.mark.parametrize(
    ("name", "document", "words"),
    [
        ("a", {"kind": "x", "every": "1m"}, "jobs.a.kind: unknown"),
        ("a", PUT | {"breaker": {}, "fallback": "a"}, 'fallback: found "a"; the name of another job'),
        ("a", PUT | {"breaker": {}, "fallback": "b"}, 'fallback: found "b"; the name of another job'),
        ("b", None, "the files have no job 'b'"),
    ],
)
async def test_what_is_wrong_changes_nothing(name: str, document: Mapping[str, Any] | None, words: str) -> None:
    """And leaves nothing in memory or on the disk."""
    notebook = Notebook()
    book = book_of(notebook, "a")
    with pytest.raises(EdgeAgentError, match=words):
        book.put(name, document)
    assert (found(book), book.names(), notebook.notes) == ({"a": "filed file"}, {"a"}, {})


async def test_jobs_that_are_put_have_a_bound_and_what_is_deleted_leaves_nothing() -> None:
    """Whoever puts and deletes for ever fills neither the memory nor the disk."""
    notebook = Notebook()
    book = book_of(notebook)
    for number in range(2 * MAX_PUT):
        with contextlib.suppress(JobError):
            book.put(f"j{number}", PUT)
    assert len(book.names()) == len(notebook.notes) == MAX_PUT
    book.put("j0", PUT | {"every": "1h"})  # one that there is may be replaced
    for number in range(MAX_PUT):
        book.delete(f"j{number}")
    assert (book.names(), notebook.notes) == (set(), {})
    book.put("j0", PUT)


async def test_what_was_put_and_cannot_be_used_any_more_gives_way_and_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """It names a kind that is gone; with the kind it is back."""
    notebook = Notebook()
    book_of(notebook, "a").put("a", PUT)
    book = JobBook(notebook)
    with caplog.at_level(logging.WARNING):
        book.configure({}, lambda name, _document: read(name, {"kind": "gone"}))
        assert book.job("a") is None
    assert [(record.message, record.__dict__["reason"]) for record in caplog.records] == [
        ("job_unusable", "jobs.a.kind: unknown")
    ]
    book.configure({}, read)
    assert found(book) == {"a": "put runtime"}


async def test_only_what_changes_is_noted_down() -> None:
    """A second save of the same costs no write."""
    notebook = Notebook()
    book = book_of(notebook, "a")
    book.save("a")
    assert notebook.notes == {}
    book.memory("a").paused = True
    book.save("a")
    before = notebook.notes["job/a"]
    book.save("a")
    assert notebook.notes["job/a"] is before
    await book.written()
    assert notebook.disk == notebook.notes


@pytest.mark.parametrize("many", [["x" * MAX_BYTES], [[] for _ in range(MAX_BYTES)]])
async def test_a_job_that_would_fill_the_store_is_refused(many: list[object]) -> None:
    """The store has little room beside the records."""
    notebook = Notebook()
    with pytest.raises(JobError, match=f"{MAX_BYTES} are kept"):
        book_of(notebook).put("a", PUT | {"options": {"many": many}})
    assert notebook.notes == {}


async def test_a_job_that_is_nested_too_deep_is_refused() -> None:
    """JSON has no bound for that."""
    options: dict[str, object] = {}
    for _ in range(900):
        options = {"in": options}
    with pytest.raises(JobError, match="cannot be said in JSON"):
        book_of(Notebook()).put("a", PUT | {"options": options})


async def test_of_a_job_that_is_gone_only_what_somebody_has_changed_is_kept() -> None:
    """It was paused, deleted, or put and is of no use for now."""
    notebook = Notebook()
    book = book_of(notebook, "a", "b", "c")
    for name in ("a", "b", "c"):
        book.memory(name).last = UtcNs(7)
    book.memory("b").paused = True
    book.put("c", PUT)
    for name in ("a", "b", "c", "d"):
        book.forget(name)
    again = book_of(notebook)
    assert again.names() == {"b", "c"}
    assert (again.memory("b"), again.memory("c").last) == (JobMemory(paused=True), 7)


async def test_what_a_store_tells_that_comes_late_counts() -> None:
    """The agent has started without one: what was put, paused or deleted is so again, in the jobs that are there."""
    before = Notebook()
    book = book_of(before, "over", "gone", "rests")
    book.put("over", PUT)
    book.put("new", PUT)
    book.delete("gone")
    book.memory("rests").paused = True
    book.save("rests")
    notebook = Notebook()
    book = book_of(notebook, "over", "gone", "rests")
    rests = book.memory("rests")
    assert found(book) == {"gone": "filed file", "over": "filed file", "rests": "filed file"}
    notebook.notes.update(before.notes)
    book.configure({name: Job.model_validate(FILED) for name in ("over", "gone", "rests")}, read)
    assert found(book) == {"new": "put runtime", "over": "put runtime", "rests": "filed file"}
    assert rests.paused


async def test_a_job_of_which_the_cloud_says_something_is_the_clouds() -> None:
    """Whatever somebody has put or deleted under that name; that counts again once the cloud says nothing of it."""
    notebook = Notebook()
    book = book_of(notebook, "put", "gone", "kept")
    book.put("put", PUT)
    book.delete("gone")
    files = {name: Job.model_validate(FILED) for name in ("put", "gone", "kept", "new")}
    book.configure(files, read, {"put", "gone", "new", "removed"})
    expected = {"gone": "filed cloud", "kept": "filed file", "new": "filed cloud", "put": "filed cloud"}
    assert (found(book), book.hidden()) == (expected, [])
    again = JobBook(notebook)
    again.configure(files, read, {"put", "gone", "new", "removed"})
    assert found(again) == expected
    book.configure({name: files[name] for name in ("put", "gone", "kept")}, read)
    assert found(book) == {"kept": "filed file", "put": "put runtime"}
    assert book.hidden() == ["gone"]


async def test_a_job_of_the_clouds_is_changed_there_and_nowhere_else() -> None:
    """Put, deleted and restored alike; also one that it has taken away."""
    notebook = Notebook()
    book = book_of(notebook)
    book.put("away", PUT)
    book.configure({"j": Job.model_validate(FILED)}, read, {"j", "away"})
    assert found(book) == {"j": "filed cloud"}
    notes = dict(notebook.notes)
    for name in ("j", "away"):
        with pytest.raises(JobError, match="change it there"):
            book.put(name, PUT)
        with pytest.raises(JobError, match="change it there"):
            book.put(name, None)
        with pytest.raises(JobError, match="change it there"):
            book.delete(name)
    assert (found(book), notebook.notes) == ({"j": "filed cloud"}, notes)
