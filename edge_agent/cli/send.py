"""``edge-agent send``: sends a command to a device, a group or all, and waits for the replies."""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import secrets
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final

import orjson

from edge_agent.adapters.config_probe import missing_signatures
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.cli.operating import find_target, observe
from edge_agent.cli.options import add, opened
from edge_agent.cli.printing import printable, progress, say, say_json
from edge_agent.core.command_request import MAX_PAYLOAD, Code, CommandError, Request, request_from
from edge_agent.core.command_states import State
from edge_agent.core.config_types import NAME_NEEDED, NAME_PATTERN
from edge_agent.core.fleet import Fleet
from edge_agent.core.sending import Replies, Reply, claims, group_address, plain
from edge_agent.core.timebase import DurationNs, UtcNs, rfc3339, to_seconds
from edge_agent.core.topics import Topics
from edge_agent.core.units import format_duration, parse_duration, parse_instant
from edge_agent.errors import EdgeAgentError, UnreachableError, UsageError
from edge_agent.ports import Message
from edge_agent.services.sender import Sender
from edge_agent.services.watcher import Happening, Link

GIVE_UP_AFTER: Final = 3  # attempts, without a first connection
MAX_KEY_FILE: Final = 64 * 1024
_LISTED: Final = "it lists what it has in its topic up/commands"
_REMEDIES: Final = {
    Code.UNKNOWN_COMMAND: f"the device has no such command; {_LISTED}",
    Code.INVALID_ARGS: f"{_LISTED}, each with the schema of its arguments",
    Code.NOT_ALLOWED: "the device's own configuration has to allow it, in [commands] or in the key's table there",
    Code.BAD_SIGNATURE: "sign with a key that the device has: --sign KEYFILE; docs/signing.md tells how",
    Code.EXPIRED: "give it longer with --expires or --ttl; is this machine's clock right?",
    Code.TIME_UNKNOWN: "the device does not know the time yet: try later, or, not signed, --ttl in place of --expires",
    Code.BUSY: "try again later",
}


def describe(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options to its parser."""
    parser.usage = "edge-agent send [options] (DEVICE | --group G | --all) COMMAND [JSON]"
    parser.description = (
        "Send a command over the broker, and show what becomes of it: accepted, running, succeeded. For example: "
        'edge-agent send gw-0042 ping; edge-agent send gw-0042 job-run \'{"job": "sync"}\'. Exit 0 if it succeeded, '
        "1 if not, 69 if the broker cannot be reached or no final reply comes in time. To send the same --id again is "
        "safe: a device does it once, and says its reply again."
    )
    parser.add_argument("words", nargs="+", metavar="DEVICE COMMAND JSON", help="JSON: its arguments, an object")
    many = parser.add_mutually_exclusive_group()
    many.add_argument("--group", metavar="G", help="to all devices of a group, in place of DEVICE")
    many.add_argument("--all", action="store_true", help="to all devices, in place of DEVICE")
    own: dict[str, dict[str, Any]] = {
        "--expect": {
            "metavar": "N",
            "type": int,
            "help": "with --group, --all: end after N final replies, else after --timeout",
        },
        "--timeout": {"metavar": "T", "default": "30s", "help": "wait so long for final replies; default: 30s"},
        "--sign": {"metavar": "KEYFILE", "help": "sign it with a key of edge-agent keygen"},
        "--kid": {"metavar": "NAME", "help": "what the devices call the key; default: as in its file"},
        "--id": {"help": "of the command; default: a new one"},
        "--expires": {"metavar": "T", "help": "not begun after: 10m from now, or 2026-12-01T00:00:00Z; signed: 5m"},
        "--ttl": {"metavar": "T", "help": "not begun later than this after the device has it, like 10m"},
        "--not-before": {"metavar": "T", "help": "not begun before: 1h from now, or 2026-12-01T00:00:00Z"},
        "--delay": {"metavar": "T", "help": "not begun earlier than this after the device has it, like 30s"},
    }
    add(parser, *own, "--broker", "--prefix", "--config", "--json", own=own)


def run(args: argparse.Namespace) -> int:
    """Send; return 0 if it succeeded everywhere, else 1."""
    device, command, text = _words(args)
    address = device or group_address(args.group)
    request = _request(args, command, text, SystemClock().wall())
    assert request.id is not None, "each command that is sent has one"
    payload = plain(request) if args.sign is None else _signed(claims(request, address), args.sign, args.kid)
    if len(payload) > MAX_PAYLOAD:
        raise UsageError(f"the command has {len(payload)} bytes; {MAX_PAYLOAD} are allowed")
    timeout = _parsed("--timeout", args.timeout, parse_duration)
    target = find_target(args, os.environ, verb="send")
    replies = Replies(target.prefix, request.id, args.expect if device is None else 1)
    topics = Topics(target.prefix, device or "+")
    filters = [topics.up(f"reply/{request.id}"), *([topics.status] if device else [])]
    waiting = _Waiting(replies, single=device is not None, as_json=args.json)
    sender = target.watcher(Sender, Fleet(), SystemClock(), waiting.tell, filters)
    sender.message = Message(f"{target.prefix}/{address}/down/cmd/{command}", payload)
    sender.replies, sender.heard, sender.give_up = replies, waiting.heard, waiting.give_up
    asyncio.run(observe(sender, over=waiting.over, seconds_=to_seconds(timeout)))
    progress("")
    if waiting.given_up:
        raise waiting.given_up
    final = replies.final()
    if len(final) < (replies.expected or 1):
        raise UnreachableError(_unanswered(sender, device, timeout))
    return 0 if set(final) == {State.SUCCEEDED} else 1


class _Waiting:
    """Shows what comes, and knows when to wait no longer."""

    def __init__(self, replies: Replies, *, single: bool, as_json: bool) -> None:
        self._replies, self._single, self._as_json = replies, single, as_json
        self._failures: int | None = 0  # in a row from the start
        self.over = asyncio.Event()
        self.given_up: EdgeAgentError | None = None

    def give_up(self, error: EdgeAgentError) -> None:
        """End with an error."""
        self.given_up = error
        self.over.set()

    def tell(self, happening: Happening) -> None:
        """Take note of what becomes of the connection."""
        assert isinstance(happening, Link), "of the fleet it hears nothing"
        if happening.event == "refused" and "/up/reply/" in happening.text:
            self.give_up(EdgeAgentError(f"subscription refused: {happening.text}"))
        elif happening.event == "connected":
            self._failures = None
        elif happening.event == "failed" and self._failures is not None:
            self._failures += 1
            if self._failures >= GIVE_UP_AFTER:
                self.over.set()

    def heard(self, reply: Reply) -> None:
        """Show a reply."""
        try:
            _show(reply, single=self._single, as_json=self._as_json)
        except OSError as error:  # nobody reads, or the disk is full
            self.give_up(EdgeAgentError(f"cannot write the reply: {error.strerror}"))
        if self._replies.complete:
            self.over.set()


# ---------------------------------------------------------------- what is sent
def _words(args: argparse.Namespace) -> tuple[str | None, str, str]:
    """Return the device, if one is named, the command, and its arguments as text."""
    words = list(args.words)
    to_many = args.all or args.group is not None
    if args.expect is not None and (args.expect < 1 or not to_many):
        raise UsageError("--expect N: at least 1, and only with --group or --all")
    device = None if to_many else words.pop(0)
    if not 1 <= len(words) <= 2:
        needed = "COMMAND and at most JSON" if to_many else "DEVICE, COMMAND and at most JSON"
        raise UsageError(f"{needed} are needed, JSON as one word in quotes; see edge-agent send --help")
    for name in filter(None, (device, args.group, words[0])):
        if not re.fullmatch(NAME_PATTERN, name) or (name == device and name.startswith("_")):
            raise UsageError(f"{name!r}: {NAME_NEEDED} is needed (of a device, no _ first)")
    return device, words[0], words[1] if len(words) > 1 else "{}"


def _request(args: argparse.Namespace, command: str, text: str, now: int) -> Request:
    """Return what the options ask for.

    Raises:
        UsageError: that is not possible.
    """

    def instant(text: str) -> str:
        """Return a time as it is, or that far from now."""
        try:
            return rfc3339(parse_instant(text))
        except ValueError:
            return rfc3339(UtcNs(now + parse_duration(text)))

    said = {"id": args.id or f"c-{secrets.token_hex(8)}", "args": _parsed("JSON", text, orjson.loads)}
    said |= {name: value for name in ("ttl", "delay") if (value := getattr(args, name)) is not None}
    expires = args.expires or ("5m" if args.sign else None)
    for name, value in (("expires", expires), ("not_before", args.not_before)):
        if value is not None:
            said[name] = _parsed(f"--{name.replace('_', '-')}", value, instant)
    try:
        return request_from(command, said)
    except CommandError as error:
        raise UsageError(str(error)) from None


def _parsed(name: str, text: str, parse: Callable[[str], Any]) -> Any:  # noqa: ANN401  # whatever parse returns
    try:
        return parse(text)
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{name}: {error}") from None


def _signed(payload: bytes, file: str, kid: str | None) -> bytes:
    if missing := missing_signatures():
        raise EdgeAgentError(missing)
    from edge_agent.adapters import jose  # noqa: PLC0415  # an extra

    with opened(file, "rb") as stream:
        held = stream.read(MAX_KEY_FILE)
    try:
        return jose.sign(payload, held, kid=kid)
    except ValueError as error:
        raise UsageError(f"--sign {file}: {error}") from None


# ---------------------------------------------------------------- what is said
def _show(reply: Reply, *, single: bool, as_json: bool) -> None:
    """Show a reply: on a terminal only the last one of a device stays."""
    if not reply.state.is_final:
        if sys.stdout.isatty():
            progress(f"{reply.device} {reply.state}")
        elif not as_json:
            say(f"{reply.device} {reply.state}")
        return
    progress("")
    if as_json:
        say_json({"device": reply.device, **reply.data})
    else:
        say(*(printable(line) for line in _lines(reply, single=single)))


def _lines(reply: Reply, *, single: bool) -> Iterator[str]:
    """Yield the state of a command, its result or error, and what to do."""
    head = f"{reply.device} {reply.state}" if single else f"{reply.device:<16} {reply.state:<11}"
    result = reply.data.get("result")
    if reply.error is not None:
        code, message = reply.error
        yield f"{head} {code}: {message}"
        if single and code in _REMEDIES:
            yield f"note: {_REMEDIES[Code(code)]}"
    elif not single:
        yield head.rstrip() if result is None else f"{head} {orjson.dumps(result).decode()}"
    else:
        yield head
        option = orjson.OPT_INDENT_2 if sys.stdout.isatty() else None
        yield from () if result is None else orjson.dumps(result, option=option).decode().splitlines()


def _unanswered(sender: Sender, device: str | None, timeout: DurationNs) -> str:
    """Return who has not replied, and what to do about it."""
    replies = sender.replies
    again = f"ask again with --id {replies.command_id}"
    within = f"in time (--timeout {format_duration(timeout)})"
    if device is None:
        of = f" of {replies.expected}" if replies.expected else ""
        return f"{len(replies.final())}{of} final replies came {within}; {again} and a longer --timeout"
    if sender.offline:
        return f"{device} is offline; it gets the command when it is back if the broker keeps it so long; {again} then"
    if device in replies.last:
        return f"no final reply came {within}: it is {replies.last[device]}; {again} and a longer --timeout"
    return f"no reply came from {device} {within}; is the name right, and does the agent run? {again} if so"
