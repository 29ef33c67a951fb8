"""Valid configurations, as the tables of a file, made of the models' own fields."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, get_args, get_origin

from annotated_types import Ge, Le, MinLen
from hypothesis import strategies as st

from edge_agent.core.config_document import Table
from edge_agent.core.config_jobs import Job
from edge_agent.core.config_models import Config, Mqtt, Outbox, Time, Tls
from edge_agent.core.config_types import FromText, Section
from edge_agent.core.units import parse_duration, parse_size

_WHEN: Final = ("every", "cron", "at", "after")
_OPTIONS: Final = st.recursive(
    st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
# what no pattern describes, by what is said to be needed
_TEXTS: Final = {
    'a URL like "https://example.com/status"': ("http://192.0.2.7/status", "https://h:8080/a?b=c"),
    'a URL like "mqtt://localhost:1883"': ("mqtt://localhost", "mqtts://[2001:db8::1]:8883", "wss://h/mqtt?x=1"),
    "host:port or the absolute path of a Unix socket": ("127.0.0.1:9464", "[::1]:80", "/run/x.sock"),
    'a host like "ntp1.example"': ("ntp1.example", "ntp2.example:123", "10.0.0.1"),
    'a topic filter like "ops/replies/#"': ("ops/replies/#", "+/x", "#"),
    'a zone like "Europe/Berlin"': ("UTC", "local", "Europe/Berlin"),
    'a cron expression like "*/5 * * * *"': ("*/5 * * * *", "0/30  * * * * ?", "@daily"),
    'a time like "2026-12-01T00:00:00Z"': ("2026-12-01T00:00:00Z", "2026-12-01T01:00:00.25+01:00"),
    "an Ed25519 public key in base64url": ("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", "A" * 43),
}


def documents() -> st.SearchStrategy[Table]:
    """Return whole configurations; any key may be left out."""
    return tables(Config)


def tables(model: type[Section]) -> st.SearchStrategy[Table]:
    """Return the tables that a model takes."""
    fields = {name: (_values(field.annotation, field.metadata), field) for name, field in model.model_fields.items()}
    needed = {name: values for name, (values, field) in fields.items() if field.is_required()}
    other = {name: values for name, (values, field) in fields.items() if not field.is_required()}
    return st.fixed_dictionaries(needed, optional=other).map(_TOGETHER.get(model, lambda table: table))


def _values(kind: Any, marks: list[Any]) -> st.SearchStrategy[Any]:  # noqa: ANN401
    while hasattr(kind, "__metadata__"):
        kind, marks = kind.__origin__, [*marks, *kind.__metadata__]
    origin, inner = get_origin(kind), get_args(kind)
    if type(None) in inner:
        return _values(inner[0], marks)
    if text := [mark for mark in marks if isinstance(mark, FromText)]:
        return _texts(text[-1])
    if isinstance(kind, type) and issubclass(kind, Section):
        return tables(kind)
    bounds = {type(mark): mark for mark in marks}
    if origin in {tuple, dict}:
        least = bounds[MinLen].min_length if MinLen in bounds else 0
        first = _values(inner[0], [])
        if origin is tuple:
            return st.lists(first, min_size=least, max_size=3)
        return st.dictionaries(first, _values(inner[1], []), max_size=3)
    scalars: dict[Any, Callable[[], st.SearchStrategy[Any]]] = {
        Literal: lambda: st.sampled_from(inner),
        int: lambda: st.integers(bounds[Ge].ge, bounds[Le].le),
        bool: st.booleans,
        str: lambda: st.text(max_size=8),
        object: lambda: _OPTIONS,
    }
    return scalars[origin or kind]()


def _texts(mark: FromText) -> st.SearchStrategy[str]:
    if mark.bounds is not None:
        parse = parse_size if mark.bounds[0].endswith("B") else parse_duration
        step = parse(mark.step)
        least, most = (parse(bound) // step for bound in mark.bounds)
        return st.integers(least, most).map(lambda count: mark.show(count * step))
    return (
        st.sampled_from(_TEXTS[mark.needed]) if mark.needed in _TEXTS else st.from_regex(mark.pattern, fullmatch=True)
    )


# -- what belongs together


def _job(table: Table) -> Table:
    when = [key for key in _WHEN if key in table] or ["every"]
    table = {key: value for key, value in table.items() if key not in when[1:]}
    return table if when[0] in table else table | {"every": "1m"}


def _tls(table: Table) -> Table:
    return table if ("cert" in table) == ("key" in table) else table | {"cert": "/cert.pem", "key": "/key.pem"}


def _mqtt(table: Table) -> Table:
    for key in {"client_id", "username"} & table.keys():
        table[key] = table[key].replace("{", "(")  # placeholders are tested elsewhere
    return {"username": "u"} | table if "password_file" in table else table


def _time(table: Table) -> Table:
    polls = sorted((table.get("poll_min", "64s"), table.get("poll_max", "36h")), key=parse_duration)
    return table | dict(zip(("poll_min", "poll_max"), polls, strict=True))


def _outbox(table: Table) -> Table:
    if parse_size(table.get("max_record", "120KiB")) > parse_size(table.get("max_bytes", "64MiB")):
        del table["max_bytes"]
    return table


def _config(table: Table) -> Table:
    jobs = table.get("jobs", {})
    for name, job in jobs.items():
        if "fallback" in job:
            job["fallback"] = next((other for other in jobs if other != name), None)
            job.setdefault("breaker", {})
        if job.get("fallback", "") is None:
            del job["fallback"]
    return table


_TOGETHER: Final = {Job: _job, Tls: _tls, Mqtt: _mqtt, Time: _time, Outbox: _outbox, Config: _config}
