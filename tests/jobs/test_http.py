"""Polling a real HTTP server that answers well, badly, endlessly or not at all."""

from __future__ import annotations

import gzip
import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from edge_agent.errors import JobError
from edge_agent.jobs.http import KIND
from tests.support.job_context import Published, context, run

WITHIN_S = 30.0


class Handler(BaseHTTPRequestHandler):
    """Answers by path."""

    def do_GET(self) -> None:  # as http.server wants it
        """Answer."""
        answers: dict[str, tuple[int, bytes]] = {
            "/good": (200, b'{ "c": 21.5 }'),
            "/bad": (200, b"<html>"),
            "/missing": (404, b"{}"),
            "/moved": (302, b"{}"),
            "/large": (200, b'"' + b"x" * 100_000 + b'"'),
            "/packed": (200, gzip.compress(b"0" * 1_000_000)),
        }
        if self.path == "/slow":
            self.server.over.wait(WITHIN_S)  # type: ignore[attr-defined]
            return
        if self.path == "/drips":
            self.send_response(200)
            self.end_headers()
            while not self.server.over.wait(0.05):  # type: ignore[attr-defined]
                try:
                    self.wfile.write(b" ")
                except OSError:
                    return
            return
        status, body = answers.get(self.path, (200, str(self.headers).encode()))
        self.send_response(status)
        self.send_header("Location", "/good")
        if self.path == "/packed":
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:
            return  # nobody waits for the rest

    @override
    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def server() -> Iterator[str]:
    """Run the server; yields its URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.over = threading.Event()  # type: ignore[attr-defined]
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_port}"
        finally:
            running.over.set()  # type: ignore[attr-defined]
            running.shutdown()
            thread.join()


async def ask(folder: Path, url: str, **options: Any) -> list[Any]:  # noqa: ANN401
    """Ask an endpoint ``e``; return what was published."""
    published = Published()
    await run(KIND, context(folder, published, endpoints={"e": {"url": url}}), endpoint="e", **options)
    return published.records


async def test_the_answer_is_published(tmp_path: Path) -> None:
    """By name or by URL."""
    with server() as url:
        assert await ask(tmp_path, f"{url}/good") == [{"c": 21.5}]
        published = Published()
        await run(KIND, context(tmp_path, published), endpoint=f"{url}/good")
        assert published.records == [{"c": 21.5}]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/bad", "what endpoints.e answered is no JSON"),
        ("/missing", "endpoints.e answered 404 Not Found"),
        ("/moved", "endpoints.e answered 302 Found"),
        ("/large", "endpoints.e answered with more than 64KiB; raise max_bytes"),
        ("/packed", "what endpoints.e answered is no JSON"),
        ("/slow", "endpoints.e did not answer within 500ms"),
        ("/drips", "endpoints.e did not answer within 500ms"),
    ],
)
async def test_a_bad_answer_is_a_failure(tmp_path: Path, path: str, reason: str) -> None:
    """Nothing is published, and nobody waits longer than was said."""
    with server() as url, pytest.raises(JobError) as failed:
        await ask(tmp_path, f"{url}{path}", timeout="500ms" if path in ("/slow", "/drips") else "10s")
    assert reason in str(failed.value)


async def test_an_endpoint_that_nobody_serves_is_a_failure(tmp_path: Path) -> None:
    """One that speaks something else, too."""

    def greet(listener: socket.socket) -> None:
        with listener.accept()[0] as connection:
            connection.sendall(b"220 smtp\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(target=greet, args=(listener,))
        thread.start()
        with pytest.raises(JobError, match=r"endpoints.e cannot be asked: "):
            await ask(tmp_path, f"http://127.0.0.1:{port}/")
        thread.join()
    with pytest.raises(JobError, match=r"endpoints.e cannot be asked: "):
        await ask(tmp_path, f"http://127.0.0.1:{port}/")
    with pytest.raises(JobError, match=r"add a table \[endpoints.x\]"):
        await run(KIND, context(tmp_path), endpoint="x")


async def test_a_certificate_that_nobody_trusts_is_a_failure(tmp_path: Path) -> None:
    """TLS is verified: here the other side does not even speak it."""
    with server() as url, pytest.raises(JobError, match=r"endpoints.e cannot be asked: .*SSL"):
        await ask(tmp_path, url.replace("http:", "https:"))


async def test_no_secret_of_a_url_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Neither in the reason nor in the log; and the environment's proxies are not asked."""
    caplog.set_level(logging.INFO)
    with server() as url, pytest.raises(JobError) as failed:
        await run(KIND, context(tmp_path), endpoint=f"{url}/missing?token=hunter2")
    assert "hunter2" not in str(failed.value) + caplog.text


def test_without_the_extra_it_says_what_to_install() -> None:
    """Where the kind is first asked for: when the configuration is checked."""
    code = (
        "import importlib.util as util; real = util.find_spec\n"
        "util.find_spec = lambda name, *rest: None if name == 'httpx' else real(name, *rest)\n"
        "from edge_agent.jobs import kinds\n"
        "try: kinds()['http']\nexcept Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == 'JobError the kind http needs the extra "http": pip install "edge-agent[http]"\n'


def test_the_library_is_only_imported_by_a_run() -> None:
    """Who has no job of this kind does not pay for it."""
    code = "import sys, edge_agent.jobs.http; sys.exit('httpx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
