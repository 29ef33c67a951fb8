"""The registry: what is built in, and what other packages bring."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from edge_agent.core.config import HostFacts, parse
from edge_agent.core.config_document import Source
from edge_agent.errors import JobError
from edge_agent.jobs import BUILT_IN, kinds

ROOT = Path(__file__).parents[2]


def brings(folder: Path, monkeypatch: pytest.MonkeyPatch, **points: str) -> None:
    """Install a package ``brings-jobs`` that has entry points."""
    info = folder / "brings_jobs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: brings-jobs\nVersion: 1.0\n")
    lines = "".join(f"{name} = {value}\n" for name, value in points.items())
    (info / "entry_points.txt").write_text(f"[edge_agent.jobs]\n{lines}")
    monkeypatch.syspath_prepend(str(folder))


@pytest.mark.parametrize("name", BUILT_IN)
def test_each_kind_that_is_built_in_describes_itself(name: str) -> None:
    """Under its own name, with words for every option."""
    kind = kinds()[name]
    assert kind.name == name
    assert all(field.description for field in kind.options.model_fields.values())


def test_the_jobs_of_the_reference_suit_their_kinds() -> None:
    """With its examples uncommented, and nothing of them is called unused."""
    lines = (ROOT / "config/edge-agent.toml").read_text().splitlines()
    text = "\n".join(line.removeprefix("#: ") for line in lines if not line.startswith("#: id ="))
    loaded = parse([Source("edge-agent.toml", text.encode())], HostFacts(machine_id="0" * 32), kinds=kinds())
    assert set(loaded.config.jobs) == {"uptime", "load"}
    assert not {"jobs", "programs", "folders", "endpoints", "runner"} & {key.partition(".")[0] for key in loaded.unused}


@pytest.mark.parametrize("name", BUILT_IN)
def test_each_option_is_described_in_the_documentation(name: str) -> None:
    """In the table of its kind, with its default."""
    page = (ROOT / "docs/jobs.md").read_text()
    table = page.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    for option in kinds()[name].options.model_fields:
        assert f"| `{option}` |" in table, f"{name}.{option}"


def test_a_kind_is_imported_when_it_is_asked_for() -> None:
    """And no other, nor the metadata of all packages."""
    code = (
        "import sys; from edge_agent.jobs import kinds; kinds()['exec']; "
        "sys.exit(any(name.startswith('edge_agent.jobs.system') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_a_package_brings_is_a_kind_among_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found by its entry point; what nobody brings is not there."""
    (tmp_path / "brought_kind.py").write_text("from edge_agent.jobs.exec import KIND\n")
    brings(tmp_path, monkeypatch, brought="brought_kind:KIND")
    known = kinds()
    assert known["brought"].name == "exec"
    assert set(known) == {*BUILT_IN, "brought"}
    assert len(known) == len(BUILT_IN) + 1
    assert known.get("nobody") is None


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (
            "import no_such_module",
            "the package brings-jobs does not load: ModuleNotFoundError: No module named 'no_such",
        ),
        ("KIND = = 1", "the package brings-jobs does not load: SyntaxError"),
        ("1 / 0", "the package brings-jobs does not load: ZeroDivisionError: division by zero; repair or remove it"),
        ("", "the package brings-jobs does not load: AttributeError"),
        ("KIND = 1", "the package brings-jobs brings no kind: {module}:KIND is no edge_agent.job_ports.Kind"),
    ],
)
def test_a_package_that_is_broken_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, words: str
) -> None:
    """Whatever it does when it is imported; the other kinds are not touched."""
    module = f"broken_kind_{abs(hash(code))}"
    (tmp_path / f"{module}.py").write_text(code)
    brings(tmp_path, monkeypatch, brought=f"{module}:KIND")
    known = kinds()
    with pytest.raises(JobError) as broken:
        _ = known["brought"]
    assert words.format(module=module) in str(broken.value)
    assert known["exec"].name == "exec"


def test_packages_are_looked_through_once_however_many_kinds_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A configuration from the cloud may name thousands that nobody has; the loop waits meanwhile."""
    looked: list[object] = []

    def look(**which: object) -> metadata.EntryPoints:
        looked.append(which)
        return metadata.EntryPoints()

    monkeypatch.setattr(metadata, "entry_points", look)
    known = kinds()
    assert [known.get(f"nobody{number}") for number in range(100)] == [None] * 100
    assert sorted(known) == sorted(BUILT_IN)
    assert len(looked) == 1
