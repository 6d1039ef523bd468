"""Speculation: where drafts come from, and how many of their tokens a step verifies.

A draft source (:class:`Auto`, the default, or :class:`Suffix`, :class:`NGram`, :class:`SmallModel`,
:class:`FeatureHead` and others) is started once a sequence or once a run, a stop rule
(:class:`MeasuredGain`, the default, or :class:`Fixed` and others) once a run;
:mod:`hornbeam.spec.protocols` says what else may stand in their place. Sources that are models draft
trees of any :mod:`~hornbeam.spec.shape`.
"""

from hornbeam._native import CostCurve, Proposal, Signals, SuffixCorpus, TreeProposal
from hornbeam.spec import shape
from hornbeam.spec.acceptance_head import AcceptanceHead
from hornbeam.spec.auto import Auto
from hornbeam.spec.confidence import Confidence
from hornbeam.spec.corpus import build_corpus, index_files, open_corpus, save_corpus
from hornbeam.spec.entropy import Entropy
from hornbeam.spec.feature_head import FeatureHead
from hornbeam.spec.layer_skip import LayerSkip
from hornbeam.spec.ngram import NGram
from hornbeam.spec.protocols import (
    Ask,
    BatchDraft,
    Draft,
    Drafted,
    Drafter,
    Outcome,
    Proposer,
    Run,
    Stop,
    StopRule,
)
from hornbeam.spec.small_model import SmallModel
from hornbeam.spec.stop import Fixed, MeasuredGain
from hornbeam.spec.suffix import Suffix
from hornbeam.spec.token_recycling import TokenRecycling
from hornbeam.spec.union import Ledger, Union

__all__ = [
    "AcceptanceHead",
    "Ask",
    "Auto",
    "BatchDraft",
    "Confidence",
    "CostCurve",
    "Draft",
    "Drafted",
    "Drafter",
    "Entropy",
    "FeatureHead",
    "Fixed",
    "LayerSkip",
    "Ledger",
    "MeasuredGain",
    "NGram",
    "Outcome",
    "Proposal",
    "Proposer",
    "Run",
    "Signals",
    "SmallModel",
    "Stop",
    "StopRule",
    "Suffix",
    "SuffixCorpus",
    "TokenRecycling",
    "TreeProposal",
    "Union",
    "build_corpus",
    "index_files",
    "open_corpus",
    "save_corpus",
    "shape",
]
