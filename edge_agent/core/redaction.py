"""What may be shown of a configuration to whoever asks, and texts without what must not be.

Hidden are the environment and the arguments of programs, whatever has the name of a secret, what may be a secret in the
place of a path, and the credentials and queries of URLs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import quote

HIDDEN: Final = "[hidden]"
SHORTEST: Final = 6
"""Characters of the shortest secret that is looked for in texts: what is shorter stands everywhere."""

_SECRET_KEY: Final = re.compile(r"pass|secret|token|credential|api.?key|auth", re.IGNORECASE)
_URL: Final = re.compile(
    r"(?P<scheme>\w+://)(?:(?P<user>[^\s/?#\"']*)@)?(?P<path>[^\s?\"']*)(?:\?(?P<query>[^\s\"']*))?"
)


def redact(document: Any) -> tuple[Any, set[str]]:  # noqa: ANN401  # as JSON has it
    """Return a configuration, dumped as JSON, as it may be shown, and all that was hidden."""
    hidden: set[str] = set()
    return _shown(document, (), hidden), hidden


def scrub(value: Any, secrets: Iterable[str]) -> Any:  # noqa: ANN401  # as JSON has it
    """Return a value in no text of which a secret stands, nor the credentials or the query of a URL."""
    spelled = {form for secret in secrets for text in (secret, *secret.splitlines()) for form in _forms(text)}
    longest_first = sorted(spelled, key=len, reverse=True)
    found = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
    return _scrubbed(value, found)


def _shown(value: Any, path: tuple[str | int, ...], hidden: set[str]) -> Any:  # noqa: ANN401
    if isinstance(value, Mapping):
        return {key: _shown(inner, (*path, key), hidden) for key, inner in value.items()}
    if isinstance(value, list):
        return [_shown(inner, (*path, number), hidden) for number, inner in enumerate(value)]
    if not isinstance(value, str):
        return value
    if _is_secret(path, value):
        hidden.add(value)
        return HIDDEN
    return _URL.sub(lambda url: _plain_url(url, hidden), value)


def _is_secret(path: tuple[str | int, ...], value: str) -> bool:
    if path[0] == "programs" and "env" in path[2:3]:
        return True
    if path[0] == "programs" and "argv" in path[2:3]:
        return path[3] != 0
    names = [part for part in path if isinstance(part, str)]
    if names[-1:] == ["password_file"]:
        return not value.startswith("/")
    is_option = "options" in names
    return any(_SECRET_KEY.search(name) for name in (names if is_option else names[-1:]))


def _plain_url(url: re.Match[str], hidden: set[str]) -> str:
    for part in filter(None, (url["user"], url["query"])):
        hidden.update((part, *re.split("[:&=]", part)))
    user, query = (HIDDEN if url[part] else "" for part in ("user", "query"))
    return f"{url['scheme']}{user and user + '@'}{url['path']}{query and '?' + query}"


def _forms(text: str) -> set[str]:
    """Return how a secret may be spelled in a text: as it is, escaped as JSON or Python do, or in a URL."""
    forms = {text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1], repr(text)[1:-1]}
    forms |= {quote(text, safe=safe, errors="replace") for safe in ("", "/")}
    return {form for form in forms if len(form) >= SHORTEST}


def _scrubbed(value: Any, found: re.Pattern[str]) -> Any:  # noqa: ANN401
    if isinstance(value, str):
        return _URL.sub(lambda url: _plain_url(url, set()), found.sub(HIDDEN, value))
    if isinstance(value, Mapping):
        return {_scrubbed(key, found): _scrubbed(inner, found) for key, inner in value.items()}
    return [_scrubbed(inner, found) for inner in value] if isinstance(value, list | tuple) else value
