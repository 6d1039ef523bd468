"""``LM.generate`` as it comes (draft ``auto``) against transformers' ``generate``, over many prompts.

Tokens a second over plain ``model.generate`` of the same loaded model in the same process, prompts one at
a time, greedy, everything in the time: prompt, drafts, and what the drafts learn. Nothing is kept from one
call to the next but measurements. Every timed call's text is compared with the other side's.

``free_chat``: the sixty requests of ``prompts/mixed.txt``. A prompt's two sides are called in turn, twice, in
two passes over all prompts, so that each figure has its own time of the run; a prompt's ratio is the
median of its two, and what is reported is the geometric mean over the prompts, with an interval from
2,000 resamples of them (120 alternations in all). The prompts that look worst are then measured anew, in
seven alternations each, the first two left out, because the worst of many noisy figures says little.

``edits``: input that the answer mostly repeats: a source file with type hints added (``make demo``), the
same file with a function renamed, and a report with its spelling corrected; seven alternations each.

``no_draft``: the same sixty requests against our own ``generate`` without a draft, in the same way: ``auto``
must never lose to it.

    hornbeam bench spec_generate [--quick] [--only ROW ...]

Rows: free_chat edits no_draft.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

from hornbeam.bench import harness
from hornbeam.bench.workload import Sides, mixed, report_to_correct, type_hints, with_renamed_function

Side = Callable[[list[list[int]], int], list[list[int]]]
"""New token ids of each prompt, at most so many."""

PASSES = 2
BUDGET = 56
NUM_WORST = 6


class Bench(Sides):
    """The rows."""

    def pair(
        self, prompt: list[int], budget: int, alternations: int, other: Side | None = None
    ) -> tuple[harness.Ratio, bool]:
        """The ratio of one prompt, and whether all texts were the same."""
        texts: list[list[int]] = []

        def noting(side: Side) -> None:
            texts.extend(side([prompt], budget))

        seconds = harness.alternate(
            {"ours": partial(noting, self.ours), "theirs": partial(noting, other or self.theirs)},
            alternations,
            warm_up=0,
        )
        return harness.ratio(seconds["ours"], seconds["theirs"]), all(text == texts[0] for text in texts)

    def free_chat(self) -> dict[str, Any]:
        """All prompts, and the worst ones again, against transformers."""
        return self.over_prompts(self.theirs)

    def no_draft(self) -> dict[str, Any]:
        """The same against ourselves without a draft."""
        return self.over_prompts(partial(self.ours, draft=None))

    def over_prompts(self, other: Side) -> dict[str, Any]:
        """Two passes over all prompts, and the worst ones again."""
        requests = mixed()[::15] if self.quick else mixed()
        budget = 16 if self.quick else BUDGET
        prompts = [self.chat(text) for text in requests]
        # Both sides start warm, on a prompt that is none of these.
        self.pair(self.chat("Say hello."), 8, 1, other)
        ratios: list[list[float]] = [[] for _ in prompts]
        is_same = [True for _ in prompts]
        for number in range(PASSES):
            for place, prompt in enumerate(prompts):
                ratio, same = self.pair(prompt, budget, 1, other)
                ratios[place].append(ratio.median)
                is_same[place] &= same
                print(f"pass {number + 1}, prompt {place + 1}: {ratio.median:.2f}x", flush=True)
        own = [statistics.median(values) for values in ratios]
        order = sorted(range(len(own)), key=own.__getitem__)
        again = []
        for place in order[: 1 if self.quick else NUM_WORST]:
            ratio, same = self.pair(prompts[place], budget, self.alternations, other)
            is_same[place] &= same
            again.append({"prompt": requests[place], "identical": same, "hornbeam": ratio})
            print(f"again, prompt {place + 1}: {ratio.median:.2f}x", flush=True)
        return {
            "jobs": len(prompts),
            "identical": sum(is_same),
            "new_tokens": budget,
            "hornbeam": mean_over_prompts(own),
            "prompts": [
                {"prompt": text, "ratio": value, "identical": same}
                for text, value, same in zip(requests, own, is_same, strict=True)
            ],
            "worst_measured_again": again,
        }

    def edits(self) -> dict[str, Any]:
        """Each job, and the geometric mean."""
        jobs = {
            "type hints": (self.raw(type_hints()), 295),
            "renamed function": (self.raw(with_renamed_function()), 192),
            "corrected report": (self.raw(report_to_correct()), 128),
        }
        rows: dict[str, Any] = {}
        for name, (prompt, budget) in jobs.items():
            ratio, same = self.pair(prompt, 24 if self.quick else budget, self.alternations)
            rows[name] = {"identical": same, "hornbeam": ratio}
            print(f"{name}: {ratio.median:.2f}x [{ratio.low:.2f}, {ratio.high:.2f}]", flush=True)
        found = [row["hornbeam"] for row in rows.values()]
        keys = ("median", "low", "high")
        return {
            "jobs": len(rows),
            "identical": sum(row["identical"] for row in rows.values()),
            "geometric_mean": {
                key: harness.geometric_mean([getattr(ratio, key) for ratio in found]) for key in keys
            },
            "rows": rows,
        }


def mean_over_prompts(ratios: list[float], times: int = 2000) -> dict[str, float]:
    """The geometric mean, its 95 % interval over resamples of the prompts, and the extremes."""
    draw = random.Random(0)
    means = sorted(harness.geometric_mean(draw.choices(ratios, k=len(ratios))) for _ in range(times))
    return {
        "geometric_mean": harness.geometric_mean(ratios),
        "low": means[times // 40],
        "high": means[-1 - times // 40],
        "lowest": min(ratios),
        "highest": max(ratios),
    }


def run(quick: bool = False, only: list[str] | None = None) -> dict[str, Any]:
    """All rows, or those that ``only`` names."""
    bench = Bench(quick)
    rows = {"free_chat": bench.free_chat, "edits": bench.edits, "no_draft": bench.no_draft}
    if unknown := sorted(set(only or ()) - set(rows)):
        raise SystemExit(f"rows are {', '.join(rows)}, got {', '.join(unknown)}")
    return {name: row() for name, row in rows.items() if only is None or name in only}
