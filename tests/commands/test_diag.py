"""The command diag: what is in it, and what is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_agent.adapters.logs import RECENT
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.command_ports import Call, Command, NoArgs
from edge_agent.commands import agent, config
from edge_agent.commands.diag import commands, fitted
from edge_agent.errors import EdgeAgentError
from tests.support.commands import asked, host_of

LETTERS = st.text(
    st.characters(min_codepoint=33, max_codepoint=0x24F, exclude_categories=["Cc"]), min_size=6, max_size=30
)


def jobs(told: object) -> Command:
    """Return a command that tells something of jobs, or fails."""

    async def run(_call: Call, _args: NoArgs) -> object:
        if isinstance(told, Exception):
            raise told
        return told

    return Command("job-list", "List.", NoArgs, dict[str, Any], run)


async def diag(folder: Path, text: str = "", *, told: object = None, local: bool = True) -> Any:  # noqa: ANN401
    """Return a bundle."""
    clock: Any = SystemClock()
    host = host_of(folder, text, clock)
    (command,) = commands(host, [*agent.commands(host), *config.commands(host), jobs(told or {"jobs": []})])
    return json.loads(orjson.dumps(await command.run(Call("c", local=local), NoArgs())))


async def test_everything_is_in_it(tmp_path: Path) -> None:
    """Where it runs, what is configured, where each task waits, how the others answer."""
    RECENT.clear()
    RECENT.extend(['{"event":"started","n":1}', "12:00:00 INFO plain"])
    found = await diag(tmp_path, told=EdgeAgentError("not now"))
    assert list(found) == [
        *("time", "versions", "disk", "loop_lag_ms", "agent-status", "config-get", "job-list", "tasks", "log", "cut"),
    ]
    assert {"python", "kernel", "edge-agent", "pydantic"} <= set(found["versions"])
    assert found["disk"]["free"] > 0
    assert 0 <= found["loop_lag_ms"]["mean"] <= found["loop_lag_ms"]["max"]
    assert found["job-list"] == {"error": "not now"}
    assert found["config-get"]["config"]["heartbeat"] == {"every": "1m"}
    assert any("test_diag.diag:" in task and " > edge_agent.commands.diag" in task for task in found["tasks"])
    assert found["log"] == [{"event": "started", "n": 1}, "12:00:00 INFO plain"]
    assert found["cut"] == {}
    clock: Any = SystemClock()
    await asked(commands(host_of(tmp_path, "", clock), []), "diag")


async def test_from_afar_it_fits_a_record(tmp_path: Path) -> None:
    """Of what is too much the oldest is missing, and that is said."""
    RECENT.clear()
    RECENT.extend(f'{{"event":"x","n":{number},"text":"{"y" * 900}"}}' for number in range(200))
    found = await diag(tmp_path, local=False)
    assert 90_000 < len(orjson.dumps(found)) <= 100 << 10
    assert found["log"][-1]["n"] == 199
    assert found["cut"]["log"].endswith("of 200 entries")
    found = await diag(tmp_path, '[outbox]\nmax_record = "10KiB"\n', local=False)
    assert len(orjson.dumps(found)) <= (10 << 10) - 2048
    assert len((await diag(tmp_path))["log"]) == 200


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)
@given(st.lists(LETTERS, min_size=4, max_size=4, unique=True))
@pytest.mark.parametrize("local", [True, False])
async def test_no_secret_is_in_it(tmp_path: Path, local: bool, secrets: list[str]) -> None:  # noqa: FBT001
    """Neither what the password file holds, nor the environment and arguments of programs, nor what is in URLs.

    They stand in the configuration, and are repeated in log lines, in answers and in errors, in every spelling.
    """
    password, variable, argument, token = (f"{secret}~{number}Zz" for number, secret in enumerate(secrets))
    (tmp_path / "pw").write_text(password + "\n")
    query = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in token)
    text = f"""
[mqtt]
username = "u"
password_file = {json.dumps(str(tmp_path / "pw"))}
[programs.p]
argv = ["/bin/x", {json.dumps(argument, ensure_ascii=False)}]
env = {{ A = {json.dumps(variable, ensure_ascii=False)} }}
[endpoints.e]
url = "https://h.example/?t={query}"
[jobs.j]
kind = "http"
every = "1h"
[jobs.j.options]
api_token = {json.dumps(variable, ensure_ascii=False)}
"""
    planted = [password, variable, argument, query]
    RECENT.clear()
    for secret in planted:
        for said in (secret, repr(secret), json.dumps(secret), f"https://u:{query}@h.example/?a={query}"):
            RECENT.append(orjson.dumps({"event": "x", "reason": f"it said {said}!", said: 1}).decode())
            RECENT.append(f"12:00 INFO x reason={said}")
    found = await diag(tmp_path, text, told={"jobs": [{"reason": secret} for secret in planted]}, local=local)
    shown = json.dumps(found, ensure_ascii=False)
    for secret in planted:
        for spelled in (secret, json.dumps(secret, ensure_ascii=False)[1:-1], json.dumps(json.dumps(secret))[2:-2]):
            assert spelled not in shown
            assert spelled not in str(found)
    assert len(found["log"]) == 2 * 4 * len(planted)


async def test_a_secret_that_cannot_be_read_keeps_nothing_back(tmp_path: Path) -> None:
    """There is nothing of it to hide."""
    found = await diag(tmp_path, '[mqtt]\nusername = "u"\npassword_file = "/no/such/file"\n')
    assert "/no/such/file" in found["config-get"]["config"]["mqtt"].values()


def test_what_fits_is_left_as_it_is() -> None:
    """With nothing to say."""
    assert fitted({"a": [1, 2], "b": {"c": 3}}, 100) == {"a": [1, 2], "b": {"c": 3}, "cut": {}}


def test_the_largest_list_loses_its_oldest_entries() -> None:
    """Half of them at a time; nothing that was handed in is changed."""
    bundle = {"log": [f"line {n}" for n in range(100)], "tasks": ["task"] * 10}
    found = fitted(bundle, 700)
    assert found == {"log": bundle["log"][50:], "tasks": bundle["tasks"], "cut": {"log": "the first 50 of 100 entries"}}
    assert fitted(bundle, 400)["cut"] == {"log": "the first 75 of 100 entries"}
    assert len(bundle["log"]) == 100


def test_a_section_that_cannot_be_shortened_goes_as_a_whole() -> None:
    """The largest first."""
    found = fitted({"config": {"x": "y" * 1000}, "versions": {"a": "1"}}, 200)
    assert found == {"versions": {"a": "1"}, "cut": {"config": "all of it"}}


SECTIONS = st.one_of(
    st.lists(st.text(max_size=50), max_size=30),
    st.dictionaries(st.text(max_size=3), st.one_of(st.integers(0, 99), st.lists(st.text(max_size=30))), max_size=4),
    st.text(max_size=100),
)


@given(st.dictionaries(st.text(st.characters(codec="ascii"), min_size=1, max_size=8), SECTIONS, max_size=5))
def test_it_always_fits(bundle: dict[str, Any]) -> None:
    """However little room there is, what is said of the cuts aside."""
    bundle.pop("cut", None)
    found = fitted(bundle, 600)
    assert len(orjson.dumps(found)) <= 600
    assert set(bundle) == set(found) - {"cut"} | set(found["cut"]) | {n for n, part in bundle.items() if n in found}
