"""A network of our own: a namespace behind a pair of virtual cards, whose packets can be dropped.

Dropping is what a pulled cable, a dead modem or a silent firewall looks like from outside: nothing is refused, nothing
comes back.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from tests.support.brokers import missing, require

_numbers = itertools.count()
_DROP_ALL = """
add table inet cut
add chain inet cut input { type filter hook input priority 0; policy drop; }
add chain inet cut output { type filter hook output priority 0; policy drop; }
"""


@dataclass(frozen=True, slots=True)
class Namespace:
    """A network namespace.

    Attributes:
        name: its name, for ``ip netns``.
        outside: our address on the link.
        inside: its address; a server in the namespace listens there.
    """

    name: str
    outside: str
    inside: str

    @property
    def prefix(self) -> tuple[str, ...]:
        """What stands before a command that is to run inside."""
        return ("ip", "netns", "exec", self.name)

    def run(self, *command: str, stdin: str | None = None) -> str:
        """Run a command inside and return its output."""
        return _run(*self.prefix, *command, stdin=stdin)

    def cut(self) -> None:
        """Drop every packet in and out, without a word to either side."""
        self.run("nft", "-f", "-", stdin=_DROP_ALL)

    def heal(self) -> None:
        """Let packets through again."""
        self.run("nft", "flush", "ruleset")


def _run(*command: str, stdin: str | None = None) -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def _free_subnet() -> str:
    taken = _run("ip", "-4", "-o", "addr")
    start = os.getpid() * 37  # apart from those of other processes of this test run
    return next(subnet for offset in range(256) if f"{(subnet := f'10.77.{(start + offset) % 256}')}." not in taken)


@contextlib.contextmanager
def namespace() -> Iterator[Namespace]:
    """Make a network namespace with a /30 between it and us; everything is gone afterwards."""
    require("ip", "iproute2")
    require("nft", "nftables")
    if os.geteuid() != 0:
        missing("network namespaces need root")
    tag = f"{os.getpid()}n{next(_numbers)}"
    subnet = _free_subnet()
    space = Namespace(name=f"ea{tag}", outside=f"{subnet}.1", inside=f"{subnet}.2")
    ours, theirs = f"o{tag}", f"i{tag}"
    _run("ip", "netns", "add", space.name)
    try:
        _run("ip", "link", "add", ours, "type", "veth", "peer", "name", theirs, "netns", space.name)
        _run("ip", "addr", "add", f"{space.outside}/30", "dev", ours)
        _run("ip", "link", "set", ours, "up")
        space.run("ip", "addr", "add", f"{space.inside}/30", "dev", theirs)
        space.run("ip", "link", "set", theirs, "up")
        space.run("ip", "link", "set", "lo", "up")
        yield space
    finally:
        for pid in _run("ip", "netns", "pids", space.name).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        with contextlib.suppress(RuntimeError):
            _run("ip", "link", "del", ours)  # at once; with the namespace alone the kernel removes it some time later
        _run("ip", "netns", "del", space.name)
