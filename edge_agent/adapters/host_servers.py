"""The NTP servers that the host itself uses: those of timesyncd, of chrony, of ntpd, and those that came by DHCP."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

MAX_SERVERS: Final = 16
MAX_BYTES: Final = 65_536
_ROOT: Final = Path("/")
_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?|(?=.*:)[0-9A-Fa-f:.]{2,45}")
_CHRONY: Final = re.compile(r"\s*(?:server|pool|peer)\s+(\S+)(.*)", re.IGNORECASE)
_PORT: Final = re.compile(r"\bport\s+(\d{1,5})\b")


def host_servers(root: Path = _ROOT) -> list[str]:
    """Return them as ``host`` or ``host:port``, each once, those of the service manager first."""
    found = [*_timesyncd(root), *_leases(root), *_chrony(root)]
    return list(dict.fromkeys(found))[:MAX_SERVERS]


def _timesyncd(root: Path) -> Iterator[str]:
    """Yield what timesyncd.conf(5) names; the fallback only where there is nothing else."""
    folders = [root / place / "systemd" for place in ("usr/lib", "usr/local/lib", "run", "etc")]
    drop_ins = {path.name: path for folder in folders for path in sorted((folder / "timesyncd.conf.d").glob("*.conf"))}
    main = next((path for folder in reversed(folders) if (path := folder / "timesyncd.conf").is_file()), None)
    settings: dict[str, list[str]] = {"NTP": [], "FallbackNTP": []}
    for path in [*([main] if main else []), *(drop_ins[name] for name in sorted(drop_ins))]:
        for line in _lines(path):
            key, separator, value = line.partition("=")
            if separator and key.strip() in settings:
                names = list(_valid(value.split()))  # an empty one forgets those before
                settings[key.strip()] = [*settings[key.strip()], *names] if names else []
    yield from settings["NTP"] or settings["FallbackNTP"]


def _leases(root: Path) -> Iterator[str]:
    """Yield what systemd-networkd was given by DHCP."""
    folder = root / "run/systemd/netif"
    for path in [folder / "state", *sorted((folder / "links").glob("*"))]:
        for line in _lines(path):
            if line.startswith("NTP="):
                yield from _valid(line[4:].split())


def _chrony(root: Path) -> Iterator[str]:
    """Yield what chrony.conf(5) and ntp.conf(5) name."""
    places = ("etc/chrony/chrony.conf", "etc/chrony.conf", "etc/ntpsec/ntp.conf", "etc/ntp.conf")
    folders = ("etc/chrony/conf.d", "etc/chrony/sources.d", "run/chrony-dhcp")
    more = [path for folder in folders for path in sorted((root / folder).glob("*")) if path.is_file()]
    for path in [*(root / place for place in places), *more]:
        for line in _lines(path):
            if (match := _CHRONY.match(line)) is not None:
                port = _PORT.search(match[2])
                for name in _valid([match[1]]):
                    yield f"{name}:{port[1]}" if port else name


def _valid(names: Iterable[str]) -> Iterator[str]:
    for name in names:
        if _NAME.fullmatch(name):
            yield name if ":" not in name else f"[{name}]"


def _lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES).decode(errors="replace")
    except OSError:
        return []
    return [line.strip() for line in text.splitlines() if not line.lstrip().startswith(("#", ";", "!", "%"))]
