"""The rules of the house, checked on the source itself; nothing is imported and no tool beyond Python is needed."""

from __future__ import annotations

import ast
import io
import tokenize
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
PACKAGE: Final = ROOT / "edge_agent"
MAX_LINES_OF_A_FILE: Final = 400
MAX_CODE_LINES_OF_THE_PACKAGE: Final = 17_600
WITHOUT_A_TEST_FILE: Final = {
    "edge_agent/ports.py": "protocols only; tests/contracts holds every implementation to them",
    "edge_agent/clock_ports.py": "protocols only, as ports.py",
    "edge_agent/config_ports.py": "protocols only; their implementations are config_reader and config_store",
    "edge_agent/command_ports.py": "declarations only; tested by the commands in tests/commands",
    "edge_agent/job_ports.py": "declarations only; tested by the kinds in tests/jobs",
    "edge_agent/errors.py": "declarations only; tested where each error is raised",
}


@cache
def _modules() -> dict[str, Path]:
    """Return every module of the package by its dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def _contracts() -> list[dict[str, Any]]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = settings["tool"]["importlinter"]["contracts"]
    assert isinstance(contracts, list)
    return contracts


def _imports(module: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the dotted name of everything a module imports, wherever in it."""
    for node in ast.walk(ast.parse(_modules()[module].read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield node.lineno, submodule if submodule in _modules() else node.module


def _is_in(module: str, parent: str) -> bool:
    return module == parent or module.startswith(f"{parent}.")


def _place(module: str, layers: list[str]) -> tuple[int, str] | None:
    """Return the depth of a module's layer, 0 the topmost, and its name; ``None`` outside the layers."""
    for depth, layer in enumerate(layers):
        for name in layer.split("|"):
            if _is_in(module, name.strip()):
                return depth, name.strip()
    return None


def _layer_violations(layers: list[str]) -> Iterator[str]:
    for module in _modules():
        here = _place(module, layers)
        for line, imported in _imports(module) if here else ():
            there = _place(imported, layers)
            if here and there and here != there and there[0] <= here[0]:
                yield f"{module}:{line} imports {imported}, which is not below it"


def _forbidden_violations(contract: dict[str, Any]) -> Iterator[str]:
    for module in _modules():
        if any(_is_in(module, source) for source in contract["source_modules"]):
            for line, imported in _imports(module):
                if any(_is_in(imported, name) for name in contract["forbidden_modules"]):
                    yield f"{module}:{line} imports {imported}: {contract['name']}"


def _lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def test_each_layer_imports_only_from_below() -> None:
    """The layers of pyproject.toml hold, also between siblings, inside functions and under TYPE_CHECKING."""
    contracts = [contract for contract in _contracts() if contract["type"] == "layers"]
    assert contracts
    assert [found for contract in contracts for found in _layer_violations(contract["layers"])] == []


def test_every_part_of_the_package_stands_in_a_layer() -> None:
    """No module escapes the rule by being new."""
    layers = [layer for contract in _contracts() if contract["type"] == "layers" for layer in contract["layers"]]
    assert [module for module in _modules() if module != "edge_agent" and not _place(module, layers)] == []


def test_the_core_is_pure_and_libraries_have_one_importer() -> None:
    """No module imports what a contract of pyproject.toml forbids it."""
    contracts = [contract for contract in _contracts() if contract["type"] == "forbidden"]
    assert any(contract["source_modules"] == ["edge_agent.core"] for contract in contracts)
    assert [found for contract in contracts for found in _forbidden_violations(contract)] == []


def test_imports_are_absolute() -> None:
    """No relative import in the package."""
    relative = [
        f"{module}:{node.lineno}"
        for module, path in _modules().items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert relative == []


def test_no_file_is_longer_than_can_be_read_in_one_sitting() -> None:
    """At most 400 lines each."""
    lengths = {str(path.relative_to(ROOT)): _lines(path) for path in _modules().values()}
    assert {name: length for name, length in lengths.items() if length > MAX_LINES_OF_A_FILE} == {}


def _code_lines(path: Path) -> int:
    """Count the lines that hold code: what explains it costs nothing."""
    source = path.read_text()
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in skipped:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = node.body[0] if ast.get_docstring(node) is not None else None
            lines -= set() if text is None else set(range(text.lineno, (text.end_lineno or 0) + 1))
    return len(lines)


def test_the_package_stays_small() -> None:
    """It grows only on purpose: whoever needs more room looks first for what may go."""
    assert sum(_code_lines(path) for path in _modules().values()) < MAX_CODE_LINES_OF_THE_PACKAGE


def test_every_module_has_its_test_file() -> None:
    """``edge_agent/X/Y.py`` has ``tests/X/test_Y.py``; a module of the top level may have it in ``tests/agent``."""
    missing = []
    for path in _modules().values():
        relative = path.relative_to(ROOT)
        if path.stem in ("__init__", "__main__") or str(relative) in WITHOUT_A_TEST_FILE:
            continue
        folder = ROOT / "tests" / relative.relative_to("edge_agent").parent
        candidates = [folder / f"test_{path.stem}.py"]
        if path.parent == PACKAGE:
            candidates.append(ROOT / "tests" / "agent" / f"test_{path.stem}.py")
        if not any(candidate.exists() for candidate in candidates):
            missing.append(f"{relative} has no {candidates[0].relative_to(ROOT)}")
    assert missing == []


def test_exemptions_are_not_stale() -> None:
    """Whatever is excused from a test file exists and has none."""
    for name in WITHOUT_A_TEST_FILE:
        assert (ROOT / name).exists(), f"{name} is gone; take it off the list"
