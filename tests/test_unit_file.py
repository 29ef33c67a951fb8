"""The unit that systemd starts: accepted by systemd itself, and locked down."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.brokers import require

UNIT = Path(__file__).parents[1] / "systemd" / "edge-agent.service"
EXPOSURE = 2.0

pytestmark = pytest.mark.skipif(not UNIT.exists(), reason="there is no unit file yet")


def unit() -> configparser.RawConfigParser:
    """Return the unit file, read as what it nearly is: an ini file whose keys may stand more than once."""
    parser = configparser.RawConfigParser(strict=False, delimiters="=", comment_prefixes=("#", ";"), interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # its keys have capital letters
    parser.read_string(UNIT.read_text())
    return parser


def here(tmp_path: Path) -> Path:
    """Return a copy of the unit whose programs exist on this machine, and whose user does."""
    text = re.sub(r"^(Exec\w+=[-+!@:]*)\S+", rf"\g<1>{sys.executable}", UNIT.read_text(), flags=re.MULTILINE)
    copy = tmp_path / UNIT.name
    copy.write_text(text)
    return copy


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze."""
    command = [require("systemd-analyze", "systemd"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_systemd_has_nothing_to_complain_of(tmp_path: Path) -> None:
    """No unknown key, no bad value; the program itself is not installed here and is replaced by one that is."""
    done = analyze("verify", "--man=no", str(here(tmp_path)))
    assert (done.returncode, done.stderr) == (0, "")


def test_the_service_is_locked_down(tmp_path: Path) -> None:
    """The exposure that systemd works out is below 2.0 of 10."""
    done = analyze(
        "security", "--offline=true", f"--threshold={round(EXPOSURE * 10)}", "--no-pager", str(here(tmp_path))
    )
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert float(found[1]) < EXPOSURE, done.stdout
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_manager_is_told_and_watches() -> None:
    """Ready, reload, watchdog, restart, state, and a user that is not root."""
    service = dict(unit()["Service"])
    assert service["Type"] in {"notify", "notify-reload"}
    assert re.fullmatch(r"[0-9]+(s|min)?", service["WatchdogSec"])
    assert service["Restart"] in {"on-failure", "always"}
    assert service["StateDirectory"] == "edge-agent"
    assert service.get("RuntimeDirectory", "edge-agent") == "edge-agent"
    assert service.get("DynamicUser") == "yes" or service.get("User") not in {None, "root"}
    assert service.get("NotifyAccess", "main") in {"main", "exec"}


def test_it_is_started_as_the_contract_says() -> None:
    """The one verb, in the foreground; a reload is SIGHUP."""
    service = dict(unit()["Service"])
    assert re.search(r"edge-agent\s+run\b", service["ExecStart"])
    reload = service.get("ExecReload", "")
    assert service["Type"] == "notify-reload" or re.search(r"HUP", reload)
    if service["Type"] == "notify-reload":
        assert service.get("ReloadSignal", "SIGHUP") == "SIGHUP"
    assert service.get("KillSignal", "SIGTERM") in {"SIGTERM", "SIGINT"}


def test_a_bad_configuration_is_not_tried_for_ever() -> None:
    """Exit 78 will not mend itself: it is either not restarted, or not in a tight loop."""
    service = dict(unit()["Service"])
    assert "78" in service.get("RestartPreventExitStatus", "") or service.get("RestartSec") is not None


def test_it_is_part_of_the_boot() -> None:
    """Wanted by a target, and it does not wait for the network to be online: it starts without one."""
    parsed = unit()
    assert parsed["Install"]["WantedBy"] == "multi-user.target"
    assert parsed["Unit"]["Description"]
    assert "network-online.target" not in parsed["Unit"].get("Requires", "")
