"""The host's own servers, from the files of those who keep its clock."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_agent.adapters.host_servers import MAX_SERVERS, host_servers
from edge_agent.core.config_models import Time

TIMESYNCD = "etc/systemd/timesyncd.conf"


def host(root: Path, files: dict[str, str]) -> list[str]:
    """Return what a host with these files uses."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return host_servers(root)


CASES: dict[str, tuple[dict[str, str], list[str]]] = {
    "nothing": ({}, []),
    "timesyncd": ({TIMESYNCD: "[Time]\nNTP=a.example b.example\nFallbackNTP=c.example\n"}, ["a.example", "b.example"]),
    "its fallback": ({TIMESYNCD: "[Time]\n#NTP=a.example\nFallbackNTP=c.example\n"}, ["c.example"]),
    "a drop-in adds": (
        {TIMESYNCD: "[Time]\nNTP=a.example\n", "etc/systemd/timesyncd.conf.d/1.conf": "[Time]\nNTP=b.example\n"},
        ["a.example", "b.example"],
    ),
    "an empty one forgets": (
        {TIMESYNCD: "[Time]\nNTP=a.example\n", "etc/systemd/timesyncd.conf.d/1.conf": "[Time]\nNTP=\nNTP=b.example\n"},
        ["b.example"],
    ),
    "the administrator's drop-in hides the vendor's": (
        {
            "usr/lib/systemd/timesyncd.conf.d/1.conf": "NTP=a.example\n",
            "etc/systemd/timesyncd.conf.d/1.conf": "NTP=b.example\n",
        },
        ["b.example"],
    ),
    "DHCP": (
        {"run/systemd/netif/links/2": "ADMIN_STATE=configured\nNTP=192.0.2.1 2001:db8::1\n"},
        ["192.0.2.1", "[2001:db8::1]"],
    ),
    "chrony": (
        {"etc/chrony/chrony.conf": "# server x.example\nserver a.example iburst\npool b.example port 1123\nrtcsync\n"},
        ["a.example", "b.example:1123"],
    ),
    "chrony on ports of IPv6": (
        {"etc/chrony/chrony.conf": "server 2001:db8::1 port 1123 iburst\nserver 2001:db8::2\n"},
        ["[2001:db8::1]:1123", "[2001:db8::2]"],
    ),
    "chrony's sources": (
        {
            "etc/chrony/sources.d/x.sources": "server a.example\n",
            "run/chrony-dhcp/eth0.sources": "server 192.0.2.9 iburst\n",
        },
        ["a.example", "192.0.2.9"],
    ),
    "ntpd": ({"etc/ntp.conf": "server a.example\nserver 127.127.1.0\n"}, ["a.example", "127.127.1.0"]),
    "each once": ({TIMESYNCD: "NTP=a.example\n", "etc/chrony/chrony.conf": "server a.example\n"}, ["a.example"]),
    "nonsense": ({TIMESYNCD: "NTP=a;b $(x) -c .d e..\nNTP\n=\n", "etc/chrony/chrony.conf": "server\npool ../x\n"}, []),
}


@pytest.mark.parametrize("name", CASES)
def test_the_servers_of_a_host(name: str, tmp_path: Path) -> None:
    """As its own programs would read the files."""
    files, expected = CASES[name]
    assert host(tmp_path, files) == expected


def test_no_more_than_the_configuration_takes(tmp_path: Path) -> None:
    """However many there are."""
    found = host(tmp_path, {TIMESYNCD: "NTP=" + " ".join(f"s{n}.example" for n in range(100))})
    assert len(found) == MAX_SERVERS


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_whatever_stands_in_a_file_what_comes_out_is_a_server(tmp_path: Path, content: bytes) -> None:
    """As the configuration would accept it."""
    for name in (TIMESYNCD, "etc/chrony/chrony.conf", "run/systemd/netif/state"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"NTP=" + content + b"\nserver " + content)
    found = host_servers(tmp_path)
    assert list(Time(servers=tuple(found)).servers or ()) == found
