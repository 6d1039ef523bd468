"""Decoding that reads a part of a long text's keys, on the default model in float32, on the CPU.

Seconds of decoding after a prompt of 7,900 tokens that every side holds in its cache, the first token left
out, without drafts but in the row that is about one.

``quest``: an eighth of the pages, over our own decoding of all keys and over transformers' ``generate``. The
texts differ, so that the bench first checks that a selection of all pages writes the text of none.
``sparse_self``: the model drafts for itself over a part of its keys, over our own decoding without drafts;
the texts have to be the same. ``expected`` is what the row would be by times and acceptance alone: with ``k``
tokens drafted at ``T_s`` each, and ``a`` of them accepted in a step of ``T(1 + k)``, it is
``(1 + a) T(1) / (k T_s + T(1 + k))``.

    hornbeam bench attend_generate [--quick] [--only ROW ...]

Rows: quest sparse_self.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import hornbeam as hb
from hornbeam.bench import harness
from hornbeam.bench.bench_generate import Bench as Generate
from hornbeam.bench.bench_generate import after_first
from hornbeam.bench.compare import Clock

SHARE = "12.5%"
DRAFTED = 3


class Bench(Generate):
    """The rows."""

    def __init__(self, quick: bool) -> None:
        super().__init__(quick)
        self.prompt = self.long_prompt(2000 if quick else 7900)
        self.budget = 8 if quick else 32

    def decode_with(self, **options: Any) -> tuple[float, hb.results.Generation]:
        """Seconds behind the first token, and what was written."""
        clock = Clock()
        out = self.lm.generate(self.prompt, max_new_tokens=self.budget, stream=clock, **options)
        return after_first(clock, self.budget), out

    def quest(self) -> dict[str, Any]:
        """An eighth of the pages."""
        everything = self.decode_with(draft=None, attend=hb.recipes.quest("100%"))[1]
        dense = self.decode_with(draft=None)[1]
        recipe = hb.recipes.quest(SHARE)
        sparse = self.decode_with(draft=None, attend=recipe)[1]
        theirs = self.decode_theirs(self.prompt, self.budget)
        calls: dict[str, Callable[[], float]] = {
            "quest": lambda: self.decode_with(draft=None, attend=recipe)[0],
            "dense": lambda: self.decode_with(draft=None)[0],
            "transformers": lambda: theirs()[0],
        }
        seconds = harness.alternate(calls, self.alternations)
        return {
            "tokens": len(self.prompt),
            "all_pages_identical": int(everything.token_ids == dense.token_ids),
            "share_read": sparse.stats.attend_share,
            "over_dense": harness.ratio(seconds["quest"], seconds["dense"]),
            "over_transformers": harness.ratio(seconds["quest"], seconds["transformers"]),
            "dense_over_transformers": harness.ratio(seconds["dense"], seconds["transformers"]),
        }

    def sparse_self(self) -> dict[str, Any]:
        """The model's own drafts, under the default rule and always."""
        recipe = hb.recipes.quest(SHARE)
        draft = hb.spec.SparseSelf(recipe, shape=hb.spec.shape.Chain(DRAFTED))
        always = {"draft": draft, "length": hb.spec.Fixed(DRAFTED)}
        measured, plain = self.decode_with(draft=draft)[1], self.decode_with(draft=None)[1]
        forced = self.decode_with(**always)[1]
        calls: dict[str, Callable[[], float]] = {
            "measured": lambda: self.decode_with(draft=draft)[0],
            "always": lambda: self.decode_with(**always)[0],
            "plain": lambda: self.decode_with(draft=None)[0],
            "sparse": lambda: self.decode_with(draft=None, attend=recipe)[0],
        }
        seconds = harness.alternate(calls, self.alternations)
        sparse = harness.ratio(seconds["sparse"], seconds["plain"])
        curve = self.lm.engine.cost_curve
        one, rows = curve.seconds(1), curve.seconds(1 + DRAFTED)
        accepted = forced.stats.accepted / max(forced.stats.forward_passes, 1)
        expected = None
        if one and rows:
            expected = (1 + accepted) / (DRAFTED / sparse.median + rows / one)
        return {
            "tokens": len(self.prompt),
            "identical": int(measured.token_ids == forced.token_ids == plain.token_ids),
            "accepted_a_step": accepted,
            "over_no_draft": harness.ratio(seconds["measured"], seconds["plain"]),
            "always_over_no_draft": harness.ratio(seconds["always"], seconds["plain"]),
            "sparse_step_over_dense": sparse,
            "expected": expected,
        }


def run(quick: bool = False, only: Iterable[str] | None = None) -> dict[str, Any]:
    """All rows, or those that ``only`` names."""
    bench = Bench(quick)
    return harness.run_rows({"quest": bench.quest, "sparse_self": bench.sparse_self}, only)
