"""What drafts when nothing else is said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hornbeam._native import SuffixCorpus
from hornbeam.spec.feature_head import FeatureHead
from hornbeam.spec.protocols import Run
from hornbeam.spec.suffix import Suffix
from hornbeam.spec.token_recycling import TokenRecycling
from hornbeam.spec.union import Merger, Union

if TYPE_CHECKING:
    from hornbeam.lm import LM

__all__ = ["Auto"]

# One for all: it keeps its matrix of successors by model. A small tree, since it is merged with others.
RECYCLING = TokenRecycling(size=24, width=4, depth=4)


@dataclass(frozen=True, init=False)
class Auto:
    """The union of what there is for a model, for :class:`hornbeam.spec.MeasuredGain` to choose from.

    These are the suffix automaton (which finds every match that an n-gram would), the feature head that
    comes with the package where the model is the one that it was trained for, and recycled tokens: each is
    asked only where it pays, see :class:`Union`. Where steps are captured as CUDA graphs the head, which
    reads hidden states, is left out.

    Args:
        drafts: further sources.
        corpus: documents for the automaton, see :class:`Suffix`.
        rows: most tokens in a merged tree.
    """

    drafts: tuple[Any, ...] = ()
    corpus: SuffixCorpus | None = None
    rows: int = 64

    def __init__(self, *drafts: Any, corpus: SuffixCorpus | None = None, rows: int = 64) -> None:
        object.__setattr__(self, "drafts", drafts)
        object.__setattr__(self, "corpus", corpus)
        object.__setattr__(self, "rows", rows)
        Union(*self._sources(), rows=rows)  # refuses bad arguments

    def union(self, lm: LM) -> Union:
        """The sources for this model."""
        head = FeatureHead()
        found = [head] if lm.graphs is None and head.fits(lm) else []
        return Union(*self._sources(), *found, rows=self.rows)

    def _sources(self) -> list[Any]:
        return [Suffix(corpus=self.corpus), RECYCLING, *self.drafts]

    def open(self, run: Run) -> Merger:
        """Begins a run of the sources for its model."""
        return self.union(run.lm).open(run)
