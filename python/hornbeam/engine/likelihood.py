"""Log-likelihoods of continuations: what :meth:`hornbeam.LM.score` does.

A continuation is a request of its own, which reads prompt and continuation and ends there: its rows share
steps with those of all other requests. The prompt is computed once, since the others wait for the first that
reads it; continuations that differ in their last token alone are one request.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from hornbeam import cuda
from hornbeam.engine.only_read import OnlyRead
from hornbeam.errors import ArgumentError
from hornbeam.results import Likelihood

if TYPE_CHECKING:
    from hornbeam.engine.engine import Engine

__all__ = ["Scored", "ScoredText", "scored_groups"]


class Scored(OnlyRead):
    """Prompt and continuation, all but its last token; of that there may be several.

    Args:
        engine: the engine.
        index: as :class:`Request` has it.
        prompt: token ids.
        shared: the continuation's tokens but the last.
        options: as :class:`Request` has the other arguments.
    """

    def __init__(
        self, engine: Engine, index: int, prompt: list[int], shared: list[int], **options: Any
    ) -> None:
        self._first_row = len(prompt) - 1
        self._targets = shared
        #: The last tokens of the continuations that it stands for.
        self.last_tokens: list[int] = []
        # Log-probabilities of the shared tokens, and whether each is the likeliest.
        self._shared: list[tuple[float, bool]] = []
        self._last: list[tuple[float, bool]] = []
        super().__init__(engine, index, [*prompt, *shared], **options)

    @property
    def num_reusable(self) -> int:
        """Tokens of which no row is wanted."""
        return self._first_row

    def rows_wanted(self, begin: int, count: int) -> range:
        """Those that a token of the continuation follows."""
        return range(max(self._first_row - begin, 0), count)

    def take_logits(self, begin: int, logits: torch.Tensor) -> None:
        """Reads the likelihoods off."""
        row = max(begin, self._first_row)
        tokens = self._targets[row - self._first_row :][: len(logits)]
        values = torch.log_softmax(logits.float(), dim=-1)
        best = logits.argmax(dim=-1)
        if tokens:
            del self._shared[row - self._first_row :]  # of a step that was rolled back
            [own] = cuda.upload([torch.tensor(tokens)], logits.device)
            found = values[: len(tokens)].gather(1, own[:, None])[:, 0].tolist()
            self._shared += zip(found, (best[: len(tokens)] == own).tolist(), strict=True)
        if len(logits) > len(tokens):
            [own] = cuda.upload([torch.tensor(self.last_tokens)], logits.device)
            self._last = list(zip(values[-1][own].tolist(), (best[-1] == own).tolist(), strict=True))

    def likelihood(self, last_token: int) -> Likelihood:
        """Of the continuation that ends with this token."""
        found = [*self._shared, self._last[self.last_tokens.index(last_token)]]
        logprobs = [logprob for logprob, _ in found]
        return Likelihood(sum(logprobs), logprobs, all(likeliest for _, likeliest in found))


@dataclass(frozen=True)
class ScoredText:
    """One continuation, and the request that reads it; that may read others too."""

    request: Scored
    last_token: int

    def likelihood(self) -> Likelihood:
        """Of the continuation, once the request is done.

        Raises:
            BaseException: whatever the request failed with.
        """
        if self.request.error is not None:
            raise self.request.error
        return self.request.likelihood(self.last_token)


def scored_groups(
    engine: Engine,
    indices: Iterator[int],
    prompts: Sequence[list[int]],
    continuations: Sequence[Sequence[list[int]]],
    **options: Any,
) -> list[list[ScoredText]]:
    """Each prompt's continuations, all as token ids, none of them empty.

    Raises:
        ArgumentError: a prompt and continuation are longer than the model's context.
    """
    return [
        [
            ScoredText(request, tokens[-1])
            for request, tokens in zip(
                scored_requests(engine, indices, prompt, own, **options), own, strict=True
            )
        ]
        for prompt, own in zip(prompts, continuations, strict=True)
    ]


def scored_requests(
    engine: Engine,
    indices: Iterator[int],
    prompt: list[int],
    continuations: Sequence[list[int]],
    **options: Any,
) -> list[Scored]:
    """One request a continuation, the same for those that it can stand for; none of them is empty.

    Raises:
        ArgumentError: prompt and continuation are longer than the model's context.
    """
    found: dict[tuple[int, ...], Scored] = {}
    requests = []
    for tokens in continuations:
        if len(prompt) + len(tokens) > engine.max_positions + 1:
            raise ArgumentError(
                f"prompt and continuation have {len(prompt) + len(tokens)} tokens, "
                f"expected at most {engine.max_positions + 1}"
            )
        *shared, last = tokens
        if tuple(shared) not in found:
            found[tuple(shared)] = Scored(engine, next(indices), prompt, shared, **options)
        request = found[tuple(shared)]
        if last not in request.last_tokens:
            request.last_tokens.append(last)
        requests.append(request)
    return requests
