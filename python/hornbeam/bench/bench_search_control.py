"""What it costs to decide where a search goes on, without any model.

``ets`` times ETS's choice of leaves, of 256, against the same integer programme in PuLP with the CBC solver
that comes with it, as the authors solve it; ``equal`` compares the optima on 1,000 random trees of up to 64
leaves.
``policies`` gives the seconds of ask and tell for a whole search of width 256.

    hornbeam bench search_control [--quick] [--only ROW ...]

Rows: ets equal policies.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from hornbeam import search
from hornbeam.bench import harness

Case = tuple[list[int], list[float], list[int | None], list[float]]


def tree(draw: random.Random, leaves: int, levels: int, labels: int) -> Case:
    """A tree of a search as ETS sees it: nodes cost 1 each, shares are REBASE's of random values, clusters
    are drawn at random, which ties all of its parts together."""
    parents: list[list[int]] = [[0]]  # by level, the place of each node's parent in the level above
    for level in range(levels):
        above = len(parents[-1])
        count = leaves if level == levels - 1 else max(1, int(leaves * draw.uniform(0.2, 0.9)))
        parents.append(sorted(draw.randrange(above) for _ in range(count)))
    # Only what has a leaf below it.
    kept = [list(range(len(parents[-1])))]
    for level in range(levels, 0, -1):
        kept.insert(0, sorted({parents[level][place] for place in kept[0]}))
    numbers: dict[tuple[int, int], int] = {}
    found: list[int] = []
    for level, places in enumerate(kept):
        for place in places:
            numbers[level, place] = len(found)
            found.append(numbers[level - 1, parents[level][place]] if level else 0)
    count = len(kept[-1])
    first = len(found) - count
    policy = search.Rebase(width=leaves).open(0)
    [one] = policy.ask()
    policy.tell(one.trial, [draw.random() for _ in range(leaves)], [False] * leaves)
    shares = {child.leaf - 1: child.children for child in policy.ask()}
    gains = [-1 / len(found)] * len(found)
    clusters: list[int | None] = [None] * len(found)
    for leaf in range(count):
        gains[first + leaf] += shares.get(leaf, 0) / leaves
        clusters[first + leaf] = draw.randrange(labels)
    return found, gains, clusters, [1.5 / labels] * labels


def by_cbc(case: Case) -> float:
    """The optimum, by PuLP and CBC: a binary variable a node and a cluster."""
    pulp: Any = import_module("pulp")
    parents, gains, clusters, bonuses = case
    problem = pulp.LpProblem("ets", pulp.LpMaximize)
    nodes = [pulp.LpVariable(f"n{node}", cat="Binary") for node in range(len(parents))]
    covered = [pulp.LpVariable(f"c{cluster}", cat="Binary") for cluster in range(len(bonuses))]
    problem += pulp.lpSum(gain * node for gain, node in zip(gains, nodes, strict=True)) + pulp.lpSum(
        bonus * cluster for bonus, cluster in zip(bonuses, covered, strict=True)
    )
    members: list[list[Any]] = [[] for _ in bonuses]
    for node in range(1, len(parents)):
        problem += nodes[parents[node]] >= nodes[node]
        if (cluster := clusters[node]) is not None:
            members[cluster].append(nodes[node])
    for cluster, own in enumerate(members):
        problem += covered[cluster] <= pulp.lpSum(own)
    problem += pulp.lpSum(member for own in members for member in own) >= 1
    problem.solve(pulp.PULP_CBC_CMD(msg=False, gapRel=0.0, gapAbs=0.0))
    return float(pulp.value(problem.objective))


class Bench:
    """The rows."""

    def __init__(self, quick: bool) -> None:
        self.quick = quick

    def ets(self) -> dict[str, Any]:
        """256 leaves in 40 clusters, 4 levels deep; trees in turn."""
        if find_spec("pulp") is None:
            return {"skipped": "PuLP is not installed"}
        rounds = 3 if self.quick else 15
        cases = [tree(random.Random(seed), 256, 4, 40) for seed in range(rounds)]
        ours, theirs = [], []
        search.best_subtree(*cases[0])
        for case in cases:
            begin = time.perf_counter()
            worth, _ = search.best_subtree(*case)
            middle = time.perf_counter()
            other = by_cbc(case)
            ours.append(middle - begin)
            theirs.append(time.perf_counter() - middle)
            if abs(worth - other) > 1e-6:
                raise SystemExit(f"the optima differ: {worth} and {other}")
        return {"trees": rounds, "over_cbc": harness.ratio(ours, theirs), "slowest_seconds": max(ours)}

    def equal(self) -> dict[str, Any]:
        """Optima of random trees of up to 64 leaves."""
        if find_spec("pulp") is None:
            return {"skipped": "PuLP is not installed"}
        count, most = 20 if self.quick else 1000, 0.0
        for seed in range(count):
            draw = random.Random(f"equal {seed}")
            case = tree(draw, draw.randint(2, 64), draw.randint(1, 5), draw.randint(1, 40))
            worth, other = search.best_subtree(*case)[0], by_cbc(case)
            most = max(most, abs(worth - other))
            if most > 1e-6:
                raise SystemExit(f"tree {seed}: the optima differ, {worth} and {other}")
        return {"trees": count, "greatest_difference": most}

    def policies(self) -> dict[str, Any]:
        """All decisions of a search of width 256 and depth 6."""
        width, depth = 256, 6
        policies = [
            search.BestOfN(n=width, max_depth=depth),
            search.StepBeam(width=width, max_depth=depth),
            search.DVTS(width=width, max_depth=depth),
            search.Rebase(width=width, max_depth=depth),
            search.ParticleFilter(width=width, max_depth=depth),
            search.Ets(width=width, max_depth=depth),
        ]
        found = {}
        for policy in policies:
            seconds = []
            for seed in range(3 if self.quick else 7):
                draw, work = random.Random(seed), policy.open(seed)
                begin = time.perf_counter()
                while asked := work.ask():
                    for one in asked:
                        values = [draw.random() for _ in range(one.children)]
                        steps = [[draw.randrange(30) for _ in range(48)] for _ in values]
                        notes = {"steps": steps} if isinstance(policy, search.Ets) else {}
                        work.tell(one.trial, values, [False] * one.children, **notes)
                seconds.append(time.perf_counter() - begin)
            found[policy.name] = statistics.median(seconds)
        return {"width": width, "depth": depth, "seconds": found}


def run(quick: bool = False, only: Iterable[str] | None = None) -> dict[str, Any]:
    """All rows, or those that ``only`` names."""
    bench = Bench(quick)
    return harness.run_rows({name: getattr(bench, name) for name in ("ets", "equal", "policies")}, only)
