"""How an operator's verb finds its broker."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from edge_agent.cli.operating import Target, find_target
from edge_agent.cli.watch import describe
from edge_agent.errors import ConfigError, UsageError


def target(*arguments: str, **environ: str) -> Target:
    """Return what the options, and the environment, lead to."""
    parser = argparse.ArgumentParser()
    describe(parser)
    return find_target(parser.parse_args(arguments), environ, verb="watch")


def test_without_a_broker_and_a_configuration_it_says_what_to_give(tmp_path: Path) -> None:
    """One line."""
    with pytest.raises(UsageError, match=r"no broker named, and .*/none\.toml cannot be read; give --broker"):
        target("--config", str(tmp_path / "none.toml"))


def test_a_broker_in_the_options_is_all_that_is_used() -> None:
    """The configuration, with its login, is not read then; the client id is no one else's."""
    found = target("--broker", "mqtts://h", "--prefix", "x/y", "--config", "/none")
    assert (str(found.broker), found.prefix, found.login.username, found.login.password()) == (
        *("mqtts://h:8883", "x/y"),
        *(None, None),
    )
    assert re.fullmatch(r"edge-agent-watch-[0-9a-f]{8}", found.login.client_id)
    assert found.login.session_expiry == 0
    assert found.login.client_id != target("--broker", "mqtt://h").login.client_id


def test_the_configuration_names_the_operators_broker(tmp_path: Path) -> None:
    """The prefix is the devices' unless it, or an option, says otherwise; the password is in a file."""
    file = tmp_path / "x.toml"
    (tmp_path / "secret").write_text("hunter2\n")
    file.write_text(
        '[device]\nid = "d"\n[mqtt]\nprefix = "p"\nusername = "device"\n'
        '[operator]\nbroker = "mqtt://op"\nusername = "op"\n'
        f'password_file = "{tmp_path}/secret"\n'
    )
    found = target(EDGE_AGENT_CONFIG=str(file))
    assert (str(found.broker), found.prefix) == ("mqtt://op:1883", "p")
    assert (found.login.username, found.login.password()) == ("op", "hunter2")
    assert target("--config", str(file), "--prefix", "q").prefix == "q"


def test_without_an_operators_broker_it_is_the_devices_first(tmp_path: Path) -> None:
    """With the authority that the device trusts, and without the device's own login."""
    file = tmp_path / "x.toml"
    file.write_text(
        '[device]\nid = "d"\n[mqtt]\nbrokers = ["mqtts://one", "mqtts://two"]\nusername = "device"\n'
        '[mqtt.tls]\nca = "/ca.pem"\ncert = "/c.pem"\nkey = "/k.pem"\n'
    )
    found = target("--config", str(file))
    assert (str(found.broker), found.prefix, found.login.username) == ("mqtts://one:8883", "edge", None)
    assert (found.login.tls.ca, found.login.tls.cert) == ("/ca.pem", None)


def test_a_wrong_configuration_is_said(tmp_path: Path) -> None:
    """As every verb does."""
    file = tmp_path / "x.toml"
    file.write_text('[operator]\nbroker = "http://x"\n')
    with pytest.raises(ConfigError, match=r"operator\.broker"):
        target("--config", str(file))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--broker", "http://x"], r"--broker: found \"http://x\"; a URL like"),
        (["--broker", "mqtt://x", "--prefix", "a#"], r"--prefix: found \"a#\"; a path of topic levels"),
    ],
)
def test_a_wrong_option_is_named(arguments: list[str], text: str) -> None:
    """With what is allowed."""
    with pytest.raises(UsageError, match=text):
        target(*arguments)
