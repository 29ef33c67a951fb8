"""``edge-agent keygen``: a key pair for signed commands."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

from edge_agent.adapters.config_probe import missing_signatures
from edge_agent.cli.printing import say
from edge_agent.core.config_document import dotted
from edge_agent.core.config_types import NAME_NEEDED, NAME_PATTERN
from edge_agent.errors import EdgeAgentError, UsageError


def describe(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options to its parser."""
    parser.description = (
        "Make an Ed25519 key pair. The private half goes to a file that only you can read (a JWK for send --sign); the "
        "public half is printed as lines for the devices' configuration. A device that has a key obeys only signed "
        "commands."
    )
    parser.add_argument("--kid", metavar="NAME", help="what the devices call the key; default: a name of its own")
    parser.add_argument("--out", metavar="FILE", help="the private half; default: NAME.jwk; never overwritten")


def run(args: argparse.Namespace) -> int:
    """Make a pair; return 0."""
    if args.kid is not None and not re.fullmatch(NAME_PATTERN, args.kid):
        raise UsageError(f"--kid {args.kid!r}: {NAME_NEEDED} is needed")
    if missing := missing_signatures():
        raise EdgeAgentError(missing)
    from edge_agent.adapters import jose  # noqa: PLC0415  # an extra

    held, kid, public = jose.generate(args.kid)
    path = Path(args.out or f"{kid}.jwk")
    try:
        with open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(held)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise UsageError(f"{path}: is there already, and may be in use; name another with --out") from None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; name another with --out") from None
    say(
        f"# The private half is in {path}; keep it off the devices. For the configuration of those that obey it:",
        f"[{dotted(('commands', 'keys', kid))}]",
        f'public = "{public}"',
        '# allow = ["*"]           # commands that it may sign; default: commands.allow',
        '# groups = ["plant-7"]    # groups that it may address; default: any',
    )
    return 0
