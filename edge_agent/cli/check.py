"""``edge-agent check``: is the configuration valid, and if not, what is wrong with it."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from typing import Any, cast

import orjson
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import SchemaSerializer, core_schema
from typing_extensions import override

from edge_agent.adapters.config_files import default_path
from edge_agent.adapters.config_reader import ConfigReader
from edge_agent.cli.options import add
from edge_agent.cli.printing import say, say_json, show
from edge_agent.core.config_models import Config
from edge_agent.errors import ConfigError
from edge_agent.jobs import kinds


def describe(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options to its parser."""
    parser.add_argument("--schema", action="store_true", help="print the JSON Schema of the configuration instead")
    add(parser, "--config", "--json")


def run(args: argparse.Namespace) -> int:
    """Print what is found; return 0 if the configuration is valid, else 78."""
    if args.schema:
        say(orjson.dumps(schema(), option=orjson.OPT_INDENT_2).decode())
        return 0
    reader = ConfigReader(default_path(args.config, os.environ), os.environ, kinds)
    try:
        loaded = reader.parse(reader.read())
    except ConfigError as invalid:
        if not args.json:
            raise
        say_json({"ok": False, "problems": [asdict(problem) for problem in invalid.problems], "unused": []})
        return invalid.exit_code
    line = f"ok: {', '.join(loaded.sources)}, device {loaded.config.device.id}, digest {loaded.digest}"
    unused = [f"not used yet: {', '.join(loaded.unused)}"] if loaded.unused else []
    who = {"files": loaded.sources, "device": loaded.config.device.id, "digest": loaded.digest}
    show({"ok": True, "problems": [], "unused": loaded.unused} | who, [line, *unused], as_json=args.json)
    return 0


def schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of the configuration as it is written in TOML."""
    return {"$schema": GenerateJsonSchema.schema_dialect} | Config.model_json_schema(schema_generator=_AsWritten)


class _AsWritten(GenerateJsonSchema):
    """States what a file may hold: defaults as "1m", not nanoseconds; no null; no names that are not allowed."""

    @override
    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])  # TOML has no null

    @override
    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        table = super().dict_schema(schema)
        return table | {"additionalProperties": False} if "patternProperties" in table else table

    @override
    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        inner, default = self.generate_inner(schema["schema"]), schema.get("default")
        # a table's defaults stand in its own schema
        if default is None or isinstance(default, BaseModel):
            return inner
        written = SchemaSerializer(schema["schema"]).to_python(default, mode="json")
        return cast("JsonSchemaValue", inner | {"default": written})
