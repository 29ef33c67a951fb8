"""Whether this device has what its configuration names: secrets, TLS files, and what verifies signatures."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from importlib import import_module

from edge_agent.adapters.config_files import read_secret
from edge_agent.core.config import Loaded
from edge_agent.core.config_models import Tls
from edge_agent.errors import ConfigError, ConfigProblem


def missing(loaded: Loaded, environ: Mapping[str, str], *, starting: bool = False) -> Iterator[ConfigProblem]:
    """Yield what is missing, and what to do.

    Args:
        loaded: what names it.
        environ: of the process; a credential is looked for only where the service manager gives any.
        starting: TLS files may still come: they are not looked at.
    """
    config = loaded.config
    secret = config.mqtt.password_file
    if secret is not None and ("/" in secret or "CREDENTIALS_DIRECTORY" in environ):
        try:
            read_secret(secret, environ=environ)
        except ConfigError as unreadable:
            problem = unreadable.problems[0]
            named = f"{problem.file}: " if problem.file else ""
            yield loaded.problem(("mqtt", "password_file"), named + problem.reason)
    for key, reason in () if starting else _unusable(config.mqtt.tls):
        yield loaded.problem(("mqtt", "tls", key), reason)
    if config.commands.keys and (no_library := missing_signatures()):
        yield loaded.problem(("commands", "keys"), no_library)


def missing_signatures() -> str | None:
    """Return why nothing can be signed or verified here, and what to do; ``None`` = it can, and is loaded."""
    try:
        import_module("edge_agent.adapters.jose")
    except ImportError as error:
        return f"signed commands need the extra signed ({error}); pip install 'edge-agent[signed]'"
    return None


def _unusable(tls: Tls) -> Iterator[tuple[str, str]]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    needed = "a PEM file that this user can read is needed"
    if tls.ca is not None:
        try:
            context.load_verify_locations(tls.ca)
        except (OSError, ssl.SSLError) as error:
            yield "ca", f"{tls.ca}: {error}; {needed}"
    if tls.cert is not None:
        try:
            context.load_cert_chain(tls.cert, tls.key, password=str)  # an empty one: nobody is to be asked
        except (OSError, ssl.SSLError) as error:
            yield "cert", f"{tls.cert}, {tls.key}: {error}; {needed}"
