"""Commands over real brokers to a whole agent: each state and each refusal, as their senders see them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from edge_agent.adapters.system_clock import SystemClock
from edge_agent.core.connection import ProtocolVersion
from tests.support.agents import DEVICE, AgentProcess, agent, time_servers
from tests.support.brokers import RealBroker, mosquitto
from tests.support.commanding import Effects, Operator, acknowledged, device_text, known_time, operator
from tests.support.faketime import wall_clock_off_by
from tests.support.ntp_server import NtpServer, replying
from tests.support.tokens import Key

pytestmark = pytest.mark.broker
TRACE: Final = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
LONG: Final = {"before_ms": 60_000}
BOTH: Final = pytest.mark.parametrize("protocol", [5, 4])


@dataclass
class Scene:
    """A broker, a device, and somebody who commands it."""

    broker: RealBroker
    process: AgentProcess
    effects: Effects
    operator: Operator


@contextlib.asynccontextmanager
async def scene(
    tmp_path: Path,
    *,
    protocol: ProtocolVersion = 5,
    knows_time: bool = False,
    time_from: str = "",
    **how: Any,  # noqa: ANN401  # see device_text
) -> AsyncIterator[Scene]:
    """Have all of it while the block runs."""
    time_from = known_time(tmp_path) if knows_time else time_from
    effects = Effects(tmp_path)
    async with mosquitto(tmp_path, config_lines=("max_queued_messages 0",)) as broker:
        text = device_text(broker.url, protocol=protocol, extra=time_from, **how)
        async with (
            agent(tmp_path, text, **effects.environ) as process,
            operator(broker.url, protocol=protocol) as one,
        ):
            await process.logged("health")  # then it has subscribed
            yield Scene(broker, process, effects, one)


def instant(text: str) -> float:
    """Return an instant as seconds of UTC."""
    return datetime.fromisoformat(text).timestamp()


def later(seconds: float) -> str:
    """Return an instant so many seconds from now as a command names it."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


# ---------------------------------------------------------------- every state
@BOTH
async def test_each_way_through_the_life_cycle_is_told(protocol: ProtocolVersion, tmp_path: Path) -> None:
    """From success to a bug of the handler: the states in order, the codes of the errors."""
    async with scene(tmp_path, protocol=protocol) as it:
        it.process.bugs = 1
        one = it.operator
        ends = {
            "ping": ("succeeded", None),
            "echo": ("succeeded", None),
            "append": ("succeeded", None),
            "fail": ("failed", "failed"),
            "refuse": ("failed", "busy"),
            "stumble": ("failed", "failed"),
            "huge": ("failed", "failed"),
            "hang": ("timed_out", "timeout"),
        }
        args = {"echo": {"text": "°"}, "append": {"before_ms": 1}}
        ids = {name: one.send(name, args=args.get(name)) for name in ends}
        for name, end in ends.items():
            reply = await one.final(ids[name])
            assert (reply.state, reply.code) == end, reply
            assert one.states(ids[name]) == ["accepted", "running", end[0]]
            assert reply.topic == f"edge/{DEVICE}/up/reply/{ids[name]}"
        results = {name: one.of(ids[name])[-1].data.get("result") for name in ("ping", "echo", "append")}
        assert results.pop("ping")
        assert results == {"echo": {"text": "°"}, "append": {"wrote": ids["append"]}}
        assert it.effects() == [ids["append"]]
        message = one.of(ids["fail"])[-1].data["error"]["message"]
        assert message == "the valve is stuck; free it"


@pytest.mark.slow
async def test_a_handler_that_cannot_be_ended_ends_its_command_all_the_same(tmp_path: Path) -> None:
    """After its time and five seconds of grace."""
    async with scene(tmp_path) as it:
        deaf = it.operator.send("deaf")
        reply = await it.operator.final(deaf)
        assert (reply.state, reply.code) == ("timed_out", "timeout")
        assert it.process.events("command_hangs", id=deaf)
        assert (await it.operator.give("ping")).state == "succeeded"


@BOTH
async def test_each_refusal_has_its_code_and_nothing_is_done(protocol: ProtocolVersion, tmp_path: Path) -> None:
    """What is not understood, not known, not allowed, dated while time is not known, or too much."""
    async with scene(tmp_path, protocol=protocol, allow=["ping", "append", "one-by-one"]) as it:
        one = it.operator
        used = (await one.give("append")).data["id"]
        await one.said(used, "succeeded")
        effects = it.effects()
        refused: list[tuple[str, str, dict[str, Any]]] = [  # the code, the command, and how it is sent
            ("unknown_command", "appendix", {}),
            ("unknown_command", "no such/command", {}),
            ("unknown_command", "echoes", {"args": {"text": 7}}),
            ("not_allowed", "echo", {}),
            ("not_allowed", "echo", {"args": {"text": 7}}),
            ("invalid_args", "append", {"args": {"befor_ms": 1}}),
            ("invalid_args", "append", {"args": {"before_ms": "1"}}),
            ("invalid_args", "append", {"args": [1]}),
            ("invalid_args", "append", {"ttl": "soon"}),
            ("invalid_args", "append", {"ttl": 5}),
            ("invalid_args", "append", {"delay": "-1s"}),
            ("invalid_args", "append", {"delay": "10s", "ttl": "5s"}),
            ("invalid_args", "append", {"expires": "tomorrow"}),
            ("invalid_args", "append", {"then": 1}),
            ("time_unknown", "append", {"expires": later(60)}),
            ("time_unknown", "append", {"not_before": later(-60)}),
            (
                "bad_signature",
                "append",
                {"payload": Key("k").token({"jti": "signed", "cmd": "append"}), "id": "signed"},
            ),
        ]
        sent = [(code, how, one.send(command, how.pop("payload", None), **how)) for code, command, how in refused]
        for code, how, command_id in sent:
            reply = await one.final(command_id)
            assert (reply.state, reply.code) == ("rejected", code), (how, reply)
            assert len(one.of(command_id)) == 1
        _ = one.send("append", id=used, args={"before_ms": 1}), one.send("ping", id=used)
        assert {reply.code for reply in await one.said(used, "rejected", count=2)} == {"invalid_args"}
        assert len(one.finals(used)) == 3
        before = len(one.replies)
        bad = (b"{", b"\xff\xfe", b"[]", b"7", b'"id"', b'{"id": "a b"}', b'{"id": 7}', b"x" * 70_000, b"{" * 60_000)
        for payload in bad:
            _ = one.send("append", payload)
        said = await one.until(lambda: one.replies[before:][len(bad) - 1 :] and one.replies[before:], "nine refusals")
        assert {(reply.state, reply.code, reply.data["id"][:2]) for reply in said} == {
            ("rejected", "invalid_args", "x-")
        }
        assert it.effects() == effects
        long = [one.send("one-by-one", args={"before_ms": ms}) for ms in (800, 0, 0, 0, 0)]
        assert [(await one.final(name)).code for name in long] == [None, None, None, "busy", "busy"]
        assert it.effects() == effects + long[:3]


async def test_what_came_too_late_is_expired_and_what_is_too_early_waits(tmp_path: Path) -> None:
    """By the sender's date, by a time to live and by MQTT's own expiry, at once and in the line; and by delays."""
    async with scene(tmp_path, knows_time=True) as it:
        one = it.operator
        for late in ({"expires": later(-0.1)}, {"expires": later(-86_400 * 365)}):
            reply = await one.give("append", **late)
            assert (reply.state, reply.code) == ("expired", "expired")
            assert one.states(reply.data["id"]) == ["expired"]
        first = one.send("one-by-one", args={"before_ms": 2500})
        in_line = [one.send("one-by-one", **how) for how in ({"ttl": "1s"}, {"mqtt": {"MessageExpiryInterval": 1}})]
        dated = one.send("append", delay="100ms", expires=later(60))
        gone = one.send("append", not_before=later(3), expires=later(60), ttl="1s")
        asked = time.monotonic()
        early = one.send("append", not_before=later(2))
        delayed = one.send("append", delay="1s")
        for command_id in in_line:
            reply = await one.final(command_id)
            assert (reply.state, reply.code) == ("expired", "expired")
            assert reply.at - asked < 2.4, "it is told when it expires, not when its turn comes"
            assert one.states(command_id) == ["accepted", "expired"]
        assert (await one.final(first)).state == "succeeded"
        assert (await one.final(dated)).state == "succeeded"
        assert (await one.final(delayed)).at - asked >= 1
        assert (await one.final(early)).at - asked >= 1.95
        refused = await one.final(gone)
        assert (refused.state, refused.code) == ("rejected", "invalid_args"), "it would expire before it begins"
        assert it.effects() == [dated, delayed, early, first] or sorted(it.effects()) == sorted(
            [dated, delayed, early, first]
        )


async def test_only_what_a_key_of_the_device_has_signed_is_obeyed(tmp_path: Path) -> None:
    """For this device, this command and a limited time, and what that key may; of the rest nothing is done."""
    key, other, stranger = Key("ops"), Key("narrow"), Key("ops")
    keys = f"""
        [commands.keys.ops]
        public = "{key.public}"
        [commands.keys.narrow]
        public = "{other.public}"
        allow = ["ping"]
    """
    async with scene(tmp_path, commands=keys, knows_time=True) as it:
        one = it.operator
        soon = round(time.time()) + 600
        good = {"aud": DEVICE, "exp": soon, "cmd": "append"}
        tokens: list[tuple[str | None, bytes]] = [
            (None, key.token(good | {"jti": "good"})),
            (None, key.token(good | {"jti": "again", "args": {"before_ms": 1}, "nbf": soon - 1000})),
            ("bad_signature", stranger.token(good | {"jti": "stranger"})),
            ("bad_signature", Key("unknown").token(good | {"jti": "unknown"})),
            ("bad_signature", key.token(good | {"jti": "other-device", "aud": "dev-2"})),
            ("bad_signature", key.token(good | {"jti": "other-command", "cmd": "ping"})),
            ("bad_signature", key.token({name: good[name] for name in ("aud", "cmd")} | {"jti": "for-ever"})),
            ("bad_signature", key.token(good | {"jti": "none"}, {"alg": "none", "kid": "ops"})),
            ("bad_signature", key.token(good | {"jti": "torn"})[:-9]),
            ("bad_signature", json.dumps({"id": "plain"}).encode()),
            ("not_allowed", other.token(good | {"jti": "narrow"})),
            ("invalid_args", key.token(good | {"jti": "wrong-args", "args": {"x": 1}})),
            ("invalid_args", key.token(good | {"jti": "good", "args": {"before_ms": 1}})),
            ("expired", key.token(good | {"jti": "old", "exp": soon - 601})),
        ]
        for code, token in tokens:
            _ = one.send("append", token)
            command_id = str(claimed(token))
            await one.said_with(code, command_id)
        assert sorted(it.effects()) == ["again", "good"]
        assert [reply.state for reply in one.finals("good")] == ["succeeded", "rejected"]
        _ = one.send("append", tokens[0][1])
        await one.said("good", "succeeded", count=2)
        assert sorted(it.effects()) == ["again", "good"]


def claimed(token: bytes) -> object:
    """Return the id that a token claims to have."""
    parts = token.split(b".")
    said = json.loads(base64.urlsafe_b64decode(parts[1] + b"==") if len(parts) == 3 else token)
    return said.get("jti", said.get("id"))


# ---------------------------------------------------------------- what MQTT brings
async def test_answers_go_where_they_are_wanted_if_that_is_allowed(tmp_path: Path) -> None:
    """Below the device's own ``up/`` and on a list; not where they would be taken for something else, nor elsewhere."""
    async with scene(tmp_path, commands='answers = ["answers/+"]') as it:
        one, own = it.operator, f"edge/{DEVICE}/up/"
        for wanted, honoured in (
            (f"{own}answers/to/me", True),
            (f"{own}reply/me", True),
            ("answers/me", True),
            ("answers/me/too", False),
            ("answers", False),
            (f"{own}status", False),
            (f"{own}data/x", False),
            ("edge/other/up/reply/x", False),
            (f"edge/{DEVICE}/down/cmd/append", False),
            (f"{own}reply//answers/x/y", True),  # the agent itself marks so what is elsewhere
            ("$SYS/x", False),
        ):
            command_id = one.new_id()
            data = f"{command_id}\xff".encode()
            reply = await one.give("echo", id=command_id, mqtt={"ResponseTopic": wanted, "CorrelationData": data})
            assert reply.topic == (wanted if honoured else f"{own}reply/{command_id}")
            assert [said.correlation for said in one.of(command_id)] == [data] * 3
            assert {said.topic for said in one.of(command_id)} == {reply.topic}
            rejected = await one.give("no-such", mqtt={"ResponseTopic": wanted, "CorrelationData": data})
            assert rejected.correlation == data
            assert rejected.topic == (wanted if honoured else f"{own}reply/{rejected.data['id']}")
        assert it.effects() == []


async def test_correlation_data_serves_for_an_id_and_a_trace_is_passed_on(tmp_path: Path) -> None:
    """As it is if it is a name, else in hex; with it a second one is not obeyed. What is no trace goes no further."""
    async with scene(tmp_path) as it:
        one = it.operator
        for data, command_id in ((b"job:7", "job:7"), (b"\x00\x01\xfe", "0001fe"), (b"a b", "612062")):
            for _ in range(2):
                _ = one.send("append", id=None, mqtt={"CorrelationData": data, "traceparent": TRACE})
            said = await one.said(command_id, "succeeded", count=2)
            assert {reply.correlation for reply in said} == {data}
            assert {reply.event.get("traceparent") for reply in one.of(command_id)} == {TRACE}
        assert it.effects() == ["job:7", "0001fe", "612062"]
        reply = await one.give("echo", mqtt={"traceparent": "00-not-a-trace"})
        assert "traceparent" not in reply.event
        before = len(it.effects())
        for _ in range(3):
            _ = one.send("append", id=None)
        await one.until(lambda: len(it.effects()) == before + 3, "three commands without an id")
        assert len({name for name in it.effects()[before:] if name.startswith("x-")}) == 3


@BOTH
async def test_a_retained_command_is_obeyed_once_if_it_has_an_id_and_an_end(
    protocol: ProtocolVersion, tmp_path: Path
) -> None:
    """And silence meets it on each connection after that, whatever became of it; without either it is refused."""
    async with scene(tmp_path, protocol=protocol, knows_time=True) as it:
        one = it.operator
        good = await one.give("append", retain=True, expires=later(3600))
        assert good.state == "succeeded"
        if protocol == 5:  # before, a broker does not tell what was just published so from anything else
            hows: list[dict[str, Any]] = [{"id": None, "expires": later(60)}, {}]
            for how in hows:
                before = len(one.replies)
                _ = one.send("repeat", retain=True, **how)
                reply = await one.reply_after(before)
                assert (reply.state, reply.code) == ("rejected", "retained")
            one.clear("repeat")
            assert (await one.give("ping")).state == "succeeded"
            assert one.replies[-1].data["command"] == "ping", "to clear it is no command"
        for count in (2, 3):
            it.process.signal(signal.SIGKILL)
            await it.process.wait()
            it.process.start()
            await it.process.logged("health", count)
            assert (await one.give("ping")).state == "succeeded"  # it comes after what is retained
        assert it.effects() == [good.data["id"]]
        assert len(one.finals(good.data["id"])) == 1
        if protocol == 4:
            _ = one.send("append", retain=True, id=None)
            taken = (await one.until(lambda: it.effects()[1:], "its effect"))[0]
            assert (await one.final(taken)).state == "succeeded"
            it.process.signal(signal.SIGKILL)
            await it.process.wait()
            it.process.start()
            _ = await one.until(lambda: [said for said in one.replies if said.code == "retained"], "a refusal")
            assert it.effects() == [good.data["id"], taken]


# ---------------------------------------------------------------- one for many
@pytest.mark.timeout_s(45)
async def test_two_of_a_group_each_obey_once_and_one_that_has_left_does_not(tmp_path: Path) -> None:
    """Through groups and ``_all``; the broker's session may still have the filter of a group that was left."""
    folders = {name: tmp_path / name for name in ("left", "right")}
    effects = {name: Effects(folder) for name, folder in folders.items()}
    for folder in folders.values():
        folder.mkdir()

    def text(name: str, groups: list[str]) -> str:
        return device_text(broker.url, name=name, groups=groups)

    async with mosquitto(tmp_path) as broker, contextlib.AsyncExitStack() as stack:
        one = await stack.enter_async_context(operator(broker.url))
        devices = {
            name: await stack.enter_async_context(
                agent(folder, text(name, ["both", f"only-{name}"]), **effects[name].environ)
            )
            for name, folder in folders.items()
        }
        for process in devices.values():
            await process.logged("health")

        async def answered(to: str, count: int) -> list[str]:
            command_id = one.send("append", to=to)
            said = await one.said(command_id, "succeeded", count=count)
            assert len({reply.event["source"] for reply in said}) == count
            return [name for name in folders if effects[name]().count(command_id) == 1]

        assert await answered("_group/both", 2) == ["left", "right"]
        assert await answered("_all", 2) == ["left", "right"]
        assert await answered("_group/only-left", 1) == ["left"]
        process = devices["left"]
        under_way = one.send("append", to="left", args={"before_ms": 1000})
        _ = await one.said(under_way, "running")
        process.config.write_text(text("left", ["both"]))
        process.signal(signal.SIGHUP)
        await process.logged("config_applied")
        await process.logged("health", 2)
        unheard = one.send("append", to="_group/only-left")
        unknown = one.send("no-such", to="_group/only-left")
        await one.delivered()
        assert await answered("left", 1) == ["left"]
        assert await answered("_group/both", 2) == ["left", "right"]
        assert one.of(unheard) == one.of(unknown) == []
        assert not [reply for reply in one.replies if reply.state == "rejected"], "nor under an id of the device's own"
        assert (await one.final(under_way)).state == "succeeded"  # another connection is no reason to end it
        assert set(acknowledged(broker, "left")) == {"0"}
    assert unheard not in effects["left"]() + effects["right"]()


async def test_whatever_comes_is_acknowledged_as_received(tmp_path: Path) -> None:
    """With success, for a broker must neither close the connection nor keep what will never be taken."""
    async with scene(tmp_path, allow=["append", "echo"]) as it:
        one = it.operator
        for payload in (b"", b"{", b"\x00" * 300, b"y" * 100_000):
            for command in ("append", "no-such", "ping", "a/b/c", ""):
                _ = one.send(command, payload)
        await one.delivered()
        for qos in (0, 2):
            assert (await one.give("echo", qos=qos)).state == "succeeded"
        expected = 4 * 5 + 1  # what came with QoS 0 is not acknowledged
        codes = await one.until(lambda: (found := acknowledged(it.broker))[expected - 1 :] and found, "all PUBACKs")
        assert set(codes) == {"0"}
        assert not it.process.events("disconnected")


# ---------------------------------------------------------------- replies
async def test_refusals_are_all_told_as_long_as_there_are_not_more_than_a_hundred_a_second(tmp_path: Path) -> None:
    """80 at once, to a device that was away."""
    async with scene(tmp_path) as it:
        one = it.operator
        it.process.signal(signal.SIGKILL)
        await it.process.wait()
        ids = [one.send("no-such") for _ in range(80)]
        await one.delivered()
        it.process.start()
        await one.ended(ids, within_s=4)


async def test_to_clear_what_is_retained_is_no_command(tmp_path: Path) -> None:
    """Whatever the protocol says of RETAIN: an operator who takes back a command must not give it once more."""
    async with scene(tmp_path, protocol=4) as it:
        it.operator.clear("append")
        await it.operator.delivered()
        assert (await it.operator.give("ping")).state == "succeeded"
        await asyncio.sleep(0.5)
        assert it.effects() == []


async def test_correlation_data_comes_back_also_where_records_are_sent_in_batches(tmp_path: Path) -> None:
    """The last reply has what the first ones have."""
    async with scene(tmp_path, time_from="[outbox]\nbatch = 10") as it:
        one = it.operator
        command_id = one.send("echo", mqtt={"CorrelationData": b"job:1"}, id=None) or "job:1"
        _ = await one.final(command_id)
        assert [reply.correlation for reply in one.of(command_id)] == [b"job:1"] * 3


async def test_a_reply_has_no_attribute_that_nobody_promised(tmp_path: Path) -> None:
    """Correlation data belongs to the message, and the replies that are not durable do not say it either."""
    async with scene(tmp_path) as it:
        reply = await it.operator.give("echo", mqtt={"CorrelationData": b"job:1"}, id="job:1")
        assert "correlation" not in reply.event


# ---------------------------------------------------------------- away, and back
@pytest.mark.parametrize("ahead_s", [-7200, pytest.param(7200, marks=pytest.mark.slow)])
@pytest.mark.timeout_s(60)
async def test_what_was_sent_to_a_device_that_was_away_is_answered_by_true_time(ahead_s: int, tmp_path: Path) -> None:
    """500 commands, by a device whose own clock is two hours wrong: what has expired meanwhile is not obeyed."""
    effects = Effects(tmp_path)
    true_time = NtpServer(replying({"ahead": time.time_ns() - SystemClock().raw()}))
    async with mosquitto(tmp_path) as broker:
        with true_time as server:
            text = device_text(broker.url, extra=known_time(tmp_path, server.name))
            environ = effects.environ | wall_clock_off_by(ahead_s)
            async with agent(tmp_path, text, **environ) as process, operator(broker.url) as one:
                await process.logged("health")
                assert (await one.give("append", expires=later(60))).state == "succeeded"
                process.signal(signal.SIGTERM)
                assert await process.wait() == 0
                lasting = [one.send("append", expires=later(600)) for _ in range(210)]
                endless = [one.send("append") for _ in range(210)]
                gone = [one.send("append", expires=later(1)) for _ in range(80)]
                await one.delivered()
                await asyncio.sleep(1.1)
                process.start()
                await one.ended(lasting + endless + gone)
                assert {(reply.state, reply.code) for name in lasting + endless for reply in one.finals(name)} == {
                    ("succeeded", None)
                }
                ends = [reply for name in gone for reply in one.finals(name)]
                judged = {event["id"] for event in process.events("command_refused", code="expired")}
                assert judged == set(gone)
                assert {(reply.state, reply.code) for reply in ends} <= {("expired", "expired")}
                assert all(abs(instant(reply.data["finished"]) - time.time()) < 60 for reply in ends)
                assert sorted(effects()[1:]) == sorted(lasting + endless)


async def test_without_the_time_a_date_is_refused_and_a_time_to_live_is_not(tmp_path: Path) -> None:
    """To a device that was away, and whose time servers are not there."""
    async with scene(tmp_path, time_from=time_servers("127.0.0.1:1")) as it:
        one = it.operator
        it.process.signal(signal.SIGKILL)
        await it.process.wait()
        dated = [one.send("append", expires=later(off_s)) for off_s in (-3600, 3600)]
        lasting = one.send("append", ttl="1h")
        await one.delivered()
        it.process.start()
        for command_id in dated:
            reply = await one.final(command_id)
            assert (reply.state, reply.code) == ("rejected", "time_unknown")
        assert (await one.final(lasting)).state == "succeeded"
        assert it.effects() == [lasting]


@pytest.mark.timeout_s(60)
async def test_a_broker_that_restarts_costs_no_command_and_no_reply(tmp_path: Path) -> None:
    """What the broker has taken is obeyed once, and its end is told, whatever was under way."""
    async with scene(tmp_path) as it:
        one = it.operator
        ids = [one.send("append", args={"before_ms": 20}) for _ in range(60)]
        for count in (10, 70):
            _ = await one.until(lambda least=count: it.effects()[least:], "the first effects")  # type: ignore[misc]
            await it.broker.stop()
            await it.broker.start()
            ids += [one.send("append", args={"before_ms": 20}) for _ in range(60)]
        await one.delivered()
        await one.ended(ids)
        assert sorted(it.effects()) == sorted(ids)
        assert {reply.state for name in ids for reply in one.finals(name)} == {"succeeded"}
        assert len(it.process.events("disconnected")) == 2
