"""Requests that step together, because what processes their logits looks at all of them at once.

transformers asks its processors and criteria once a step and in order, about ``[batch, padded]`` token ids,
finished rows included. Those that keep state rely on it, and cannot be asked along a draft.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from hornbeam.engine.processors import Processor, checked
from hornbeam.engine.request import Request

if TYPE_CHECKING:
    from hornbeam.cache.tree import PrefixTree

__all__ = ["InLockstep", "Lockstep", "Together"]

Criterion = Callable[[torch.Tensor, Any], Any]


class Lockstep:
    """What a group of requests is asked about together: each step all that have not ended take part in it.

    Args:
        processors: each with token ids ``[B, n]`` and scores ``[B, V]``, float32, of the whole batch.
        criteria: likewise, with the ids after a step; each gives ``[B]`` booleans, or one for all.
        pad_token_id: stands where a row has ended.
        device: of the ids.
        ends_rows: whether a row ends when a criterion says so; else all end together, once each was to end.
    """

    def __init__(
        self,
        processors: Sequence[Processor],
        criteria: Sequence[Criterion],
        *,
        pad_token_id: int,
        device: torch.device,
        ends_rows: bool = True,
    ) -> None:
        self.processors = tuple(processors)
        self.criteria = tuple(criteria)
        self.pad_token_id = pad_token_id
        self.device = device
        self.ends_rows = ends_rows
        self.requests: list[InLockstep] = []
        #: Which rows end with the tokens of this step.
        self.stopped: list[bool] = []
        # Which rows a criterion has ended so far.
        self._ended: list[bool] = []
        # What was asked about last, and what processors said. A step that was taken back is taken again.
        self._scored: tuple[torch.Tensor, torch.Tensor] | None = None
        self._judged: torch.Tensor | None = None

    def add(self, request: InLockstep) -> None:
        """The next row of the batch."""
        self.requests.append(request)
        self.stopped.append(False)
        self._ended.append(False)

    def scores(self, active: Sequence[Request], logits: torch.Tensor) -> torch.Tensor:
        """The processed logits of the requests that take part in a step, ``[len(active), V]``."""
        if not self.processors:
            return logits
        places, ids = self._places(active), self._ids({})
        if self._scored is None or not torch.equal(self._scored[0], ids):
            scores = torch.zeros(len(self.requests), logits.shape[1], device=logits.device)
            scores[places] = logits.float()
            for processor in self.processors:
                scores = checked(processor, processor(ids, scores), scores)
            self._scored = ids, scores
        return self._scored[1][places]

    def judge(self, active: Sequence[Request], tokens: Sequence[int]) -> None:
        """Asks the criteria about the batch after a step's tokens."""
        if not self.criteria:
            return
        ids = self._ids(dict(zip(self._places(active), tokens, strict=True)))
        if self._judged is not None and torch.equal(self._judged, ids):
            return
        for criterion in self.criteria:
            found = torch.as_tensor(criterion(ids, None)).cpu().bool().expand(len(self.requests))
            self._ended = [before or now for before, now in zip(self._ended, found.tolist(), strict=True)]
        self._judged = ids
        self.stopped = self._ended if self.ends_rows else [all(self._ended)] * len(self._ended)

    def _places(self, active: Sequence[Request]) -> list[int]:
        return [request.place for request in active]

    def _ids(self, more: dict[int, int]) -> torch.Tensor:
        """The batch as transformers has it, with the newest tokens of some rows."""
        texts = [
            [*request.before, *request.prompt, *request.output, *([more[place]] if place in more else [])]
            for place, request in enumerate(self.requests)
        ]
        length = max(map(len, texts))
        padded = [text + [self.pad_token_id] * (length - len(text)) for text in texts]
        return torch.tensor(padded, dtype=torch.int64, device=self.device)


class Together(Request):
    """A request that takes each step together with others. The last token of its prompt is a row of its first
    step of decoding, so that the first tokens of all come of one step."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.pending = self.prompt[-1]

    @property
    def wants_token(self) -> bool:
        """Not of the prompt."""
        return False

    @property
    def can_wait(self) -> bool:
        """Not while the others go on."""
        return False

    def rows_wanted(self, begin: int, count: int) -> range:
        """None."""
        return range(count, count)

    def open(self, tree: PrefixTree, reusable: int) -> None:
        """As any request; of a prompt of one token there is nothing to read."""
        super().open(tree, reusable)
        if self.num_committed == 0:
            self.is_read = True

    def restored(self) -> None:
        """Its prompt is read, and nothing more is wanted of it."""
        self.is_read = True


class InLockstep(Together):
    """A request of a :class:`Lockstep`."""

    def __init__(self, *arguments: Any, lockstep: Lockstep, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.lockstep = lockstep
        lockstep.add(self)

    @property
    def committed(self) -> list[int]:
        """All but the last token of prompt and output."""
        return [*self.prompt, *self.output][:-1]

    @property
    def num_committed(self) -> int:
        """Their number."""
        return len(self.prompt) + len(self.output) - 1

    def fail(self, error: BaseException) -> None:
        """Ends all of them."""
        super().fail(error)
        for other in self.lockstep.requests:
            if not other.done:
                other.error = error

    def _is_stopped(self, more: list[int]) -> bool:
        return self.lockstep.stopped[self.place]
