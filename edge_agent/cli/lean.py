"""Keeps out of memory what libraries import and never use here: 2 MiB of an idle agent."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import Any, Final

from typing_extensions import override

_UNUSED: Final[Mapping[str, tuple[str, ...]]] = {  # and the functions that are taken out of it without being called
    "urllib.request": (),  # for paho, which asks it for proxies, if PySocks is installed; brings http, email, tempfile
    "importlib.metadata": ("entry_points",),  # for pydantic, which looks for plugins; brings email, zipfile, csv
}


class _Deferred(ModuleType):
    """Stands in for a module until something of it is used."""

    @override
    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):  # what the import system itself asks for
            raise AttributeError(name)
        if name in _UNUSED[self.__name__]:
            return lambda *args, **kwargs: self._real(name)(*args, **kwargs)  # noqa: PLW0108  # not looked up before the call
        return self._real(name)

    def _real(self, name: str) -> Any:  # noqa: ANN401  # whatever the module holds
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(import_module(self.__name__), name)


def defer_unused() -> None:
    """Let those modules be imported only when they are used; to be called before the libraries are imported."""
    os.environ.setdefault(
        "PYDANTIC_DISABLE_PLUGINS", "__all__"
    )  # there are none, and it reads every package's metadata
    for name in _UNUSED:
        if name not in sys.modules:
            package, _, child = name.rpartition(".")
            sys.modules[name] = _Deferred(name)
            setattr(import_module(package), child, sys.modules[name])
