"""What configuration from the cloud may say: the sections that local files open to it, and nothing that is only theirs.

Programs, folders, endpoints, credentials, keys and paths are the local files' alone: whoever holds the broker must not
come by them. Keys that this version does not know are left out and named, so that one document serves a mixed fleet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, Final, get_args, get_origin

import orjson

from edge_agent.core.config_document import Layer, Path, Table, dotted, unfit
from edge_agent.core.config_kinds import Described
from edge_agent.core.config_models import Config
from edge_agent.core.config_types import Section
from edge_agent.errors import ConfigError, ConfigProblem, JobError

MAX_DESIRED_BYTES: Final = 128 << 10
"""What large clouds carry in a message; a device is busy for seconds with the jobs that find room in it."""

MAX_VERSION: Final = (1 << 53) - 1
"""What every JSON parser takes for a whole number."""

LOCAL_ALONE: Final = (("mqtt", "username"), ("mqtt", "password_file"), ("mqtt", "tls"))
"""Keys of sections that may be opened to the cloud, and that local files alone may say."""

LOCAL_PATHS: Final = (("metrics", "listen"),)
"""Keys that may be said, but for a path."""


@dataclass(frozen=True, slots=True)
class Desired:
    """A configuration that the cloud wants: its version, and what it says."""

    version: int
    config: Table

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return f"cloud version {self.version}"

    @property
    def kinds(self) -> set[str]:
        """The kinds of job that it names."""
        jobs = _table(self.config, "jobs")
        return {kind for name in jobs if isinstance(kind := _table(jobs, name).get("kind"), str)}


@dataclass(frozen=True, slots=True)
class Admitted:
    """What is taken of it.

    Attributes:
        layer: the keys that are taken, to be laid over the files.
        ignored: the keys that are not known here.
        wrong: the keys that it may not say, and why.
        jobs: the names of the jobs that it says something of.
        remote: those of them whose kind or options it says: their options may hold no path or URL, not even one that
            was in a file, for it was meant for something else.
    """

    layer: Layer
    ignored: list[Path] = field(default_factory=list)
    wrong: list[tuple[Path, str]] = field(default_factory=list)
    jobs: frozenset[str] = frozenset()
    remote: frozenset[str] = frozenset()


def parse_desired(said: Mapping[str, Any]) -> Desired:
    """Return the configuration that an object ``{"version": 7, "config": {…}}`` holds.

    Raises:
        ConfigError: it holds none.
    """
    version: Any = said.get("version")
    config: Any = said.get("config")
    wrong: tuple[Path, str] | None = None
    if type(version) is not int or not 1 <= version <= MAX_VERSION:
        wrong = ("version",), f"a whole number of 1 to {MAX_VERSION} is needed, larger than the last one"
    elif not isinstance(config, dict):
        wrong = ("config",), 'a table is needed, like {"heartbeat": {"every": "30s"}}'
    elif (wrong := unfit(config)) is None and (size := len(orjson.dumps(config))) > MAX_DESIRED_BYTES:
        wrong = ("config",), f"{size} bytes, numbers written out; {MAX_DESIRED_BYTES} are allowed"
    if wrong is not None:
        raise ConfigError([ConfigProblem("", dotted(wrong[0]), wrong[1])])
    return Desired(version, config)


def parse_payload(payload: bytes) -> Mapping[str, Any]:
    """Return the JSON object that arrived.

    Raises:
        ValueError: it is too large, or none.
    """
    if len(payload) > MAX_DESIRED_BYTES:
        raise ValueError(f"{len(payload)} bytes; {MAX_DESIRED_BYTES} are allowed")
    try:
        said = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"no JSON: {error}") from None
    if not isinstance(said, dict):
        raise ValueError('an object like {"version": 1, "config": {}} is needed')  # noqa: TRY004  # one kind of trouble
    return said


def admit(desired: Desired, local: Table, kinds: Mapping[str, Described] | None) -> Admitted:
    """Return what is taken of it, over what local files say."""
    ignored: list[Path] = []
    config = _known(desired.config, Config, (), ignored)
    opened = _opened(local)
    wrong: list[tuple[Path, str]] = []
    for section, table in config.items():
        if section not in opened:
            wrong.append(((section,), f"not open to the cloud; config.remote opens {', '.join(opened) or 'nothing'}"))
        if not isinstance(table, dict) and any(section == only for only, _ in LOCAL_ALONE):
            wrong.append(((section,), "a table is needed; it also holds what only local files may say"))
        for key, value in table.items() if isinstance(table, dict) else ():
            is_path = (section, key) in LOCAL_PATHS and str(value).startswith("/")
            if (section, key) in LOCAL_ALONE or is_path:
                wrong.append(((section, key), "only local files may say that"))
    jobs = {name: job for name, job in _table(config, "jobs").items() if isinstance(job, dict)}
    for name, job in jobs.items():
        kind = {**_table(_table(local, "jobs"), name), **job}.get("kind")
        model = _options_of(kind, kinds)
        if model is not None and isinstance(options := job.get("options"), dict):
            unset = {key: None for key, value in options.items() if value is None}  # of another kind, perhaps
            said = {key: value for key, value in options.items() if value is not None}
            job["options"] = unset | _known(said, model, ("jobs", name, "options"), ignored)
    remote = frozenset(name for name, job in jobs.items() if "kind" in job or "options" in job)
    return Admitted(Layer(desired.name, config), ignored, wrong, frozenset(_table(config, "jobs")), remote)


def _opened(local: Table) -> Sequence[str]:
    """Return the sections that the files open; where they say nonsense, it is said when they are validated."""
    said = _table(local, "config").get("remote")
    default: tuple[str, ...] = Config.model_fields["config"].annotation.model_fields["remote"].default  # type: ignore[union-attr]
    return default if said is None else [one for one in said if isinstance(one, str)] if isinstance(said, list) else ()


def _options_of(kind: object, kinds: Mapping[str, Described] | None) -> type[Section] | None:
    try:
        found = kinds.get(kind) if kinds is not None and isinstance(kind, str) else None
    except JobError:  # it is there and cannot be used, which is said when the jobs are checked
        return None
    return None if found is None else found.options


def _known(value: Any, kind: Any, path: Path, ignored: list[Path]) -> Any:  # noqa: ANN401
    """Return a copy of a value without the keys that its model does not know."""
    if not isinstance(value, dict):
        return value
    if get_origin(kind) is UnionType:
        kind = get_args(kind)[0]
    if get_origin(kind) is dict:
        return {key: _known(inner, get_args(kind)[1], (*path, key), ignored) for key, inner in value.items()}
    if not (isinstance(kind, type) and issubclass(kind, Section)):
        return dict(value)
    fields = kind.model_fields
    ignored += [(*path, key) for key in value if key not in fields]
    return {
        key: _known(inner, fields[key].annotation, (*path, key), ignored)
        for key, inner in value.items()
        if key in fields
    }


def _table(table: Table, name: str) -> Table:
    found = table.get(name)
    return found if isinstance(found, dict) else {}
