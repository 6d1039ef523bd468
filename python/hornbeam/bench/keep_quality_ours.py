"""Our side of the keep_quality bench: one prompt is read once, and every recipe reduces a fork of it.

A recipe's scores are found by its own keeper, from what the driver's observers saw of the one prefill, so
that what is measured is what ``LM.generate`` does; recipes that reduce at every token reduce once here, when
the context is complete, as presses do.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import torch

import hornbeam as hb
from hornbeam import keep, recipes
from hornbeam.bench import driving
from hornbeam.bench.needles import Item
from hornbeam.engine.ambient import Ambient
from hornbeam.engine.eviction import Keeper
from hornbeam.engine.random_key import RandomKey
from hornbeam.engine.request import Request

#: Recipe by the name in the results, and the press that it is measured beside. ``sparse_mm`` is made by
#: :class:`Ours`, which measures its heads.
RECIPES: dict[str, tuple[Callable[[str], keep.Recipe], str | None]] = {
    "streaming_llm": (recipes.streaming_llm, "streaming_llm"),
    "h2o": (recipes.h2o, "observed_attention"),
    "normalised_mass": (
        lambda budget: keep.Recipe(keep.NormalisedMass(recent=1.0, random=0.0), budget),
        "observed_attention",
    ),
    "tova": (recipes.tova, "tova"),
    "snap_kv": (recipes.snap_kv, "snap_kv"),
    "snap_kv + value_merge": (
        lambda budget: keep.Recipe(keep.WindowMass(), budget, reduce=keep.ValueMerge()),
        "snap_kv_merged",
    ),
    "pyramid_kv": (recipes.pyramid_kv, "pyramid_kv"),
    'pyramid_kv(slope="fitted")': (lambda budget: recipes.pyramid_kv(budget, slope="fitted"), "pyramid_kv"),
    "ada_kv": (recipes.ada_kv, "ada_kv"),
    'ada_kv(blend="reserve")': (lambda budget: recipes.ada_kv(budget, blend="reserve"), "ada_kv"),
    "expected_attention": (recipes.expected_attention, "expected_attention"),
    "key_diff": (recipes.key_diff, "key_diff"),
    "knorm": (recipes.knorm, "knorm"),
    "prefix_kv": (recipes.prefix_kv, None),
    "ems": (recipes.ems, None),
    "window_kv": (recipes.window_kv, None),
    'window_kv(pool="max")': (lambda budget: recipes.window_kv(budget, pool="max"), None),
}
#: Raise a recipe's where outcomes of an older state of its code are no longer those of this one; 1 without.
EDITIONS = {"expected_attention": 2}
COUNTERPARTS = {**{name: press for name, (_, press) in RECIPES.items()}, "sparse_mm": None}
PRESSES = sorted({press for _, press in RECIPES.values() if press})


@dataclasses.dataclass(frozen=True)
class Never(keep.When):
    """Notes what a recipe needs to know, and reduces nothing."""

    def due(self, moment: keep.CacheState) -> bool:
        return False


class Observers:
    """Several keepers in the place of one, which see one prefill."""

    is_press = False

    def __init__(self, keepers: list[Keeper]) -> None:
        self.keepers = keepers

    def reusable(self, num_tokens: int) -> int:
        return 0

    def is_awaiting(self, sequence: Any) -> bool:
        return False

    def settle(self, sequence: Any, waiting: Any) -> None:
        return

    def is_broken(self, sequence: Any) -> bool:
        return False

    def forget(self, sequence: Any) -> None:
        return

    def watch(self, step: Any, rows: Any, sequences: Any) -> Any:
        watches = [keeper.watch(step, rows, sequences) for keeper in self.keepers]

        def watch(*seen: Any) -> None:
            for one in watches:
                if one is not None:
                    one(*seen)

        watch.parts = watches  # type: ignore[attr-defined]
        return watch

    def on_step(self, watch: Any, sequences: Any, paths: Any, waiting: Any) -> None:
        for keeper, one in zip(self.keepers, watch.parts if watch else [], strict=bool(watch)):
            keeper.on_step(one, sequences, paths, waiting)


class Ours:
    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.lm = hb.LM(model, tokenizer)
        self.head_scores: list[list[float]] = []

    def measure_heads(self, items: list[Item]) -> list[list[float]]:
        """Which heads look up answers, for ``sparse_mm``: on needles that no table counts."""
        pairs = [
            (item.context + question, answer)
            for item in items
            for question, answer in zip(item.questions, item.answers, strict=True)
        ]
        examples = [keep.Example.copying(prompt, answer) for prompt, answer in pairs]
        return [list(layer) for layer in keep.head_scores(self.lm, examples).scores]

    def recipe(self, name: str, share: float) -> keep.Recipe:
        budget = f"{100 * share:g}%"
        if name == "sparse_mm":
            return recipes.sparse_mm(budget, head_scores=self.head_scores)
        return RECIPES[name][0](budget)

    def read(self, context: list[int]) -> None:
        """Reads a prompt, for the calls that follow."""
        self.forget()
        # The last rows; the mass of all rows; the moments of all queries.
        seen = [recipes.snap_kv("50%"), recipes.ems("50%"), recipes.expected_attention("50%")]
        self.observers = [
            Keeper(self.lm.engine, dataclasses.replace(recipe, when=Never())) for recipe in seen
        ]
        self.sequence = driving.opened(self.lm, context, keeper=Observers(self.observers))
        self.scores: dict[str, torch.Tensor] = {}

    def forget(self) -> None:
        """Gives the prompt's pages back."""
        if hasattr(self, "sequence"):
            self.sequence.cancel()
        self.lm.clear_cache()

    def reduced(self, recipe: keep.Recipe) -> tuple[Request, list[list[int]]]:
        """A fork of the prompt that the recipe has reduced, and the positions that each plane kept."""
        keeper = Keeper(self.lm.engine, dataclasses.replace(recipe, when=keep.AfterPrefill()))
        ambient = Ambient.now("cpu")
        fork = Request(
            self.lm.engine, 0, RandomKey(0), self.sequence.prompt, self.sequence.options, ambient=ambient
        )
        fork._branch = self.sequence.branch.fork()
        scoring = keeper.scoring
        seen = self.observers[2 if scoring.moments is not None else 1 if scoring.adds_mass else 0]
        scoring.rules = seen.scoring.rules
        [state] = map(copy.copy, seen.states.values())
        label, find = repr(keeper.recipe.score), scoring.scores

        def scores(*arguments: Any) -> torch.Tensor:
            if label not in self.scores:
                self.scores[label] = find(*arguments)
            return self.scores[label]

        scoring.scores = scores  # type: ignore[method-assign, assignment]
        keeper.record = {}
        keeper._reduce(fork, state)
        fork.stats.reductions = 1  # never matched again
        return fork, [positions.tolist() for positions in keeper.record[0]]

    def ask(self, item: Item, names: list[str], keeps: list[float]) -> dict[str, Any]:
        """As the worker of kvpress answers."""
        found: dict[str, Any] = {"full": self._answers(self.sequence, item)}
        for name in names:
            found[name] = {}
            for share in keeps:
                fork, _ = self.reduced(self.recipe(name, share))
                found[name][str(share)] = self._answers(fork, item)
                fork.close()
        return found

    def _answers(self, sequence: Request, item: Item) -> list[tuple[bool, float]]:
        pairs = list(zip(item.questions, item.answers, strict=True))
        logits = self.logits(
            sequence, [question + answer[:-1] for question, answer in pairs], len(pairs[0][1])
        )
        return [outcome(rows, answer) for rows, (_, answer) in zip(logits, pairs, strict=True)]

    def logits(self, sequence: Request, tokens: list[list[int]], last: int) -> list[torch.Tensor]:
        """Logits of the last rows of each run of tokens; nothing of them stays."""
        branches = [sequence.branch.fork() for _ in tokens]
        try:
            with self.lm.tree.step([(b, own, None) for b, own in zip(branches, tokens, strict=True)]) as step:
                rows = [int(row) for own in step.rows for row in own[-last:]]
                output = self.lm.runner.forward(self.lm.tree, step, logits_rows=rows).logits
                return list(output.clone().split(last))
        finally:
            for branch in branches:
                branch.release(keep=False)


def outcome(logits: torch.Tensor, answer: list[int]) -> tuple[bool, float]:
    """Whether every token of the answer is the most probable in its row, and its log-probability."""
    targets = torch.tensor(answer)
    logprobs = logits.float().log_softmax(-1).gather(1, targets[:, None])
    return bool((logits.argmax(-1) == targets).all()), float(logprobs.sum())
