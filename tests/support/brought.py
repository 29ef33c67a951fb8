"""Commands that a package brings: what a test gives an agent to obey, each with a way to go wrong of its own.

Those with an effect write the command's id to the file ``$EFFECTS``, one a line, at once and without a buffer: that
survives the process's end by SIGKILL.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import Final

from edge_agent.command_ports import Call, Command, CutOff, NoArgs
from edge_agent.core.command_request import Code, CommandError
from edge_agent.core.config_types import Section
from edge_agent.core.timebase import seconds
from edge_agent.errors import EdgeAgentError

EFFECTS: Final = "EFFECTS"


class Text(Section):
    """Anything to say."""

    text: str = ""


class Steps(Section):
    """How long it takes before its effect, and after it."""

    before_ms: int = 0
    after_ms: int = 0


def _write_down(call: Call) -> None:
    file = os.open(os.environ[EFFECTS], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, f"{call.id}\n".encode())
    os.close(file)


async def _echo(_call: Call, args: Text) -> dict[str, str]:
    return {"text": args.text}


async def _append(call: Call, args: Steps) -> dict[str, str]:
    await asyncio.sleep(args.before_ms / 1000)
    _write_down(call)
    await asyncio.sleep(args.after_ms / 1000)
    return {"wrote": call.id}


async def _fail(_call: Call, _args: NoArgs) -> None:
    raise EdgeAgentError("the valve is stuck; free it")


async def _refuse(_call: Call, _args: NoArgs) -> None:
    raise CommandError(Code.BUSY, "the valve is moving; wait")


async def _stumble(_call: Call, _args: NoArgs) -> None:
    raise ZeroDivisionError("a bug")


async def _hang(_call: Call, _args: NoArgs) -> None:
    await asyncio.sleep(3600)


async def _ignore_all(_call: Call, _args: NoArgs) -> None:
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)


async def _say_too_much(_call: Call, _args: NoArgs) -> str:
    return "x" * 200_000


async def _die(call: Call, _args: NoArgs) -> None:
    _write_down(call)
    os._exit(7)


async def _leave(call: Call, _args: NoArgs) -> None:
    _write_down(call)
    os.kill(os.getpid(), signal.SIGKILL)
    await asyncio.sleep(3600)


SOON: Final = seconds(0.3)
ECHO: Final = Command("echo", "Say it again.", Text, dict, _echo)
APPEND: Final = Command("append", "Write the id down.", Steps, dict, _append, cut_off=CutOff.INTERRUPTED)
ONE_BY_ONE: Final = Command(
    "one-by-one", "Write the id down.", Steps, dict, _append, cut_off=CutOff.INTERRUPTED, at_once=1, waiting=2
)
REPEAT: Final = Command("repeat", "Write the id down; may be done twice.", Steps, dict, _append)
FAIL: Final = Command("fail", "Fail for a reason outside.", NoArgs, dict, _fail)
REFUSE: Final = Command("refuse", "Fail with a code.", NoArgs, dict, _refuse)
STUMBLE: Final = Command("stumble", "Have a bug.", NoArgs, dict, _stumble)
HANG: Final = Command("hang", "Take too long.", NoArgs, dict, _hang, timeout=SOON)
DEAF: Final = Command("deaf", "Take too long, and do not be ended.", NoArgs, dict, _ignore_all, timeout=SOON)
HUGE: Final = Command("huge", "Say too much.", NoArgs, str, _say_too_much)
POISON: Final = Command("poison", "End the agent; may be done twice.", NoArgs, dict, _die)
LEAVE: Final = Command("leave", "End the agent; that is all.", NoArgs, dict, _leave, cut_off=CutOff.DONE)
