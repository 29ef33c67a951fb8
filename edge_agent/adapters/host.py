"""What the host says about itself: identity for templates, and facts of this boot and process."""

from __future__ import annotations

import os
import re
import ssl
from contextlib import suppress
from datetime import UTC, tzinfo
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

from edge_agent.core.config import HostFacts

_ROOT: Final = Path("/")
_ETHERNET: Final = "1"  # ARPHRD_ETHER, if_arp.h


def read_facts(root: Path = _ROOT) -> HostFacts:
    """Return what can be read below ``root``; what cannot is ``None``."""
    return HostFacts(machine_id=_machine_id(root), serial=_serial(root), mac=_mac(root), hostname=_hostname(root))


def common_name(cert_path: str) -> str | None:
    """Return the subject's common name of a PEM certificate, or ``None`` when there is none or it cannot be read."""
    # the standard library parses certificates in public only during a handshake; this is what its own tests use
    decode = getattr(getattr(ssl, "_ssl", None), "_test_decode_cert", None)
    if decode is None or not Path(cert_path).is_file():
        return None
    try:
        subject = decode(cert_path).get("subject", ())
    except (OSError, ValueError):  # ssl.SSLError is an OSError
        return None
    return next((str(value) for part in subject for name, value in part if name == "commonName"), None)


def boot_id(root: Path = _ROOT) -> str:
    """Return the kernel's random id of this boot, ``unknown`` where there is none."""
    return _text(root / "proc/sys/kernel/random/boot_id") or "unknown"


def local_zone(root: Path = _ROOT) -> tzinfo:
    """Return the device's own time zone; UTC where it has none."""
    try:
        return _zone((root / "etc/localtime").read_bytes())
    except (OSError, ValueError):
        return UTC


@lru_cache(maxsize=1)  # the same zone is the same object: so it is seen whether it has changed
def _zone(content: bytes) -> tzinfo:
    return ZoneInfo.from_file(BytesIO(content))


def rss_bytes(root: Path = _ROOT) -> int:
    """Return the resident memory of this process in bytes, 0 where it cannot be read."""
    fields = (_text(root / "proc/self/statm") or "").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if len(fields) > 1 else 0


def versions() -> dict[str, str]:
    """Return what the agent runs on: Python, the system, and those packages that it asks for and finds."""
    import platform  # noqa: PLC0415  # few need it
    from importlib.metadata import PackageNotFoundError, requires, version  # noqa: PLC0415  # 1 MiB

    system = platform.uname()
    found = {
        "python": platform.python_version(),
        "kernel": f"{system.system} {system.release}",
        "machine": system.machine,
    }
    with suppress(OSError):
        found["os"] = platform.freedesktop_os_release()["PRETTY_NAME"]
    for name in sorted({re.split(r"[^\w.-]", line)[0] for line in requires("edge-agent") or ()}):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def disk(folder: Path) -> dict[str, object]:
    """Return how much room there is where a folder is, and what its files take, in bytes."""
    try:
        room = os.statvfs(folder)
        sizes = {file.name: file.stat().st_size for file in sorted(folder.iterdir()) if file.is_file()}
    except OSError as error:
        return {"folder": str(folder), "error": error.strerror}
    total, free = room.f_blocks * room.f_frsize, room.f_bavail * room.f_frsize
    return {"folder": str(folder), "total": total, "free": free, "files": sizes}


def _text(path: Path) -> str | None:
    """Return a small file's text without the NUL and the space around it, or ``None``."""
    try:
        with path.open("rb") as file:
            return file.read(4096).decode().strip("\0 \t\r\n") or None
    except (OSError, UnicodeDecodeError):
        return None


def _machine_id(root: Path) -> str | None:
    found = (_text(root / name) or "" for name in ("etc/machine-id", "var/lib/dbus/machine-id"))
    # before the first boot it is "uninitialized"
    return next((text for text in found if re.fullmatch(r"[0-9a-f]{32}", text) and text.strip("0")), None)


def _serial(root: Path) -> str | None:
    names = "proc/device-tree/serial-number", "sys/class/dmi/id/product_serial", "sys/class/dmi/id/board_serial"
    found = (_text(root / name) or "" for name in names)
    # firmware fills it with words where nobody set it: "To be filled by O.E.M.", "Default string", "None", zeros
    return next((text for text in found if text.strip("0") and " " not in text and text.lower() != "none"), None)


def _mac(root: Path) -> str | None:
    """Return the address of the first physical Ethernet-like interface, else of the first one at all."""
    found: list[tuple[bool, str, str]] = []
    for interface in (root / "sys/class/net").glob("*"):
        address = _text(interface / "address") or ""
        if (
            interface.name != "lo"
            and _text(interface / "type") == _ETHERNET
            and re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", address)
            and address.strip("0:")
        ):
            found.append((not (interface / "device").exists(), interface.name, address))
    return min(found)[2] if found else None


def _hostname(root: Path) -> str | None:
    name = (_text(root / "proc/sys/kernel/hostname") or "").partition(".")[0]
    return name if name not in {"", "(none)"} else None
