"""Scores of heads, measured on texts whose answers are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from hornbeam.errors import ArgumentError
from hornbeam.keep.split import HeadScores

if TYPE_CHECKING:
    from hornbeam.cache.key_table import KeyTable
    from hornbeam.cache.tree import PrefixTree

__all__ = ["Example", "head_scores"]


@dataclass(frozen=True)
class Example:
    """A prompt, the answer that follows it, and where in the prompt the answer stands: for each token of
    the answer, the positions of the prompt's tokens that say it.

    Args:
        prompt: token ids.
        answer: token ids that follow the prompt.
        sources: for each token of the answer the positions in the prompt that say it.
    """

    prompt: list[int]
    answer: list[int]
    sources: list[range]

    @classmethod
    def copying(cls, prompt: Sequence[int], answer: Sequence[int]) -> Example:
        """An answer that stands in the prompt word for word; the last place counts where there are several.

        Args:
            prompt: token ids.
            answer: token ids, found in the prompt.

        Raises:
            ArgumentError: the answer does not stand in the prompt.
        """
        prompt, answer = list(prompt), list(answer)
        for begin in range(len(prompt) - len(answer), -1, -1):
            if answer and prompt[begin : begin + len(answer)] == answer:
                places = [range(begin + i, begin + i + 1) for i in range(len(answer))]
                return cls(prompt, answer, places)
        raise ArgumentError(f"the answer, {len(answer)} tokens, does not stand in the prompt")


class Host(Protocol):
    """What runs a model over pages, such as :class:`hornbeam.Engine`."""

    tree: PrefixTree
    runner: Any

    def forward(self, step: Any, **options: Any) -> Any:
        """Runs the rows of an open step."""

    def exclusively(self, work: Callable[[], None]) -> None:
        """Does something between two steps, while nobody else uses the model."""


class Model(Protocol):
    """What has such a host, such as :class:`hornbeam.LM`."""

    @property
    def engine(self) -> Host:
        """The host."""


class _Hits:
    """Sees which key each query head of the asked rows attends to most."""

    def __init__(self, host: Host, branch: Any, rows: Tensor, sources: list[range]) -> None:
        self.tree, self.branch, self.rows, self.sources = host.tree, branch, rows, sources
        self.table: KeyTable | None = None  # that of the step, from the first layer on
        shape = host.runner.shape
        self.scores = torch.zeros(shape.num_layers, shape.num_heads, dtype=torch.float64, device="cpu")

    def __call__(self, module: torch.nn.Module, layer: int, query: Tensor, options: dict[str, Any]) -> None:
        tree = self.tree
        heads = tree.num_kv_heads
        if self.table is None:
            self.table = tree.key_table(self.branch, in_step=True)
        keys, _ = self.table.layer_rows(tree.chunks, layer, heads)
        rows = query[:, self.rows.to(query.device)].float().cpu()
        group = rows.shape[0] // heads
        # The greatest score has the greatest probability; a row sees the keys up to its own.
        scores = rows.view(heads, group * rows.shape[1], -1) @ keys.transpose(1, 2)
        scores = scores.view(heads * group, rows.shape[1], -1)
        visible = torch.arange(keys.shape[1], device="cpu")[None] <= self.rows[:, None]
        best = scores.masked_fill(~visible, -torch.inf).argmax(dim=-1)
        for column, source in enumerate(self.sources):
            hit = (best[:, column] >= source.start) & (best[:, column] < source.stop)
            self.scores[layer] += hit / len(source)


def head_scores(lm: Model, examples: Sequence[Example], *, floor: float = 0.1) -> HeadScores:
    """The split that follows which heads look up answers.

    While the answer is read, a head scores ``1 / len(source)`` whenever its most probable key is one of
    those that say the token to come. Sums over query heads of a group, divided by the sum of all. SparseMM
    (arXiv 2506.05344) finds its visual heads so, on text in images with known boxes; here
    any text with known answers does, and the answer is given instead of decoded.

    Args:
        lm: the model, a :class:`hornbeam.LM`.
        examples: prompts of which the answer's place is known; a few dozen.
        floor: as in :class:`~hornbeam.keep.HeadScores`.

    Raises:
        ArgumentError: there is no example, an example has not one source for each token of its answer, or no
            head ever looks at an answer.
    """
    host = lm.engine
    total: Tensor | None = None
    for example in examples:
        if len(example.sources) != len(example.answer) or not all(len(source) for source in example.sources):
            raise ArgumentError("an example needs one source, not empty, a token of its answer")
        tokens = example.prompt + example.answer[:-1]
        # The row before a token is the one that looks it up.
        rows = torch.arange(len(example.prompt) - 1, len(tokens), device="cpu")
        found = _read(host, tokens, rows, list(example.sources)) / len(example.answer)
        total = found if total is None else total + found
    if total is None or not bool(total.any()):
        raise ArgumentError(f"no head looks up an answer in {len(examples)} examples, expected some that do")
    return HeadScores.from_query_heads(total / total.sum(), host.tree.num_kv_heads, floor)


def _read(host: Host, tokens: list[int], rows: Tensor, sources: list[range]) -> Tensor:
    """The hits of all query heads, ``[layers, H]``, while the model reads a text."""
    scores: list[Tensor] = []

    def work() -> None:
        branch = host.tree.branch()
        try:
            with host.tree.step([(branch, tokens, None)], owner=host) as step:
                hits = _Hits(host, branch, rows, sources)
                host.forward(step, logits_rows=[0], observer=hits)
        finally:
            branch.drop(keep=False)
        scores.append(hits.scores)

    # Another thread may be stepping the engine.
    host.exclusively(work)
    return scores[0]
