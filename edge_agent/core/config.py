"""From the bytes of configuration files to one valid ``Config``, or to everything that is wrong with them.

The steps: read each file as TOML, merge them, put the profile's defaults underneath, fill in templates, validate. Only
``ConfigError`` comes out, whatever the bytes are. No message repeats a value that may be a secret.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, TypeAlias

from edge_agent.core.config_document import Layer, Path, Source, Table, dotted, lay_over, merge, read_layers
from edge_agent.core.config_findings import validated
from edge_agent.core.config_kinds import Described, check_jobs
from edge_agent.core.config_models import Config
from edge_agent.core.config_remote import Desired, admit
from edge_agent.core.units import quoted
from edge_agent.errors import ConfigError, ConfigProblem

_NOT_YET: Final = ("metrics", "api")
_KEYS_NOT_YET: Final = ("device.labels",)
_METERED: Final = {
    "heartbeat": {"every": "15m"},
    "mqtt": {"keepalive": "20m", "will_delay": "60s"},
    "outbox": {"batch": 50},
    "time": {"poll_min": "1024s", "poll_max": "36h"},
}
_AT_START: Final = (("device", "id"), ("state", "dir"), ("time", "first_sync_wait"))
"""Keys that only a restart changes."""
_PLACEHOLDER: Final = re.compile(r"\{([^{}]*)\}")
_APPLICATION_ID: Final = bytes.fromhex("5d0c7a3be8f14c1f9b6e2a47d390c815")

CommonName: TypeAlias = Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What the host knows about itself, for templates; ``None`` where it does not know."""

    machine_id: str | None = None
    serial: str | None = None
    mac: str | None = None
    hostname: str | None = None
    cert_cn: str | None = None


@dataclass(frozen=True, slots=True)
class Loaded:
    """A valid configuration.

    Attributes:
        config: the models, templates filled in.
        digest: 12 hex digits that change when anything in ``config`` does.
        unused: keys that were set and whose part is not built yet.
        sources: names of the files it was read from.
        origins: which layer said a key last: a file, the profile, the cloud; for what is not there nobody did.
        version: of what the cloud says in it; ``None`` = nothing.
        ignored: keys that the cloud says and this version does not know.
        cloud_jobs: names of the jobs of which the cloud says something.
        pending: keys that the files have changed and that only a restart changes.
    """

    config: Config
    digest: str
    unused: tuple[str, ...]
    sources: tuple[str, ...]
    origins: Mapping[Path, str]
    version: int | None = None
    ignored: tuple[str, ...] = ()
    cloud_jobs: frozenset[str] = frozenset()
    pending: tuple[str, ...] = ()

    def problem(self, path: Path, reason: str) -> ConfigProblem:
        """Return what is wrong with a key of it, and the layer that says so."""
        return ConfigProblem(_origin(path, self.origins, self.sources[0]), dotted(path), reason)


def parse(
    sources: Sequence[Source],
    facts: HostFacts,
    *,
    common_name: CommonName | None = None,
    kinds: Mapping[str, Described] | None = None,
    desired: Desired | None = None,
    held: Config | None = None,
) -> Loaded:
    """Return the configuration that files make up, the later over the earlier, and the cloud's over them.

    Args:
        sources: the files in order.
        facts: what templates may use.
        common_name: reads the common name out of a certificate file; asked only if a template needs it.
        kinds: of job, by name; ``None`` = the jobs' kinds and options are not looked at.
        desired: what the cloud says.
        held: a configuration that is in force: what of it only a restart changes stays as it is.

    Raises:
        ConfigError: with all problems found, in file order, those of the cloud's after them.
    """
    layers = read_layers(sources)

    def parsed(*above: Layer) -> Loaded:
        return _parse(layers, above, facts, common_name, kinds, desired)

    new = parsed()
    if held is None:
        return new
    was, said = (config.model_dump(mode="json", include={*dict(_AT_START)}) for config in (held, new.config))
    pending = [(section, key) for section, key in _AT_START if was[section][key] != said[section][key]]
    if not pending:
        return new
    above = [Layer("until a restart", {section: {key: was[section][key]}}) for section, key in pending]
    return replace(parsed(*above), pending=tuple(dotted(path) for path in pending))


def _parse(
    layers: Sequence[Layer],
    above: Sequence[Layer],
    facts: HostFacts,
    common_name: CommonName | None,
    kinds: Mapping[str, Described] | None,
    desired: Desired | None,
) -> Loaded:
    names = [layer.name for layer in layers] or [""]
    admitted = None if desired is None else admit(desired, merge(layers)[0], kinds)
    layers = [*layers, *(() if admitted is None else (admitted.layer,)), *above]
    merged, origins = merge(layers)
    if merged.get("profile") == "metered":
        said, (merged, sparing) = merged, merge([Layer("profile metered", _METERED)])
        lay_over(merged, said)
        origins = sparing | origins
    found = list(_fill_templates(merged, facts, common_name))
    config, wrong = validated(Config, merged)
    found += wrong + ([] if admitted is None else admitted.wrong)
    if config is not None:
        found += _dangling(config)
        found += () if kinds is None else check_jobs(config, kinds, remote=admitted.remote if admitted else ())
        if not found:
            return Loaded(
                config,
                digest(config),
                unused_keys(merged),
                tuple(names),
                origins,
                version=None if desired is None else desired.version,
                ignored=tuple(dotted(path) for path in admitted.ignored) if admitted else (),
                cloud_jobs=admitted.jobs if admitted else frozenset(),
            )
    order = [*names, "profile metered", *(layer.name for layer in layers)]
    problems = [ConfigProblem(_origin(path, origins, names[0]), dotted(path), reason) for path, reason in found]
    raise ConfigError(sorted(problems, key=lambda problem: order.index(problem.file)))


def stated_dir(found: Sequence[Source] | ConfigError) -> str | None:
    """Return the state directory that files name, valid or not; ``None`` = they name none, or cannot be read."""
    return None if isinstance(found, ConfigError) else _stated_path(found, "state", "dir")


def stated_socket(found: Sequence[Source]) -> str | None:
    """Return the control socket that files name, valid or not; ``None`` = they name none."""
    return _stated_path(found, "control", "socket")


def _stated_path(found: Sequence[Source], section: str, key: str) -> str | None:
    layers: list[Layer] = []
    for source in found:
        with suppress(ConfigError):  # the others may say it
            layers += read_layers([source])
    table = merge(layers)[0].get(section)
    named = table.get(key) if isinstance(table, dict) else None
    return named if isinstance(named, str) and named.startswith("/") else None


def digest(config: Config) -> str:
    """Return 12 hex digits that are equal for equal configurations, in whatever order their keys were written."""
    canonical = json.dumps(config.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def unused_keys(merged: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the keys that a merged document sets and whose part is not built yet, as ``section.key``."""
    tables = ((section, table) for section, table in merged.items() if isinstance(table, dict))
    keys = ((section, dotted((section, key))) for section, table in tables for key in table)
    return tuple(key for section, key in keys if section in _NOT_YET or key in _KEYS_NOT_YET)


def derived_id(facts: HostFacts) -> str | None:
    """Return the default device id, or ``None`` when the host knows neither a machine id nor a MAC address.

    A machine id is confidential (machine-id(5)), so it is hashed with an id of this application, as
    sd_id128_get_machine_app_specific(3) does: ``systemd-id128 machine-id --app-specific=`` shows the same digits.
    """
    identity = facts.machine_id or facts.mac
    if identity is None:
        return None
    key = bytes.fromhex(identity) if re.fullmatch(r"[0-9a-f]{32}", identity) else identity.encode()
    hashed = bytearray(hmac.digest(key, _APPLICATION_ID, "sha256")[:8])
    hashed[6] = hashed[6] & 0x0F | 0x40  # it is made a UUID of version 4 there
    return f"edge-{hashed.hex()}"


def _fill_templates(data: Table, facts: HostFacts, common_name: CommonName | None) -> Iterator[tuple[Path, str]]:
    """Replace templates in place; yield what cannot be, and leave something valid there."""
    device, mqtt = _table(data, "device"), _table(data, "mqtt")
    template = device.get("id")
    if template is None:
        device["id"] = derived_id(facts) or "unknown"
        if device["id"] == "unknown":
            yield ("device", "id"), "this host has neither a machine id nor a MAC address; set device.id"
    elif isinstance(template, str):
        known = asdict(facts)
        tls = mqtt.get("tls")
        cert = tls.get("cert") if isinstance(tls, dict) else None
        if "{cert_cn}" in template and known["cert_cn"] is None and common_name is not None and isinstance(cert, str):
            known["cert_cn"] = common_name(cert)
        yield from _fill(device, ("device", "id"), known)
    identity = device["id"] if isinstance(device["id"], str) else "unknown"
    mqtt.setdefault("client_id", "{id}")
    for key in ("prefix", "username", "client_id"):
        yield from _fill(mqtt, ("mqtt", key), {"id": identity})


def _table(data: Table, name: str) -> Table:
    table = data.setdefault(name, {})
    return table if isinstance(table, dict) else {}


def _fill(table: Table, path: tuple[str, str], known: Mapping[str, str | None]) -> Iterator[tuple[Path, str]]:
    template = table.get(path[1])
    if not isinstance(template, str):
        return
    filled = _PLACEHOLDER.sub(lambda match: known.get(match[1]) or match[0], template)
    missing = _PLACEHOLDER.findall(filled)
    if missing:
        table[path[1]] = "unknown"
        available = ", ".join(f"{{{name}}}" for name, value in known.items() if value is not None) or "none"
        why = "is not known on this device" if missing[0] in known else "is no placeholder"
        yield path, f"{quoted('{' + missing[0] + '}')} {why}; available: {available}"
    else:
        table[path[1]] = filled


def _dangling(config: Config) -> Iterator[tuple[Path, str]]:
    for name, job in config.jobs.items():
        if job.fallback is not None and (job.fallback == name or job.fallback not in config.jobs):
            yield ("jobs", name, "fallback"), f"found {quoted(job.fallback)}; the name of another job is needed"


def _origin(path: Path, origins: Mapping[Path, str], main: str) -> str:
    """Return the file that set a key last, or the nearest table around it, or else the main file."""
    return next((origins[path[:end]] for end in range(len(path), 0, -1) if path[:end] in origins), main)
