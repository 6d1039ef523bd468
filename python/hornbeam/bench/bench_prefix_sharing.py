"""What the default draft leaves of prefix sharing, on the default model on the CPU.

Each row first checks that the default draft writes what plain decoding writes; ``identical`` counts the texts
whose tokens are all the same (sums over other numbers of rows differ in their last bits, so a near tie may
fall either way).

    hornbeam bench prefix_sharing [--quick] [--only ROW ...]

Rows:

``document``: six questions on one document of 1,300 tokens in one call, of an ``LM`` that was calibrated:
    seconds over those of ``draft=None``, in alternation, each from an empty cache; and the tokens that each
    question took from the cache.
``chat``: eight turns, the cache cleared before the fourth: tokens of prompts that each turn computed beyond
    those that nobody had computed before.
``again``: the same prompt again: the tokens that it computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from hornbeam.bench import harness
from hornbeam.bench.workload import CHATS, Sides, ignoring
from hornbeam.results import Generation
from hornbeam.speculation.draft import union

DOCUMENT_TOKENS = 1300
QUESTIONS = (
    "What is this file for?",
    "Which classes does it define?",
    "What does the largest function return?",
    "Name three errors that it raises.",
    "Which modules does it import?",
    "Say in one sentence how it works.",
)
TURNS = 8
CLEARED_BEFORE = 3


class Bench(Sides):
    """The rows."""

    def document(self) -> dict[str, Any]:
        """Six questions on one document."""
        prompts, budget = self.questions(), 16 if self.quick else 48
        ours, plain = self.answers(prompts, budget), self.answers(prompts, budget, draft=None)
        seconds = harness.alternate(
            {
                "ours": ignoring(partial(self.answers, prompts, budget)),
                "plain": ignoring(partial(self.answers, prompts, budget, draft=None)),
            },
            self.alternations,
            warm_up=1,
        )
        shared = [out.stats.reused_tokens for out in ours]
        return {
            "jobs": len(prompts),
            "identical": same(ours, plain),
            "prompt_tokens": [len(prompt) for prompt in prompts],
            "shared_tokens": shared,
            "hornbeam": harness.ratio(seconds["ours"], seconds["plain"]),
            "time_over_plain": 1 / harness.ratio(seconds["ours"], seconds["plain"]).median,
        }

    def chat_turns(self) -> dict[str, Any]:
        """Eight turns of one chat."""
        sides = [self.turns(16 if self.quick else 48, **options) for options in ({}, {"draft": None})]
        (ours, extra), (plain, plain_extra) = sides
        return {
            "jobs": len(ours),
            "identical": same(ours, plain),
            "extra_tokens": extra,
            "extra_tokens_of_plain": plain_extra,
        }

    def again(self) -> dict[str, Any]:
        """One prompt, four times."""
        prompt, budget = self.questions()[0], 16 if self.quick else 48
        self.lm.clear_cache()
        outs = [self.lm.generate(prompt, max_new_tokens=budget) for _ in range(4)]
        plain = self.lm.generate(prompt, max_new_tokens=budget, draft=None)
        return {
            "jobs": len(outs),
            "identical": same(outs, [plain] * len(outs)),
            "computed_tokens": [len(prompt) - out.stats.reused_tokens for out in outs],
        }

    def questions(self) -> list[list[int]]:
        """A document and what is asked of it."""
        document = self.raw(Path(union.__file__).read_text(encoding="utf-8"))[:DOCUMENT_TOKENS]
        if len(document) < DOCUMENT_TOKENS:
            raise RuntimeError(f"the document has {len(document)} tokens, expected {DOCUMENT_TOKENS}")
        return [[*document, *self.raw(f"\n\nQuestion: {text}\nAnswer:")] for text in QUESTIONS]

    def answers(self, prompts: list[list[int]], budget: int, **options: Any) -> list[Generation]:
        self.lm.clear_cache()
        return self.lm.generate(prompts, max_new_tokens=budget, **options)

    def turns(self, budget: int, **options: Any) -> tuple[list[Generation], list[int]]:
        """What each turn wrote, and the tokens of its prompt that were computed again."""
        self.lm.clear_cache()
        chat: list[int] = []
        outs, extra = [], []
        for turn, text in enumerate(CHATS[:TURNS]):
            if turn == CLEARED_BEFORE:
                self.lm.clear_cache()
            held = len(chat) if turn != CLEARED_BEFORE else 0
            chat += self.chat(text)
            out = self.lm.generate(chat, max_new_tokens=budget, **options)
            extra.append(held - out.stats.reused_tokens if held else out.stats.reused_tokens)
            chat += out.token_ids
            outs.append(out)
        return outs, extra


def same(ours: list[Generation], theirs: list[Generation]) -> int:
    """Texts that are equal."""
    return sum(a.token_ids == b.token_ids for a, b in zip(ours, theirs, strict=True))


def run(quick: bool = False, only: Iterable[str] | None = None) -> dict[str, Any]:
    """All rows, or those that ``only`` names."""
    bench = Bench(quick)
    rows: dict[str, Callable[[], dict[str, Any]]] = {
        "document": bench.document,
        "chat": bench.chat_turns,
        "again": bench.again,
    }
    return harness.run_rows(rows, only)
