"""What a caller's processor and criterion said about a text, remembered until its tokens are emitted.

Both may keep state, so each is asked once a token. A step that was taken back, since another request of it
failed or no page was free, is taken again: then what was said before counts.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from hornbeam.errors import StateError

__all__ = ["Asked"]


class Asked:
    """The answers about one sequence, by the tokens that follow its output."""

    def __init__(self) -> None:
        self._logits: dict[int, tuple[list[int], torch.Tensor]] = {}
        self._stops: dict[int, tuple[list[int], bool]] = {}

    def processed(self, more: list[int], ask: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The processor's answer about the output and these tokens.

        Raises:
            StateError: it was asked about other tokens in their place, and cannot forget them.
        """
        if len(more) not in self._logits:
            self._logits[len(more)] = (list(more), ask())
        seen, answer = self._logits[len(more)]
        if seen != more:
            raise StateError(
                f"the logits processor was asked about the tokens {seen} in a step that was taken back, and "
                f"now the text goes on with {more}"
            )
        return answer

    def stopped(self, more: list[int], ask: Callable[[], bool]) -> bool:
        """The criterion's answer about the output and these tokens; it is asked anew where the text goes on
        otherwise."""
        seen, answer = self._stops.get(len(more), ([], False))
        if seen != more:
            answer = ask()
            self._stops[len(more)] = (list(more), answer)
        return answer

    def clear(self) -> None:
        """Forgets everything: the output has grown."""
        self._logits.clear()
        self._stops.clear()
