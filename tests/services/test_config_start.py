"""Which configuration the agent starts with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edge_agent.adapters.config_reader import ConfigReader
from edge_agent.adapters.config_store import ConfigStore
from edge_agent.core.cloud_config import CloudConfig
from edge_agent.core.config_diff import MAX_TOLD
from edge_agent.core.config_document import Source
from edge_agent.core.config_memory import ConfigMemory, Entry, Pin, Snapshot, fingerprint
from edge_agent.core.config_remote import Desired
from edge_agent.core.timebase import RawNs, seconds
from edge_agent.errors import ConfigError, ConfigProblem
from edge_agent.jobs import kinds
from edge_agent.services.config_start import Begun, begin, fit, reasons
from tests.support.configuring import HEAD, Disk

ONE, TWO = (Desired(version, {"heartbeat": {"every": f"{version}s"}}) for version in (1, 2))
FAULTY = Desired(3, {"heartbeat": {"every": "1ms"}})


class Place:
    """The files of a device, and what is remembered of them."""

    def __init__(self, folder: Path) -> None:
        self.files = ConfigReader(folder / "a.toml", {}, kinds)
        self.store: ConfigStore = Disk(folder)
        self.write("10s")

    def write(self, every: str, rest: str = "") -> None:
        """Edit the file."""
        self.files.path.write_text(f'{HEAD}heartbeat.every = "{every}"\n{rest}')

    def start(self, *, boot: str = "b", s: float = 0) -> Begun:
        """Start."""
        found: list[Source] | ConfigError
        try:
            found = self.files.read()
        except ConfigError as unreadable:
            found = unreadable
        return begin(self.files, found, self.store, boot=boot, raw=RawNs(seconds(s)))

    async def remember(self, cloud: CloudConfig | None = None) -> ConfigMemory:
        """Have what is in force now remembered, as the agent that runs does."""
        cloud = cloud or CloudConfig()
        sources = self.files.read()
        loaded, _ = fit(self.files, sources, cloud.layer)
        memory = ConfigMemory(
            cloud, None, (Entry("2027-01-15T08:00:00.000000Z", loaded.digest, "files", loaded.version, []),)
        )
        await self.store.save_soon(memory, {loaded.digest: Snapshot(tuple(sources), cloud.layer)})
        return memory


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Return a device with a good file that says 10 s."""
    return Place(tmp_path)


def every(begun: Begun) -> float:
    """Return the interval of heartbeats in seconds."""
    return begun.loaded.config.heartbeat.every / 1e9


pytestmark = pytest.mark.virtual


async def test_good_files_count(place: Place) -> None:
    """With nothing remembered, nothing from the cloud, and no trace left."""
    begun = place.start()
    assert (every(begun), begun.memory, begun.rejected, begun.unfit) == (10, ConfigMemory(), (), ())
    assert begun.snapshot == Snapshot(tuple(place.files.read()), None)
    assert begun.seen == fingerprint(place.files.read())
    assert not (place.files.path.parent / "config").exists()


@pytest.mark.parametrize("text", ["[[[", 'heartbeat.every = "1ms"', 'x = "\\u0000"', "device.id = 5", None])
async def test_bad_files_at_the_first_start_are_an_error(text: str | None, place: Place) -> None:
    """There is nothing to go by."""
    place.files.path.unlink()
    if text is not None:
        place.files.path.write_text(text)
    with pytest.raises(ConfigError):
        place.start()


@pytest.mark.parametrize("text", ["[[[", 'heartbeat.every = "1ms"', None])
async def test_after_that_what_was_in_force_last_counts(
    text: str | None, place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """What is wrong is said, with what the cloud has said over it."""
    await place.remember(CloudConfig().take(ONE))
    place.files.path.unlink()
    if text is not None:
        place.files.path.write_text(text)
    begun = place.start()
    assert (every(begun), begun.loaded.version) == (1, 1)
    assert begun.snapshot.sources[0].text == f'{HEAD}heartbeat.every = "10s"\n'.encode()
    assert len(begun.rejected) == 1
    assert [record.getMessage() for record in caplog.records] == ["config_rejected", "config_of_before"]


async def test_of_another_file_what_was_in_force_does_not_count(place: Place, tmp_path: Path) -> None:
    """Whoever names another one with --config does not want that."""
    await place.remember()
    place.files = replace(place.files, path=tmp_path / "b.toml")
    with pytest.raises(ConfigError, match="no such file"):
        place.start()


async def test_where_what_was_in_force_was_not_kept_bad_files_are_an_error(place: Place) -> None:
    """Or is not valid any more; the error is that of the files."""
    memory = await place.remember()
    place.write("1ms")
    (place.files.path.parent / "config" / f"{memory.in_force}.json").write_text("{")
    with pytest.raises(ConfigError, match="1ms"):
        place.start()


async def test_what_the_cloud_says_counts_if_it_fits_the_files(place: Place) -> None:
    """If not, the files count alone, and it is said why."""
    await place.remember(CloudConfig().take(ONE))
    assert (every(place.start()), place.start().unfit) == (1, ())
    place.write("10s", "config.remote = []\n")
    begun = place.start()
    assert (every(begun), begun.loaded.version, begun.rejected) == (10, None, ())
    assert [key for key, _ in begun.unfit] == ["heartbeat"]
    assert begun.snapshot.desired == ONE
    assert begun.memory.cloud.layer == ONE


async def test_each_start_with_a_trial_is_counted_before_anything_else(place: Place) -> None:
    """On the disk; the third one starts without it, and the log says so."""
    await place.remember(CloudConfig().take(ONE).begin(TWO, boot="b", raw=RawNs(0), within=seconds(10)))
    for number in (1, 2):
        begun = place.start()
        assert every(begun) == 2
        trial = place.store.load().cloud.trial
        assert trial is not None
        assert trial.starts == number
    begun = place.start()
    assert (every(begun), begun.memory.cloud.verdict()[:2]) == (1, (2, "rolled_back"))
    assert place.store.load().cloud == begun.memory.cloud
    assert every(place.start()) == 1


async def test_a_start_that_is_taken_back_is_logged(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """Once: after that there is no trial."""
    await place.remember(CloudConfig().begin(TWO, boot="b", raw=RawNs(0), within=seconds(10)))
    for _ in range(5):
        place.start()
    assert [record.getMessage() for record in caplog.records] == ["config_rolled_back"]


async def test_a_disk_that_fails_does_not_keep_the_agent_from_starting(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """A change on trial is not started with, where a start with it cannot be counted."""
    await place.remember(CloudConfig().begin(TWO, boot="b", raw=RawNs(0), within=seconds(10)))
    assert isinstance(place.store, Disk)
    place.store.fails = True
    for _ in range(5):
        assert every(place.start()) == 10
    assert {record.getMessage() for record in caplog.records} == {"config_not_kept", "config_rolled_back"}


# ---------------------------------------------------------------- what somebody has gone back to
async def gone_back(place: Place) -> ConfigMemory:
    """Have somebody go back to 10 s from 20 s, which the file says."""
    memory = await place.remember()
    place.write("20s")
    memory = replace(memory, pin=Pin(memory.in_force or "", fingerprint(place.files.read())))
    place.store.save(memory)
    return memory


async def test_what_somebody_has_gone_back_to_counts_until_the_files_change(place: Place) -> None:
    """Over restarts; once they have changed it is gone for good, whatever they say later."""
    await gone_back(place)
    for _ in range(2):
        begun = place.start()
        assert (every(begun), begun.memory.pin is not None) == (10, True)
    place.write("30s")
    begun = place.start()
    assert (every(begun), begun.memory.pin) == (30, None)


async def test_bad_files_do_not_end_it(place: Place) -> None:
    """What was in force is what was gone back to."""
    memory = await gone_back(place)
    place.write("1ms")
    begun = place.start()
    assert (every(begun), begun.memory.pin, len(begun.rejected)) == (10, memory.pin, 1)


async def test_bad_files_may_be_gone_back_from(place: Place) -> None:
    """As long as they stay as they are, nobody complains."""
    memory = await place.remember()
    place.write("1ms")
    place.store.save(replace(memory, pin=Pin(memory.in_force or "", fingerprint(place.files.read()))))
    begun = place.start()
    assert (every(begun), begun.rejected) == (10, ())


@pytest.mark.parametrize("damage", ["{", '{"form": 1, "sources": [["a.toml", "x = 1"]], "desired": null}'])
async def test_where_it_cannot_be_gone_back_to_good_files_count(damage: str, place: Place) -> None:
    """It is damaged, or not valid for this version of the agent: no reason not to start."""
    memory = await gone_back(place)
    (place.files.path.parent / "config" / f"{memory.in_force}.json").write_text(damage)
    begun = place.start()
    assert (every(begun), begun.memory.pin) == (20, None)


# ---------------------------------------------------------------- what is told
async def test_files_have_to_be_valid_by_themselves(place: Place) -> None:
    """What the cloud says does not mend them."""
    place.write("1ms")
    with pytest.raises(ConfigError, match="1ms"):
        fit(place.files, place.files.read(), ONE)
    place.write("10s")
    loaded, unfit = fit(place.files, place.files.read(), FAULTY)
    assert (loaded.version, [key for key, _ in unfit]) == (None, ["heartbeat.every"])


def test_of_many_problems_so_many_are_told() -> None:
    """And how many more there are."""
    some = [ConfigProblem("f", f"k{number}", "why") for number in range(MAX_TOLD)]
    assert reasons(ConfigError(some)) == tuple((one.key, "why") for one in some)
    told = reasons(ConfigError([*some, *some[:7]]))
    assert (len(told), told[-1]) == (MAX_TOLD + 1, ("", "7 more"))


async def test_what_the_cloud_told_another_device_does_not_count(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither after a new id nor on a copy of the disk: the versions of the new one begin anew."""
    await place.store.save_soon((await place.remember(CloudConfig().take(TWO))).of("dev-1"), {})
    assert every(place.start()) == 2
    text = place.files.path.read_text()
    place.files.path.write_text(text.replace("dev-1", "dev-2"))
    begun = place.start()
    assert (every(begun), begun.loaded.version, begun.memory.cloud) == (10, None, CloudConfig())
    assert begun.memory.cloud.judge(ONE) == "new"
    assert [record.getMessage() for record in caplog.records] == ["config_of_another_device"]
    place.files.path.write_text(text)
    assert every(place.start()) == 2  # as long as nothing was kept since
