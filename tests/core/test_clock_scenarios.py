"""The clock in simulation: every scenario of ``tests/scenarios/clock.toml`` within its limits.

In each of them, every ten seconds, the truth lies between the earliest and the latest that the clock admits, and the
clock never runs faster or slower than it may.
"""

from __future__ import annotations

import tomllib
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from edge_agent.core.timebase import WallNs
from tests.support.clock_simulation import HOUR_S, Counter, Device, Run, first_good, percentile, servers

SCENARIOS: dict[str, dict[str, Any]] = tomllib.loads(
    (Path(__file__).parents[1] / "scenarios" / "clock.toml").read_text()
)
SEEDS, MANY_SEEDS = 3, 20
SLOWEST, FASTEST = 0.949, 1.051
GOOD_S = 0.02
CAPS: dict[str, Any] = {"judged_from_h": 6.0, "online_h": 24.0, "offline_h": 0.0, "poll_s": 64.0, "servers": 1}


def live(name: str, seed: int, *, honest: bool = False) -> Run:
    """Return what a device lived through."""
    scenario = CAPS | SCENARIOS[name]
    hours = scenario["online_h"] + scenario["offline_h"]
    counter = Counter(seed, scenario.get("place", "indoor"), hours=hours + 1)
    among = servers(scenario["network"], seed, scenario["servers"])
    for lie in scenario.get("lies", ()):
        if not honest:
            among[lie["server"]].lie = _lie(lie)
        elif "p99_over_its_absence" in scenario["limits"]:
            del among[lie["server"]]
    for way in scenario.get("detours", ()):
        for server in among:
            server.detours.append((way["from_h"] * HOUR_S, way["to_h"] * HOUR_S, way["by_s"]))
    counter.jumps = [(leap["at_h"] * HOUR_S, leap["by_s"]) for leap in scenario.get("leaps", ())]
    counter.extra = [(change["at_h"] * HOUR_S, change["ppm"]) for change in scenario.get("rate_changes", ())]
    device = Device(counter, among, poll_s=scenario["poll_s"])
    device.online = lambda t: t < scenario["online_h"] * HOUR_S
    at = 0.0
    for sleep in scenario.get("sleeps", ()):
        begin = sleep["at_h"] * HOUR_S
        device.live(at, begin)
        at = begin + sleep["for_s"]
        counter.jumps.append((at, sleep["off_s"]))
        device.wake(at, sleep["for_s"])
    if "restart_h" in scenario:
        device.live(at, at := scenario["restart_h"] * HOUR_S)
        saved = device.discipline.snapshot(counter.raw(at))
        assert saved is not None
        run, again = device.run, Device(counter, among, poll_s=scenario["poll_s"], saved=saved, boot="another")
        again.online, again.run = device.online, run
        again.burst(at)
        device = again
    device.live(at, hours * HOUR_S)
    return device.run


def _lie(lie: dict[str, float]) -> Any:  # noqa: ANN401  # a function of the time
    since = lie["from_h"] * HOUR_S
    return lambda t: 0.0 if t < since else lie.get("by_s", 0.0) + (t - since) * lie.get("ppm", 0.0) * 1e-6


def judge(name: str, runs: list[Run], honest: list[Run]) -> dict[str, float]:
    """Return what each limit of a scenario is held against."""
    scenario = CAPS | SCENARIOS[name]
    since, until = scenario["judged_from_h"], scenario["online_h"]
    errors = sorted(error for run in runs for error in run.within(since, until))
    found = {
        "p50_ms": percentile(errors, 0.5),
        "p99_ms": percentile(errors, 0.99),
        "bound_ms": percentile(
            sorted(bound * 1e3 for run in runs for t, bound in run.bounds if since * HOUR_S <= t < until * HOUR_S), 0.5
        ),
        "alarms": max(sum(h.what == "sources_disagree" for _, h in run.happenings) for run in runs),
    }
    if scenario["offline_h"]:
        ends = sorted(run.within(until + 11.9, until + 12.1)[-1] for run in runs)
        found |= {"after_12h_ms": ends[-1], "after_12h_p50_ms": percentile(ends, 0.5)}
        found["after_1h_ms"] = max(run.within(until + 0.9, until + 1.1)[-1] for run in runs)
    if honest:
        truthful = sorted(error for run in honest for error in run.within(since, until))
        found["p99_over_its_absence"] = found["p99_ms"] / percentile(truthful, 0.99)
        found["worst_over_honest_ms"] = errors[-1] - truthful[-1]
    changed = [sleep["at_h"] * HOUR_S + sleep["for_s"] for sleep in scenario.get("sleeps", ())]
    changed += [change["at_h"] * HOUR_S for kind in ("rate_changes", "leaps") for change in scenario.get(kind, ())]
    if changed:
        found["outside_s"] = max(len(run.outside) * 10 for run in runs)
        again = sorted(_good_again(run, changed[0]) for run in runs)
        found |= {"good_again_s": again[-1], "good_again_p50_s": percentile(again, 0.5)}
    return found


def _good_again(run: Run, since_s: float) -> float:
    """Return how long the error went beyond 20 ms within the half hour after something happened."""
    bad = [t for t, error in run.errors if since_s <= t < since_s + 1800 and abs(error) > GOOD_S]
    return bad[-1] - since_s if bad else first_good(run, GOOD_S, since_s)


@cache
def lived(name: str, seeds: int, *, honest: bool = False) -> list[Run]:
    """Return the runs of a scenario."""
    return [live(name, seed, honest=honest) for seed in range(seeds)]


def check(name: str, seeds: int) -> dict[str, float]:
    """Hold a scenario's runs against its limits and return what was found."""
    limits = SCENARIOS[name]["limits"]
    honest = lived(name, seeds, honest=True) if any("honest" in limit or "absence" in limit for limit in limits) else []
    runs = lived(name, seeds)
    found = judge(name, runs, honest)
    print(name, {limit: round(found[limit], 3) for limit in limits})
    assert {limit: found[limit] for limit in limits if found[limit] > limits[limit]} == {}
    assert max(len(run.outside) * 10 for run in runs) <= limits.get("outside_s", 0), (
        "the truth was outside of the bound"
    )
    assert all(SLOWEST <= run.rates[0] <= run.rates[1] <= FASTEST for run in runs)
    assert all(run.checks > 2000 for run in runs)
    return found


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_keeps_within_its_limits(name: str) -> None:
    """With a few oscillators and networks."""
    check(name, SEEDS)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_keeps_within_its_limits_with_many_seeds(name: str) -> None:
    """With twenty oscillators and networks."""
    check(name, MANY_SEEDS)


def test_no_majority_freezes_within_one_poll_and_says_so() -> None:
    """Or two, if an answer was lost. The bound grows from then on."""
    for run in lived("two-liars-of-four", SEEDS):
        said = [t for t, happening in run.happenings if happening.what == "sources_disagree"]
        assert said
        assert 8 * HOUR_S <= said[0] <= 8 * HOUR_S + 2 * 64
        bounds = [bound for t, bound in run.bounds if t > said[0] + 600]
        assert all(later >= earlier - 0.001 for earlier, later in pairwise(bounds))
        assert bounds[-1] > bounds[0] * 1.2


@pytest.mark.parametrize("wall_s", [0, 1_793_491_200, 2_100_000_000, 2_085_978_500 + 86_400])
def test_a_boot_offline_with_a_wrong_clock_is_unsynced_until_the_network_comes(wall_s: int) -> None:
    """1970, the build epoch, ten years ahead, after 2036: nothing is vouched for, and then it is known at once."""
    counter = Counter(1, "indoor", hours=2)
    device = Device(counter, servers("wan", 1, 4), poll_s=64)
    device.online = lambda t: t >= HOUR_S
    device.live(0, HOUR_S)
    reading = device.discipline.at(counter.raw(HOUR_S), WallNs(wall_s * 10**9))
    assert (reading.error_ns, reading.state) == (None, "unsynced")
    assert reading.utc >= 1_793_491_200 * 10**9
    device.burst(HOUR_S)
    device.live(HOUR_S, HOUR_S + 60, check_s=1)
    synced = next(t for t, state in device.run.states if state == "synced")
    assert synced - HOUR_S <= 20
    assert device.run.outside == []
