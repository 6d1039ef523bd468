"""Speculation: where drafts come from, and how many of their tokens a step verifies.

A draft source (:class:`Auto`, the default, or :class:`Suffix`, :class:`NGram`, :class:`SmallModel`,
:class:`FeatureHead` and others) is started once a sequence or once a run, a stop rule
(:class:`MeasuredGain`, the default, or :class:`Fixed` and others) once a run;
:mod:`hornbeam.speculation.protocols` says what else may stand in their place. Sources that are models draft
trees of any :mod:`~hornbeam.speculation.shape`.
"""

from hornbeam._native import CostCurve, Proposal, Signals, SuffixCorpus, TreeProposal
from hornbeam.methods import export
from hornbeam.speculation import rule, shape
from hornbeam.speculation.draft import DRAFTS
from hornbeam.speculation.draft.auto import Auto
from hornbeam.speculation.draft.corpus import build_corpus, index_files, open_corpus, save_corpus
from hornbeam.speculation.draft.feature_head import FeatureHead
from hornbeam.speculation.draft.layer_skip import LayerSkip
from hornbeam.speculation.draft.ngram import NGram
from hornbeam.speculation.draft.small_model import SmallModel
from hornbeam.speculation.draft.sparse_self import SparseSelf
from hornbeam.speculation.draft.suffix import Suffix
from hornbeam.speculation.draft.token_recycling import TokenRecycling
from hornbeam.speculation.draft.union import Union, UnionMemory
from hornbeam.speculation.protocols import (
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
from hornbeam.speculation.rule import Rule
from hornbeam.speculation.stop import STOP_RULES
from hornbeam.speculation.stop.acceptance_head import AcceptanceHead
from hornbeam.speculation.stop.confidence import Confidence
from hornbeam.speculation.stop.entropy import Entropy
from hornbeam.speculation.stop.fixed import Fixed
from hornbeam.speculation.stop.measured_gain import MeasuredGain

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
    "MeasuredGain",
    "NGram",
    "Outcome",
    "Proposal",
    "Proposer",
    "Rule",
    "Run",
    "Signals",
    "SmallModel",
    "SparseSelf",
    "Stop",
    "StopRule",
    "Suffix",
    "SuffixCorpus",
    "TokenRecycling",
    "TreeProposal",
    "Union",
    "UnionMemory",
    "build_corpus",
    "index_files",
    "open_corpus",
    "rule",
    "save_corpus",
    "shape",
]

export(globals(), DRAFTS, STOP_RULES)  # those of files that are not named above, too
