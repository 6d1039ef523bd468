"""Search over continuations: propose x value x allocate x prune.

A :class:`Policy` says which leaves are expanded next and into how many children; :meth:`hornbeam.LM.search`
writes them, all children of a round in one ragged batch, over prefixes that are computed once. A policy can
be used without a model too: :meth:`Policy.open` gives a :class:`Search`, which is asked for expansions and
told what became of them. A :class:`TokenPolicy` chooses single tokens: beam search.
"""

from hornbeam.methods import export
from hornbeam.search import select
from hornbeam.search.budget import Account, Budget, Ledger
from hornbeam.search.path import Answer, Path, SearchResult, SearchTree
from hornbeam.search.policy import (
    DVTS,
    POLICIES,
    AStar,
    Beam,
    BestOfN,
    DiverseBeam,
    Expansion,
    ParticleFilter,
    Policy,
    Rebase,
    Search,
    StepBeam,
    TokenPolicy,
)
from hornbeam.search.step_end import StepEnd
from hornbeam.search.value import Likelihood

__all__ = [
    "DVTS",
    "AStar",
    "Account",
    "Answer",
    "Beam",
    "BestOfN",
    "Budget",
    "DiverseBeam",
    "Expansion",
    "Ledger",
    "Likelihood",
    "ParticleFilter",
    "Path",
    "Policy",
    "Rebase",
    "Search",
    "SearchResult",
    "SearchTree",
    "StepBeam",
    "StepEnd",
    "TokenPolicy",
    "select",
]

export(globals(), POLICIES)
