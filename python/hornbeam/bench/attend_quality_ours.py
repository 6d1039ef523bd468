"""How the attend_quality bench reads texts: densely, by pages of decoding, or by blocks of a prompt."""

from __future__ import annotations

from typing import Any

import torch

import hornbeam as hb
from hornbeam.bench.keep_quality_ours import outcome
from hornbeam.bench.needles import Item

#: Rows of a log-softmax that are held at once: each is a vocabulary wide.
ROWS_AT_ONCE = 256


class Recorded:
    """A recipe of ``prefill=`` that notes the shares of keys that its heads read."""

    def __init__(self, recipe: Any) -> None:
        self.recipe = recipe
        self.shares: list[float] = []

    def attention(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor | None:
        """As that of the recipe, whose answer it is."""
        out: torch.Tensor | None = self.recipe.attention(layer, query, key, value, scale)
        if out is None:
            self.shares += [1.0] * query.shape[0]
        else:
            self.shares += hb.attend.plan(self.recipe, query, key, layer=layer, scale=scale).shares.tolist()
        return out


class Reader:
    """A model, and the texts that it has read."""

    def __init__(self, model: Any, tokenizer: Any, page_tokens: int = 16) -> None:
        self.lm = hb.LM(model, tokenizer, page_tokens=page_tokens)

    def of_pages(self, tokens: int) -> Reader:
        """One whose pages are of so many tokens."""
        return Reader(self.lm.model, self.lm.tokenizer, tokens)

    def read(self, tokens: list[int]) -> Any:
        """A branch of a text that was read densely."""
        branch = self.lm.tree.branch()
        self._forward(branch, tokens)
        return branch

    def _forward(self, branch: Any, tokens: list[int], rows: range = range(1), **sparse: Any) -> torch.Tensor:
        """Reads on; gives the logits of some rows."""
        with self.lm.tree.step([(branch, tokens, None)], exact=not sparse) as step:
            logits = self.lm.engine.forward(step, logits_rows=list(rows), **sparse).logits
            step.commit([range(len(tokens))])
        return logits

    def dense(self, tokens: list[int], first: int, prefill: Any = None) -> torch.Tensor:
        """The log-probability of each token after ``first``, under its own prefix, in one pass."""
        branch = self.lm.tree.branch()
        sparse = {} if prefill is None else {"prefill": prefill}
        try:
            logits = self._forward(branch, tokens[:-1], range(first, len(tokens) - 1), **sparse)
        finally:
            branch.release(keep=False)
        return logprobs(logits, tokens[first + 1 :])

    def decoded(self, tokens: list[int], first: int, recipe: Any, rows: int) -> torch.Tensor:
        """The same, where the rows from ``first`` on are decoded under a recipe, so many a step. Each is
        given the token that the text has."""
        branch = self.read(tokens[:first])
        found = []
        try:
            for begin in range(first, len(tokens) - 1, rows):
                own = tokens[begin : min(begin + rows, len(tokens) - 1)]
                every = range(len(own))
                logits = self._forward(branch, own, every, attend=[(0, len(own), recipe)])
                found.append(logprobs(logits, tokens[begin + 1 : begin + 1 + len(own)]))
        finally:
            branch.release(keep=False)
        return torch.cat(found)

    def answers(self, branch: Any, item: Item, recipe: Any) -> list[tuple[bool, float]]:
        """As the keep_quality bench asks: question and answer follow the text in one step, whose rows read
        the text by the recipe, or all of it without one. Nothing of them stays."""
        pairs = list(zip(item.questions, item.answers, strict=True))
        branches = [branch.fork() for _ in pairs]
        asked = [question + answer[:-1] for question, answer in pairs]
        try:
            requests = [(b, own, None) for b, own in zip(branches, asked, strict=True)]
            with self.lm.tree.step(requests, exact=recipe is None) as step:
                last = len(pairs[0][1])
                rows = [int(row) for own in step.rows for row in own[-last:]]
                sparse = {} if recipe is None else {"attend": [(0, step.num_rows, recipe)]}
                logits = self.lm.engine.forward(step, logits_rows=rows, **sparse).logits.split(last)
                return [outcome(own, answer) for own, (_, answer) in zip(logits, pairs, strict=True)]
        finally:
            for own_branch in branches:
                own_branch.release(keep=False)

    def bytes_read(self, branch: Any, question: list[int], recipe: Any) -> float:
        """What the last row of a question reads of the keys and values before it, bounds of pages included,
        over all of them."""
        fork = branch.fork()
        try:
            self._forward(fork, question[:-1], attend=[(0, len(question) - 1, recipe)])
            with self.lm.tree.step([(fork, question[-1:], None)], exact=False) as step:
                read = self.lm.engine.forward(step, logits_rows=[0], attend=[(0, 1, recipe)])
        finally:
            fork.release(keep=False)
        layers = self.lm.runner.shape.num_layers
        # The bounds of a page are two vectors, its keys and values two a token.
        bounds = max(layers - recipe.dense_layers, 0) / layers / self.lm.tree.page_tokens
        share = read.keys_read / read.keys if read.keys else 1.0  # of no keys where every layer is dense
        return min(share + bounds, 1.0)


def logprobs(logits: torch.Tensor, tokens: list[int]) -> torch.Tensor:
    """The log-probability of each token in the row of its logits, float64 ``[rows]``."""
    targets = torch.tensor(tokens)
    parts = zip(logits.split(ROWS_AT_ONCE), targets.split(ROWS_AT_ONCE), strict=True)
    return torch.cat(
        [rows.float().log_softmax(-1).gather(1, own[:, None])[:, 0] for rows, own in parts]
    ).double()
