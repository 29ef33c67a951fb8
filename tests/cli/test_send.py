"""The verb send, as a process of its own: against devices on a real broker, and against brokers that refuse."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import pytest

from edge_agent.adapters.mqtt_connector import Login, MqttConnector
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.cli import main
from edge_agent.cli import send as verb
from edge_agent.cli.send import NO_SUBSCRIBERS, Sender, _show
from edge_agent.core.command_entry import REPLY
from edge_agent.core.command_states import State
from edge_agent.core.config_models import Tls
from edge_agent.core.config_types import BrokerUrl
from edge_agent.core.connection import ConnectionPolicy
from edge_agent.core.fleet import Fleet
from edge_agent.core.sending import Replies, Reply
from edge_agent.core.timebase import seconds
from edge_agent.errors import EdgeAgentError, TooLargeError, UnreachableError
from edge_agent.ports import Message
from edge_agent.services.watcher import Happening
from tests.support.agents import connect
from tests.support.brokers import free_port, mosquitto
from tests.support.command_device import DEVICES, command_device
from tests.support.scripted_broker import Personality, ScriptedBroker
from tests.support.tokens import Key

OPS = Key("ops")
SIGNED = f'[commands.keys.ops]\npublic = "{OPS.public}"\n'
every_device = pytest.mark.parametrize("device", DEVICES)


async def send(*arguments: str) -> tuple[int | None, str, str]:
    """Run the verb; return its exit code, its output and its errors."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "edge_agent", "send", *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


# ---------------------------------------------------------------- what any device does
@every_device
@pytest.mark.broker
@pytest.mark.timeout_s(90)
async def test_a_command_is_seen_through_its_states(device: str, tmp_path: Path) -> None:
    """In a pipe a line each; the same id again has the same answer; what is refused is said with what to do."""
    async with mosquitto(tmp_path) as broker, DEVICES[device](tmp_path, broker.url, "", ()):
        to = ("--broker", broker.url, "dev-1")
        code, out, err = await send(*to, "ping", "--id", "c-1")
        states = [line.split()[1] for line in out.splitlines() if line.startswith("dev-1 ")]
        assert (code, states, err) == (0, ["accepted", "running", "succeeded"], "")
        code, again, _ = await send(*to, "ping", "--id", "c-1", "--json")
        assert (code, json.loads(again)["state"], json.loads(again)["id"]) == (0, "succeeded", "c-1")
        for words, error in (
            (["no-such"], "unknown_command"),
            (["ping", '{"x": 1}'], "invalid_args"),
        ):
            code, out, err = await send(*to, *words)
            assert (code, err) == (1, "")
            said, note = out.splitlines()
            assert said.startswith(f"dev-1 rejected {error}: ")
            assert note.startswith("note: ")


@every_device
@pytest.mark.broker
async def test_what_is_not_allowed_is_said_with_where_to_allow_it(device: str, tmp_path: Path) -> None:
    """The device has it, and its configuration does not have it in the list."""
    async with mosquitto(tmp_path) as broker, DEVICES[device](tmp_path, broker.url, '[commands]\nallow = ["x"]', ()):
        code, out, err = await send("--broker", broker.url, "dev-1", "ping")
    assert (code, err) == (1, "")
    assert out.startswith('dev-1 rejected not_allowed: "ping" is not allowed here; commands.allow allows x\nnote: ')


@every_device
@pytest.mark.broker
@pytest.mark.timeout_s(90)
async def test_with_a_key_only_what_is_signed_is_obeyed(device: str, tmp_path: Path) -> None:
    """By that key; whoever signs with another of its name, or not at all, learns it."""
    for name, key in (("ops", OPS), ("stranger", Key("ops"))):
        (tmp_path / name).write_bytes(key.jwk)
    async with mosquitto(tmp_path) as broker, DEVICES[device](tmp_path, broker.url, SIGNED, ("plant-7",)):
        to = ("--broker", broker.url)
        for options in (["dev-1"], ["--group", "plant-7", "--expect", "1"]):
            code, out, err = await send(*to, *options, "ping", "--sign", str(tmp_path / "ops"))
            assert (code, "succeeded" in out, err) == (0, True, "")
        for signed in ([], ["--sign", str(tmp_path / "stranger")], ["--sign", str(tmp_path / "ops"), "--kid", "x"]):
            code, out, _ = await send(*to, "dev-1", "ping", *signed)
            assert (code, out.startswith("dev-1 rejected bad_signature: ")) == (1, True), out


@every_device
@pytest.mark.broker
async def test_what_is_not_done_in_time_is_69(device: str, tmp_path: Path) -> None:
    """With how far it is, and how to learn the rest."""
    async with mosquitto(tmp_path) as broker, DEVICES[device](tmp_path, broker.url, "", ()):
        options = ("--broker", broker.url, "--id", "c-1", "--delay", "1h", "--timeout", "4s")
        code, out, err = await send(*options, "dev-1", "ping")
    assert (code, out) == (69, "dev-1 accepted\n")
    assert err == (
        "edge-agent: no final reply came in time (--timeout 4s): it is accepted; ask again with --id c-1 and a longer "
        "--timeout\n"
    )


# ---------------------------------------------------------------- many devices
@pytest.mark.broker
@pytest.mark.timeout_s(90)
async def test_many_are_a_table_as_they_come(tmp_path: Path) -> None:
    """It ends with the last that is expected; more than there are is 69, one that failed is 1."""
    async with (
        mosquitto(tmp_path) as broker,
        command_device(broker.url, device="dev-1", groups=["g"], copies=3),
        command_device(broker.url, device="dev-2", groups=["g"]),
        command_device(broker.url, '[commands]\nallow = ["x"]', device="dev-3"),
    ):
        to = ("--broker", broker.url)
        code, out, _ = await send(*to, "--group", "g", "--expect", "2", "ping")
        final = sorted(line for line in out.splitlines() if "succeeded" in line)
        assert code == 0
        assert final == [f'{name:<16} succeeded   {{"device":"{name}"}}' for name in ("dev-1", "dev-2")]
        assert out.count("dev-1 running") == 1
        code, out, _ = await send(*to, "--all", "--json", "--expect", "3", "ping")
        assert code == 1
        assert {one["device"]: one["state"] for one in map(json.loads, out.splitlines())} == {
            "dev-1": "succeeded",
            "dev-2": "succeeded",
            "dev-3": "rejected",
        }
        code, _, err = await send(*to, "--group", "g", "--expect", "3", "--timeout", "4s", "--id", "c-1", "ping")
        assert (code, err.startswith("edge-agent: 2 of 3 final replies came in time (--timeout 4s); ask")) == (69, True)


# ---------------------------------------------------------------- nobody answers
@pytest.mark.broker
async def test_who_is_not_there_is_not_waited_for(tmp_path: Path) -> None:
    """The broker says at once that nobody listens; a device that is offline is said to be."""
    async with mosquitto(tmp_path) as broker:
        code, out, err = await send("--broker", broker.url, "dev-1", "ping", "--timeout", "1h")
        assert (code, out) == (69, "")
        assert err.startswith("edge-agent: nobody listens on edge/dev-1/down/cmd/ping; is the name right")
        other = await connect(broker.url, client_id="other")
        await other.subscribe_to(["edge/dev-1/down/#"])
        await other.send(Message("edge/dev-1/up/status", b"offline", retain=True))
        code, _, err = await send("--broker", broker.url, "dev-1", "ping", "--timeout", "4s", "--id", "c-1")
        assert (code, err.startswith("edge-agent: dev-1 is offline; ")) == (69, True)
        await other.send(Message("edge/dev-1/up/status", b"online", retain=True))
        code, _, err = await send("--broker", broker.url, "dev-1", "ping", "--timeout", "4s", "--id", "c-1")
        assert (code, err.startswith("edge-agent: no reply came from dev-1 in time")) == (69, True)
        await other.disconnect()


async def test_a_broker_that_cannot_be_reached_is_69() -> None:
    """With the reason; it does not try for ever."""
    url = f"mqtt://127.0.0.1:{free_port()}"
    code, out, err = await send("--broker", url, "dev-1", "ping", "--timeout", "1h")
    assert (code, out) == (69, "")
    assert err == f"edge-agent: not reached: {url}: nothing listens there; check the port, is the broker up?\n"


async def test_what_the_broker_refuses_is_1() -> None:
    """Without the replies nothing is sent; without the status it is; what is not taken is not waited for."""

    def refuse(name: str) -> int | None:
        return 0x87 if "reply" in name else None

    async with ScriptedBroker(Personality(suback=refuse)) as broker:
        code, _, err = await send("--broker", broker.url, "dev-1", "ping", "--timeout", "1h")
        assert (code, err.startswith("edge-agent: subscription refused: edge/dev-1/up/reply/c-")) == (1, True)
        assert broker.publishes == []
    knobs = Personality(suback=lambda name: 0x87 if "status" in name else None, puback=lambda _topic, _n: 0x87)
    async with ScriptedBroker(knobs) as broker:
        code, _, err = await send("--broker", broker.url, "dev-1", "ping", "--timeout", "1h")
        assert (code, "the broker refuses edge/dev-1/down/cmd/ping (0x87); may this user" in err) == (1, True)


# ---------------------------------------------------------------- a terminal, and options
@pytest.mark.broker
async def test_on_a_terminal_the_last_word_stays(tmp_path: Path) -> None:
    """Coloured, and the result as a person reads it."""
    master, slave = pty.openpty()
    async with mosquitto(tmp_path) as broker, command_device(broker.url):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "edge_agent", "send", "--broker", broker.url, "dev-1", "ping"),
            stdout=slave,
            stderr=asyncio.subprocess.PIPE,
            env={name: value for name, value in os.environ.items() if name != "NO_COLOR"},
        )
        _, err = await process.communicate()
    shown = os.read(master, 65536).decode()
    os.close(master)
    os.close(slave)
    assert (process.returncode, err) == (0, b"")
    assert shown.splitlines() == ["dev-1 \x1b[32msucceeded\x1b[0m", "{", '  "device": "dev-1"', "}"]


def test_what_a_device_says_cannot_drive_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Nor break a line."""
    said = {"error": {"code": "failed", "message": "a\x1b]0;x\x07\nb"}}
    _show(Reply("dev-1", State.FAILED, said), single=True, as_json=False)
    _show(Reply("dev-1", State.SUCCEEDED, {"result": "\x9b31m\u202e\u2028"}), single=False, as_json=False)
    out = capsys.readouterr().out
    assert out == f'dev-1 failed failed: a]0;xb\n{"dev-1":<16} succeeded   "31m"\n'


@pytest.mark.broker
async def test_who_reads_no_more_is_no_bug(tmp_path: Path) -> None:
    """It ends with one line."""
    reading, writing = os.pipe()
    os.close(reading)
    async with mosquitto(tmp_path) as broker, command_device(broker.url):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "edge_agent", "send", "--broker", broker.url, "dev-1", "ping"),
            stdout=writing,
            stderr=asyncio.subprocess.PIPE,
        )
        os.close(writing)
        _, err = await process.communicate()
    assert (process.returncode, err) == (1, b"edge-agent: cannot write the reply: Broken pipe\n")


def test_to_sign_without_the_library_is_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With what to install."""
    monkeypatch.setattr(verb, "missing_signatures", lambda: "no library; pip install 'edge-agent[signed]'")
    assert main(["send", "--broker", "mqtt://127.0.0.1:1", "d", "ping", "--sign", "/none"]) == 1
    assert capsys.readouterr().err == "edge-agent: no library; pip install 'edge-agent[signed]'\n"


WRONG: list[tuple[list[str], str]] = [
    (["ping"], "DEVICE, COMMAND and at most JSON are needed"),
    (["d", "ping", "{}", "x"], "DEVICE, COMMAND and at most JSON are needed"),
    (["--all", "ping", "{}", "x"], "COMMAND and at most JSON are needed"),
    (["_all", "ping"], "'_all': a name"),
    (["d", "a/b"], "'a/b': a name"),
    (["--group", "#", "ping"], "'#': a name"),
    (["--group", "g", "--all", "ping"], "argument --all: not allowed with argument --group"),
    (["d", "ping", "{"], "JSON: "),
    (["d", "ping", "[]"], "args: an object"),
    (["d", "ping", "--expect", "2"], "--expect N: at least 1, and only with"),
    (["--all", "ping", "--expect", "0"], "--expect N: at least 1"),
    (["d", "ping", "--id", "a b"], "id: a name"),
    (["d", "ping", "--ttl", "soon"], 'ttl: found "soon"'),
    (["d", "ping", "--delay", "9999d"], "delay: found"),
    (["d", "ping", "--expires", "tomorrow"], '--expires: found "tomorrow"'),
    (["d", "ping", "--not-before", "999999999999d"], "--not-before: "),
    (["d", "ping", "--timeout", "5"], '--timeout: found "5"'),
    (["d", "ping", json.dumps({"x": "y" * 70_000})], "the command has 70"),
    (["d", "ping", "--sign", "/none"], "/none: No such file"),
    (["d", "ping", "--sign", "/dev/null"], "--sign /dev/null: a JWK with the private half"),
    (["d", "ping", "--broker", "x"], "--broker: found"),
]


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_a_wrong_option_is_64(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    """In one line."""
    arguments, text = WRONG[number]
    try:
        code: object = main(["send", "--broker", "mqtt://127.0.0.1:1", *arguments])
    except SystemExit as parser:
        code = parser.code
    out, err = capsys.readouterr()
    assert (code, out) == (64, ""), err
    assert err.startswith(f"edge-agent: {text}")
    assert err.count("\n") == 1


TOPIC, FILTERS = "edge/dev-1/down/cmd/ping", ("edge/dev-1/up/reply/c-1", "edge/dev-1/up/status")


@dataclass
class Heard:
    """What came of it."""

    sender: Sender
    replies: list[Reply] = field(default_factory=list)
    told: list[Happening] = field(default_factory=list)

    def tell(self, happening: Happening) -> None:
        """Take note, as the sender does."""
        self.told.append(happening)
        self.sender.happened(happening)


@contextlib.asynccontextmanager
async def sending(port: int, payload: bytes = b"{}") -> AsyncIterator[Heard]:
    """Send a ping to ``dev-1``."""
    policy = ConnectionPolicy(
        (BrokerUrl("mqtt", "127.0.0.1", port),), protocol=None, reconnect_max=seconds(1), uniform=lambda: 0.1
    )
    connector = MqttConnector(Login("send", seconds(30), seconds(0), seconds(0), Tls()), clock=SystemClock())
    sender = Sender(connector, policy, SystemClock(), Fleet(), ("edge", FILTERS), lambda _: None)
    heard = Heard(sender)
    sender.message, sender.replies, sender.over = Message(TOPIC, payload), Replies("edge", "c-1", 1), asyncio.Event()
    sender.tell, sender.show = heard.tell, heard.replies.append
    task = asyncio.get_running_loop().create_task(sender.run())
    try:
        yield heard
    finally:
        task.cancel()
        await asyncio.wait((task,))
        assert task.cancelled()


def reply(state: State, event: int) -> bytes:
    """Return one as the device publishes it."""
    said = {"command": "ping", "id": "c-1", "state": state}
    return orjson.dumps({"type": REPLY, "source": "/devices/dev-1", "id": f"s.{event}", "data": said})


async def test_it_subscribes_before_it_publishes() -> None:
    """Else a quick reply would be missed; what is said of the device's status is kept."""
    async with ScriptedBroker() as broker, sending(broker.port) as heard:
        await broker.wait_for(lambda: len(broker.publishes) == 1)
        (publish,) = broker.publishes
        assert (publish.topic, publish.payload, publish.qos, publish.retain) == (TOPIC, b"{}", 1, False)
        assert broker.connections[0].subscribes[0].filters == FILTERS
        broker.inject("edge/dev-1/up/status", b"offline", retain=True)
        broker.inject(FILTERS[0], b"nonsense")
        for event, state in enumerate((State.ACCEPTED, State.SUCCEEDED)):
            broker.inject(FILTERS[0], reply(state, event))
        await heard.sender.over.wait()
        assert [one.state for one in heard.replies] == [State.ACCEPTED, State.SUCCEEDED]
        assert heard.sender.given_up is None
        assert heard.sender.offline


async def test_after_a_lost_connection_it_is_sent_again_until_the_last_word() -> None:
    """The reply may have passed meanwhile; the device does it once all the same, and says it again."""
    async with ScriptedBroker() as broker, sending(broker.port) as heard:
        await broker.wait_for(lambda: len(broker.publishes) == 1)
        broker.drop_clients()
        await broker.wait_for(lambda: len(broker.publishes) == 2)
        assert {publish.payload for publish in broker.publishes} == {b"{}"}
        broker.inject(FILTERS[0], reply(State.SUCCEEDED, 1))
        await heard.sender.over.wait()
        broker.drop_clients()
        await broker.wait_for(lambda: len(broker.connections) == 3 and bool(broker.connections[-1].subscribes))
        broker.inject("edge/dev-1/up/status", b"offline")
        while not heard.sender.offline:  # noqa: ASYNC110  # what it would have sent, it has sent before
            await asyncio.sleep(0.01)
    assert len(broker.publishes) == 2


async def test_nobody_listening_is_the_end_unless_somebody_has_before() -> None:
    """A device that restarts with a clean session comes back."""
    knobs = Personality(puback=lambda _topic, _number: NO_SUBSCRIBERS)
    async with ScriptedBroker(knobs) as broker, sending(broker.port) as heard:
        await heard.sender.over.wait()
        assert isinstance(heard.sender.given_up, UnreachableError)
        assert str(heard.sender.given_up).startswith(f"nobody listens on {TOPIC}; ")
    knobs = Personality(puback=lambda _topic, number: NO_SUBSCRIBERS if number > 1 else 0)
    async with ScriptedBroker(knobs) as broker, sending(broker.port) as heard:
        await broker.wait_for(lambda: len(broker.publishes) == 1)
        broker.drop_clients()
        await broker.wait_for(lambda: len(broker.publishes) == 2)
        broker.inject(FILTERS[0], reply(State.SUCCEEDED, 1))
        await heard.sender.over.wait()
        assert heard.sender.given_up is None


async def test_what_the_broker_does_not_take_is_the_end() -> None:
    """Refused, or too large for it."""
    for knobs, kind in (
        (Personality(puback=lambda _topic, _number: 0x87), EdgeAgentError),
        (Personality(maximum_packet_size=200), TooLargeError),
    ):
        async with ScriptedBroker(knobs) as broker, sending(broker.port, b"x" * 300) as heard:
            await heard.sender.over.wait()
            assert type(heard.sender.given_up) is kind


async def test_without_the_replies_nothing_is_sent_and_without_the_status_it_is() -> None:
    """Also where a broker refuses by closing the connection."""
    for closing in (True, False):

        def knobs(word: str, closing: bool = closing) -> Personality:  # noqa: FBT001
            if closing:
                return Personality(close_on_subscribe=lambda name: word in name)
            return Personality(suback=lambda name: 0x87 if word in name else None)

        async with ScriptedBroker(knobs("status")) as broker, sending(broker.port):
            await broker.wait_for(lambda: len(broker.publishes) == 1)
        async with ScriptedBroker(knobs("reply")) as broker, sending(broker.port) as heard:
            while not any("up/reply" in str(one) and "refused" in str(one) for one in heard.told):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert broker.publishes == []
