"""The verb keygen."""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path

import pytest

from edge_agent.adapters import jose
from edge_agent.cli import keygen, main
from edge_agent.core.config_models import Config


def test_what_it_prints_is_a_configuration_that_obeys_what_the_file_signs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Under the name that is given, or one of its own; whatever the umask, only the owner reads the file."""
    monkeypatch.chdir(tmp_path)
    before = os.umask(0)
    try:
        for options in ([], ["--kid", "a:b"], ["--kid", "x", "--out", "other"]):
            assert main(["keygen", *options]) == 0
    finally:
        os.umask(before)
    printed = capsys.readouterr().out.split("# The private half is in ")[1:]
    files = [Path(text.split(";")[0]) for text in printed]
    assert re.fullmatch(r"key-[A-Za-z0-9-]{8}\.jwk", str(files[0]))
    assert list(map(str, files[1:])) == ["a:b.jwk", "other"]
    for text, file, kid in zip(printed, files, (files[0].stem, "a:b", "x"), strict=True):
        assert file.stat().st_mode & 0o7777 == 0o600
        section = Config.model_validate(tomllib.loads(text.split("\n", 1)[1])).commands
        assert list(section.keys) == [kid] == [json.loads(file.read_bytes())["kid"]]
        assert jose.verify(jose.sign(b"x", file.read_bytes(), kid=None), section.keys[kid].public) == b"x"


def test_a_file_that_is_there_stays_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Somebody may have no other copy; also where it is a link to nowhere, or cannot be made."""
    (tmp_path / "a").write_text("precious")
    (tmp_path / "b").symlink_to("nowhere")
    for name, words in (("a", "is there already"), ("b", "is there already"), ("no/c", "No such file")):
        assert main(["keygen", "--out", str(tmp_path / name)]) == 64
        assert f"{tmp_path / name}: {words}" in capsys.readouterr().err
    assert ((tmp_path / "a").read_text(), sorted(os.listdir(tmp_path))) == ("precious", ["a", "b"])  # noqa: PTH208


def test_a_name_that_no_device_would_know_is_64(capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is made."""
    assert main(["keygen", "--kid", "a b"]) == 64
    assert capsys.readouterr().err.startswith("edge-agent: --kid 'a b': a name of 1 to 64")


def test_without_the_library_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is an extra."""
    monkeypatch.setattr(keygen, "missing_signatures", lambda: "no library; pip install 'edge-agent[signed]'")
    assert main(["keygen"]) == 1
    assert capsys.readouterr().err == "edge-agent: no library; pip install 'edge-agent[signed]'\n"
