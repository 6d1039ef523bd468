"""Search over continuations: propose x value x allocate x prune.

A :class:`Policy` says which leaves are expanded next and into how many children; :meth:`hornbeam.LM.search`
writes them, all children of a round in one ragged batch, over prefixes that are computed once. A policy can
be used without
a model too: :meth:`Policy.open` gives a :class:`Search`, which is asked for expansions and told what became
    of them.
"""

from hornbeam.methods import export
from hornbeam.search import select
from hornbeam.search.budget import Account, Budget, Ledger
from hornbeam.search.path import Answer, Path, SearchResult, SearchTree
from hornbeam.search.policy import (
    DVTS,
    POLICIES,
    AStar,
    BestOfN,
    Expansion,
    ParticleFilter,
    Policy,
    Rebase,
    Search,
    StepBeam,
)
from hornbeam.search.step_end import StepEnd
from hornbeam.search.values import (
    VALUES,
    Likelihood,
    OpenValue,
    RewardModel,
    SearchFacts,
    Value,
    ValueHead,
)

__all__ = [
    "DVTS",
    "AStar",
    "Account",
    "Answer",
    "BestOfN",
    "Budget",
    "Expansion",
    "Ledger",
    "Likelihood",
    "OpenValue",
    "ParticleFilter",
    "Path",
    "Policy",
    "Rebase",
    "RewardModel",
    "Search",
    "SearchFacts",
    "SearchResult",
    "SearchTree",
    "StepBeam",
    "StepEnd",
    "Value",
    "ValueHead",
    "select",
]

export(globals(), POLICIES, VALUES)
