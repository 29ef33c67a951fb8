"""What is wrong with a table, in plain words; the words for each kind of mistake are in test_config."""

from __future__ import annotations

from edge_agent.core.config_findings import nearest, validated
from edge_agent.core.config_jobs import Folder, Job


def test_a_good_table_becomes_its_model() -> None:
    """With nothing found."""
    folder, wrong = validated(Folder, {"path": "/x", "may": ["delete"]})
    assert (folder and folder.may, wrong) == (("delete",), [])


def test_everything_wrong_is_found_with_its_place() -> None:
    """Places and known keys are those of the model that was asked for."""
    folder, wrong = validated(Folder, {"path": "x", "may": ["read", "eat"], "pth": 1})
    assert folder is None
    assert {path for path, _ in wrong} == {("path",), ("may", 1), ("pth",)}
    assert dict(wrong)[("pth",)] == "unknown key 'pth'; did you mean 'path'?"
    _, wrong = validated(Job, {"kind": "x", "every": "1m", "retry": {"atempts": 2}})
    assert wrong == [(("retry", "atempts"), "unknown key 'atempts'; did you mean 'attempts'?")]


def test_the_nearest_word_is_offered_or_all_of_them() -> None:
    """Whichever helps."""
    assert nearest("fiels", ["files", "exec"]) == "did you mean 'files'?"
    assert nearest("zzz", ["files", "exec"]) == "known here: files, exec"
    assert nearest("zzz", []) == "known here: none"
