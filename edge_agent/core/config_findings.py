"""What is wrong with a table, in plain words: what was found, what is allowed, and the nearest known key."""

from __future__ import annotations

from typing import Any, Final, TypeVar

from annotated_types import Ge, Le, MaxLen, MinLen
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from edge_agent.core.config_document import Path
from edge_agent.core.config_types import Section, kind_of
from edge_agent.core.config_words import allowed, field_at, table_at, within
from edge_agent.core.units import quoted

M = TypeVar("M", bound=Section)


def validated(model: type[M], table: object) -> tuple[M | None, list[tuple[Path, str]]]:
    """Return the model of what a table holds, or ``None`` and everything that is wrong, each with its place there."""
    try:
        return model.model_validate(table), []
    except ValidationError as invalid:
        errors = invalid.errors(include_url=False)
        return None, [(_path(error), _reason(error, model)) for error in errors if not _echo(error)]


def nearest(word: str, known: list[str]) -> str:
    """Return which known word was probably meant, or all of them."""
    import difflib  # noqa: PLC0415  # needed only for a message: 0.1 MiB

    found = difflib.get_close_matches(word[:64], known, n=1)
    return f"did you mean '{found[0]}'?" if found else f"known here: {', '.join(known) or 'none'}"


def _path(error: ErrorDetails) -> Path:
    return tuple(part for part in error["loc"] if part != "[key]")  # what pydantic adds where a dict's key is wrong


def _echo(error: ErrorDetails) -> bool:
    """Whether a list is called too short only because an entry of it was wrong, which is said already."""
    return error["type"] == "too_short" and len(error["input"]) >= error["ctx"]["min_length"]


_NEEDED: Final = {
    "model_type": "a table is needed",
    "dict_type": "a table is needed",
    "tuple_type": "an array is needed",
    "int_type": "a whole number is needed",
    "bool_type": "true or false is needed",
    "literal_error": "{expected} is allowed",
    "greater_than_equal": "{within} is allowed",
    "less_than_equal": "{within} is allowed",
    "too_short": "{within} are allowed",
    "too_long": "{within} are allowed",
}
_MARKS: Final = {"ge": Ge, "le": Le, "min_length": MinLen, "max_length": MaxLen}
_SHOWN: Final = {"literal_error", "greater_than_equal", "less_than_equal"}  # where the value cannot be a secret


def _reason(error: ErrorDetails, model: type[Section]) -> str:
    """Return pydantic's finding in plain words: what was found, what is allowed."""
    match error["type"]:
        case "value_error":
            return str(error["ctx"]["error"])
        case "extra_forbidden":
            return _unknown_key(error["loc"], model)
        case "missing":
            field = field_at(error["loc"], model)
            return "this key is needed" + (f": {allowed(field.annotation, field.metadata)}" if field else "")
        case kind if kind in _NEEDED:
            field = field_at(error["loc"], model)
            context = error.get("ctx", {})
            marks = field.metadata if field else [_MARKS[name](context[name]) for name in context if name in _MARKS]
            needed = _NEEDED[kind].format(**context, within=within(marks)).replace("'", '"')
            return f"found {_found(kind, error['input'])}; {needed}"
        case _:  # a package's own options
            return error["msg"]


def _found(kind: str, value: Any) -> str:  # noqa: ANN401
    if kind in {"too_short", "too_long"}:
        return f"{len(value)} entries"
    if kind in _SHOWN and isinstance(value, str):
        return quoted(value)
    return str(value) if kind in _SHOWN and type(value) is int else kind_of(value)


def _unknown_key(path: Path, model: type[Section]) -> str:
    key, table = str(path[-1]), table_at(path[:-1], model)
    known = list(table.model_fields) if table else []
    return f"unknown key '{quoted(key)[1:-1]}'; {nearest(key, known)}"
