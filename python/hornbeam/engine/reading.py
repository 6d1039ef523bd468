"""Texts that are read to their end and no further: for what the model knows there, not for what it says.

A reading is a request of its own, whose rows share steps with those of all other requests. Its branch is held
until it is closed, so that a longer text is read from where it ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from hornbeam.engine.only_read import OnlyRead
from hornbeam.engine.request import Request
from hornbeam.errors import ArgumentError

if TYPE_CHECKING:
    from hornbeam.engine.engine import Engine

__all__ = ["Reading", "readings"]


class Reading(OnlyRead):
    """A text, and what its last row gives.

    Args:
        engine: the engine.
        index: as :class:`Request` has it.
        tokens: the text's token ids.
        wants_logits: whether the logits after the text are asked for.
        wants_hidden: whether its last hidden state is.
        options: as :class:`Request` has the other arguments.

    Attributes:
        logits: float32 ``[V]``, on the model's device; None before they are there.
        hidden: float32 ``[hidden size]`` on the CPU, what the head of the model takes, which is behind its
            last norm; None before it is there.
    """

    def __init__(
        self,
        engine: Engine,
        index: int,
        tokens: list[int],
        *,
        wants_logits: bool = True,
        wants_hidden: bool = False,
        **options: Any,
    ) -> None:
        self.logits: torch.Tensor | None = None
        self.hidden: torch.Tensor | None = None
        self._wants_logits = wants_logits
        #: Whether the hidden state of its last row is asked for.
        self.wants_hidden = wants_hidden
        super().__init__(engine, index, list(tokens), **options)

    def rows_wanted(self, begin: int, count: int) -> range:
        """The last one, if it is among them and its logits are asked for."""
        is_asked = self._wants_logits and begin + count == self.num_committed
        return range(count - int(is_asked), count)

    def take_logits(self, begin: int, logits: torch.Tensor) -> None:
        """Keeps those of its last row."""
        self.logits = logits[-1].float().clone()

    def take_hidden(self, hidden: torch.Tensor) -> None:
        """Keeps the state ``[hidden size]`` of its last row."""
        self.hidden = hidden.detach().to("cpu", torch.float32, copy=True)

    def take_over(self, request: Request) -> None:
        """Goes on with the branch of a request that has ended, which holds the beginning of this text."""
        self._branch, request._branch = request._branch, None
        self.num_matched = -1  # none is looked for


def readings(
    engine: Engine,
    indices: Iterator[int],
    texts: Sequence[list[int]],
    *,
    after: Sequence[Request] = (),
    owner: object = None,
    wants_logits: bool = True,
    wants_hidden: bool = False,
) -> list[Reading]:
    """One request a text.

    Args:
        engine: the engine.
        indices: the numbers that no request has.
        texts: token ids.
        after: of each text a request that has ended with the text's beginning: the reading takes its branch.
        owner: they end with this object, if it is given.
        wants_logits: as :class:`Reading` has it.
        wants_hidden: likewise.

    Raises:
        ArgumentError: a text has no tokens, or is longer than the model's context.
    """
    for tokens in texts:
        if not 0 < len(tokens) <= engine.max_positions:
            raise ArgumentError(
                f"the text to read has {len(tokens)} tokens, expected 1 to the model's "
                f"{engine.max_positions} positions"
            )
    ambient, call = engine.ambient_now(), object()
    options: dict[str, Any] = {"ambient": ambient, "call": call, "owner": owner}
    options |= {"wants_logits": wants_logits, "wants_hidden": wants_hidden}
    found = [Reading(engine, next(indices), tokens, **options) for tokens in texts]
    for reading, request in zip(found, after, strict=False):
        if request.served_changes == engine.runner.changes and ambient.is_exact:
            reading.take_over(request)
    return found
