"""The folder behind the inbox and the spool; what is said of both stands in their own tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.adapters.drop_folder import MAX_LISTED, DropFolder
from edge_agent.ports import Arrival


def drop(folder: Path, name: str, content: str = "x") -> None:
    """Put a file in."""
    (folder / name).write_text(content)


def taken(folder: DropFolder) -> list[Arrival]:
    """Return all that can be read now."""
    batch, left = folder.read(folder.names(""))
    assert left == []
    return batch


def test_names_come_in_order_and_never_too_many(tmp_path: Path) -> None:
    """Those that match."""
    for number in range(MAX_LISTED + 10):
        drop(tmp_path, f"{number:05}.x")
        if number % 100 == 0:
            drop(tmp_path, f"{number:05}.y")
    folder = DropFolder(tmp_path, max_bytes=10, keys="k", pattern="*.x")
    first = folder.names("")
    assert first == [f"{number:05}.x" for number in range(MAX_LISTED)]
    assert len(folder.names(first[-1])) == 10


def test_a_folder_is_made_only_when_it_is_told_what_to_do_with_it(tmp_path: Path) -> None:
    """One that somebody else should have made is an error."""
    with pytest.raises(FileNotFoundError):
        DropFolder(tmp_path / "a", max_bytes=10, keys="k").names("")
    made: list[int] = []
    assert DropFolder(tmp_path / "a", max_bytes=10, keys="k", made=made.append).names("") == []
    assert len(made) == 1


def test_a_changed_file_has_another_identity(tmp_path: Path) -> None:
    """One that has gone has none."""
    drop(tmp_path, "a")
    folder = DropFolder(tmp_path, max_bytes=10, keys="k")
    before = folder.identities(["a", "b"])
    assert list(before) == ["a"]
    (arrival,) = taken(folder)
    assert arrival.identity == before["a"]
    drop(tmp_path, "a", "xx")
    assert folder.identities(["a"]) != before
    assert folder.settle([(arrival, None)]) == []
    assert (tmp_path / "a").exists()


def test_keys_begin_as_they_are_told(tmp_path: Path) -> None:
    """So that two folders have none in common."""
    drop(tmp_path, "a")
    assert taken(DropFolder(tmp_path, max_bytes=10, keys="one:two"))[0].key.startswith("one:two:")


def test_an_archived_file_keeps_its_name_if_it_is_free(tmp_path: Path) -> None:
    """Else the time of its last change is added."""
    folder = DropFolder(tmp_path, max_bytes=10, keys="k", archive=True)
    for content in ("1", "22"):
        drop(tmp_path, "a", content)
        assert folder.settle([(arrival, None) for arrival in taken(folder)]) == []
    names = sorted(path.name for path in (tmp_path / "archive").iterdir())
    assert names[0] == "a"
    assert names[1].startswith("a.")
