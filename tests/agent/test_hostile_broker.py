"""A whole agent against a broker that means it harm: it stays alive, small, quiet, and patient."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest
from _pytest.mark.structures import ParameterSet

from tests.support.agents import DEVICE, HEARTBEAT, STATUS, AgentProcess, agent, config_text
from tests.support.scripted_broker import Personality, ScriptedBroker

HOST: Final = "127.0.0.1"
GROWTH: Final = 5 << 20
WATCHED_S: Final = 5.0
STOPS_WITHIN_S: Final = 12.0  # 3 s for what is on its way, 2 s for the farewell, and a flood takes its part
SETTLED: Final = 6  # heartbeats
SETTLED_WITHIN_S: Final = 3.0
COMMAND: Final = f"edge/{DEVICE}/down/cmd/x".encode()
CONNACK, PUBACK, PUBREL, SUBACK, UNSUBACK, PINGRESP, DISCONNECT, AUTH = (
    0x20,
    0x40,
    0x62,
    0x90,
    0xB0,
    0xD0,
    0xE0,
    0xF0,
)


def packet(first: int, body: bytes = b"") -> bytes:
    """Return a packet: its first byte, the length, the rest."""
    out, length = bytearray([first]), len(body)
    while True:
        length, digit = divmod(length, 128)
        out.append(digit | (128 if length else 0))
        if not length:
            return bytes(out) + body


def publish(
    topic: bytes = COMMAND, payload: bytes = b"{}", *, qos: int = 1, packet_id: int = 1, retain: bool = False
) -> bytes:
    """Return a PUBLISH of MQTT 5."""
    identifier = packet_id.to_bytes(2, "big") if qos else b""
    return packet(0x30 | qos << 1 | retain, len(topic).to_bytes(2, "big") + topic + identifier + b"\0" + payload)


@dataclass
class Peer:
    """One connection of the agent, seen from the broker."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    go: asyncio.Event
    connack: bytes = b"\0\0\0"
    answers: bool = True
    suback: Callable[[int], bytes] = bytes
    beats: list[float] = field(default_factory=list)

    async def read(self) -> tuple[int, bytes]:
        """Return the next packet's first byte and body."""
        first = (await self.reader.readexactly(1))[0]
        length = shift = 0
        while True:
            byte = (await self.reader.readexactly(1))[0]
            length |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return first, await self.reader.readexactly(length)

    async def behave(self) -> None:
        """Answer as a broker does until the connection ends."""
        while True:
            first, body = await self.read()
            if first >> 4 == 3 and HEARTBEAT.encode() in body[:100]:
                self.beats.append(time.monotonic())
            if not self.answers:
                continue
            match first >> 4:
                case 3 if first & 6:
                    at = 2 + int.from_bytes(body[:2], "big")
                    self.writer.write(packet(PUBACK, body[at : at + 2]))
                case 8:
                    self.writer.write(packet(SUBACK, body[:2] + b"\0" + self.suback(body.count(b"edge/"))))
                case 12:
                    self.writer.write(packet(PINGRESP))
                case _:
                    pass

    async def send(self, *data: bytes) -> None:
        """Send, as fast as the agent takes it."""
        for piece in data:
            self.writer.write(piece)
            await self.writer.drain()


Attack = Callable[[Peer], Awaitable[None]]


@dataclass
class Hostile:
    """The server: a good CONNACK, good behaviour until ``go``, then the attack; on each connection again.

    Attributes:
        accepted: when each TCP connection came, monotonic seconds.
        beats: when each heartbeat came.
        prepare: what is changed of each peer before its CONNACK.
    """

    attack: Attack
    prepare: Callable[[Peer], None] = lambda _peer: None
    go: asyncio.Event = field(default_factory=asyncio.Event)
    accepted: list[float] = field(default_factory=list)
    beats: list[float] = field(default_factory=list)
    port: int = 0
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Play with one connection."""
        self.accepted.append(time.monotonic())
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        peer = Peer(reader, writer, self.go, beats=self.beats)
        self.prepare(peer)
        behaving = None
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await peer.read()
            writer.write(packet(CONNACK, peer.connack))
            behaving = asyncio.get_running_loop().create_task(peer.behave())
            behaving.add_done_callback(lambda done: done.cancelled() or done.exception())
            await self.go.wait()
            await self.attack(peer)
        if behaving is not None:
            behaving.cancel()
        writer.transport.abort()
        self.tasks.discard(task)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """Listen; yield the URL."""
        server = await asyncio.start_server(self.serve, HOST, 0)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            try:
                yield f"mqtt://{HOST}:{self.port}"
            finally:
                server.close()
                for task in list(self.tasks):
                    task.cancel()
                if self.tasks:
                    await asyncio.wait(list(self.tasks))
                await asyncio.sleep(0.01)


def rss(pid: int) -> int:
    """Return a process's resident memory in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@dataclass
class Outcome:
    """What became of the agent within the time watched, and its exit code when it was then asked to stop."""

    alive: bool
    growth: int
    connects: int
    beats: int
    code: int | None
    log: str


async def attacked(
    tmp_path: Path,
    attack: Attack,
    *,
    prepare: Callable[[Peer], None] = lambda _peer: None,
    watched_s: float = WATCHED_S,
) -> Outcome:
    """Run an agent until it has settled, attack it, and watch."""
    tmp_path.mkdir(exist_ok=True)
    hostile = Hostile(attack, prepare)
    async with hostile.running() as url:
        process = AgentProcess(tmp_path / "edge-agent.toml", tmp_path / "agent.log")
        process.config.write_text(config_text(url, every="200ms"))
        process.start()
        assert process.process is not None
        try:
            await process.logged("connected", within_s=60)
            settled = time.monotonic() + SETTLED_WITHIN_S  # some attacks begin with the CONNACK, and no heartbeat comes
            # until all that is loaded late is loaded
            while len(hostile.beats) < SETTLED and time.monotonic() < settled:  # noqa: ASYNC110  # another process's
                await asyncio.sleep(0.02)
            if process.process.poll() is not None:
                return Outcome(
                    alive=False,
                    growth=0,
                    connects=0,
                    beats=0,
                    code=process.process.returncode,
                    log=process.log_path.read_text(),
                )
            before, highest, begun = rss(process.pid), 0, time.monotonic()
            hostile.go.set()
            while time.monotonic() < begun + watched_s and process.process.poll() is None:
                await asyncio.sleep(0.05)
                with contextlib.suppress(OSError, IndexError):
                    highest = max(highest, rss(process.pid))
            alive = process.process.poll() is None
            connects = sum(begun < at <= begun + 5 for at in hostile.accepted)
            beats = sum(begun < at for at in hostile.beats)
            process.signal(signal.SIGTERM)
            code = None
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = await process.wait(STOPS_WITHIN_S)
        finally:
            process.process.kill()
            process.process.wait()
        return Outcome(alive, highest - before, connects, beats, code, process.log_path.read_text())


def wrong(outcome: Outcome) -> list[str]:
    """Return what is wrong with an outcome."""
    found = []
    if not outcome.alive:
        found.append("it is dead: " + next((line[-600:] for line in outcome.log.splitlines() if "crashed" in line), ""))
    elif outcome.code != 0:
        found.append(f"asked to stop, it did not within {STOPS_WITHIN_S:g} s, or badly: {outcome.code}")
    if outcome.growth > GROWTH:
        found.append(f"it has grown by {outcome.growth >> 10} KiB")
    if outcome.connects >= 10:
        found.append(f"it connected {outcome.connects} times in 5 s")
    if "Traceback" in outcome.log or "crashed" in outcome.log or "Task exception" in outcome.log:
        found.append("the log shows a bug of ours")
    return found


# ---------------------------------------------------------------- packets that are wrong
async def _wait(_peer: Peer) -> None:
    await asyncio.sleep(60)


def sends(*data: bytes, then: Attack | None = None) -> Attack:
    """Return an attack that sends this, then waits or does something else."""

    async def attack(peer: Peer) -> None:
        await peer.send(*data)
        await (then or _wait)(peer)

    return attack


async def _close(peer: Peer) -> None:
    peer.writer.close()


async def _announce_much(peer: Peer) -> None:
    """Announce the largest packet there is, and send it in pieces for as long as it is taken."""
    await peer.send(b"\x32\xff\xff\xff\x7f")
    for _ in range(4096):
        await peer.send(bytes(64 << 10))


async def _announce_a_megabyte(peer: Peer) -> None:
    for number in range(1, 100):
        await peer.send(publish(payload=bytes(1 << 20), packet_id=number))


async def _random(peer: Peer) -> None:
    chance = random.Random(id(peer))  # noqa: S311  # any bytes will do
    for _ in range(200):
        await peer.send(chance.randbytes(chance.randrange(1, 2000)))
    await _wait(peer)


async def _random_bodies(peer: Peer) -> None:
    """Packets of every type, well framed, with bodies of noise."""
    chance = random.Random(id(peer))  # noqa: S311  # any bytes will do
    for _ in range(500):
        await peer.send(packet(chance.randrange(16, 256), chance.randbytes(chance.randrange(60))))
    await _wait(peer)


async def _drip(peer: Peer) -> None:
    """A packet, byte by byte."""
    for byte in publish(payload=b"x" * 300):
        await peer.send(bytes([byte]))
        await asyncio.sleep(0.001)
    await _wait(peer)


_WHOLE = publish(payload=b"x" * 100)
WRONG: dict[str, Attack] = {
    "a-megabyte": _announce_a_megabyte,
    "the-largest-length": _announce_much,
    "a-length-without-end": sends(b"\x30" + b"\xff" * 1000),
    "topic-not-utf-8": sends(*[publish(b"edge/\xff\xfe", packet_id=number) for number in range(1, 200)]),
    "topic-empty": sends(publish(b"")),
    "topic-with-nul-and-wildcards": sends(publish(b"edge/\0/#/+")),
    "topic-longer-than-the-packet": sends(packet(0x32, b"\xff\xff" + b"x" * 20)),
    "publish-without-body": sends(packet(0x32)),
    "packet-id-0": sends(publish(packet_id=0)),
    "qos-3": sends(publish(qos=3)),
    "random-bytes": _random,
    "random-bodies": _random_bodies,
    "byte-by-byte": _drip,
    "truncated": sends(_WHOLE[:20], then=_close),
    "truncated-header": sends(b"\x32", then=_close),
    "close": _close,
    "suback-nobody-asked-for": sends(*[packet(SUBACK, bytes([0, number, 0, 1])) for number in range(200)]),
    "suback-empty": sends(packet(SUBACK)),
    "suback-of-nonsense": sends(packet(SUBACK, b"\0\x01\0\x55")),
    "puback-nobody-asked-for": sends(*[packet(PUBACK, bytes([number, 7])) for number in range(200)]),
    "puback-of-nonsense": sends(packet(PUBACK, b"\0\x01\x55\0")),
    "puback-empty": sends(packet(PUBACK)),
    "unsuback": sends(packet(UNSUBACK, b"\0\x01\0\0")),
    "pingresp-without-end": sends(packet(PINGRESP) * 10_000),
    "second-connack": sends(packet(CONNACK, b"\0\0\0")),
    "second-connack-that-refuses": sends(packet(CONNACK, b"\0\x87\0")),
    "pubrel-of-nothing": sends(packet(PUBREL, b"\0\x01")),
    "a-connect-from-the-broker": sends(packet(0x10, b"\0\x04MQTT\x05\x02\0\x3c\0\0\0")),
    "auth": sends(packet(AUTH, b"\x18\0")),
    "packet-type-0": sends(packet(0x00)),
    "disconnect": sends(packet(DISCONNECT, b"\x8b\0")),
    "disconnect-in-the-middle": sends(_WHOLE[:30] + packet(DISCONNECT, b"\x8b\0"), then=_close),
    "disconnect-of-nonsense": sends(packet(DISCONNECT, b"\x55\0")),
    "disconnect-to-another-server": sends(packet(DISCONNECT, b"\x9d\0")),
    "taken-over": sends(packet(DISCONNECT, b"\x8e\0")),
}
AT_ONCE = 9


@pytest.mark.timeout_s(300)
async def test_packets_that_are_wrong_neither_kill_nor_fatten_nor_hurry_it(tmp_path: Path) -> None:
    """Each of many against an agent of its own: what is wrong is named, all at once."""
    free = asyncio.Semaphore(AT_ONCE)
    found: dict[str, list[str]] = {}

    async def one(name: str, attack: Attack) -> None:
        async with free:
            outcome = await attacked(tmp_path / name, attack, watched_s=WATCHED_S)
        if problems := wrong(outcome):
            found[name] = problems

    async with asyncio.TaskGroup() as group:
        for name, attack in WRONG.items():
            group.create_task(one(name, attack))
    assert found == {}


@pytest.mark.parametrize(
    "count",
    [
        pytest.param(0, id="none"),
        pytest.param(1, id="one", marks=pytest.mark.slow),
        pytest.param(50, id="many", marks=pytest.mark.slow),
    ],
)
async def test_a_suback_with_another_number_of_reason_codes_does_not_kill_it(count: int, tmp_path: Path) -> None:
    """One for each filter is the rule; who breaks it is disconnected or believed, never a reason to crash."""

    def prepare(peer: Peer) -> None:
        peer.suback = lambda _filters: bytes([1]) * count

    assert wrong(await attacked(tmp_path, _wait, prepare=prepare, watched_s=1.5)) == []


def some_of(cases: Iterable[str], *quick: str) -> list[ParameterSet]:
    """Return all cases, those that are not quick marked as slow: each takes about 5 s."""
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in cases]


LIMITS = {
    "receive-maximum-1": b"\x21\0\x01",
    "packets-of-a-byte": b"\x27\0\0\0\x01",
    "keepalive-of-18-h": b"\x13\xff\xff",
    "topic-aliases": b"\x22\xff\xff",
    "session-that-never-expires": b"\x11\xff\xff\xff\xff",
}


@pytest.mark.parametrize("name", some_of(LIMITS, "packets-of-a-byte"))
async def test_strange_limits_do_not_kill_it(name: str, tmp_path: Path) -> None:
    """Whatever the CONNACK says."""

    def prepare(peer: Peer) -> None:
        peer.connack = b"\0\0" + bytes([len(LIMITS[name])]) + LIMITS[name]

    assert wrong(await attacked(tmp_path, _wait, prepare=prepare, watched_s=0.3)) == []


# ---------------------------------------------------------------- too much
def floods(make: Callable[[int], bytes], *, answers: bool = True) -> Attack:
    """Return an attack that sends for ever, as fast as it can."""

    async def attack(peer: Peer) -> None:
        peer.answers = answers
        number = 0
        while True:
            number = number % 65535 + 1
            await peer.send(make(number))
            if number % 100 == 0:
                await asyncio.sleep(0)

    return attack


FLOODS: dict[str, Attack] = {
    "qos-1": floods(lambda number: publish(payload=b"x" * 200, packet_id=number)),
    "qos-1-large": floods(lambda number: publish(payload=bytes(250_000), packet_id=number)),
    "qos-1-and-no-answers": floods(lambda number: publish(payload=b"x" * 200, packet_id=number), answers=False),
    "qos-2-never-completed": floods(lambda number: publish(payload=bytes(10_000), qos=2, packet_id=number)),
    "pubacks-of-nothing": floods(lambda number: packet(PUBACK, number.to_bytes(2, "big") + b"\0") * 200),
    "offline-about-itself": floods(lambda number: publish(STATUS.encode(), b"offline", packet_id=number, retain=True)),
}


@pytest.mark.parametrize("name", some_of(FLOODS, "qos-1", "qos-2-never-completed"))
async def test_a_flood_neither_kills_nor_fattens_it(name: str, tmp_path: Path) -> None:
    """It goes on with its own business: the heartbeats keep coming as far as the broker takes them."""
    outcome = await attacked(tmp_path, FLOODS[name], watched_s=2)
    assert wrong(outcome) == []
    if name in {"qos-1", "offline-about-itself"}:
        assert outcome.beats >= 2


async def test_a_flood_does_not_fill_the_log(tmp_path: Path) -> None:
    """Messages that nobody uses are worth a line now and then: a journal lives on flash."""
    outcome = await attacked(tmp_path, FLOODS["qos-1"], watched_s=1)
    lines = outcome.log.count("\n")
    assert lines < 500  # of tens of thousands of messages


# ---------------------------------------------------------------- less than usual
async def test_a_broker_without_qos_1_is_no_broker_for_it(tmp_path: Path) -> None:
    """MQTT 5 section 3.2.2.3.4: it refuses a Will with QoS 1 (0x9B); without QoS 1 nothing could be promised."""
    async with (
        ScriptedBroker(Personality(maximum_qos=0)) as broker,
        agent(tmp_path, config_text(broker.url, reconnect_max="1s")) as process,
    ):
        (failed, *_) = await process.logged("connect_failed")
        assert "0x9B" in failed["error"]
