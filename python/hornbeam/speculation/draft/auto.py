"""What drafts when nothing else is said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from hornbeam._native import SuffixCorpus
from hornbeam.errors import ArgumentError
from hornbeam.speculation.draft.feature_head import FeatureHead
from hornbeam.speculation.draft.suffix import Suffix
from hornbeam.speculation.draft.token_recycling import TokenRecycling
from hornbeam.speculation.draft.union import Union, UnionProposer
from hornbeam.speculation.protocols import Run

if TYPE_CHECKING:
    from hornbeam.speculation.protocols import Target

__all__ = ["Auto"]

# One for all: it keeps its matrix of successors by model. A small tree, since it is merged with others.
RECYCLING = TokenRecycling(size=24, width=4, depth=4)


@dataclass(frozen=True, init=False)
class Auto:
    """The union of what there is for a model, for :class:`hornbeam.speculation.MeasuredGain` to choose from.

    These are the suffix automaton (which finds every match that an n-gram would), the feature head that
    comes with the package where the model is the one that it was trained for, and recycled tokens: each is
    asked only where it pays, see :class:`Union`. What a model does not allow is left out, so that it never
    fails where plain decoding works: the head, which reads hidden states and the matrix of the output head,
    where steps are captured as CUDA graphs or that matrix is wrapped or quantised; :meth:`left_out` says why.

    Args:
        drafts: further sources.
        corpus: documents for the automaton, see :class:`Suffix`.
        rows: most tokens in a merged tree.
        head: a feature head in place of the one that comes with the package. It is never left out: a model
            that it cannot draft for is refused.
    """

    is_self_paced: ClassVar[bool] = True
    takes_prediction: ClassVar[bool] = True

    drafts: tuple[Any, ...] = ()
    corpus: SuffixCorpus | None = None
    rows: int = 64
    head: FeatureHead | None = None

    def __init__(
        self,
        *drafts: Any,
        corpus: SuffixCorpus | None = None,
        rows: int = 64,
        head: FeatureHead | None = None,
    ) -> None:
        object.__setattr__(self, "drafts", drafts)
        object.__setattr__(self, "corpus", corpus)
        object.__setattr__(self, "rows", rows)
        object.__setattr__(self, "head", head)
        if not (head is None or isinstance(head, FeatureHead)):
            raise ArgumentError(f"head is {head!r}, expected a FeatureHead")
        Union(*self._sources(), rows=rows)  # refuses bad arguments

    def union(self, target: Target) -> Union:
        """The sources for this model as it is now.

        Args:
            target: the model that is drafted for.
        """
        found = [] if self.left_out(target) else [self.head or FeatureHead()]
        return Union(*self._sources(), *found, rows=self.rows)

    def left_out(self, target: Target) -> dict[str, str]:
        """The sources that there are not for this model as it is now, each with the reason.

        Args:
            target: the model, an :class:`hornbeam.LM` or its engine.
        """
        if self.head is not None:
            return {}
        reason = FeatureHead().mismatch(target)
        if target.graphs is not None:
            reason = "a step that is captured as a CUDA graph shows no hidden states"
        return {} if reason is None else {"FeatureHead": reason}

    def _sources(self) -> list[Any]:
        return [Suffix(corpus=self.corpus), RECYCLING, *self.drafts]

    def open(self, run: Run) -> UnionProposer:
        """Begins a run of the sources for its model."""
        return self.union(run.target).open(run)
