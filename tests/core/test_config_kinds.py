"""Jobs against their kinds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field
from typing_extensions import override

from edge_agent.core.config import HostFacts, parse
from edge_agent.core.config_document import Source
from edge_agent.core.config_kinds import Described, EndpointName, FolderName, ProgramName, Reference, check_jobs
from edge_agent.core.config_models import Config
from edge_agent.core.config_types import Listed, Section
from edge_agent.errors import ConfigError, JobError


class Runs(Section):
    """Names a program."""

    program: ProgramName
    times: int = Field(1, ge=1)


class Sweeps(Section):
    """Names a folder."""

    mode: Literal["look", "clean"] = "look"
    folder: Annotated[
        FolderName, Reference("folders", lambda options: ("read", "delete") if options.mode == "clean" else ("read",))
    ]


class Asks(Section):
    """Names an endpoint."""

    endpoint: EndpointName


class Takes(Section):
    """Takes texts, which may be paths."""

    text: str
    paths: Listed[str]
    tables: dict[str, dict[str, str]]


@dataclass
class Kind:
    """A kind of job."""

    options: type[Section]


class Kinds(Mapping[str, Described]):
    """Three kinds, and one that does not load."""

    known = {"runs": Kind(Runs), "sweeps": Kind(Sweeps), "asks": Kind(Asks)}  # noqa: RUF012

    @override
    def __getitem__(self, name: str) -> Described:
        if name == "broken":
            raise JobError("the package p does not load")
        return self.known[name]

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(self.known)

    @override
    def __len__(self) -> int:
        return len(self.known)


def found(kind: str, **options: Any) -> list[tuple[str, str]]:  # noqa: ANN401
    """Return what is wrong with a job."""
    tables = {
        "programs": {"backup": {"argv": ["/bin/true"]}},
        "folders": {"logs": {"path": "/x"}, "spool": {"path": "/y", "may": ["read", "delete"]}},
        "endpoints": {"meter": {"url": "http://h/"}},
        "jobs": {"j": {"kind": kind, "every": "1m", "options": options}},
    }
    wrong = check_jobs(Config.model_validate(tables), Kinds())
    return [(".".join(map(str, path)), reason) for path, reason in wrong]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("runs", {"program": "backup", "times": 2}),
        ("sweeps", {"folder": "logs"}),
        ("sweeps", {"folder": "spool", "mode": "clean"}),
        ("sweeps", {"folder": "/var/log", "mode": "clean"}),
        ("asks", {"endpoint": "meter"}),
        ("asks", {"endpoint": "http://localhost:8080/x"}),
    ],
)
def test_a_good_job_is_not_mentioned(kind: str, options: dict[str, Any]) -> None:
    """By name, by path or by URL."""
    assert found(kind, **options) == []


@pytest.mark.parametrize(
    ("kind", "options", "key", "reason"),
    [
        ("runz", {}, "jobs.j.kind", "unknown kind 'runz'; did you mean 'runs'?"),
        ("x", {}, "jobs.j.kind", "unknown kind 'x'; known here: asks, runs, sweeps"),
        ("broken", {}, "jobs.j.kind", "the package p does not load"),
        ("runs", {}, "jobs.j.options.program", "this key is needed"),
        ("runs", {"program": "backup", "tims": 1}, "jobs.j.options.tims", "unknown key 'tims'; did you mean 'times'?"),
        ("runs", {"program": "backup", "times": 0}, "jobs.j.options.times", "found 0; at least 1 is allowed"),
        (
            "runs",
            {"program": "backp"},
            "jobs.j.options.program",
            "found \"backp\"; there is no [programs.backp]; did you mean 'backup'?",
        ),
        (
            "runs",
            {"program": "/bin/sh"},
            "jobs.j.options.program",
            "found 7 characters; the name of a program below [programs] is needed",
        ),
        ("sweeps", {"folder": "tmp"}, "jobs.j.options.folder", "there is no [folders.tmp]; known here: logs, spool"),
        ("sweeps", {"folder": "tmp/x"}, "jobs.j.options.folder", "the name of a folder or an absolute path is needed"),
        (
            "sweeps",
            {"folder": "logs", "mode": "clean"},
            "jobs.j.options.folder",
            'folders.logs.may does not allow it; add "delete"',
        ),
        ("asks", {"endpoint": "ftp://h"}, "jobs.j.options.endpoint", "a URL like"),
    ],
)
def test_a_bad_job_is_answered_with_its_key_and_the_fix(
    kind: str, options: dict[str, Any], key: str, reason: str
) -> None:
    """In the words of the rest of the configuration."""
    ((where, why),) = found(kind, **options)
    assert where == key
    assert reason in why


def test_the_configuration_as_a_whole_is_checked_with_it() -> None:
    """With the file in which the option stands; without kinds, nobody looks."""
    sources = [
        Source("a.toml", b'[jobs.j]\nkind = "runs"\nevery = "1m"\n'),
        Source("b.toml", b'[jobs.j.options]\nprogram = "p"\n'),
    ]
    with pytest.raises(ConfigError) as bad:
        parse(sources, HostFacts(mac="02:00:00:00:00:01"), kinds=Kinds())
    (problem,) = bad.value.problems
    assert (problem.file, problem.key) == ("b.toml", "jobs.j.options.program")
    assert parse(sources, HostFacts(mac="02:00:00:00:00:01")).config.jobs["j"].options == {"program": "p"}


def test_options_from_afar_hold_no_path_at_all() -> None:
    """Not even where no reference marks it: what the kind would do with it is not known."""
    options = {"text": "a/b", "paths": ["x", "/etc"], "tables": {"t": {"deep": "/root/.ssh"}}}
    config = Config.model_validate({"jobs": {"j": {"kind": "takes", "every": "1m", "options": options}}})
    kinds = {"takes": Kind(Takes)}
    said = "only local files may say a path"
    assert list(check_jobs(config, kinds, remote=("j",))) == [
        (("jobs", "j", "options", "paths", 1), said),
        (("jobs", "j", "options", "tables", "t", "deep"), said),
    ]
    assert list(check_jobs(config, kinds)) == []
