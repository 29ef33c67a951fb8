"""What is left out of memory, and still there for who needs it."""

from __future__ import annotations

import subprocess
import sys


def in_a_fresh_interpreter(code: str) -> str:
    """Return what a program prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.strip()


def test_the_daemon_s_imports_bring_neither_http_nor_mail() -> None:
    """Nothing that it imports uses them."""
    code = """
import sys
from edge_agent.cli.lean import defer_unused
defer_unused()
import edge_agent.cli.run
from edge_agent.core.config_models import Config
Config()
print(sorted({"email", "http.client", "zipfile", "urllib.response"} & set(sys.modules)))
"""
    assert in_a_fresh_interpreter(code) == "[]"


def test_who_uses_a_deferred_module_gets_it() -> None:
    """By attribute, by from-import, and by a second import."""
    code = """
from edge_agent.cli.lean import defer_unused
defer_unused()
import importlib.metadata, urllib.request
from importlib.metadata import version
assert version("pydantic") == importlib.metadata.version("pydantic")
assert urllib.request.Request("http://x").host == "x"
print("all there")
"""
    assert in_a_fresh_interpreter(code) == "all there"
