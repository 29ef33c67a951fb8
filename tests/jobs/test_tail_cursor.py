"""What a tail remembers."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.errors import JobError
from edge_agent.jobs.tail_cursor import Cursor, Place, begin, end, load

PLACES = [Place(1, 4711, "a.log", 0, 10, "m"), Place(2, 4712, "b.log")]


def test_the_first_time_there_is_nothing(tmp_path: Path) -> None:
    """Not even the folder."""
    assert load(tmp_path / "own") == Cursor()


def test_a_pass_is_begun_until_it_is_ended(tmp_path: Path) -> None:
    """And what is begun counts more than what was ended before."""
    folder = tmp_path / "own"
    begin(folder, Cursor(PLACES, 2))
    assert load(folder) == Cursor(PLACES, 2, begun=True)
    end(folder)
    assert load(folder) == Cursor(PLACES, 2, begun=False)
    begin(folder, Cursor(PLACES[:1], 3))
    assert load(folder) == Cursor(PLACES[:1], 3, begun=True)


def test_what_a_crash_left_half_written_is_not_read(tmp_path: Path) -> None:
    """It has another name until it is whole."""
    begin(tmp_path, Cursor(PLACES, 2))
    end(tmp_path)
    (tmp_path / "tail-begun.json~").write_text('{"us')
    assert load(tmp_path) == Cursor(PLACES, 2)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"used": 1, "places": [[1]]}', '{"used": 1, "places": 5}'])
def test_damage_is_said_and_not_guessed_at(tmp_path: Path, content: str) -> None:
    """To begin anew would double everything."""
    (tmp_path / "tail.json").write_text(content)
    with pytest.raises(JobError, match=r"tail.json: damaged; remove it"):
        load(tmp_path)
