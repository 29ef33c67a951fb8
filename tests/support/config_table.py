"""The tables of docs/config.md, made of the models: ``python -m tests.support.config_table`` writes them."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Final, get_args

from edge_agent.core.config_models import Remote
from edge_agent.core.config_remote import LOCAL_ALONE
from edge_agent.core.config_types import FromText, Section
from edge_agent.core.config_words import allowed, inner_of
from tests.support.reference import Keys, default_of, fields

PAGE: Final = Path(__file__).parents[2] / "docs/config.md"
_HEAD: Final = "| key | what stands there | default | meaning |\n|---|---|---|---|\n"


def tables() -> str:
    """Return a table for each section, with a line for each of its keys."""
    sections: dict[tuple[Keys, type[Section]], list[str]] = {}
    for path, model in fields():
        sections.setdefault((path[:-1], model), []).append(_row(model, path[-1]))
    return "\n".join(_section(path, model, rows) for (path, model), rows in sections.items())


def _section(path: Keys, model: type[Section], rows: list[str]) -> str:
    name = ".".join("NAME" if part == "*" else part for part in path)
    title = (
        f"### `[{name}]`\n\n{(inspect.getdoc(model) or '').replace('``', '`')}"
        if path
        else "### At the top, before any section"
    )
    return f"{title}{_from_the_cloud(path)}\n\n{_HEAD}{''.join(rows)}"


def _from_the_cloud(path: Keys) -> str:
    """Return whether configuration from the cloud may say a section; said once, for what is not in another one."""
    if len(path) != 1 and path[1:] != ("*",):
        return ""
    remote = Remote.model_fields["remote"]
    listed, _ = inner_of(remote.annotation)
    if path[0] not in get_args(get_args(listed)[0]):
        return " Local files alone may say it."
    never = [f"`{key}`" for section, key in LOCAL_ALONE if section == path[0]]
    where = "" if path[0] in remote.default else " where `config.remote` names it"
    but = f", but for {', '.join(never)}" if never else ""
    return f" The cloud may say it{where}{but}."


def _row(model: type[Section], key: str) -> str:
    field, default = model.model_fields[key], default_of(model, key)
    shown = f"`{json.dumps(default)}`" if default not in (None, "") else "needed" if field.is_required() else ""
    _, marks = inner_of(field.annotation, field.metadata)
    meaning = field.description or ""
    for mark in marks:
        if isinstance(mark, FromText) and mark.bounds:  # it stands in the column before
            meaning = meaning.replace(f"; {' to '.join(mark.bounds)}.", ".")
    words = allowed(field.annotation, field.metadata).replace("*", r"\*")
    return f"| `{key}` | {words} | {shown} | {meaning} |\n"


def filled(page: str) -> str:
    """Return a page with its generated part as it should be."""
    begin, end = "<!-- keys: generated -->\n", "<!-- keys: end -->"
    page, count = re.subn(f"{begin}.*?{end}", lambda _: begin + tables() + end, page, flags=re.DOTALL)
    assert count == 1, "there is no place for the tables in the page"
    return page


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
