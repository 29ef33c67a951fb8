"""Configuration files as documents."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.config_document import MAX_SOURCE_BYTES, Source, Table, dotted, lay_over, merge, read_layers
from edge_agent.errors import ConfigError, ConfigProblem


def problem_of(text: bytes) -> ConfigProblem:
    """Return the one problem of a file."""
    with pytest.raises(ConfigError) as bad:
        merge(read_layers([Source("f.toml", text)]))
    (problem,) = bad.value.problems
    return problem


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (b"a =", 1, "TOML, at its end: found no value; a text in quotes"),
        (b"\na = [\n", 2, "TOML, at its end"),
        (b"a = 1\nb = = 2\n", 2, "TOML, column 5: found no value"),
        (b"[a]\n[a]\n", 2, "TOML, column 3: found a table that stands here already"),
        (b"a = 1\na = 2\n", 2, "TOML, column 6: found a key that stands here already"),
        (b"a = 1\nb = \xff\n", 2, "not UTF-8"),
        (b"\x00", 1, "TOML"),
        (b"a = 2026-02-31T00:00:00Z", 1, "TOML, column 5: found a date or time that does not exist"),
        (b"#" * (MAX_SOURCE_BYTES + 1), None, "larger than 1MiB"),
        (b"a = " + b"[" * 100_000, None, "found tables or arrays in each other; 16 levels are allowed"),
        (b"#\n" + b"a." * 100_000 + b"b = 1", 2, "found 100000 dots in one line; 500 are allowed"),
        (b"a = " + b"9" * 5000, None, "found a whole number beyond 64 bits; -2^63 to 2^63-1 is allowed"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_document_is_one_problem(text: bytes, line: int | None, words: str) -> None:
    """It names the file, the line where there is one, and why."""
    problem = problem_of(text)
    assert (problem.file, problem.key, problem.line) == ("f.toml", "", line)
    assert words in problem.reason
    assert problem.reason.isprintable()


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        (b"a = " + b"[" * 17 + b"]" * 17, "a" + "[0]" * 16, "16 levels are allowed"),
        (b"a." * 20 + b"b = 1", ".".join("a" * 17), "16 levels are allowed"),
        (b"a = 0x" + b"f" * 50_000, "a", "found a whole number beyond 64 bits"),
        (b"t.a = 9223372036854775808", "t.a", "found a whole number beyond 64 bits; -2^63 to 2^63-1 is allowed"),
        (b'a = [1, {"b c" = nan}]', 'a[1]."b c"', "found nan; a finite number is needed"),
        (b"a = -1e400", "a", "found -inf"),
    ],
    ids=["arrays", "tables", "hex", "65-bits", "nan", "inf"],
)
def test_a_value_that_nobody_could_use_is_named(text: bytes, key: str, words: str) -> None:
    """With its key, since the text itself is good TOML."""
    problem = problem_of(text)
    assert (problem.key, problem.line) == (key, None)
    assert words in problem.reason


def test_all_bad_files_are_named() -> None:
    """One bad file does not hide the next."""
    with pytest.raises(ConfigError) as bad:
        merge(read_layers([Source("a", b"x"), Source("b", b""), Source("c", b"y")]))
    assert [problem.file for problem in bad.value.problems] == ["a", "c"]


def test_tables_merge_and_everything_else_replaces() -> None:
    """The last file that set a key is its origin."""
    first = Source("a", b"x = [1, 2]\n[t]\none = 1\ntwo = 2\n[t.u]\nv = 1\n[w]\nz = 1\n")
    second = Source("b", b"x = [3]\nw = 5\n[t]\ntwo = 3\n[t.u]\nw = 2\n[n]\n")
    merged, origins = merge(read_layers([first, second]))
    assert merged == {"x": [3], "w": 5, "t": {"one": 1, "two": 3, "u": {"v": 1, "w": 2}}, "n": {}}
    assert (origins[("t", "one")], origins[("t", "two")], origins[("x",)]) == ("a", "b", "b")


def test_a_table_replaces_what_is_no_table() -> None:
    """The kinds need not agree between files."""
    assert merge(read_layers([Source("a", b"x = 1"), Source("b", b"x.y = 2")]))[0] == {"x": {"y": 2}}


def test_a_byte_order_mark_and_windows_line_ends_are_taken() -> None:
    """What an editor elsewhere writes is read."""
    assert merge(read_layers([Source("a", b"\xef\xbb\xbfa = 1\r\nb = 2\r\n")]))[0] == {"a": 1, "b": 2}


def test_a_key_is_shown_as_it_is_written() -> None:
    """Unusual names are quoted, places in lists counted."""
    assert dotted(("jobs", "a b", "x", 3)) == 'jobs."a b".x[3]'
    assert dotted(()) == ""


LAYERS = st.recursive(
    st.dictionaries(st.sampled_from("ab"), st.integers(0, 3) | st.lists(st.integers(0, 1), max_size=2)),
    lambda inner: st.fixed_dictionaries({}, optional={"a": st.integers(0, 3), "t": inner, "u": inner}),
    max_leaves=6,
)


@given(LAYERS, LAYERS, LAYERS)
def test_layers_may_be_laid_together_in_any_grouping(first: Table, second: Table, third: Table) -> None:
    """Where a key is a table in all of them or in none; nothing but the lowest is touched."""

    def laid(below: Table, above: Table) -> Table:
        both = copy.deepcopy(below)
        lay_over(both, above)
        return both

    kept = copy.deepcopy(third)
    assert laid(laid(first, second), third) == laid(first, laid(second, third))
    laid(laid(first, second), third).setdefault("t", {})["new"] = 1
    assert third == kept
