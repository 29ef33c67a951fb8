"""Servers that lie, flood, truncate, replay, refuse: they change their own standing, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pickle
import time
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import pytest

from edge_agent.adapters.ntp_client import NtpClient
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.core.discipline import Discipline, Policy
from edge_agent.core.ntp import Rejection
from edge_agent.core.sample import Sample
from edge_agent.core.timebase import BUILD_EPOCH, seconds
from tests.adapters.test_ntp_client import BAD
from tests.cli.test_queue import edge_agent
from tests.support.agents import AgentProcess, agent, config_text, time_servers
from tests.support.brokers import LOOPBACK, free_port
from tests.support.chrony import chronyd, free_udp_port
from tests.support.ntp_server import AHEAD, Address, NtpServer, reply_to, replying

SYNC_S: Final = 40


async def heard(discipline: Discipline, client: NtpClient, server: NtpServer, *, within_s: float = 10) -> str:
    """Ask a server as the agent does; return its standing."""
    answer = await client.ask(server.name, within=seconds(within_s))
    if isinstance(answer, Sample):
        return discipline.take(answer)
    discipline.missed(server.name, answer.value)
    return answer.value


def known(discipline: Discipline) -> bytes:
    """Return all that is known of time, bit by bit: the estimate, the clock, the bound, and the others' standing."""
    return pickle.dumps(
        (
            discipline.estimate,
            discipline._clock,
            discipline._good,
            discipline._root_ns,
            discipline.source,
            list(discipline.peers.values())[1:],
        )
    )


async def test_no_bad_packet_changes_a_bit_of_what_is_known() -> None:
    """Each of them, and one that is an hour off, from the first of three servers; when it is sound, it is believed."""
    clock, port = SystemClock(), free_udp_port()
    client = NtpClient(pair=clock.pair, near=BUILD_EPOCH)
    with NtpServer() as one, NtpServer() as other:
        discipline = Discipline(Policy([f"{LOOPBACK}:{port}", one.name, other.name]))
        for _ in range(10):
            for server in (one, other):
                await heard(discipline, client, server)
        assert discipline.at(clock.raw(), clock.wall()).state == "synced"
        before = known(discipline)
        off_by_an_hour = replying({"ahead": AHEAD + 3600 * 10**9})
        cases = {name: (behaviour, why.value) for name, (behaviour, why) in BAD.items()}
        for name, (behaviour, standing) in {**cases, "an hour off": (off_by_an_hour, "outvoted")}.items():
            with NtpServer(behaviour, port=port) as bad:
                within_s = 0.3 if standing == Rejection.NO_ANSWER.value else 10
                assert await heard(discipline, client, bad, within_s=within_s) == standing, name
            assert known(discipline) == before, name
        with NtpServer(port=port) as sound:
            assert await heard(discipline, client, sound) == "selected"
        assert known(discipline) != before


def settings(*servers: str) -> str:
    """Return a configuration with these time servers, without a broker."""
    return config_text(f"mqtt://127.0.0.1:{free_port()}", extra=time_servers(*servers))


async def report(process: AgentProcess, *options: str) -> dict[str, Any]:
    """Return what the verb clock shows, with the sources by name."""
    shown: dict[str, Any] = json.loads((await edge_agent(process, "clock", "--json", *options))[1])
    return shown | {"sources": {source["name"]: source for source in shown["sources"]}}


def heard_at(report: dict[str, Any], server: str) -> float:
    """Return when a server was heard last, in seconds of the time that is reported."""
    return datetime.fromisoformat(report["time"]).timestamp() - float(report["sources"][server]["age_s"])


async def test_a_kiss_of_death_is_obeyed_and_the_others_are_not_kept_waiting_by_it(tmp_path: Path) -> None:
    """RATE doubles the interval, DENY ends it for a day, whoever is in a hurry; time comes from who is left."""
    with (
        NtpServer(replying({"stratum": 0, "reference": b"RATE"})) as rate,
        NtpServer(replying({"stratum": 0, "reference": b"DENY"})) as deny,
    ):
        async with chronyd(tmp_path) as server, agent(tmp_path, settings(rate.name, deny.name, server)) as process:
            await process.logged("clock_event", 2, what="kiss_o_death", within_s=SYNC_S)
            await process.logged("clock_event", what="sync_gained", within_s=SYNC_S)
            await report(process, "--sync")
            shown = await report(process)
            assert shown["source"] == server
            sources = shown["sources"]
            assert sources[rate.name]["poll_s"] == 2 * sources[deny.name]["poll_s"] == 128
            assert sources[deny.name]["next_s"] > 86_000
            assert (len(rate.requests), len(deny.requests)) == (1, 1)


@pytest.mark.timeout_s(120)
async def test_one_liar_of_four_is_outvoted_and_two_freeze_the_clock(tmp_path: Path) -> None:
    """The second one turns when time is known: an alarm, a bound that grows, and a time that stays right."""
    raw, wall = SystemClock().pair()
    truth, lie = wall - raw, wall - raw + 500_000_000

    def sluggish(server: NtpServer, request: bytes, client: Address) -> None:
        time.sleep(0.02)  # what it says later, at once, counts for more
        server.send(reply_to(request, ahead=truth), client)

    with NtpServer(replying({"ahead": lie})) as liar, NtpServer(sluggish) as turncoat:
        async with contextlib.AsyncExitStack() as stack:
            honest = [await stack.enter_async_context(chronyd(tmp_path)) for _ in range(2)]
            text = settings(*honest, liar.name, turncoat.name)
            process = await stack.enter_async_context(agent(tmp_path, text))
            await process.logged("clock_event", what="sync_gained", within_s=SYNC_S)
            shown = await report(process)
            assert abs(shown["offset_ms"]) <= shown["error_ms"] < 250
            assert shown["sources"][liar.name]["standing"] == "outvoted"
            before = len(process.events("clock_event", what="sources_disagree"))  # on a busy machine also at the start
            turncoat.behaviour = replying({"ahead": lie})
            await process.logged("clock_event", before + 1, what="sources_disagree", within_s=SYNC_S)
            frozen = await report(process)
            while {source["standing"] for source in frozen["sources"].values()} != {"no_majority"}:
                frozen = await report(process, "--sync")
            later = await report(process, "--sync")
            while heard_at(later, honest[0]) < heard_at(frozen, honest[0]) + 1:
                await asyncio.sleep(0.5)  # to ask is a process each time
                later = await report(process)
            assert later["frequency_ppm"] == frozen["frequency_ppm"], "nothing is learned from another sample"
            assert abs(later["offset_ms"]) <= later["error_ms"]
            assert abs(later["offset_ms"] - shown["offset_ms"]) < 50
