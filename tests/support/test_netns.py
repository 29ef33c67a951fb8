"""The network of our own."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import aiomqtt
import pytest

from tests.support.brokers import mosquitto
from tests.support.netns import namespace

pytestmark = [pytest.mark.root, pytest.mark.broker]


async def test_a_cut_link_is_silent_and_heals(tmp_path: Path) -> None:
    """After a cut nothing arrives and nothing is refused; after healing the same connection goes on."""
    with namespace() as space:
        async with (
            mosquitto(tmp_path, host=space.inside, command_prefix=space.prefix) as broker,
            aiomqtt.Client(broker.host, broker.port, protocol=aiomqtt.ProtocolVersion.V5, timeout=20) as client,
        ):
            await client.publish("t", b"before", qos=1)
            space.cut()
            pending = asyncio.create_task(client.publish("t", b"during", qos=1))
            done, _ = await asyncio.wait([pending], timeout=1.0)
            assert not done
            space.heal()
            await pending


def test_two_namespaces_exist_side_by_side_and_leave_nothing() -> None:
    """Names and addresses differ, and the namespace is gone afterwards, with what ran in it."""
    with namespace() as one, namespace() as other:
        assert one.name != other.name
        assert one.inside != other.inside
        assert one.inside in one.run("ip", "addr")
        sleeper = subprocess.Popen([*one.prefix, "sleep", "1000"])
    assert sleeper.wait(timeout=5) != 0
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert one.name not in listed
    assert other.name not in listed


def test_it_is_gone_after_a_failure() -> None:
    """An exception in the block does not keep the namespace."""
    with pytest.raises(ZeroDivisionError), namespace() as space:
        raise ZeroDivisionError
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert space.name not in listed
