"""What stop rules share."""

from __future__ import annotations

from collections.abc import Sequence

from hornbeam.speculation.protocols import Drafted, Nodes

__all__ = ["LearnsNothing"]


class LearnsNothing:
    """A rule at work that is not moved by what comes of its choices."""

    def observe(
        self,
        proposals: Sequence[Drafted],
        chosen: Sequence[Nodes],
        accepted: Sequence[Nodes],
        next_tokens: Sequence[int] | None = None,
    ) -> None:
        """Learns nothing."""
