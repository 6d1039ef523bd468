"""Beam search over tokens against transformers' ``num_beams`` on the default model, on the CPU.

Each row is a ratio over ``model.generate(num_beams=width)`` of the same loaded model in the same process,
wall time of the whole call. ``beam`` begins with nothing cached on either side: transformers reads the prompt
once for each beam. In ``beam_decode`` both sides hold the prompt, but for its last token, in their caches, so
that the decoding alone is compared. Every row first checks what both sides write: ``identical`` counts the
jobs whose beams, all of them, have the same tokens (the floating-point sums of two implementations differ in
their last bits, so that a near tie may fall either way).

    hornbeam bench search_beam [--quick] [--only ROW ...]

Rows: beam beam_decode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from hornbeam import recipes
from hornbeam.bench import harness
from hornbeam.bench.workload import Sides, ignoring, sources

PROMPT_TOKENS = 1000
WIDTH = 8
NEW_TOKENS = 128

Beams = list[list[int]]


class Bench(Sides):
    """The rows."""

    def __init__(self, quick: bool) -> None:
        super().__init__(quick)
        self.prompt = self.raw("\n\n".join(sources()))[:PROMPT_TOKENS]
        self.budget = 16 if quick else NEW_TOKENS
        self.recipe = recipes.beam(width=WIDTH, max_new_tokens=self.budget)

    def whole(self) -> dict[str, Any]:
        """The whole call, nothing kept from earlier ones."""

        def our_beams() -> Beams:
            self.lm.clear_cache()
            return self.our_beams()

        return self.compared(our_beams, self.their_beams)

    def decode(self) -> dict[str, Any]:
        """With the prompt in the caches of both."""
        from transformers import DynamicCache

        cache = DynamicCache(config=self.model.config)
        ids = torch.tensor([self.prompt]).repeat(WIDTH, 1)
        with torch.inference_mode():
            self.model(ids[:, :-1], past_key_values=cache, logits_to_keep=1)

        def their_beams() -> Beams:
            beams = self.their_beams(past_key_values=cache)
            # Every beam begins with the prompt, in whatever order they are now.
            cache.crop(PROMPT_TOKENS - 1 - cache.get_seq_length())
            return beams

        self.our_beams()  # fills the tree
        return self.compared(self.our_beams, their_beams)

    def compared(self, ours: Callable[[], Beams], theirs: Callable[[], Beams]) -> dict[str, Any]:
        """What is the same, and the ratio."""
        identical = int(ours() == theirs())
        calls = {"ours": ignoring(ours), "theirs": ignoring(theirs)}
        seconds = harness.alternate(calls, self.alternations, warm_up=0)
        return {
            "jobs": 1,
            "identical": identical,
            "width": WIDTH,
            "prompt_tokens": PROMPT_TOKENS,
            "new_tokens": self.budget,
            "hornbeam": harness.ratio(seconds["ours"], seconds["theirs"]),
        }

    def our_beams(self) -> Beams:
        """The tokens of all beams, the best first."""
        found = self.lm.search(self.prompt, recipe=self.recipe)
        return [path.token_ids for path in found.tree.finished]

    def their_beams(self, **options: Any) -> Beams:
        """The same of transformers."""
        ids = torch.tensor([self.prompt])
        output = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            num_beams=WIDTH,
            num_return_sequences=WIDTH,
            max_new_tokens=self.budget,
            **options,
        )
        return [self.trim(row[PROMPT_TOKENS:].tolist()) for row in output]


def run(quick: bool = False, only: Iterable[str] | None = None) -> dict[str, Any]:
    """All rows, or those that ``only`` names."""
    bench = Bench(quick)
    rows: dict[str, Callable[[], dict[str, Any]]] = {
        "beam": bench.whole,
        "beam_decode": bench.decode,
    }
    return harness.run_rows(rows, only)
