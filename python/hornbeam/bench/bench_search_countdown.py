"""Searches on Countdown, an exact verifier at hand: what tree search solves at the tokens of best of n.

The small model, its value head and the 500 held-out problems ship with the package (``hornbeam.tasks``); the
head was trained on outcomes of rollouts alone. A problem counts as solved when the one answer that is handed
in, the ended path of greatest value, is a solution; under the oracle, which knows what can still be reached,
when any ended path is one. A step has six tokens, so that recipes of one width write the same number of them.
Each figure is a mean over seeds; intervals are of 2,000 resamples of the problems, which all recipes share.

Rows: ``value`` and ``oracle`` hold recipes of several widths to best-of-n; ``a_star`` says how many tokens it
takes to as many solved; ``large`` holds the small model with a search to the large one with best-of-n by
floating-point operations; ``lm_search`` runs some problems through ``LM.search`` itself, the others are
driven in lockstep (``search_lockstep.py``).

    hornbeam bench search_countdown [--quick] [--only ROW ...]

Rows: value oracle a_star large lm_search.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import numpy as np

import hornbeam as hb
from hornbeam.bench import harness
from hornbeam.bench.search_lockstep import Run, Writer, oracle, search_all
from hornbeam.errors import ArgumentError
from hornbeam.search import Policy
from hornbeam.tasks import countdown

WIDTHS = (4, 16)
WIDTH = 16
SEEDS = 3
RESAMPLES = 2_000
BASELINE = "best_of_n"
RECIPES: dict[str, Callable[[int], Policy]] = {
    BASELINE: lambda width: hb.recipes.best_of_n(width),
    "step_beam": lambda width: hb.recipes.step_beam(width, children=4),
    "dvts": lambda width: hb.recipes.dvts(width, children=4),
    "rebase": lambda width: hb.recipes.rebase(width),
    "ets": lambda width: hb.recipes.ets(width),
    "particle_filter": lambda width: hb.recipes.particle_filter(width),
}
#: Children of a leaf that A* is tried with.
CHILDREN = (2, 4, 8)

Array = np.ndarray[Any, Any]


def run(quick: bool, only: list[str] | None = None) -> dict[str, Any]:
    """All rows, or those that ``only`` names."""
    bench = Bench(quick)
    rows: dict[str, Callable[[], Any]] = {
        "value": partial(bench.recipes, None),
        "oracle": partial(bench.recipes, oracle),
        "a_star": bench.a_star,
        "large": bench.large,
        "lm_search": bench.lm_search,
    }
    return harness.run_rows(rows, only)


@cache
def writer(size: str) -> Writer:
    """A model, loaded once."""
    return Writer(size)


class Bench:
    """All rows; searches that several rows need are made once."""

    def __init__(self, quick: bool) -> None:
        self.problems = countdown.problems("test")[: 40 if quick else None]
        self.seeds = 1 if quick else SEEDS
        self.widths = (4, 16) if quick else WIDTHS
        self._known: dict[Any, list[list[Run]]] = {}

    def searches(
        self, size: str, policy: Policy, value: Any, most_tokens: int | None = None
    ) -> list[list[Run]]:
        """The searches of all problems, a list a seed."""
        key = (size, repr(policy), value, most_tokens)
        if key not in self._known:
            self._known[key] = [
                search_all(writer(size), self.problems, policy, seed, value, most_tokens)
                for seed in range(self.seeds)
            ]
        return self._known[key]

    def recipes(self, value: Any) -> dict[str, Any]:
        """Recipes against best-of-n, one width after the other."""
        found: dict[str, Any] = {"problems": len(self.problems), "seeds": self.seeds}
        for width in self.widths:
            base = self.searches("small", RECIPES[BASELINE](width), None)
            base_solved = solved(base, value is not None)
            for name, recipe in RECIPES.items():
                runs = base if name == BASELINE else self.searches("small", recipe(width), value)
                own = solved(runs, value is not None)
                row = summary(runs, value is not None)
                if name != BASELINE:
                    row["times_best_of_n"] = ratio(own, base_solved)
                found[f"{name} of {width}"] = row
                print(" ", name, width, row, flush=True)
        return found

    def a_star(self) -> dict[str, Any]:
        """Tokens that A* needs to solve what best-of-n and the particle filter solve with theirs."""
        found: dict[str, Any] = {}
        for label, value in (("value head", None), ("oracle", oracle)):
            is_any = value is not None
            goals = {
                BASELINE: self.searches("small", RECIPES[BASELINE](WIDTH), None),
                "particle_filter": self.searches("small", RECIPES["particle_filter"](WIDTH), value),
            }
            most = max(run.tokens for runs in goals[BASELINE] for run in runs)
            for children in CHILDREN:
                policy = hb.recipes.a_star(children)
                runs = self.searches("small", policy, value, most)
                row: dict[str, Any] = {"at the most": summary(runs, is_any)}
                for goal, theirs in goals.items():
                    row[f"tokens over {goal}"] = tokens_to_reach(runs, theirs, is_any)
                found[f"{label}, {children} children"] = row
                print(" ", label, children, row, flush=True)
        return found

    def large(self) -> dict[str, Any]:
        """Floating-point operations of the small model with a search, and of the large one with best-of-n."""
        try:
            countdown.folder_of("large")
        except ArgumentError as missing:
            return {"skipped": str(missing)}
        widths = (4, 8, 16, 32, *((64,) if self.seeds > 1 else ()))
        found: dict[str, Any] = {}
        curves: dict[str, list[tuple[float, float]]] = {}
        for size, name in (("large", BASELINE), ("small", "rebase"), ("small", BASELINE)):
            for width in widths:
                runs = self.searches(size, RECIPES[name](width), None)
                row = summary(runs, False)
                row["flops"] = round(operations(writer(size), runs))
                curves.setdefault(f"{size} {name}", []).append((row["flops"], row["solved"]))
                found[f"{size}, {name} of {width}"] = row
                print(" ", size, name, width, row, flush=True)
        for name in ("rebase", BASELINE):
            for flops, goal in curves[f"large {BASELINE}"]:
                needed = reached(curves[f"small {name}"], goal)
                key = f"flops of small {name} over large at {goal} solved"
                found[key] = None if needed is None else round(needed / flops, 3)
        return found

    def lm_search(self) -> dict[str, Any]:
        """``LM.search`` on some of the problems, beside the same searches in lockstep."""
        some = self.problems[: 10 if self.seeds == 1 else 60]
        lm = countdown.load("small")
        found: dict[str, Any] = {"problems": len(some)}
        for name in (BASELINE, "rebase"):
            policy = RECIPES[name](WIDTH)
            right = tokens = 0
            begin = time.perf_counter()
            for problem in some:
                result = lm.search(
                    problem.prompt,
                    recipe=policy,
                    value=problem.oracle,
                    finish=problem.finish,
                    step=problem.step_end(),
                    draft=None,
                )
                right += any(problem.solves(path.text) for path in result.tree.finished)
                tokens += result.ledger.tokens
            spent = time.perf_counter() - begin
            lockstep = search_all(writer("small"), some, policy, 0, oracle)
            found[name] = {
                "solved": right,
                "tokens": tokens,
                "solved in lockstep": sum(run.moments[-1].any_right for run in lockstep),
                "tokens in lockstep": sum(run.tokens for run in lockstep),
                "seconds a search": round(spent / len(some), 3),
            }
        return found


def solved(runs: Sequence[Sequence[Run]], is_any: bool) -> Array:
    """The share of seeds that solved each problem, [problems]."""
    return np.mean([[_is_solved(run.moments[-1], is_any) for run in seed] for seed in runs], 0)


def _is_solved(moment: Any, is_any: bool) -> bool:
    return bool(moment.any_right if is_any else moment.submitted)


def summary(runs: Sequence[Sequence[Run]], is_any: bool) -> dict[str, Any]:
    """The share of problems that are solved, and what a problem cost."""
    return {
        "solved": round(float(solved(runs, is_any).mean()), 4),
        "solved by seed": [sum(_is_solved(run.moments[-1], is_any) for run in seed) for seed in runs],
        "tokens": round(float(np.mean([run.tokens for seed in runs for run in seed])), 1),
    }


def ratio(ours: Array, theirs: Array) -> dict[str, float] | None:
    """Of what is solved, with the interval that holds 95 % of the resamples; None where one of these
    has nothing to compare with."""
    picks = _resamples(len(ours))
    base = theirs[picks].sum(1)
    if not base.all():
        return None
    return _interval(ours.sum() / theirs.sum(), ours[picks].sum(1) / base)


def tokens_to_reach(
    runs: Sequence[Sequence[Run]], theirs: Sequence[Sequence[Run]], is_any: bool
) -> dict[str, float] | None:
    """Tokens of the least cap at which ``runs`` solve as much as ``theirs``, over those of those; None if
    no cap does."""
    caps = sorted({moment.tokens for seed in runs for run in seed for moment in run.moments})
    at = [[[run.at(cap) for run in seed] for seed in runs] for cap in caps]
    right = np.array([np.mean([[_is_solved(m, is_any) for m in seed] for seed in cap], 0) for cap in at])
    spent = np.array([np.mean([[m.tokens for m in seed] for seed in cap], 0) for cap in at])
    goal, cost = solved(theirs, is_any), np.mean([[run.tokens for run in seed] for seed in theirs], 0)

    def one(picks: Array) -> float:
        enough = np.flatnonzero(right[:, picks].sum(1) >= goal[picks].sum() - 1e-9)
        if not len(enough):
            return float("inf")
        return float(spent[enough[0], picks].sum() / cost[picks].sum())

    middle = one(np.arange(len(goal)))
    if not np.isfinite(middle):
        return None
    return _interval(middle, np.array([one(picks) for picks in _resamples(len(goal))]))


def _resamples(count: int) -> Array:
    return np.random.default_rng(0).integers(0, count, (RESAMPLES, count))


def _interval(middle: float, drawn: Array) -> dict[str, float]:
    low, high = np.sort(drawn)[[int(0.025 * len(drawn)), int(0.975 * len(drawn))]]
    return {"ratio": round(float(middle), 3), "low": round(float(low), 3), "high": round(float(high), 3)}


def operations(of: Writer, runs: Sequence[Sequence[Run]]) -> float:
    """Floating-point operations of a search, on average: two a parameter and token, the prompt's tokens once,
    and two a parameter of the head and path. Attention over so few keys is left out."""
    found = [
        2.0 * of.parameters * (run.tokens + len(of.prompt(run.problem)))
        + 2.0 * of.head_parameters * (len(run.nodes) - 1)
        for seed in runs
        for run in seed
    ]
    return float(np.mean(found))


def reached(curve: Sequence[tuple[float, float]], goal: float) -> float | None:
    """Where a curve of (cost, solved) comes to ``goal``, between its points along the logarithm of the cost;
    its first cost where that is enough; None if it does not come there."""
    cost = np.log([point[0] for point in curve])
    share = np.maximum.accumulate([point[1] for point in curve])
    if goal > share[-1]:
        return None
    after = int(np.searchsorted(share, goal))
    if after == 0:
        return float(curve[0][0])
    part = (goal - share[after - 1]) / (share[after] - share[after - 1])
    return float(np.exp(cost[after - 1] + part * (cost[after] - cost[after - 1])))
