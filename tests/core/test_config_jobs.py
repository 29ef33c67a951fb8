"""Jobs, and what they may name."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from edge_agent.core.config_models import Config
from edge_agent.core.timebase import rfc3339, seconds

JOB = {"kind": "system", "every": "60s"}


def test_a_job_has_the_defaults_of_the_contract() -> None:
    """Only kind and one time are needed."""
    job = Config.model_validate({"jobs": {"a": JOB}}).jobs["a"]
    assert (job.every, job.timeout, job.grace, job.misfire_window) == tuple(map(seconds, (60, 20, 5, 86_400)))
    assert (job.priority, job.misfire, job.guarantee, job.durability) == ("normal", "skip", "at_most_once", "auto")
    assert (job.overlap, job.keep, job.enabled, job.splay, job.breaker) == ("skip", "all", True, None, None)
    assert (job.retry.attempts, job.retry.backoff) == (1, seconds(5))


@pytest.mark.parametrize(
    "when",
    [
        {"cron": "*/5 * * * *"},
        {"cron": "0/30 * * * * ?"},
        {"cron": "0 12 ? * MON-FRI"},
        {"cron": "0 0 L * *"},
        {"cron": "@daily"},
        {"after": "0s"},
        {"at": "2026-12-01T00:00:00Z"},
    ],
)
def test_each_way_to_say_when_is_taken(when: dict[str, str]) -> None:
    """And the others are left empty."""
    assert Config.model_validate({"jobs": {"a": {"kind": "x"} | when}}).jobs["a"].every is None


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("2026-12-01T00:00:00Z", "2026-12-01T00:00:00.000000Z"),
        ("2026-12-01T01:00:00.25+01:00", "2026-12-01T00:00:00.250000Z"),
        ("2026-12-01 00:00:00Z", "2026-12-01T00:00:00.000000Z"),
    ],
)
def test_an_instant_becomes_utc(text: str, utc: str) -> None:
    """Any offset is taken, and kept as UTC."""
    instant = Config.model_validate({"jobs": {"a": {"kind": "x", "at": text}}}).jobs["a"].at
    assert instant is not None
    assert rfc3339(instant) == utc


@pytest.mark.parametrize(
    ("job", "words"),
    [
        ({"kind": "x"}, "exactly one of every, cron, at, after is needed; found none"),
        (JOB | {"cron": "* * * * *"}, "found every, cron"),
        ({"kind": "x", "cron": "* * * *"}, "5 fields are needed, or 6"),
        ({"kind": "x", "cron": "@never"}, "or one of @hourly, @daily"),
        ({"kind": "x", "cron": "0 25 * * *"}, 'hour "25": 0 to 23 is allowed'),
        ({"kind": "x", "cron": "0 0 30 2 *"}, 'day-of-month "30"'),
        ({"kind": "x", "cron": "0 0 ? * 2"}, "must be written by name"),
        ({"kind": "x", "cron": "* * * * $"}, "5 fields"),
        ({"kind": "x", "at": "2026-12-01T00:00:00"}, "a time with its zone"),
        ({"kind": "x", "at": "2026-12-01"}, "a time with its zone"),
        ({"kind": "x", "at": "1969-12-01T00:00:00Z"}, "a time with its zone"),
        ({"kind": "x", "at": "2263-01-01T00:00:00Z"}, "from 1970 to 2262"),
        ({"kind": "x", "at": "0001-01-01T00:00:00+10:00"}, "a time with its zone"),
        ({"kind": "x y", "every": "1m"}, "the name of a kind"),
        ({"kind": "x", "every": "1m", "timezone": "Europe/Berlim"}, "no such time zone"),
        (JOB | {"fallback": "b"}, "fallback needs a breaker table"),
    ],
)
def test_a_bad_job_is_refused(job: dict[str, Any], words: str) -> None:
    """The message says what is needed."""
    with pytest.raises(ValidationError, match=words):
        Config.model_validate({"jobs": {"a": job}})


def test_what_jobs_name_is_read() -> None:
    """Programs, folders and endpoints."""
    config = Config.model_validate(
        {
            "programs": {"p": {"argv": ["/bin/true"], "env": {"A_1": ""}, "timeout": "1s", "max_output": "0B"}},
            "folders": {"f": {"path": "/var/log", "may": ["read", "delete"]}},
            "endpoints": {"e": {"url": "http://h/x"}},
        }
    )
    assert config.programs["p"].argv == ("/bin/true",)
    assert config.folders["f"].may == ("read", "delete")
    assert config.endpoints["e"].url == "http://h/x"


@pytest.mark.parametrize(
    "data",
    [
        {"programs": {"p": {"argv": []}}},
        {"programs": {"p": {"argv": [""]}}},
        {"programs": {"p": {"argv": ["a\0"]}}},
        {"programs": {"p": {"argv": "/bin/true"}}},
        {"programs": {"p": {"argv": ["a"], "env": {"A=B": "c"}}}},
        {"programs": {"p": {"argv": ["a"], "cwd": "relative"}}},
        {"folders": {"f": {"path": "relative"}}},
        {"folders": {"f": {"path": "/", "may": ["write"]}}},
        {"endpoints": {"e": {"url": "file:///etc/passwd"}}},
        {"endpoints": {"e": {}}},
    ],
)
def test_what_jobs_cannot_use_is_refused(data: dict[str, Any]) -> None:
    """No empty program, no relative path, no other scheme."""
    with pytest.raises(ValidationError):
        Config.model_validate(data)
