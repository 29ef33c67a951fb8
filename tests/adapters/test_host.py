"""What the host says about itself."""

from __future__ import annotations

import os
import re
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import TZPATH

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from edge_agent.adapters.host import boot_id, common_name, disk, local_zone, read_facts, rss_bytes, versions
from edge_agent.core.config import HostFacts

ID = "0123456789abcdef0123456789abcdef"


def put(root: Path, name: str, text: str) -> None:
    """Write a file of the host."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def put_interface(root: Path, name: str, address: str, *, kind: str = "1", physical: bool = False) -> None:
    """Write a network interface."""
    put(root, f"sys/class/net/{name}/address", address + "\n")
    put(root, f"sys/class/net/{name}/type", kind + "\n")
    if physical:
        (root / "sys/class/net" / name / "device").mkdir()


def test_a_host_that_says_nothing_is_all_none(tmp_path: Path) -> None:
    """Nothing is made up."""
    assert read_facts(tmp_path) == HostFacts()
    assert (boot_id(tmp_path), rss_bytes(tmp_path)) == ("unknown", 0)


def test_a_host_is_read(tmp_path: Path) -> None:
    """Files end in newlines or NUL; a host name is cut at its first dot."""
    put(tmp_path, "etc/machine-id", ID + "\n")
    put(tmp_path, "proc/device-tree/serial-number", "10000000abcdef\0")
    put(tmp_path, "proc/sys/kernel/hostname", "gw-7.plant.example\n")
    put_interface(tmp_path, "eth0", "02:00:00:00:00:07", physical=True)
    assert read_facts(tmp_path) == HostFacts(ID, "10000000abcdef", "02:00:00:00:00:07", "gw-7")


@pytest.mark.parametrize("text", ["", "uninitialized\n", "0" * 32, ID.upper(), ID + "0", "\udcff"])
def test_a_machine_id_that_is_none_is_left_out(tmp_path: Path, text: str) -> None:
    """The one of D-Bus serves where systemd's is not there."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/machine-id").write_bytes(text.encode(errors="surrogateescape"))
    assert read_facts(tmp_path).machine_id is None
    put(tmp_path, "var/lib/dbus/machine-id", ID)
    assert read_facts(tmp_path).machine_id == ID


@pytest.mark.parametrize("text", ["To be filled by O.E.M.", "Default string", "None", "0000", " \n"])
def test_a_serial_number_that_nobody_set_is_left_out(tmp_path: Path, text: str) -> None:
    """The board's serves where the product's is a placeholder."""
    put(tmp_path, "sys/class/dmi/id/product_serial", text)
    assert read_facts(tmp_path).serial is None
    put(tmp_path, "sys/class/dmi/id/board_serial", "B-1\n")
    assert read_facts(tmp_path).serial == "B-1"


def test_the_first_physical_interface_gives_the_mac_address(tmp_path: Path) -> None:
    """Else the first one that is not the loopback; tunnels and empty addresses never."""
    put_interface(tmp_path, "lo", "00:00:00:00:00:01")
    put_interface(tmp_path, "aaa0", "00:00:00:00:00:00")
    put_interface(tmp_path, "tun0", "02:00:00:00:00:01", kind="65534")
    assert read_facts(tmp_path).mac is None
    put_interface(tmp_path, "br0", "02:00:00:00:00:02")
    put_interface(tmp_path, "docker0", "02:00:00:00:00:03")
    assert read_facts(tmp_path).mac == "02:00:00:00:00:02"
    put_interface(tmp_path, "wlan0", "02:00:00:00:00:05", physical=True)
    put_interface(tmp_path, "eth0", "02:00:00:00:00:04", physical=True)
    assert read_facts(tmp_path).mac == "02:00:00:00:00:04"


def test_a_host_without_a_name_has_none(tmp_path: Path) -> None:
    """The kernel says (none)."""
    put(tmp_path, "proc/sys/kernel/hostname", "(none)\n")
    assert read_facts(tmp_path).hostname is None


def test_the_zone_of_the_device_is_that_of_its_localtime(tmp_path: Path) -> None:
    """With summer and winter; UTC where there is none, or what is there is none."""
    summer, winter = datetime(2027, 7, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
    assert local_zone(tmp_path) is UTC
    place = tmp_path / "etc/localtime"
    put(tmp_path, "etc/localtime", "no zone")
    assert local_zone(tmp_path) is UTC
    place.unlink()
    place.symlink_to(next(path for path in map(Path, TZPATH) if path.is_dir()) / "Europe/Berlin")
    zone = local_zone(tmp_path)
    assert [zone.utcoffset(when) for when in (summer, winter)] == [timedelta(hours=2), timedelta(hours=1)]
    assert local_zone(tmp_path) is zone  # or each reload would begin every job anew


def test_this_host_is_read() -> None:
    """The real files have the form that is expected."""
    assert re.fullmatch(r"[0-9a-f-]{36}", boot_id())
    assert 1 << 20 < rss_bytes() < 1 << 34
    assert read_facts().hostname == os.uname().nodename.partition(".")[0]


def certificate(path: Path, *names: x509.NameAttribute[str]) -> str:
    """Write a certificate and return its path."""
    key, subject, now = ec.generate_private_key(ec.SECP256R1()), x509.Name(names), datetime.now(UTC)
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number()).not_valid_before(
        now
    )
    signed = builder.not_valid_after(now + timedelta(days=1)).sign(key, hashes.SHA256())
    path.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    return str(path)


def test_a_common_name_is_read(tmp_path: Path) -> None:
    """Wherever in the subject it stands."""
    organisation = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Plant")
    named = x509.NameAttribute(NameOID.COMMON_NAME, "gw-0042")
    assert common_name(certificate(tmp_path / "a.pem", organisation, named)) == "gw-0042"
    assert common_name(certificate(tmp_path / "b.pem", organisation)) is None


def test_what_is_no_certificate_has_no_common_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor has one that this Python cannot read."""
    path = tmp_path / "x.pem"
    assert common_name(str(path)) is None
    path.write_text("nothing")
    assert common_name(str(path)) is None
    good = certificate(path, x509.NameAttribute(NameOID.COMMON_NAME, "x"))
    monkeypatch.delattr(ssl, "_ssl")
    assert common_name(good) is None


def test_what_it_runs_on_is_said_with_versions() -> None:
    """Of what is there; extras without the words that pip needs."""
    found = versions()
    assert {"python", "kernel", "machine", "orjson", "typing-extensions"} <= set(found)
    assert all(re.fullmatch(r"[\w.-]+", name) for name in found)


def test_room_and_files_are_said_in_bytes(tmp_path: Path) -> None:
    """Or why not."""
    (tmp_path / "x").write_text("12345")
    (tmp_path / "folder").mkdir()
    found = disk(tmp_path)
    assert (found["folder"], found["files"]) == (str(tmp_path), {"x": 5})
    assert isinstance(found["free"], int)
    assert disk(tmp_path / "none") == {"folder": f"{tmp_path}/none", "error": "No such file or directory"}
