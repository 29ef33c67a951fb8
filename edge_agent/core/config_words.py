"""What a key of a model may hold, in plain words: for messages and for the documentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal, get_args, get_origin

from annotated_types import Ge, Le, MaxLen, MinLen
from pydantic.fields import FieldInfo

from edge_agent.core.config_document import Path
from edge_agent.core.config_types import FromText, Section

_PLAIN: Final = {bool: "true or false", str: "a text", float: "a number", object: "any value"}


def inner_of(kind: Any, marks: Sequence[object] = ()) -> tuple[Any, list[object]]:  # noqa: ANN401  # as types are
    """Return a type without what it is wrapped in, and its marks: neither ``Annotated`` nor ``| None``."""
    found = list(marks)
    while True:
        if hasattr(kind, "__metadata__"):
            kind, found = kind.__origin__, [*kind.__metadata__, *found]
        elif type(None) in get_args(kind):
            kind = get_args(kind)[0]
        else:
            return kind, found


def field_at(path: Path, model: type[Section]) -> FieldInfo | None:
    """Return the field that stands at a path below a model's table; ``None`` for entries of lists and tables."""
    table = table_at(path[:-1], model)
    return table.model_fields.get(str(path[-1])) if table and path else None


def table_at(path: Path, model: type[Section]) -> type[Section] | None:
    """Return the model whose table stands at a path below that of another; ``None`` where none does."""
    kind: Any = model
    for part in path:
        if get_origin(kind) is dict:
            kind = get_args(kind)[1]
        elif _is_model(kind) and part in kind.model_fields:
            kind, _ = inner_of(kind.model_fields[part].annotation)
        else:
            return None
    return kind if _is_model(kind) else None


def allowed(kind: Any, marks: Sequence[object] = ()) -> str:  # noqa: ANN401  # as types are
    """Return what may stand there, as ``true or false`` or ``a duration like "30s", 100ms to 1d``."""
    kind, marks = inner_of(kind, marks)
    texts = [mark for mark in marks if isinstance(mark, FromText)]
    if texts:
        return _text(texts[-1])
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        *others, last = (f'"{part}"' if isinstance(part, str) else str(part) for part in parts)
        return f"{', '.join(others)} or {last}" if others else last
    if kind is int:
        return f"a whole number{', ' * bool(within(marks))}{within(marks)}"
    if origin is tuple or (origin is dict and parts[1] is not object and not _is_model(parts[1])):
        entries = f"{within(marks)} entries".strip()
        return f"{'an array' if origin is tuple else 'a table'} of {entries}, each {allowed(parts[origin is dict])}"
    return "a table" if origin is dict or _is_model(kind) else _PLAIN.get(kind, "a value of its kind")


def within(marks: Sequence[object]) -> str:
    """Return the range that marks of a number or a length set, as ``1 to 16``; empty without one."""
    least = next(
        (mark.ge if isinstance(mark, Ge) else mark.min_length for mark in marks if isinstance(mark, Ge | MinLen)), None
    )
    most = next(
        (mark.le if isinstance(mark, Le) else mark.max_length for mark in marks if isinstance(mark, Le | MaxLen)), None
    )
    if most is None:
        return "" if least is None else f"at least {least}"
    return f"at most {most}" if least is None else f"{least} to {most}"


def _text(mark: FromText) -> str:
    bounds = f", {' to '.join(mark.bounds)}" if mark.bounds else ""
    return f"{mark.needed}{bounds}" + (
        f", whole multiples of {mark.step}" if mark.step not in {"", "1ms", "1B"} else ""
    )


def _is_model(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)
