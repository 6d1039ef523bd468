"""Draft tokens accepted in a step: the feature head of the default model, rule against rule at equal rows.

Sixty mixed requests (``prompts/mixed.txt``, none of which the head was trained on) are answered at
temperature 1, each with trees of 16 drafted tokens. A figure is the mean over the requests of the draft
tokens accepted in a step; a ratio is between means, with an interval from 2,000 resamples of the requests.
No figure here is a time except those of ``cost``, which compares one level of a draft with a plain step
of the target, in alternation.

    python benches/run.py spec_accept [--quick] [--only ROW ...]

Rows: accept cost.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable
from typing import Any

import torch

import harness
import hornbeam as hb
from hornbeam.spec import FeatureHead
from hornbeam.spec.shape import BestFirst, Chain, GumbelTree, StochasticBeam

SIZE = 16
# Requests of one call.
BATCH = 20

WITHOUT_REPLACEMENT = {
    "stochastic beam 4 x 4, without replacement": (StochasticBeam(4, 4), "without_replacement"),
    "gumbel tree 4-1-1-1, without replacement": (GumbelTree((4, 1, 1, 1)), "without_replacement"),
}
TARGET_ONLY = {
    "best first 16 of width 4, target only": (BestFirst(size=SIZE, width=4, depth=5), "target_only"),
    "best first 16 of width 8, target only": (BestFirst(size=SIZE, width=8, depth=3), "target_only"),
    "stochastic beam 4 x 4, target only": (StochasticBeam(4, 4), "target_only"),
}
OTHERS = {
    "stochastic beam 4 x 4, coupled": (StochasticBeam(4, 4), "coupled"),
    "chain of 5, chain": (Chain(5), "chain"),
    "chain of 5, block": (Chain(5), "block"),
}


class Bench:
    """The model and the requests."""

    def __init__(self, quick: bool) -> None:
        self.quick = quick
        self.lm = hb.LM.from_pretrained("smollm2")
        lines = (harness.ROOT / "benches" / "prompts" / "mixed.txt").read_text(encoding="utf-8").splitlines()
        self.prompts = [[{"role": "user", "content": line}] for line in (lines[::10] if quick else lines)]

    def accepted(self, shape: Any, rule: str) -> list[float]:
        """Draft tokens accepted in a step, one mean a request."""
        means: list[float] = []
        for begin in range(0, len(self.prompts), BATCH):
            self.lm.clear_cache()
            outs = self.lm.generate(
                self.prompts[begin : begin + BATCH],
                max_new_tokens=24 if self.quick else 96,
                temperature=1.0,
                seed=17,
                draft=FeatureHead(shape=shape),
                verify=rule,
                length=hb.spec.Fixed(SIZE),
            )
            means += [out.stats.accepted / max(out.stats.forward_passes, 1) for out in outs]
        return means

    def accept(self) -> dict[str, Any]:
        """Every rule, and the best of without replacement over each of target-only."""
        cases = {**WITHOUT_REPLACEMENT, **TARGET_ONLY, **OTHERS}
        found = {name: self.accepted(shape, rule) for name, (shape, rule) in cases.items()}
        for name, values in found.items():
            print(f"{name}: {statistics.fmean(values):.3f}", flush=True)
        return {
            "prompts": len(self.prompts),
            "drafted_tokens": SIZE,
            "accepted_per_step": {name: statistics.fmean(values) for name, values in found.items()},
            "ratios": {
                f"{ours} / {theirs}": resampled(found[ours], found[theirs])
                for ours in WITHOUT_REPLACEMENT
                for theirs in TARGET_ONLY
            },
        }

    def cost(self) -> dict[str, Any]:
        """One level of a draft, with one node and with four, against a plain step of the target."""
        lm = self.lm
        prompt = lm._token_ids(self.prompts[0], "prompt", special=True)
        alternations = 3 if self.quick else 21
        result: dict[str, Any] = {}
        for nodes in (1, 4):
            seconds = harness.alternate(
                {"step": self.step(prompt), "level": self.level(prompt, nodes)}, alternations, warm_up=2
            )
            compared = harness.ratio(seconds["level"], seconds["step"])
            result[f"steps of the target over levels of {nodes}"] = compared
        return result

    def step(self, prompt: list[int]) -> Callable[[], None]:
        """One row of the target after the prompt."""
        lm = self.lm
        branch = lm.tree.branch()
        with lm.tree.step([(branch, prompt, None)]) as step:
            lm.runner.forward(lm.tree, step, logits_rows=[0])
            step.commit([range(len(prompt))])

        def call() -> None:
            with lm.tree.step([(branch, [1], None)]) as step:
                lm.runner.forward(lm.tree, step)

        return call

    def level(self, prompt: list[int], nodes: int) -> Callable[[], None]:
        """The rows of ``nodes`` siblings of the head after the prompt, and their logits."""
        run = hb.spec.Run(self.lm, hb.Warp(), 0, "coupled")
        head = FeatureHead().open(run).head
        root = head.tree.branch()
        hidden = torch.randn(len(prompt), len(head.taps), head.hidden_size)
        head.forward([(root, prompt, prompt)], head.read(hidden))
        features = torch.randn(nodes, head.hidden_size)

        def call() -> None:
            branches = [root.fork() for _ in range(nodes)]
            head.logits(head.forward([(branch, [1], [1]) for branch in branches], features))
            for branch in branches:
                branch.release(keep=False)

        return call


def resampled(ours: list[float], theirs: list[float], times: int = 2000) -> dict[str, float]:
    """The ratio of the means and its 95 % interval over resamples of the requests, in pairs."""
    draw = random.Random(0)
    pairs = list(zip(ours, theirs, strict=True))
    ratios = []
    for _ in range(times):
        picked = draw.choices(pairs, k=len(pairs))
        ratios.append(sum(a for a, _ in picked) / max(sum(b for _, b in picked), 1e-9))
    ratios.sort()
    whole = sum(ours) / max(sum(theirs), 1e-9)
    return {"ratio": whole, "low": ratios[times // 40], "high": ratios[-1 - times // 40]}


def run(quick: bool, only: list[str] | None = None) -> dict[str, Any]:
    bench = Bench(quick)
    rows = {"accept": bench.accept, "cost": bench.cost}
    unknown = set(only or ()) - set(rows)
    if unknown:
        raise SystemExit(f"no row {sorted(unknown)}, expected some of {', '.join(rows)}")
    return {name: row() for name, row in rows.items() if only is None or name in only}
