"""What is left out of memory, and still there for who needs it."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.brokers import TlsFiles, mosquitto, tls_files

START = """
import sys
from edge_agent.cli.lean import defer_unused
defer_unused()
import asyncio, hashlib, ssl
def openssl():
    return {"_ssl", "_hashlib"} & {name for name, module in sys.modules.items() if module is not None}
"""
CONNECT = """
from dataclasses import replace
from edge_agent.adapters.mqtt_connector import Login, MqttConnector
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.core.config_models import Tls
from edge_agent.core.config_types import parse_broker_url
from edge_agent.core.connection import Attempt
from edge_agent.core.timebase import seconds
from edge_agent.errors import ConnectFailedError
from edge_agent.ports import Message

async def publish(url, **tls):
    login = Login("lean", seconds(60), seconds(0), seconds(0), Tls(**tls))
    attempt = Attempt(parse_broker_url(url), 5, will_retained=True, wait=seconds(0))
    try:
        connection = await MqttConnector(login, clock=SystemClock()).connect(attempt, None)
    except ConnectFailedError as error:
        return error.failure.name
    reason = await connection.send(Message("t", b"x" * 100_000))
    await connection.disconnect()
    return (await connection.closed()).by.name if reason in (0x00, 0x10) else reason
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    """Return one set of certificates for all tests here."""
    return tls_files(tmp_path_factory.mktemp("lean"))


def in_a_fresh_interpreter(code: str) -> str:
    """Return what a program prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_daemon_s_imports_bring_neither_http_nor_mail_nor_openssl() -> None:
    """Nothing that it imports uses them."""
    code = f"""{START}
import edge_agent.cli.run
from edge_agent.core.config_models import Config
Config()
unused = {{"email", "http.client", "zipfile", "urllib.response", "tempfile", "shutil"}}
print(sorted(unused & set(sys.modules)), openssl())
"""
    assert in_a_fresh_interpreter(code) == "[] set()"


def test_who_uses_a_deferred_module_gets_it() -> None:
    """By attribute, by from-import, by a second import, and as the one module that everybody has."""
    code = f"""{START}
import importlib.metadata, urllib.request, asyncio.sslproto, ctypes.util
from importlib.metadata import entry_points, version
held = ssl
assert "pytest" in entry_points(group="console_scripts").names
assert version("pydantic") == importlib.metadata.version("pydantic")
assert urllib.request.Request("http://x").host == "x"
assert hashlib.sha256(b"").hexdigest().startswith("e3b0c442")
assert ctypes.util.find_library("c") is None
assert not openssl()
assert issubclass(asyncio.sslproto.SSLProtocol, asyncio.BufferedProtocol)
assert ssl.SSLWantReadError in asyncio.sslproto.SSLAgainErrors
assert issubclass(ssl.SSLWantReadError, OSError)
assert sys.modules["ssl"] is held is asyncio.base_events.ssl
assert openssl() == {{"_ssl"}}
print("all there")
"""
    assert in_a_fresh_interpreter(code) == "all there"


def test_the_inbox_is_watched_without_a_search_for_the_c_library(tmp_path: Path) -> None:
    """The library that watches it asks for one, and does without."""
    code = f"""{START}
import pathlib
from asyncinotify import Inotify, Mask
folder = pathlib.Path({str(tmp_path)!r})
async def main():
    with Inotify() as inotify:
        inotify.add_watch(folder, Mask.CLOSE_WRITE)
        (folder / "a").touch()
        async with asyncio.timeout(30):
            return (await inotify.get()).name
print(asyncio.run(main()), "find_library" in vars(sys.modules["ctypes.util"]))
"""
    assert in_a_fresh_interpreter(code) == "a False"


async def test_mqtt_goes_over_tls_once_openssl_is_needed(files: TlsFiles, tmp_path: Path) -> None:
    """Plain without it; then encrypted, then refused for a certificate of another authority, and said to be so."""
    async with mosquitto(tmp_path, tls=files) as broker:
        code = f"""{START}{CONNECT}
async def main():
    print(await publish({broker.url!r}), openssl())
    print(await publish({broker.tls_url!r}, ca={str(files.ca)!r}), openssl())
    print(await publish({broker.tls_url!r}, ca={str(files.other_ca)!r}))
asyncio.run(main())
"""
        said = await asyncio.to_thread(in_a_fresh_interpreter, code)
    assert said.splitlines() == ["US set()", "US {'_ssl'}", "TLS"]


async def test_asyncio_s_own_tls_works_whichever_part_is_used_first(files: TlsFiles) -> None:
    """With ``ssl=True`` its protocol is used before OpenSSL; what it raises is what the one who calls catches."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.server_cert, files.server_key)

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(200_000))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(echo, "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        code = f"""{START}
async def main():
    try:
        await asyncio.open_connection("localhost", {port}, ssl=True)
    except ssl.SSLCertVerificationError:
        print("not accepted")
    context = ssl.create_default_context(cafile={str(files.ca)!r})
    reader, writer = await asyncio.open_connection("localhost", {port}, ssl=context)
    writer.write(bytes(200_000))
    print(len(await reader.read(-1)))
    writer.close()
asyncio.run(main())
"""
        said = await asyncio.to_thread(in_a_fresh_interpreter, code)
    assert said.splitlines() == ["not accepted", "200000"]


def test_an_error_that_is_not_of_tls_is_not_taken_for_one() -> None:
    """As long as nothing is encrypted, and afterwards."""
    code = f"""{START}
def kind(error):
    try:
        raise error
    except (ssl.SSLWantReadError, ssl.SSLError):
        return "tls"
    except Exception:
        return "other"
print(kind(BlockingIOError()), isinstance(OSError(), ssl.SSLError), isinstance(object(), ssl.SSLSocket), openssl())
ssl.create_default_context()
print(kind(BlockingIOError()), kind(ssl.SSLWantReadError()), isinstance(ssl.SSLEOFError(), ssl.SSLError))
"""
    assert in_a_fresh_interpreter(code).splitlines() == ["other False False set()", "other tls True"]


def test_all_threads_share_one_heap() -> None:
    """Else each keeps what it has freed to itself; without glibc nothing happens."""
    code = """
import ctypes, re, threading
from edge_agent.cli.lean import spare_heap
spare_heap()
libc = ctypes.CDLL(None)
def allocate():
    libc.free(ctypes.c_void_p(libc.malloc(1000)))
libc.malloc.restype = ctypes.c_void_p
for _ in range(3):
    thread = threading.Thread(target=allocate)
    thread.start()
    thread.join()
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
"""
    assert in_a_fresh_interpreter(code).count("<heap nr=") == 1


def test_what_the_start_has_made_is_not_searched_for_garbage() -> None:
    """A full collection looks at what came later only."""
    code = """
import gc
import asyncio, logging
from edge_agent.cli.lean import spare_heap
before = len(gc.get_objects())
spare_heap()
print(len(gc.get_objects()) < before / 10)
"""
    assert in_a_fresh_interpreter(code) == "True"
