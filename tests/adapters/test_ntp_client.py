"""The NTP client against a server that misbehaves, and against a real one, both over real UDP."""

from __future__ import annotations

import asyncio
import functools
import gc
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.adapters import ntp_client
from edge_agent.adapters.ntp_client import MAX_HOSTS, MAX_LOSSES, NtpClient
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.core.ntp import Rejection
from edge_agent.core.sample import Sample
from edge_agent.core.timebase import BUILD_EPOCH, RawNs, UtcNs, WallNs, seconds
from tests.support.brokers import LOOPBACK
from tests.support.chrony import chronyd, free_udp_port
from tests.support.ntp_server import (
    AHEAD,
    Address,
    Behaviour,
    NtpServer,
    reply_to,
    replying,
    sound,
    storm,
    timestamp,
)

CLOCK: Final = SystemClock()
MS: Final = 1_000_000
WITHIN: Final = seconds(0.3)
GRACE_S: Final = 0.05
LATER: Final = BUILD_EPOCH + 86_400 * 10**9
Found = tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[str, int]]
ERA_1: Final = 2_085_978_496 * 10**9


def client(near: int = BUILD_EPOCH, pair: Callable[[], tuple[RawNs, WallNs]] = CLOCK.pair) -> NtpClient:
    """Return a client on this machine's clocks."""
    return NtpClient(pair=pair, near=UtcNs(near))


def error_ns(sample: Sample | Rejection) -> int:
    """Return by how much a sample of the server's time is wrong."""
    assert isinstance(sample, Sample), sample
    return sample.utc - sample.raw - AHEAD


# ---------------------------------------------------------------- the good case
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_sound_server_gives_a_sample(host: str) -> None:
    """Over IPv4 and IPv6."""
    with NtpServer(host=host) as server:
        asker = client()
        sample = await asker.ask(server.name, within=seconds(2))
        assert isinstance(sample, Sample)
        assert sample.source == server.name
        assert abs(error_ns(sample)) <= sample.max_error_ns
        assert asker.address(server.name) == host


async def test_every_request_has_a_cookie_and_a_port_of_its_own_and_tells_nothing() -> None:
    """What an attacker would have to guess, and what he learns."""
    with NtpServer() as server:
        asker = client()
        for _ in range(20):
            await asker.ask(server.name, within=seconds(2))
        assert len({request[40:] for request in server.requests}) == 20
        assert len({port for _, port in server.clients}) > 10
        assert {request[:40] for request in server.requests} == {b"\x23" + bytes(39)}


async def test_a_server_beyond_2036_is_understood() -> None:
    """The timestamps have begun anew; that it is about then is known from what was saved."""
    with NtpServer(replying({"ahead": ERA_1 + 86_400 * 10**9})) as server:
        sample = await client(near=ERA_1).ask(server.name, within=seconds(2))
        assert isinstance(sample, Sample)
        assert sample.utc - sample.raw - ERA_1 == pytest.approx(86_400 * 10**9, abs=sample.max_error_ns)


# ---------------------------------------------------------------- what is not taken for the time
def _echo(server: NtpServer, request: bytes, whom: Address) -> None:
    server.send(request, whom)


def _from_elsewhere(server: NtpServer, request: bytes, whom: Address) -> None:
    server.send_from_elsewhere(reply_to(request), whom)


def _silent(server: NtpServer, request: bytes, whom: Address) -> None:
    pass


def _sending(make: Callable[[bytes], bytes]) -> Behaviour:
    return lambda server, request, whom: server.send(make(request), whom)


BAD: Final[dict[str, tuple[Behaviour, Rejection]]] = {
    "silence": (_silent, Rejection.NO_ANSWER),
    "another cookie": (replying({"cookie": b"guessed!"}), Rejection.NO_ANSWER),
    "no cookie": (replying({"cookie": bytes(8)}), Rejection.NO_ANSWER),
    "another port": (_from_elsewhere, Rejection.NO_ANSWER),
    "echo": (_echo, Rejection.NO_ANSWER),
    "nothing in it": (_sending(lambda _: b""), Rejection.NO_ANSWER),
    "truncated": (_sending(lambda request: reply_to(request)[:47]), Rejection.NO_ANSWER),
    "kiss without the cookie": (
        replying({"stratum": 0, "reference": b"DENY", "cookie": bytes(8)}),
        Rejection.NO_ANSWER,
    ),
    "storm of strays": (storm(lambda request: reply_to(request, cookie=bytes(8))), Rejection.NO_ANSWER),
    "strays now and then": (storm(lambda _: b"stray", pause_s=0.05), Rejection.NO_ANSWER),
    "client's mode": (replying({"mode": 3}), Rejection.NOT_A_SERVER),
    "broadcast": (replying({"mode": 5}), Rejection.NOT_A_SERVER),
    "version 1": (replying({"version": 1}), Rejection.WRONG_VERSION),
    "not synchronised": (replying({"leap": 3}), Rejection.UNSYNCHRONISED),
    "stratum 16": (replying({"stratum": 16}), Rejection.UNSYNCHRONISED),
    "RATE": (replying({"stratum": 0, "reference": b"RATE", "leap": 3}), Rejection.KISS_RATE),
    "DENY": (replying({"stratum": 0, "reference": b"DENY"}), Rejection.KISS_DENY),
    "RSTR": (replying({"stratum": 0, "reference": b"RSTR"}), Rejection.KISS_RSTR),
    "another kiss": (replying({"stratum": 0, "reference": b"STEP"}), Rejection.KISS_OTHER),
    "no receive time": (replying({"t2": bytes(8)}), Rejection.NO_TIME),
    "no transmit time": (replying({"t3": bytes(8)}), Rejection.NO_TIME),
    "sent before received": (
        replying({"t2": timestamp(LATER + 1000), "t3": timestamp(LATER)}),
        Rejection.SLOW_SERVER,
    ),
    "held for 5 s": (
        replying({"t2": timestamp(LATER), "t3": timestamp(LATER + 5 * 10**9)}),
        Rejection.SLOW_SERVER,
    ),
    "held for longer than it took": (
        replying({"t2": timestamp(LATER), "t3": timestamp(LATER + 3 * 10**9)}),
        Rejection.NEGATIVE_DELAY,
    ),
    "1970": (replying({"ahead": 0}), Rejection.BEFORE_BUILD),
    "far root": (replying({"root_delay_s": 4.0}), Rejection.TOO_FAR),
    "wide root": (replying({"root_dispersion_s": 1.6}), Rejection.TOO_FAR),
    "no precision": (replying({"precision": 40}), Rejection.TOO_FAR),
}


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread does."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110  # the thread knows nothing of the loop
            await asyncio.sleep(0)


async def timed(asker: NtpClient, server: str, most_s: float) -> tuple[Sample | Rejection, float]:
    """Ask, and measure how long it took; again when the machine stalled, up to ten times."""
    answer: Sample | Rejection = Rejection.NO_ANSWER
    took = 0.0
    for _ in range(10):
        began = time.monotonic()
        answer = await asker.ask(server, within=WITHIN)
        took = time.monotonic() - began
        if took <= most_s:
            break
    return answer, took


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_answer_gives_no_sample_and_no_delay(name: str) -> None:
    """It gives its reason, within the deadline + 50 ms; what is final is not waited on."""
    behaviour, why = BAD[name]
    most_s = (WITHIN / 1e9 if why is Rejection.NO_ANSWER else 0.0) + GRACE_S
    with NtpServer(behaviour) as server:
        answer, took = await timed(client(), server.name, most_s)
    assert answer is why
    assert took <= most_s


async def test_the_true_answer_is_still_taken_after_strays() -> None:
    """Whoever guesses first cannot keep the server from being heard."""

    def strays_first(server: NtpServer, request: bytes, whom: Address) -> None:
        for cookie in (bytes(8), b"guessed!"):
            server.send(reply_to(request, cookie=cookie, ahead=AHEAD + 3600 * 10**9), whom)
        server.send(b"short", whom)
        sound(server, request, whom)

    with NtpServer(strays_first) as server:
        sample = await client().ask(server.name, within=seconds(2))
        assert abs(error_ns(sample)) < 100 * MS


async def test_an_answer_that_is_replayed_to_the_next_request_is_none() -> None:
    """It has the cookie of the last one."""
    sent: list[bytes] = []

    def replay(server: NtpServer, request: bytes, whom: Address) -> None:
        sent.append(reply_to(request))
        server.send(sent[0], whom)

    with NtpServer(replay) as server:
        asker = client()
        assert isinstance(await asker.ask(server.name, within=seconds(2)), Sample)
        assert await asker.ask(server.name, within=WITHIN) is Rejection.NO_ANSWER


async def test_of_two_answers_to_one_request_the_first_counts() -> None:
    """Also when both are there before anybody looks."""

    def twice(server: NtpServer, request: bytes, whom: Address) -> None:
        sound(server, request, whom)
        server.send(reply_to(request, ahead=AHEAD + 3600 * 10**9), whom)

    with NtpServer(twice) as server:
        asking = asyncio.ensure_future(client().ask(server.name, within=seconds(2)))
        await until(lambda: bool(server.requests))
        time.sleep(0.05)  # the loop is blocked while both arrive
        assert abs(error_ns(await asking)) < 200 * MS


@given(data=st.binary(max_size=600))
async def test_no_datagram_whatever_makes_it_fail(data: bytes) -> None:
    """With and without the right cookie it gives a reason; hardly ever a sample, as that takes a sound header."""
    with NtpServer(_sending(lambda request: data[:24] + request[40:48] + data[32:])) as server:
        answer = await client().ask(server.name, within=seconds(0.02))
        assert isinstance(answer, Sample | Rejection)


# ---------------------------------------------------------------- nobody there
async def test_a_server_that_is_not_there_is_noticed_at_once() -> None:
    """By the ICMP message that nothing listens on the port."""
    answer, took = await timed(client(), f"{LOOPBACK}:{free_udp_port()}", GRACE_S)
    assert answer is Rejection.REFUSED
    assert took <= GRACE_S


async def test_where_nothing_can_be_sent_is_noticed_at_once() -> None:
    """Broadcast is not permitted on any host."""
    answer, took = await timed(client(), "255.255.255.255", GRACE_S)
    assert answer is Rejection.UNREACHABLE
    assert took <= GRACE_S


@pytest.mark.parametrize("name", ["no-such-host.invalid", "a" * 64 + ".example", "..", "a b"])
async def test_a_name_without_an_address_is_a_value_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that cannot be a name at all."""
    numeric = functools.partial(socket.getaddrinfo, flags=socket.AI_NUMERICHOST)  # asks no DNS
    monkeypatch.setattr(socket, "getaddrinfo", numeric)
    asker = client()
    assert await asker.ask(name, within=seconds(2)) is Rejection.UNRESOLVED
    assert asker.address(name) is None


async def test_a_resolver_that_hangs_is_given_up_and_only_one_thread_waits_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it finds late serves the next request."""
    go_on = threading.Event()
    calls = []
    with NtpServer() as server:

        def hanging(*_: object, **__: object) -> list[Found]:
            calls.append(1)
            go_on.wait(10)
            return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", (server.host, server.port))]

        monkeypatch.setattr(socket, "getaddrinfo", hanging)
        asker = client()
        for _ in range(3):
            assert await asker.ask("ntp.example", within=seconds(0.05)) is Rejection.UNRESOLVED
        assert len(calls) == 1
        go_on.set()
        await until(lambda: asker.address("ntp.example") is not None)
        assert isinstance(await asker.ask("ntp.example", within=seconds(2)), Sample)
        assert len(calls) == 1


# ---------------------------------------------------------------- several addresses
def _resolving(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[str, int]) -> list[str]:
    """Have every name resolve to these; return the names that were looked up."""
    looked_up: list[str] = []

    def resolve(host: str, *_: object, **__: object) -> list[Found]:
        looked_up.append(host)
        family = {False: socket.AF_INET, True: socket.AF_INET6}
        return [(family[":" in address[0]], socket.SOCK_DGRAM, 17, "", address) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return looked_up


async def test_when_nobody_is_at_an_address_the_next_one_is_tried_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And stays in use."""
    with NtpServer() as server:
        names = _resolving(monkeypatch, ("::1", free_udp_port()), (LOOPBACK, free_udp_port()), (LOOPBACK, server.port))
        asker = client()
        for _ in range(3):
            assert isinstance(await asker.ask("ntp.example", within=seconds(2)), Sample)
        assert names == ["ntp.example"]
        assert asker.address("ntp.example") == LOOPBACK


async def test_after_an_answer_was_lost_the_next_address_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server whose one address is silent answers on the other."""
    with NtpServer(_silent) as silent, NtpServer() as server:
        _resolving(monkeypatch, (LOOPBACK, silent.port), (LOOPBACK, server.port))
        asker = client()
        assert await asker.ask("ntp.example", within=seconds(0.05)) is Rejection.NO_ANSWER
        assert isinstance(await asker.ask("ntp.example", within=seconds(2)), Sample)


async def test_after_eight_losses_the_name_is_looked_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server may have moved; when the name has no address just now, the old ones stay."""
    names = _resolving(monkeypatch, (LOOPBACK, free_udp_port()))
    asker = client()
    for _ in range(MAX_LOSSES + 1):
        assert await asker.ask("ntp.example", within=seconds(2)) is Rejection.REFUSED
    assert len(names) == 2

    def unknown(*_: object, **__: object) -> NoReturn:
        raise socket.gaierror(socket.EAI_AGAIN, "try again")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    for _ in range(MAX_LOSSES):
        assert await asker.ask("ntp.example", within=seconds(2)) is Rejection.REFUSED


async def test_the_addresses_of_so_many_servers_are_remembered_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks name others again and again."""
    _resolving(monkeypatch, (LOOPBACK, free_udp_port()))
    asker = client()
    for number in range(MAX_HOSTS + 10):
        await asker.ask(f"ntp-{number}.example", within=seconds(2))
    assert len(asker._hosts) == MAX_HOSTS


# ---------------------------------------------------------------- when it was received
async def _asked_while_blocked(asker: NtpClient, blocked_s: float = 0.1) -> Sample:
    """Ask a sound server, with the loop blocked from the sending on."""
    with NtpServer() as server:
        asking = asyncio.ensure_future(asker.ask(server.name, within=seconds(2)))
        await until(lambda: bool(server.requests))
        time.sleep(blocked_s)
        sample = await asking
        assert isinstance(sample, Sample)
        return sample


async def test_a_loop_that_is_busy_does_not_spoil_the_sample() -> None:
    """The kernel has written down when the reply was received."""
    assert (await _asked_while_blocked(client())).delay_ns < 50 * MS


@pytest.mark.parametrize("by_s", [3600.0, -3600.0, 0.05, -0.05])
async def test_a_wall_clock_that_is_stepped_meanwhile_does_not_spoil_the_sample(by_s: float) -> None:
    """Then the kernel's stamp, which is the wall clock's, is not used; the bound says so."""
    readings = 0

    def stepping() -> tuple[RawNs, WallNs]:
        nonlocal readings
        raw, wall = CLOCK.pair()
        readings += 1
        return raw, WallNs(wall if readings == 1 else wall + int(by_s * 1e9))

    sample = await _asked_while_blocked(client(pair=stepping))
    assert sample.delay_ns >= 90 * MS
    assert abs(error_ns(sample)) <= sample.max_error_ns


@pytest.mark.parametrize("off_s", [3600.0, -3600.0])
async def test_a_kernel_stamp_that_does_not_fit_the_wall_clock_is_not_used(off_s: float) -> None:
    """As with a library that fakes the time of day: the kernel's is another."""

    def faked() -> tuple[RawNs, WallNs]:
        raw, wall = CLOCK.pair()
        return raw, WallNs(wall + int(off_s * 1e9))

    assert (await _asked_while_blocked(client(pair=faked))).delay_ns >= 90 * MS


async def test_a_kernel_without_stamps_is_good_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """The handler's reading takes the place of the stamp."""
    monkeypatch.setattr(ntp_client, "_SO_TIMESTAMPNS_NEW", 9999)
    sample = await _asked_while_blocked(client())
    assert sample.delay_ns >= 90 * MS
    assert abs(error_ns(sample)) <= sample.max_error_ns


# ---------------------------------------------------------------- load
@pytest.mark.alone
async def test_a_flood_neither_blocks_the_loop_nor_grows_in_memory() -> None:
    """One datagram per turn of the loop; the rest waits, or is lost, in the kernel."""
    late: list[float] = []

    async def others() -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.01)
            late.append(time.monotonic() - began - 0.01)

    with NtpServer(storm(lambda request: reply_to(request, cookie=bytes(8)) + bytes(1000))) as server:
        asker = client()
        await asker.ask(server.name, within=seconds(0.1))
        gc.collect()
        tracemalloc.start()
        ticking = asyncio.ensure_future(others())
        assert await asker.ask(server.name, within=seconds(1)) is Rejection.NO_ANSWER
        ticking.cancel()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 512 * 1024
    assert len(late) >= 20
    assert sorted(late)[len(late) // 2] < 0.05


async def test_nothing_is_left_open_when_a_request_is_given_up() -> None:
    """Neither the socket nor its place in the loop, however it ends."""
    with NtpServer(_silent) as server:
        asker = client()
        await asker.ask(server.name, within=seconds(0.02))
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(10):
            await asker.ask(server.name, within=seconds(0.01))
        cancelled = asyncio.ensure_future(asker.ask(server.name, within=seconds(5)))
        await asyncio.sleep(0.02)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert len(list(Path("/proc/self/fd").iterdir())) == before


# ---------------------------------------------------------------- a real server
@pytest.mark.timeout_s(60)
async def test_chronyd_is_read_to_the_tenth_of_a_millisecond_while_the_loop_is_busy(tmp_path: Path) -> None:
    """200 requests with the loop blocked for 50 of 200 ms: p99 <= 100 us, and none wrong by more than 1 ms."""

    async def busy() -> None:
        while True:
            time.sleep(0.05)
            await asyncio.sleep(0.15)

    errors = []
    async with chronyd(tmp_path) as server:
        asker = client()
        blocking = asyncio.ensure_future(busy())
        for _ in range(200):
            raw, wall = CLOCK.pair()
            sample = await asker.ask(server, within=seconds(2))
            assert isinstance(sample, Sample), sample
            errors.append(abs(sample.utc - sample.raw - (wall - raw)))
            assert errors[-1] <= sample.max_error_ns + 20_000
            await asyncio.sleep(0.02)
        blocking.cancel()
    errors.sort()
    print(f"chronyd: p50 {errors[100] / 1e3:.1f} us, p99 {errors[197] / 1e3:.1f} us, max {errors[-1] / 1e3:.1f} us")
    assert errors[197] <= 100_000
    assert errors[-1] <= MS
