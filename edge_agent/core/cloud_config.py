"""What becomes of configuration from the cloud: on trial, confirmed, or given up; across crashes and reboots.

A change is on trial until a broker has acknowledged that it is in force. If none does in time, or if the agent does not
stay alive with it, what was there before is taken again. A version is tried once: the same one is never begun anew,
whoever sends it again, and an older one that arrives late changes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeAlias

import orjson

from edge_agent.core.config_remote import MAX_VERSION, Desired, parse_desired
from edge_agent.core.timebase import DurationNs, RawNs, seconds

MAX_STARTS: Final = 3
"""The start at which a change is taken back with which the agent does not stay alive."""

PROVEN: Final = seconds(60)
"""How long the agent has to live with a confirmed change until its starts are counted no more."""

_LONGEST: Final = 1 << 62
"""Nanoseconds that a counter may say: more than a century."""

State: TypeAlias = Literal["applied", "rejected", "rolled_back", "pending_confirm"]
Reasons: TypeAlias = tuple[tuple[str, str], ...]
"""Keys, and what is wrong with each."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A change that may yet be taken back.

    Attributes:
        before: what the cloud said before it; ``None`` = nothing.
        boot: the kernel's boot id under which ``until`` means something.
        until: the counter's reading by which it has to be confirmed.
        within: how long that was from its beginning, and is after a reboot.
        starts: how often the agent has started with it.
        is_confirmed: whether a broker has acknowledged it.
    """

    before: Desired | None
    boot: str
    until: RawNs
    within: DurationNs
    starts: int = 0
    is_confirmed: bool = False


@dataclass(frozen=True, slots=True)
class CloudConfig:
    """What is known of it.

    Attributes:
        layer: what the cloud says and is in force; ``None`` = nothing.
        trial: of that; ``None`` = it is there to stay.
        version: the highest that was tried.
        content: a digest of what that one said.
        given_up: why that one was taken back; ``None`` = it was not.
    """

    layer: Desired | None = None
    trial: Trial | None = None
    version: int = 0
    content: str = ""
    given_up: Reasons | None = None

    @property
    def is_pending(self) -> bool:
        """Whether it is on trial, and no broker has acknowledged it yet."""
        return self.trial is not None and not self.trial.is_confirmed

    @property
    def is_about_connection(self) -> bool:
        """Whether what is on trial, or was there before, says something of the connection to the broker."""
        before = None if self.trial is None else self.trial.before
        return any(desired is not None and "mqtt" in desired.config for desired in (self.layer, before))

    def judge(self, desired: Desired) -> Literal["new", "known", "old", "other", "dropped"]:
        """Return what a version is that has arrived.

        ``other`` says something else than it said before; ``dropped`` was let go of.
        """
        if desired.version != self.version:
            return "new" if desired.version > self.version else "old"
        if content(desired) != self.content:
            return "other"
        is_there = self.layer is not None and self.layer.version == self.version
        return "known" if is_there or self.given_up is not None else "dropped"

    def take(self, desired: Desired | None) -> CloudConfig:
        """Take what changes nothing: it needs no trial."""
        return replace(self._with(desired), trial=self.trial)

    def begin(self, desired: Desired | None, *, boot: str, raw: RawNs, within: DurationNs) -> CloudConfig:
        """Put a change on trial; ``None`` = to have nothing from the cloud."""
        return replace(self._with(desired), trial=Trial(self._stays(), boot, RawNs(raw + within), within))

    def _with(self, desired: Desired | None) -> CloudConfig:
        if desired is None:
            return CloudConfig(None, None, self.version, self.content)
        return CloudConfig(desired, None, desired.version, content(desired))

    def confirm(self) -> CloudConfig:
        """Take note that a broker has acknowledged it."""
        return self if self.trial is None else replace(self, trial=replace(self.trial, is_confirmed=True))

    def settle(self) -> CloudConfig:
        """Take note that the agent lives with it."""
        return replace(self, trial=None)

    def stop(self) -> CloudConfig:
        """Take note of a stop that somebody wanted: what was started was not cut off, and gets all its time again."""
        return self if self.trial is None else replace(self, trial=replace(self.trial, starts=0, boot=""))

    def give_up(self, reasons: Reasons) -> CloudConfig:
        """Take back what is on trial."""
        return replace(self, layer=None if self.trial is None else self.trial.before, trial=None, given_up=reasons)

    def go_back(self, layer: Desired | None, reasons: Reasons) -> CloudConfig:
        """Take what somebody wants who is on the device, be it the version that was taken back."""
        if layer is not None and layer.version >= self.version:
            return self._with(layer)
        return replace(self, layer=layer, trial=None, given_up=reasons)

    def try_again(self, layer: Desired, reasons: Reasons, *, boot: str, raw: RawNs, within: DurationNs) -> CloudConfig:
        """Put on trial what somebody wants who is on the device: it may be what has cut the device off."""
        before, back = self._stays(), self.go_back(layer, reasons)
        return back if layer == before else replace(back, trial=Trial(before, boot, RawNs(raw + within), within))

    def _stays(self) -> Desired | None:
        """Return what is in force, or will be again where that is on trial."""
        return self.trial.before if self.trial is not None and self.is_pending else self.layer

    def start(self, *, boot: str, raw: RawNs) -> CloudConfig:
        """Take note that the agent starts; one that was cut off too often goes back."""
        if self.trial is None:
            return self
        starts = self.trial.starts + 1
        if starts >= MAX_STARTS:
            how = "was confirmed" if self.trial.is_confirmed else "was not confirmed"
            return self.give_up((("", f"the agent started {starts} times with it and did not stay alive; it {how}"),))
        until = RawNs(raw + self.trial.within)
        until = min(self.trial.until, until) if boot == self.trial.boot else until
        return replace(self, trial=replace(self.trial, starts=starts, boot=boot, until=until))

    def verdict(self) -> tuple[int | None, State, Reasons]:
        """Return the version it is about, what became of it, and why."""
        if self.given_up is not None:
            return self.version or None, "rolled_back", self.given_up
        version = None if self.layer is None else self.layer.version
        return version, "pending_confirm" if self.is_pending else "applied", ()

    def document(self) -> dict[str, Any]:
        """Return it as JSON."""
        trial = self.trial
        return {
            "layer": _document(self.layer),
            "trial": None
            if trial is None
            else {
                "before": _document(trial.before),
                "boot": trial.boot,
                "until": trial.until,
                "within": trial.within,
                "starts": trial.starts,
                "confirmed": trial.is_confirmed,
            },
            "version": self.version,
            "content": self.content,
            "given_up": self.given_up,
        }


def content(desired: Desired) -> str:
    """Return a digest of what it says, whatever the order of its keys."""
    return hashlib.sha256(orjson.dumps(desired.config, option=orjson.OPT_SORT_KEYS)).hexdigest()


def read(document: object) -> CloudConfig:
    """Return what a document says.

    Raises:
        ValueError: it is damaged.
    """
    match document:
        case {
            "layer": dict() | None as layer,
            "trial": dict() | None as trial,
            "version": int(version),
            "content": str(said),
            "given_up": list() | None as given_up,
        } if 0 <= version <= MAX_VERSION:
            reasons = None if given_up is None else tuple(_reason(one) for one in given_up)
            return CloudConfig(_desired(layer), _trial(trial), version, said, reasons)
        case _:
            raise ValueError("not what was written")


def _trial(document: Mapping[str, Any] | None) -> Trial | None:
    match document:
        case None:
            return None
        case {
            "before": dict() | None as before,
            "boot": str(boot),
            "until": int(until),
            "within": int(within),
            "starts": int(starts),
            "confirmed": bool(confirmed),
        } if 0 <= until <= _LONGEST and 0 <= within <= _LONGEST:
            return Trial(_desired(before), boot, RawNs(until), DurationNs(within), starts, confirmed)
        case _:
            raise ValueError("not what was written")


def _reason(document: object) -> tuple[str, str]:
    match document:
        case [str(key), str(reason)]:
            return key, reason
        case _:
            raise ValueError("not what was written")


def _document(desired: Desired | None) -> dict[str, Any] | None:
    return None if desired is None else {"version": desired.version, "config": desired.config}


def _desired(document: Mapping[str, Any] | None) -> Desired | None:
    return None if document is None else parse_desired(document)
