"""Drafts by the target itself, over a part of its keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from hornbeam import _native
from hornbeam.cache.tree import Step
from hornbeam.errors import ArgumentError
from hornbeam.speculation.draft.self_proposer import SelfProposer
from hornbeam.speculation.protocols import Ask, Law, Run
from hornbeam.speculation.shape import Chain
from hornbeam.speculation.target_matrices import sample_of
from hornbeam.speculation.tree_building import DraftTree, Shape

__all__ = ["SparseSelf"]


@dataclass(frozen=True)
class SparseSelf:
    """The whole target, reading a part of its keys, drafting beside its own branches. Verification reads them
    all, in one pass, so that the text is the target's own.

    It pays where attention is a large part of a step, which it is after many tokens: a drafted token costs
    what a step costs without most of its attention. With ``length=hb.spec.MeasuredGain()``, the default, it
    is asked only where that is so. After vLLM's sparse self-speculation and TriForce (Sun et al. 2024, arXiv
    2404.11912), whose first draft is the target over a part of its cache.

    Args:
        attend: which keys a drafted token reads: a recipe such as ``hb.recipes.quest(pages=32)``.
        shape: which tree it drafts, see :mod:`hornbeam.speculation.shape`.

    Raises:
        ArgumentError: ``attend`` is no recipe; from ``generate``, the model is on a GPU, or all of its layers
            have a window.
    """

    depends_on_length: ClassVar[bool] = True

    attend: Any
    shape: Shape = field(default_factory=lambda: Chain(3))

    def __post_init__(self) -> None:
        if not isinstance(getattr(self.attend, "rule", None), _native.AttendRule):
            raise ArgumentError(
                f"attend is {self.attend!r}, expected a recipe such as hb.recipes.quest(pages=32)"
            )

    @property
    def law(self) -> Law:
        """That of the shape."""
        return self.shape.law

    def open(self, run: Run) -> SparseSelfProposer:
        """Begins a run.

        Args:
            run: which.
        """
        return SparseSelfProposer(run, self)


class SparseSelfProposer(SelfProposer):
    """:class:`SparseSelf` at work."""

    def __init__(self, run: Run, settings: SparseSelf) -> None:
        super().__init__(run, settings.shape)
        shape = run.target.runner.shape
        if shape.device.type != "cpu":
            raise ArgumentError(
                f"SparseSelf drafts for a model on {shape.device}, expected one on the CPU: sparse attention "
                "runs there alone yet"
            )
        if not shape.full_layers:
            raise ArgumentError(
                "SparseSelf drafts for a model all of whose layers have a window, expected one with layers "
                "that see the whole text"
            )
        self._attend = settings.attend

    def propose(self, asks: Sequence[Ask]) -> list[DraftTree]:
        """One draft for each ask. Its branches are let go of before the verification, so that the target's
        own go on in the pages where they end.

        Args:
            asks: of the sequences.
        """
        try:
            return super().propose(asks)
        finally:
            self.nodes.clear()

    def forward(self, step: Step, rows: Sequence[int]) -> Tensor:
        """All layers, each row over a part of its keys."""
        target = self.run.target
        output = target.forward(
            step,
            logits_rows=rows,
            hidden=self.needs_states,
            attend=[(0, step.num_rows, self._attend)],
        )
        if output.hidden is not None:
            self.states = output.hidden[-1][torch.as_tensor(rows, device=output.logits.device)]
        return output.logits

    def signature(self) -> Tensor:
        """The layers that read everything, and some of the model's output matrix."""
        dense = torch.tensor([float(self._attend.dense_layers)])
        return torch.cat([dense, sample_of(self.run.target.model)])
