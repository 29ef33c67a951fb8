"""What is made of what programs print, and of how they end: real processes."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from edge_agent.core.config_types import Section
from edge_agent.core.runs import MAX_REASON
from edge_agent.errors import JobError, OutboxError
from edge_agent.job_ports import Publish
from edge_agent.jobs.exec import AT_ONCE, KIND
from tests.support.job_context import Published, context, run


async def execute(folder: Path, code: str, published: Publish, *, output: str = "text", **program: Any) -> Any:  # noqa: ANN401
    """Run Python code as the program ``p``."""
    argv = [sys.executable, "-c", code]
    ctx = context(folder, published, programs={"p": {"argv": argv, **program}})
    return await run(KIND, ctx, program="p", output=output)


async def failure(folder: Path, code: str, published: Published | None = None, **more: Any) -> str:  # noqa: ANN401
    """Return why a run fails."""
    with pytest.raises(JobError) as failed:
        await execute(folder, code, published or Published(), **more)
    return str(failed.value)


# ---------------------------------------------------------------- what is published
async def test_text_is_one_record(tmp_path: Path) -> None:
    """With what is no UTF-8 still to be read."""
    published = Published()
    await execute(tmp_path, r"import os; os.write(1, b'21.5 \xb0C\n')", published)
    assert published.records == [{"text": "21.5 \\xb0C\n"}]


async def test_json_is_one_record_of_its_value(tmp_path: Path) -> None:
    """However it was laid out."""
    published = Published()
    await execute(tmp_path, r"print('{\n \"c\": 21.5,\n \"ok\": [true, null]}\n')", published, output="json")
    assert published.records == [{"c": 21.5, "ok": [True, None]}]


async def test_each_line_of_json_is_a_record(tmp_path: Path) -> None:
    """In order; empty lines are none; the last one needs no end."""
    published = Published()
    summary = await execute(tmp_path, r"print('{\"n\": 1}\n\n2\n[3]', end='')", published, output="lines")
    assert published.records == [{"n": 1}, 2, [3]]
    assert summary == {"records": 3}


async def test_a_bad_line_keeps_back_none_of_the_others(tmp_path: Path) -> None:
    """The run fails, and says which line and what stood there."""
    published = Published()
    reason = await failure(tmp_path, r"print('1\noops\n3\nno')", published, output="lines")
    assert published.records == [1, 3]
    assert "value 2 of what programs.p printed is no JSON" in reason
    assert "'oops'" in reason
    assert "1 more like it" in reason


async def test_bad_json_is_kept_in_the_reason(tmp_path: Path) -> None:
    """The beginning of it."""
    reason = await failure(tmp_path, "print('nan' * 10_000)", output="json")
    assert "is no JSON" in reason
    assert "nannan" in reason
    assert len(reason) < 1000


async def test_what_the_outbox_refuses_fails_the_run(tmp_path: Path) -> None:
    """With the outbox's own words."""
    published = Published(refusal=OutboxError("the outbox is full", word="full"))
    with pytest.raises(OutboxError, match="full"):
        await execute(tmp_path, "print(1)", published)


# ---------------------------------------------------------------- how it is run
async def test_it_has_an_environment_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the agent's; a path to find programs, and what the table says."""
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/secret")
    published = Published()
    program = {"argv": ["env"], "env": {"A": "b"}}
    await run(KIND, context(tmp_path, published, programs={"p": program}), program="p")
    names = {line.partition("=")[0] for line in published.records[0]["text"].splitlines()}
    assert names == {"PATH", "LANG", "A"}


async def test_it_runs_in_the_jobs_own_folder_or_where_it_says(tmp_path: Path) -> None:
    """The job's folder is made for it; stdin is empty."""
    published = Published()
    code = "import os, sys; print(os.getcwd(), sys.stdin.read() == '')"
    await execute(tmp_path, code, published)
    await execute(tmp_path, code, published, cwd="/")
    assert [record["text"] for record in published.records] == [f"{tmp_path}/own/j True\n", "/ True\n"]


async def test_no_shell_reads_its_arguments(tmp_path: Path) -> None:
    """They arrive as they are written."""
    published = Published()
    program = {"argv": ["/bin/echo", "$HOME; `id`", "*"]}
    await run(KIND, context(tmp_path, published, programs={"p": program}), program="p")
    assert published.records == [{"text": "$HOME; `id` *\n"}]


# ---------------------------------------------------------------- how it fails
@pytest.mark.parametrize(
    ("program", "words"),
    [
        ({"argv": ["/nowhere/program"]}, "programs.p: /nowhere/program: cannot be run: No such file or directory"),
        ({"argv": ["no-such-program"]}, "programs.p: no-such-program: cannot be run: No such file"),
        ({"argv": ["/etc/passwd"]}, "programs.p: /etc/passwd: cannot be run: Permission denied"),
        ({"argv": ["/bin/true"], "cwd": "/nowhere"}, "programs.p: /nowhere: nothing can be run there: No such file"),
    ],
)
async def test_a_program_that_cannot_be_started_is_named(tmp_path: Path, program: dict[str, Any], words: str) -> None:
    """With the reason of the system; no descriptor is left open."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(JobError) as failed:
        await run(KIND, context(tmp_path, programs={"p": program}), program="p")
    assert words in str(failed.value)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


async def test_a_name_that_no_table_has_is_a_failure(tmp_path: Path) -> None:
    """The table may have gone since the configuration was checked."""
    with pytest.raises(JobError, match=r"add a table \[programs.q\]"):
        await run(KIND, context(tmp_path), program="q")


async def test_an_exit_code_fails_the_run_with_the_end_of_stderr(tmp_path: Path) -> None:
    """Nothing is published."""
    published = Published()
    code = "import sys; sys.stderr.write('x' * 100_000 + 'the sensor is off'); print('no'); sys.exit(3)"
    reason = await failure(tmp_path, code, published)
    assert reason.startswith("programs.p ended with exit code 3: x")
    assert reason.endswith("the sensor is off")
    assert len(reason) <= MAX_REASON, "a run's reason is cut after that"
    assert published.records == []
    assert await failure(tmp_path, "print('only here'); raise SystemExit(1)") == (
        "programs.p ended with exit code 1: only here"
    )
    assert (await failure(tmp_path, "raise SystemExit(1)")).endswith("exit code 1 and said nothing")
    reason = await failure(tmp_path, "raise OSError('the bus is down')")
    assert reason.splitlines() == [reason], "of more lines a run's reason has the first"
    assert reason.endswith(" OSError: the bus is down")


async def test_a_signal_fails_the_run(tmp_path: Path) -> None:
    """It is named."""
    assert "signal 9 (Killed)" in await failure(tmp_path, "import os; os.kill(os.getpid(), 9)")


async def test_its_timeout_fails_the_run(tmp_path: Path) -> None:
    """The program's own; that of the job is the runner's business."""
    reason = await failure(tmp_path, "import time; time.sleep(600)", timeout="2s")  # to start takes its time, too
    assert reason == "programs.p ran longer than its timeout, 2s"


# ---------------------------------------------------------------- too much
async def test_of_too_much_text_the_beginning_is_published(tmp_path: Path) -> None:
    """And it is said that there was more; the program goes on to its end."""
    published, end = Published(), tmp_path / "end"
    await execute(tmp_path, f"print('x' * 300_000); open({str(end)!r}, 'w')", published, max_output="1KiB")
    assert published.records == [{"text": "x" * 1024, "truncated": True}]
    assert end.exists()


async def test_text_that_is_larger_as_json_than_a_record_is_cut_to_fit(tmp_path: Path) -> None:
    """Control characters take six bytes each."""
    published = Published()
    await execute(tmp_path, "import os; os.write(1, bytes(60_000))", published)
    (data,) = published.records
    assert data["truncated"]
    assert 20_000 < len(data["text"]) < 60_000


async def test_many_lines_do_not_wait_for_each_other(tmp_path: Path) -> None:
    """A broker far away takes its time for each; their order stays."""
    waiting = most = 0
    records: list[bytes] = []

    async def publish(data: bytes, *, key: str | None = None) -> str:
        nonlocal waiting, most
        assert key is None
        records.append(data)
        waiting += 1
        most = max(most, waiting)
        await asyncio.sleep(0.01)
        waiting -= 1
        return "id"

    await execute(tmp_path, "for n in range(1000): print(n)", publish, output="lines")
    assert records == [b"%d" % n for n in range(1000)]
    assert most == AT_ONCE


@pytest.mark.parametrize(("output", "records"), [("json", []), ("lines", [1, 1])])
async def test_too_much_json_is_a_failure(tmp_path: Path, output: str, records: list[int]) -> None:
    """Whole lines of it are published."""
    published = Published()
    reason = await failure(tmp_path, r"print('1\n' * 100, end='')", published, output=output, max_output="5B")
    assert "printed more than 5B, and the rest is lost; raise programs.p.max_output" in reason
    assert published.records == records


def test_its_options_are_described() -> None:
    """Each with its words, as those of every section are."""
    model: type[Section] = KIND.options
    assert all(field.description for field in model.model_fields.values())
