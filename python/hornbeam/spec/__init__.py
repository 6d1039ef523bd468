"""Speculation: where drafts come from, and how many of their tokens a step verifies.

A draft source (:class:`Suffix`, :class:`NGram`) is started once a sequence, a stop rule
(:class:`MeasuredGain`, :class:`Fixed`) once a run; :mod:`hornbeam.spec.protocols` says what else may
stand in their place.
"""

from hornbeam._native import CostCurve, Proposal, Signals, SuffixCorpus
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
from hornbeam.spec.stop import Fixed, MeasuredGain
from hornbeam.spec.suffix import Suffix

__all__ = [
    "Ask",
    "BatchDraft",
    "CostCurve",
    "Draft",
    "Drafted",
    "Drafter",
    "Fixed",
    "MeasuredGain",
    "NGram",
    "Outcome",
    "Proposal",
    "Proposer",
    "Run",
    "Signals",
    "Stop",
    "StopRule",
    "Suffix",
    "SuffixCorpus",
]
