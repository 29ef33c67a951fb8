"""Keeps out of memory what libraries import and rarely or never use here: 7 MB of an agent without TLS."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from threading import RLock
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, cast

from typing_extensions import override

if TYPE_CHECKING:
    from importlib.abc import Loader  # brings tempfile, shutil and what they bring


class _NoneYet(Exception):  # noqa: N818  # not raised: in the place of classes that nothing can be of
    pass


def _entry_points(**wanted: Any) -> Any:  # noqa: ANN401  # whatever the real one takes and returns
    return _whole("importlib.metadata").entry_points(**wanted)


_UNUSED: Final[Mapping[str, Mapping[str, object]]] = {  # and what is taken out of them while they are unused
    "urllib.request": {},  # for paho, which asks it for proxies, if PySocks is installed; brings http, email, tempfile
    "importlib.metadata": {"entry_points": _entry_points},  # for pydantic, which looks for plugins; brings email, csv
    "ctypes.util": {"find_library": lambda _: None},  # for asyncinotify: the C library is there without being found
    "ssl": dict.fromkeys(  # for asyncio, paho and us, who ask whether an error or a socket is its; brings OpenSSL
        ("SSLError", "SSLCertVerificationError", "SSLWantReadError", "SSLWantWriteError", "SSLSocket"), _NoneYet
    ),
    "asyncio.sslproto": {},
}
_M_ARENA_MAX: Final = -8  # malloc.h
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
        return ModuleType.__getattribute__(self, name)

    def load(self) -> None:
        """Run the module's code, once."""
        with _LOADING:
            spec: Any = self.__spec__
            if spec.loader_state is None:  # it is what asks
                return
            if self.__name__ == "asyncio.sslproto":
                _whole("ssl")  # it keeps the classes that it finds there
            spec.loader, spec.loader_state = spec.loader_state, None
            self.__loader__ = spec.loader
            spec.loader.exec_module(self)
            self.__class__ = ModuleType  # type: ignore[assignment]  # that is how a module is given its class


def _whole(name: str) -> Any:  # noqa: ANN401  # whatever the module holds
    module = import_module(name)
    if isinstance(module, _Deferred):
        module.load()
    return module


class _Deferring:
    """Finds those modules, and as their loader makes them, but runs nothing."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, *_target: object) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name in _UNUSED else None
        if spec is not None:
            spec.loader, spec.loader_state = cast("Loader", self), spec.loader
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Deferred(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Leave it to whoever uses the module first."""


def defer_unused() -> None:
    """Let those modules be imported only when they are used; to be called before the libraries are imported."""
    # there are none, and it would read every package's metadata
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    sys.modules.setdefault("_hashlib", cast("ModuleType", None))  # it brings OpenSSL; hashlib has all we use without it
    sys.meta_path.insert(0, _Deferring())


def spare_heap() -> None:
    """Have all threads use one heap, give back what the start has left of it, and let the rest be: it stays for good.

    Only glibc needs to be told. The garbage collector would look through all modules again and again, 10 ms each time.
    """
    gc.freeze()
    libc = ctypes.CDLL(None)
    with suppress(AttributeError):  # another C library
        libc.mallopt(_M_ARENA_MAX, 1)
        libc.malloc_trim(0)
