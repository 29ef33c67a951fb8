"""Whether the device has what its configuration names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from edge_agent.adapters.config_probe import missing, missing_signatures
from edge_agent.core.config import HostFacts, Loaded, parse
from edge_agent.core.config_document import Source
from tests.support.brokers import tls_files

FACTS = HostFacts(machine_id="0123456789abcdef0123456789abcdef")
PROBE = """
from edge_agent.adapters.config_probe import missing
from edge_agent.core.config import HostFacts, parse
from edge_agent.core.config_document import Source
text = '''device.id = "d"
{text}'''
print(*missing(parse([Source("a", text.encode())], HostFacts()), {{}}))
"""
KEY = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"


def loaded(text: str) -> Loaded:
    """Return the configuration of a file."""
    return parse([Source("a.toml", text.encode())], FACTS)


def problems(text: str, environ: dict[str, str] | None = None, *, starting: bool = False) -> dict[str, str]:
    """Return what is missing, by key."""
    found = list(missing(loaded(text), environ or {}, starting=starting))
    assert {problem.file for problem in found} <= {"a.toml"}
    return {problem.key: problem.reason for problem in found}


def test_a_password_file_has_to_be_readable(tmp_path: Path) -> None:
    """At the start, too; what is said names the file and holds nothing of it."""
    file = tmp_path / "password"
    text = f'mqtt = {{username = "u", password_file = "{file}"}}'
    for starting in (False, True):
        assert problems(text, starting=starting) == {"mqtt.password_file": f"{file}: no such file; create it"}
    file.write_text("")
    assert problems(text) == {"mqtt.password_file": f"{file}: the secret is empty"}
    file.write_bytes(b"s3cret\xff")
    assert problems(text) == {"mqtt.password_file": f"{file}: the secret is not UTF-8 text"}
    file.write_text("s3cret\n")
    assert problems(text) == {}


def test_a_credential_is_looked_for_where_the_service_manager_gives_any(tmp_path: Path) -> None:
    """Elsewhere, as where somebody only checks, it is not missing; its name may be a secret and is not said."""
    text = 'mqtt = {username = "u", password_file = "hunter2"}'
    assert problems(text) == {}
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    (reason,) = problems(text, environ).values()
    assert reason == "no such file, and no readable systemd credential of that name"
    (tmp_path / "hunter2").write_text("x")
    assert problems(text, environ) == {}


def test_tls_files_have_to_be_usable_once_the_agent_runs(tmp_path: Path) -> None:
    """At the start they may still come: the agent does more than to connect."""
    bad = tmp_path / "bad.pem"
    bad.write_text("no PEM")
    for file in (bad, tmp_path / "none.pem", tmp_path):
        text = f'[mqtt.tls]\nca = "{file}"\ncert = "{file}"\nkey = "{file}"\n'
        found = problems(text)
        assert found.keys() == {"mqtt.tls.ca", "mqtt.tls.cert"}
        assert all(str(file) in reason and "a PEM file that this user can read" in reason for reason in found.values())
        assert problems(text, starting=True) == {}


def on_a_terminal(code: str) -> str:
    """Return what a program prints that has a terminal on which nobody types."""
    master, terminal = os.openpty()
    take = (
        f"import fcntl, os, termios\nfcntl.ioctl(os.open({os.ttyname(terminal)!r}, os.O_RDWR), termios.TIOCSCTTY, 0)\n"
    )
    try:
        return subprocess.run(
            [sys.executable, "-c", take + code], start_new_session=True, stdout=subprocess.PIPE, text=True, check=True,
            timeout=60,
        ).stdout  # fmt: skip
    finally:
        os.close(master)
        os.close(terminal)


def test_good_tls_files_are_no_trouble_and_an_encrypted_key_is(tmp_path: Path) -> None:
    """Nobody is there to type its passphrase, and nobody is asked for it."""
    made, encrypted = tls_files(tmp_path), tmp_path / "encrypted.pem"
    text = f'[mqtt.tls]\nca = "{made.ca}"\ncert = "{made.client_cert}"\nkey = "{{}}"\n'
    assert problems(text.format(made.client_key)) == {}
    key = ec.generate_private_key(ec.SECP256R1())
    how = serialization.BestAvailableEncryption(b"passphrase")
    encrypted.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how))
    said = on_a_terminal(PROBE.format(text=text.format(encrypted)))
    assert said.startswith(f"a: mqtt.tls.cert: {made.client_cert}, {encrypted}: ")


def test_keys_need_what_verifies_signatures() -> None:
    """Here it is; where it is not, that is said with what to install."""
    assert missing_signatures() is None
    assert problems(f'commands.keys.ops.public = "{KEY}"') == {}
    code = "import sys; sys.modules['cryptography'] = None\n" + PROBE.format(text=f'commands.keys.ops.public = "{KEY}"')
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("a: commands.keys: signed commands need the extra signed")
    assert "pip install 'edge-agent[signed]'" in done.stdout


@pytest.mark.parametrize("text", ["", "mqtt.username = 'u'"])
def test_what_names_nothing_misses_nothing(text: str) -> None:
    """As the defaults."""
    assert problems(text) == {}
