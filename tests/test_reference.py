"""The commented reference of the configuration, its JSON Schema and its documentation say what the models say."""

from __future__ import annotations

import json
import re
import tomllib
from typing import Literal, get_args, get_origin

import jsonschema
import pytest
from hypothesis import given

from edge_agent.cli.check import schema
from edge_agent.core.config import HostFacts, Loaded, parse
from edge_agent.core.config_document import Source, Table
from edge_agent.core.config_models import Config
from edge_agent.core.config_types import FromText, Section
from edge_agent.core.config_words import inner_of, within
from tests.support.bad_files import MAIN, bad_files
from tests.support.config_table import PAGE, filled
from tests.support.configurations import documents
from tests.support.reference import REFERENCE, Entry, Keys, default_of, entries, fields, keys_of, uncommented

SCHEMA = REFERENCE.with_name("edge-agent.schema.json")
JUDGE = jsonschema.Draft202012Validator(schema())
FIELDS = dict(fields())
ENTRIES: dict[Keys, Entry] = {keys_of(entry): entry for entry in reversed(list(entries()))}
FREE = ("jobs", "*", "options")
KEYS = [pytest.param(path, model, id=".".join(path)) for path, model in FIELDS.items() if path != FREE]
RANGE = re.compile(r"\b(?:[0-9]\w* to [0-9]\w*|at most [0-9]+)\b", re.IGNORECASE)


def load(text: str) -> Loaded:
    """Return the configuration that a text is."""
    return parse([Source("a.toml", text.encode())], HostFacts(machine_id="0123456789abcdef0123456789abcdef"))


def test_the_reference_is_the_default_configuration() -> None:
    """As it is, and with every default uncommented; with the examples too it is valid."""
    assert load(uncommented()).config == load("").config
    assert load(uncommented("# ")).config == load("").config
    assert tomllib.loads(uncommented("# ")) != tomllib.loads(uncommented())
    assert load(uncommented("# ", "#: ")).config != load("").config


def test_the_reference_has_every_key_and_no_other() -> None:
    """Options are a job's own: there is an example."""
    assert set(ENTRIES) == set(FIELDS) - {FREE} | {(*FREE, "program")}


@pytest.mark.parametrize(("path", "model"), KEYS)
def test_a_key_of_the_reference_has_its_default(path: Keys, model: type[Section]) -> None:
    """It is marked as one, or, below a name that the user chooses, it is the example or named in the comment."""
    entry, default = ENTRIES[path], default_of(model, path[-1])
    has_one = default is not None and path != ("device", "id")
    assert entry.is_default == (has_one and "*" not in path)
    if not entry.is_default and default:
        shown = tomllib.loads(f"x = {entry.value}")["x"]
        assert shown == default or f"Default: {json.dumps(default)}." in entry.comment


@pytest.mark.parametrize(("path", "model"), KEYS)
def test_a_key_of_the_reference_has_its_range(path: Keys, model: type[Section]) -> None:
    """Each range, step and choice of the model is said above the key, and no other range."""
    comment, value = ENTRIES[path].comment, ENTRIES[path].value
    together = [other for other, entry in ENTRIES.items() if entry.comment == comment and other in FIELDS]
    allowed = {said for other in together for said in ranges(FIELDS[other], other[-1])}
    assert {said.lower() if said[0] in "Aa" else said for said in RANGE.findall(comment)} == allowed
    kind, marks = inner_of(model.model_fields[path[-1]].annotation, model.model_fields[path[-1]].metadata)
    assert ("whole seconds" in comment) == any(isinstance(mark, FromText) and mark.step == "1s" for mark in marks)
    choices, _ = inner_of(get_args(kind)[0]) if get_origin(kind) is tuple else (kind, ())
    if get_origin(choices) is Literal:
        assert [said for said in map(json.dumps, get_args(choices)) if said not in f"{comment} {value}"] == []


def ranges(model: type[Section], name: str) -> set[str]:
    """Return the range of a key's value, and that of its length, as far as there are some."""
    _, marks = inner_of(model.model_fields[name].annotation, model.model_fields[name].metadata)
    bounds = {" to ".join(mark.bounds) for mark in marks if isinstance(mark, FromText) and mark.bounds}
    return bounds | ({within(marks)} - {""})


def test_the_documentation_has_every_key() -> None:
    """With what may stand there, its default and its meaning; see tests/support/config_table."""
    assert filled(PAGE.read_text()) == PAGE.read_text(), "run python -m tests.support.config_table"
    assert all(f"| `{path[-1]}` |" in PAGE.read_text() for path in FIELDS)


# -- the schema


def test_the_schema_beside_the_reference_is_that_of_check() -> None:
    """A good one, and the reference names it for editors."""
    regenerate = "run edge-agent check --schema > config/edge-agent.schema.json"
    assert json.loads(SCHEMA.read_text()) == schema(), regenerate
    JUDGE.check_schema(schema())
    assert REFERENCE.read_text().startswith(f"#:schema {SCHEMA.name}\n")


def test_the_schema_takes_the_reference() -> None:
    """As it is, with its defaults, and with its examples."""
    for markers in ((), ("# ",), ("# ", "#: ")):
        JUDGE.validate(tomllib.loads(uncommented(*markers)))


def test_the_schema_takes_templates() -> None:
    """They are filled in before the models see them; what cannot be filled in, the schema cannot know."""
    JUDGE.validate({"device": {"id": "gw-{serial}"}, "mqtt": {"prefix": "plant/{id}"}})
    for bad in ({"device": {"id": "gw {serial"}}, {"mqtt": {"prefix": "plant/{serial}"}}):
        assert not JUDGE.is_valid(bad)


@given(documents())
def test_the_schema_takes_what_the_models_take(document: Table) -> None:
    """Whatever is valid."""
    Config.model_validate(document)
    JUDGE.validate(document)


UNSAID = {
    # to JSON Schema 80.0 is a whole number
    "a-decimal",
    # how long, how large, which port
    "a-duration-below", "a-duration-above", "no-whole-seconds", "a-size-below", "a-port-beyond",
    # keys against each other
    "password-without-username", "polls-crossed", "a-record-larger-than-the-outbox",
    # what this system, the kinds and other tables know
    "an-unknown-zone", "an-unknown-kind", "an-unknown-option", "an-option-out-of-range", "no-program-named",
    "a-command-line-for-a-program", "a-program-that-is-not-there", "a-folder-that-is-not-there",
    "a-folder-that-may-not-be-pruned", "fallback-to-nobody",
    # grammars
    "no-filter", "a-cron-of-4-fields", "a-cron-out-of-range", "a-cron-that-never-fires", "a-quartz-weekday",
}  # fmt: skip
"""Bad files in which only the models find what is wrong: no schema can say it."""


def bad_documents() -> list[tuple[str, Table]]:
    """Return the bad files that are good TOML, and have a key that is wrong."""
    found = [(bad.name, bad.files.get(MAIN)) for bad in bad_files() if bad.problems[0].key and len(bad.files) == 1]
    return [(name, tomllib.loads(text.decode("utf-8-sig"))) for name, text in found if isinstance(text, bytes)]


def test_the_schema_refuses_what_the_models_refuse() -> None:
    """Unknown keys, types, choices, ranges of numbers and patterns; the rest is listed here."""
    taken = {name for name, document in bad_documents() if JUDGE.is_valid(document)}
    assert taken == UNSAID
