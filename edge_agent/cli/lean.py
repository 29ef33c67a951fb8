"""Keeps out of memory what libraries import and rarely or never use here: 7 MB of an agent without TLS."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from threading import RLock
from types import ModuleType
from typing import Any, Final, cast

from typing_extensions import override


class _NoneYet(Exception):  # noqa: N818  # not raised: in the place of classes that nothing can be of
    pass


def _entry_points(**wanted: Any) -> Any:  # noqa: ANN401  # whatever the real one takes and returns
    return import_module("importlib.metadata").__dict__["entry_points"](**wanted)


_UNUSED: Final[Mapping[str, Mapping[str, object]]] = {  # and what is taken out of them while they are unused
    "urllib.request": {},  # for paho, which asks it for proxies, if PySocks is installed; brings http, email, tempfile
    "importlib.metadata": {"entry_points": _entry_points},  # for pydantic, which looks for plugins; brings email, csv
    "ctypes.util": {"find_library": lambda _: None},  # for asyncinotify: the C library is there without being found
    "ssl": dict.fromkeys(  # for asyncio, paho and us, who ask whether an error or a socket is its; brings OpenSSL
        ("SSLError", "SSLCertVerificationError", "SSLWantReadError", "SSLWantWriteError", "SSLSocket"), _NoneYet
    ),
    "asyncio.sslproto": {},
}
_LOADING: Final = RLock()


class _Deferred(ModuleType):
    """A module whose code runs when something of it is used; then it is a module like any other."""

    @override
    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):  # what the import system itself asks for
            raise AttributeError(name)
        if name in _UNUSED[self.__name__]:
            return _UNUSED[self.__name__][name]
        self.load()
        return super().__getattribute__(name)

    def load(self) -> None:
        """Run the module's code, once."""
        with _LOADING:
            spec = cast("ModuleSpec", self.__spec__)
            if not isinstance(spec.loader, _Deferring):  # it is what asks
                return
            if self.__name__ == "asyncio.sslproto" and isinstance(ssl := import_module("ssl"), _Deferred):
                ssl.load()  # it keeps the classes that it finds there
            spec.loader = self.__loader__ = spec.loader.real
            spec.loader.exec_module(self)
            self.__class__ = ModuleType


class _Deferring(Loader):
    def __init__(self, real: Loader) -> None:
        self.real = real

    @override
    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Deferred(spec.name)

    @override
    def exec_module(self, module: ModuleType) -> None:
        pass


class _Finder(MetaPathFinder):
    @override
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname in _UNUSED else None
        if spec is not None and spec.loader is not None:
            spec.loader = _Deferring(spec.loader)
        return spec


def defer_unused() -> None:
    """Let those modules be imported only when they are used; to be called before the libraries are imported."""
    os.environ.setdefault(
        "PYDANTIC_DISABLE_PLUGINS", "__all__"
    )  # there are none, and it reads every package's metadata
    sys.modules.setdefault("_hashlib", cast("ModuleType", None))  # it brings OpenSSL; hashlib has all we use without it
    sys.meta_path.insert(0, _Finder())
