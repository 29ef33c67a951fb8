"""Configuration files as documents."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.config_document import MAX_SOURCE_BYTES, Source, Table, lay_over, merge
from edge_agent.errors import ConfigError, ConfigProblem


def problem_of(text: bytes) -> ConfigProblem:
    """Return the one problem of a file."""
    with pytest.raises(ConfigError) as bad:
        merge([Source("f.toml", text)])
    (problem,) = bad.value.problems
    return problem


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (b"a =", 1, "Invalid value at the end of the file"),
        (b"\na = [\n", 2, "at the end of the file"),
        (b"a = 1\nb = = 2\n", 2, "TOML: Invalid value at column 5"),
        (b"[a]\n[a]\n", 2, "twice"),
        (b"a = 1\na = 2\n", 2, "Cannot overwrite a value"),
        (b"a = 1\nb = \xff\n", 2, "not UTF-8"),
        (b"\x00", 1, "TOML"),
        (b"a = 2026-02-31T00:00:00Z", 1, "TOML: Invalid date"),
        (b"#" * (MAX_SOURCE_BYTES + 1), None, "larger than 1MiB"),
        (b"a = " + b"[" * 100_000, None, "nested deeper"),
        (b"a = " + b"[" * 17 + b"]" * 17, None, "nested deeper than 16 levels"),
        (b"a." * 20 + b"b = 1", None, "nested deeper than 16 levels"),
        (b"#\n" + b"a." * 100_000 + b"b = 1", 2, "more than 500 dots in one line"),
        (b"a = " + b"9" * 5000, None, "TOML: Exceeds the limit (4300 digits)"),
        (b"a = 0x" + b"f" * 50_000, None, "64 bits"),
        (b"a = 9223372036854775808", None, "64 bits"),
        (b"a = [1, {b = nan}]", None, "inf and nan"),
        (b"a = 1e400", None, "inf and nan"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_document_is_one_problem(text: bytes, line: int | None, words: str) -> None:
    """It names the file, the line where there is one, and why."""
    problem = problem_of(text)
    assert (problem.file, problem.key, problem.line) == ("f.toml", "", line)
    assert words in problem.reason
    assert problem.reason.isprintable()


def test_all_bad_files_are_named() -> None:
    """One bad file does not hide the next."""
    with pytest.raises(ConfigError) as bad:
        merge([Source("a", b"x"), Source("b", b""), Source("c", b"y")])
    assert [problem.file for problem in bad.value.problems] == ["a", "c"]


def test_tables_merge_and_everything_else_replaces() -> None:
    """The last file that set a key is its origin."""
    first = Source("a", b"x = [1, 2]\n[t]\none = 1\ntwo = 2\n[t.u]\nv = 1\n[w]\nz = 1\n")
    second = Source("b", b"x = [3]\nw = 5\n[t]\ntwo = 3\n[t.u]\nw = 2\n[n]\n")
    merged, origins = merge([first, second])
    assert merged == {"x": [3], "w": 5, "t": {"one": 1, "two": 3, "u": {"v": 1, "w": 2}}, "n": {}}
    assert (origins[("t", "one")], origins[("t", "two")], origins[("x",)]) == ("a", "b", "b")


def test_a_table_replaces_what_is_no_table() -> None:
    """The kinds need not agree between files."""
    assert merge([Source("a", b"x = 1"), Source("b", b"x.y = 2")])[0] == {"x": {"y": 2}}


def test_a_byte_order_mark_and_windows_line_ends_are_taken() -> None:
    """What an editor elsewhere writes is read."""
    assert merge([Source("a", b"\xef\xbb\xbfa = 1\r\nb = 2\r\n")])[0] == {"a": 1, "b": 2}


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
