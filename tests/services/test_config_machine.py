"""Whatever happens to a device, its files, disk and cloud: what is in force follows from what was said to it."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

import pytest
from typing_extensions import override

from edge_agent.core.config import HostFacts, parse
from edge_agent.core.config_document import Source
from edge_agent.core.config_remote import Desired
from edge_agent.errors import ConfigError, EdgeAgentError
from tests.support.configuring import HEAD, WITHIN_S, Counter, Device, Disk, KilledError
from tests.support.virtual_time import VirtualTimeLoop

pytest.importorskip("hypothesis", reason="property tests need hypothesis")

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

T = TypeVar("T")
SHM: Final = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108
PROVEN_S: Final = 60
KEPT: Final = 20


class File(NamedTuple):
    """What a file says: how often, and whether the cloud may say so; or which nonsense."""

    every: str
    opened: bool = True
    nonsense: str = ""

    @property
    def text(self) -> str:
        """The file."""
        opened = '["heartbeat"]' if self.opened else "[]"
        return self.nonsense or f'{HEAD}config.remote = {opened}\nheartbeat.every = "{self.every}"\n'


Key: TypeAlias = tuple[str, bool]
"""What a configuration comes to."""

KEYS: Final = [(every, opened) for every in ("10s", "20s", "30s", "40s", "50s", "1m") for opened in (True, False)]

GOOD: Final = [File(every, opened) for every in ("10s", "20s", "30s") for opened in (True, True, False)]
BAD: Final = [File("", nonsense="[[["), File("", nonsense='heartbeat.every = "1ms"'), File("", nonsense="x = 1")]
SAID: Final[list[dict[str, Any]]] = [
    {},
    *({"heartbeat": {"every": every}} for every in ("10s", "20s", "40s", "50s")),
    {"heartbeat": None},
    {"heartbeat": {"every": "1ms"}},
    {"programs": {"x": {"argv": ["/bin/sh"]}}},
]


@dataclass(frozen=True)
class Known:
    """What a device has to know: first what outlives it, then what does not."""

    layer: Desired | None = None
    version: int = 0
    content: object = None
    given_up: bool = False
    on_trial: bool = False
    before: Desired | None = None
    confirmed: bool = False
    starts: int = 0
    until: float = 0
    boot: int = 0
    pin: tuple[Key, File] | None = None
    history: tuple[tuple[Key, str, int | None], ...] = ()

    source: File = GOOD[0]
    seen: File = GOOD[0]
    rejected: bool = False
    refused: tuple[int | None] | None = None
    proven_at: float | None = None

    @property
    def pending(self) -> bool:
        """Whether a broker has yet to acknowledge it."""
        return self.on_trial and not self.confirmed

    @property
    def unfit(self) -> bool:
        """Whether what the cloud says does not fit the files."""
        return result(self.source, self.layer) is None

    @property
    def now(self) -> Key:
        """What is in force."""
        return result(self.source, self.layer) or (self.source.every, self.source.opened)

    @property
    def in_force_version(self) -> int | None:
        """The version that is in force."""
        return None if self.layer is None or self.unfit else self.layer.version

    def said(self) -> tuple[int | None, str]:
        """Return of what the cloud is told."""
        if self.refused is not None:
            return self.refused[0], "rejected"
        if self.layer is not None and self.unfit:
            return self.layer.version, "rejected"
        if self.given_up:
            return self.version or None, "rolled_back"
        return None if self.layer is None else self.layer.version, "pending_confirm" if self.pending else "applied"

    def kept(self) -> Known:
        """Return what of it is on the disk."""
        return replace(self, source=GOOD[0], seen=GOOD[0], rejected=False, refused=None, proven_at=None)

    def ended(self, *, at: float) -> Known:
        """Return what is known once the trial, if there is one, counts from now."""
        return replace(self, proven_at=at + PROVEN_S if self.on_trial and self.confirmed else None)

    def given(self, layer: Desired | None) -> Known:
        """Return what is known once a change was taken back."""
        return replace(self.without_trial(), layer=layer, given_up=True)

    def without_trial(self) -> Known:
        """Return what is known without it."""
        return replace(self, on_trial=False, before=None, confirmed=False, starts=0, until=0, boot=0)

    def taken(self, desired: Desired | None) -> Known:
        """Return what is known once that counts."""
        known = replace(self, layer=desired, given_up=False)
        return known if desired is None else replace(known, version=desired.version, content=desired.config)


def result(file: File, desired: Desired | None) -> Key | None:
    """Return what a file and the cloud come to; ``None`` = that does not fit."""
    if desired is None or desired.config == {}:
        return file.every, file.opened
    if not file.opened or "heartbeat" not in desired.config:
        return None
    every = (desired.config["heartbeat"] or {"every": "1m"})["every"]
    return None if every == "1ms" else (every, file.opened)


@cache
def digests() -> dict[str, Key]:
    """Return what configurations come to, by their digests."""
    return {parse([Source("x", File(*key).text.encode())], HostFacts()).digest: key for key in KEYS}


Shots: TypeAlias = dict[Key, tuple[File, Desired | None]]


class Stored(NamedTuple):
    """What is on the disk: what is known, and how configurations were said."""

    known: Known
    shots: Shots


class Histories(RuleBasedStateMachine):
    """Random histories of a device."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualTimeLoop()
        self.root = Path(tempfile.mkdtemp(dir=SHM))
        self.clock = Counter(self.loop)
        self.file = GOOD[0]
        self.digests = digests()
        self.stored = Stored(Known(), {})
        self.told: list[dict[str, Any]] = []
        self.passed: list[Stored] = []  # what the disk went through in the last step
        self.write(self.file)
        self.begin()

    # -- the world

    def within(self, coro: Coroutine[Any, Any, T]) -> T:
        """Return what a coroutine returns on the device's loop."""
        return self.loop.run_until_complete(coro)

    def write(self, file: File) -> None:
        """Edit the file."""
        self.file = file
        (self.root / "edge-agent.toml").write_text(file.text)

    @property
    def s(self) -> float:
        """The time, in seconds."""
        return self.loop.time()

    # -- the model

    def save(self, known: Known, *, strict: bool = False) -> bool:
        """Have that known from now on; return ``False`` where it must be on the disk, and cannot be."""
        if self.device.disk.fails:
            if not strict:
                self.known = known
            return not strict
        shots = self.stored.shots | {known.history[-1][0]: (known.source, known.layer)}
        digests = {key for key, _, _ in known.history} | ({known.pin[0]} if known.pin else set())
        self.passed += [
            Stored(self.stored.known, shots),
            Stored(known.kept(), shots),
            Stored(known.kept(), {key: shot for key, shot in shots.items() if key in digests}),
        ]
        self.stored = self.passed[-1]
        self.known = known
        return True

    def turn(self, known: Known, by: str, *, strict: bool = False) -> bool:
        """Have that in force from now on."""
        if known.now != self.known.now:
            entry = known.now, by, known.in_force_version
            known = replace(known, history=(*known.history, entry)[-KEPT:])
        if (known.kept(), known.source) == (self.known.kept(), self.known.source):  # there is nothing to write
            self.known = known
            return True
        return self.save(known, strict=strict)

    def model_start(self) -> bool:
        """Start as a device has to; return whether it can."""
        known, shots, now = self.stored.known, self.stored.shots, self.s - self.clock._booted / 1e9
        if known.on_trial:
            again = now + WITHIN_S
            until = min(known.until, again) if known.boot == self.clock.boot else again
            known = replace(known, starts=known.starts + 1, until=until, boot=self.clock.boot)
            known = known.given(known.before) if known.starts == 3 else known
            self.stored = Stored(known, shots)
        self.passed = [Stored(self.stored.known, shots)]
        pinned = shots.get(known.pin[0]) if known.pin is not None and known.pin[1] == self.file else None
        last = shots.get(known.history[-1][0]) if known.history else None
        if pinned is not None:
            known = replace(known, source=pinned[0])
        elif not self.file.nonsense:
            known = replace(known, source=self.file, pin=None)
        elif last is not None:
            known = replace(known, source=last[0], rejected=True)
        else:
            return False
        known = replace(known, seen=self.file).ended(at=self.s)
        if not known.history or known.history[-1][0] != known.now:
            by = "start" if last is None else "files" if last[1] == known.layer else "rollback"
            history = (*known.history, (known.now, by, known.in_force_version))[-KEPT:]
            known = replace(known, history=history)
        self.known = known
        if known.kept() != self.stored.known or shots.get(known.now) != (known.source, known.layer):
            self.save(known)
        self.model_due()
        return True

    def model_due(self) -> None:
        """Do what is due."""
        known = self.known
        if known.proven_at is not None and self.s >= known.proven_at - 1e-6:
            self.save(replace(known.without_trial(), proven_at=None))
        elif known.pending and self.s - self.clock._booted / 1e9 >= known.until - 1e-6:
            self.turn(replace(known.given(known.before), refused=None).ended(at=self.s), "rollback")

    def model_look(self, *, forced: bool = False) -> bool:
        """Go by the file; return whether that is good."""
        known = self.known
        if known.pin is not None and known.pin[1] == self.file:
            self.known = replace(known, seen=self.file, rejected=False)
            return True
        if self.file == known.seen and not forced:
            return True
        if self.file.nonsense:
            self.known = replace(known, seen=self.file, rejected=True)
            return False
        self.turn(replace(known, seen=self.file, source=self.file, rejected=False, pin=None), "files")
        return True

    def model_desire(self, desired: Desired | None) -> None:
        """Take what the cloud says."""
        known = self.known
        if desired is not None and desired.version < known.version:
            return
        if desired is not None and desired.version == known.version:
            is_there = known.layer is not None and known.layer.version == known.version
            if desired.config != known.content or not (is_there or known.given_up):
                self.known = replace(known, refused=(desired.version,))
                return
            if known.given_up or not known.unfit:
                self.known = replace(known, refused=None)
                return
        came = result(known.source, desired)
        taken = known.taken(desired)
        if came is not None and came != known.now:
            before = known.before if known.pending else known.layer
            until = self.s - self.clock._booted / 1e9 + WITHIN_S
            taken = replace(
                taken, on_trial=True, before=before, confirmed=False, starts=0, until=until, boot=self.clock.boot
            )
        taken = replace(taken, refused=None).ended(at=self.s)
        if came is None or not self.turn(taken, "cloud", strict=True):
            self.known = replace(known, refused=(None if desired is None else desired.version,))

    def model_roll_back(self, key: Key | None) -> bool:
        """Go back; return whether that is possible."""
        known, shots = self.known, self.stored.shots
        if key is None:
            earlier = [
                key
                for key, _, version in reversed(known.history)
                if key in shots and key != known.now and not (known.given_up and version == known.version)
            ]
            key = earlier[0] if earlier else None
        if key is None or key not in shots:
            return False
        source, layer = shots[key]
        pin = None if source == known.seen else (key, known.seen)
        back = replace(known, source=source, pin=pin, refused=None, rejected=False)
        if layer != known.layer:
            back = back.given(layer)
            if layer is not None and layer.version >= known.version:
                back = back.taken(layer)
            stays = known.before if known.pending else known.layer
            if layer is not None and layer != stays:
                until = self.s - self.clock._booted / 1e9 + WITHIN_S
                back = replace(back, on_trial=True, before=stays, until=until, boot=self.clock.boot)
        self.turn(back.ended(at=self.s), "rollback")
        return True

    # -- the device

    def begin(self) -> None:
        """Start the agent; with files that are bad and nothing to go by instead, somebody has to mend them."""
        self.device = Device(self.root, self.clock)
        can = self.model_start()
        if not can:
            with pytest.raises(ConfigError):
                self.device.begin()
            self.write(GOOD[1])
            self.device = Device(self.root, self.clock)
            assert self.model_start()
        self.device.begin()
        self.within(self.device.start())
        self.told = []

    def attempt(self, coro: Coroutine[Any, Any, object]) -> bool:
        """Let the device make a change; return whether it lives on."""
        try:
            self.within(self.device.do(coro))
        except KilledError:
            return False
        return True

    def survive(self, was: Stored) -> None:
        """Find out how far the device came before it was killed: to a state in between there is no third way."""
        disk = Disk(self.root / "state")
        found = self.on_disk(disk)
        fitting = [one for one in (was, *self.passed) if self.as_seen(one) == found]
        assert fitting, (found, [self.as_seen(one) for one in (was, *self.passed)])
        self.stored = fitting[-1]
        self.begin()

    def on_disk(self, disk: Disk) -> object:
        """Return what a device finds on its disk."""
        memory = disk.load()
        cloud, trial = memory.cloud, memory.cloud.trial
        shots = {digest: disk.snapshot(digest) for digest in disk.kept()}
        return (
            cloud.layer,
            cloud.version,
            cloud.given_up is not None,
            None if trial is None else (trial.before, trial.is_confirmed, trial.starts, round(trial.until / 1e9, 3)),
            None if memory.pin is None else self.digests[memory.pin.digest],
            [(self.digests[entry.digest], entry.by, entry.version) for entry in memory.history],
            {
                self.digests[digest]: (shot.sources[0].text.decode(), shot.desired)
                for digest, shot in shots.items()
                if shot is not None
            },
        )

    def as_seen(self, stored: Stored) -> object:
        """Return what a device would find on its disk."""
        known = stored.known
        return (
            known.layer,
            known.version,
            known.given_up,
            (known.before, known.confirmed, known.starts, round(known.until, 3)) if known.on_trial else None,
            known.pin and known.pin[0],
            list(known.history),
            {key: (source.text, desired) for key, (source, desired) in stored.shots.items()},
        )

    # -- what happens

    def change(self, coro: Coroutine[Any, Any, object], left: int | None) -> tuple[bool, Stored]:
        """Have a change made; return whether the device outlives it, and what was on the disk before."""
        was, self.passed = self.stored, []
        self.device.disk.left = left
        lives = self.attempt(coro)
        if lives:
            self.device.disk.left = None
        return lives, was

    def settle(self, lives: tuple[bool, Stored]) -> None:
        """See that a change that was made in the model, too, is one."""
        if not lives[0]:
            self.survive(lives[1])

    LEFT: Final = st.sampled_from([None] * 8 + [0, 1, 2, 3, 4])  # steps until the process is killed

    @rule(file=st.sampled_from([*GOOD, *GOOD, *BAD]), left=LEFT, noticed=st.booleans())
    def edit(self, file: File, left: int | None, noticed: bool) -> None:  # noqa: FBT001
        """Somebody edits the file; the agent may be gone before it notices."""
        self.write(file)
        if noticed:
            lives = self.change(self.device.edited(), left)
            self.model_look()
            self.settle(lives)

    @rule(left=LEFT)
    def reload(self, left: int | None) -> None:
        """Somebody has the file read again."""

        async def reload() -> None:
            with suppress(ConfigError):
                await self.device.configuring.reload()

        lives = self.change(reload(), left)
        self.model_look(forced=True)
        self.settle(lives)

    @rule(newer=st.sampled_from([1, 1, 1, 1, 0, 0, 0, -1]), config=st.sampled_from(SAID), left=LEFT, same=st.booleans())
    def desire(self, newer: int, config: dict[str, Any], left: int | None, same: bool) -> None:  # noqa: FBT001
        """The cloud says something: new, once more, late, or something else under the same version."""
        known = self.known
        version = max(known.version, known.refused[0] or 0 if known.refused else 0) + newer
        if newer == 0 and same and isinstance(known.content, dict):
            version, config = known.version, known.content
        self.desire_now(max(version, 1), config, left)

    def desire_now(self, version: int, config: dict[str, Any], left: int | None) -> None:
        """Have the cloud say that."""
        lives = self.change(self.device.desire(version, config), left)
        self.model_desire(Desired(version, config))
        self.settle(lives)

    @rule(left=LEFT)
    def drop(self, left: int | None) -> None:
        """The cloud says nothing any more."""
        lives = self.change(self.device.drop(), left)
        self.model_desire(None)
        self.settle(lives)

    @rule(left=LEFT, late=st.booleans())
    def confirm(self, left: int | None, late: bool) -> None:  # noqa: FBT001
        """A broker acknowledges what is said, or what was said before."""
        told = self.told[-2] if late and len(self.told) > 1 else self.device.configuring.said()
        lives = self.change(self.device.confirm(told), left)
        known = self.known
        if known.pending and not known.unfit and self.digests[told["digest"]] == known.now:
            self.save(replace(known, confirmed=True).ended(at=self.s))
        self.settle(lives)

    @rule(s=st.sampled_from([0.5, 4, WITHIN_S + 1, PROVEN_S + 1]))
    def pass_time(self, s: float) -> None:
        """Time passes."""

        async def sleep() -> None:
            await self.clock.sleep_until(self.clock.monotonic() + int(s * 1e9))  # type: ignore[arg-type]
            await self.device.idle()

        self.within(sleep())
        self.model_due()

    @rule(left=LEFT, number=st.none() | st.integers(0, 5))
    def roll_back(self, left: int | None, number: int | None) -> None:
        """Somebody goes back."""
        history = self.known.history
        key = None if number is None else history[number % len(history)][0]
        digest = next((digest for digest, one in self.digests.items() if one == key), None)
        went: list[bool] = []

        async def roll_back() -> None:
            try:
                await self.device.configuring.roll_back(digest)
            except EdgeAgentError:
                went.append(False)

        lives = self.change(roll_back(), left)
        can = self.model_roll_back(key)
        assert not lives[0] or can == (went == [])
        self.settle(lives)

    @rule(
        times=st.sampled_from([1, 1, 2, 3]),
        reboots=st.booleans(),
        passed_s=st.sampled_from([0, 0, 3, WITHIN_S + 2]),
        edits=st.none() | st.sampled_from([*GOOD, *BAD]),
    )
    def kill(self, times: int, reboots: bool, passed_s: int, edits: File | None) -> None:  # noqa: FBT001
        """The process, or the whole device, is gone at once, and comes back a while later, perhaps to another file."""
        if edits is not None:
            self.write(edits)
        for _ in range(times):
            self.within(self.device.kill())
            self.within(self.clock.sleep_until(self.clock.monotonic() + passed_s * 10**9))  # type: ignore[arg-type]
            if reboots:
                self.clock.reboot()
            self.begin()

    @rule(every=st.sampled_from(["10s", "20s", "40s", "50s"]))
    def succeed(self, every: str) -> None:
        """The cloud says something that counts."""
        self.desire_now(max(self.known.version, 0) + 1, {"heartbeat": {"every": every}}, None)

    @rule()
    def stop(self) -> None:
        """Somebody stops the agent and starts it again."""
        self.within(self.device.stop())
        if self.known.on_trial:
            self.save(replace(self.known, starts=0, boot=-1))
        self.begin()

    @precondition(lambda self: len(self.known.history) > 1)
    @rule()
    def fail(self) -> None:
        """The disk is full."""
        self.device.disk.fails = True

    @precondition(lambda self: self.device.disk.fails)
    @rule()
    def mend(self) -> None:
        """The disk has room again."""
        self.device.disk.fails = False

    @invariant()
    def follows(self) -> None:
        """What is in force, what is told and what is remembered is what follows from what happened."""
        device, known = self.device, self.known
        loaded = device.configuring.now.loaded
        assert device.used[-1] is loaded
        assert self.digests[loaded.digest] == known.now
        assert loaded.version == known.in_force_version
        assert device.said() == known.said()
        conditions = (["config_rejected"] if known.rejected else []) + (["config_rolled_back"] if known.pin else [])
        assert device.configuring.conditions() == conditions
        history = device.configuring.now.memory.history
        assert [(self.digests[entry.digest], entry.by, entry.version) for entry in history] == list(known.history)
        assert self.on_disk(device.disk) == self.as_seen(self.stored)
        told = device.configuring.said()
        if not self.told or self.told[-1] != told:
            self.told.append(told)

    @override
    def teardown(self) -> None:
        """End the device."""
        self.within(self.device.kill())
        self.loop.close()
        shutil.rmtree(self.root)


def live_through(examples: int, steps: int, caplog: pytest.LogCaptureFixture) -> None:
    """Live through so many histories of so many steps."""
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large]
    limits = settings(max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=slow)
    with caplog.at_level(logging.CRITICAL):
        run_state_machine_as_test(Histories, settings=limits)


def test_whatever_happens_what_is_in_force_follows_from_what_was_said(caplog: pytest.LogCaptureFixture) -> None:
    """Edits, versions, confirmations, kills at every step, reboots, a full disk; 200 random histories."""
    live_through(100, 15, caplog)


@pytest.mark.slow
@pytest.mark.timeout_s(3600)
def test_in_ten_thousand_histories_it_follows(caplog: pytest.LogCaptureFixture) -> None:
    """The same for long."""
    live_through(10_000, 30, caplog)
