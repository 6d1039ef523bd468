"""Search over continuations: propose x value x allocate x prune.

A :class:`Policy` says which leaves are expanded next and into how many children; :meth:`hornbeam.LM.search`
writes them, all children of a round in one ragged batch, over prefixes that are computed once. A policy can
be used without a model too: :meth:`Policy.open` gives a :class:`Search`, which is asked for expansions and
told what became of them. A :class:`TokenPolicy` chooses single tokens: beam search.
"""

from hornbeam.methods import export
from hornbeam.search import select
from hornbeam.search.budget import Account, Budget, Ledger
from hornbeam.search.history import NodeRecord, RoundRecord, SearchHistory
from hornbeam.search.path import Answer, Path, SearchResult, SearchTree
from hornbeam.search.policy import (
    DVTS,
    POLICIES,
    AStar,
    Beam,
    BestOfN,
    DiverseBeam,
    Ets,
    Expansion,
    ParticleFilter,
    Policy,
    Rebase,
    Search,
    StepBeam,
    TokenPolicy,
)
from hornbeam.search.progress import SearchProgress
from hornbeam.search.step_end import StepEnd
from hornbeam.search.subtree import best_subtree
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
    "Beam",
    "BestOfN",
    "Budget",
    "DiverseBeam",
    "Ets",
    "Expansion",
    "Ledger",
    "Likelihood",
    "NodeRecord",
    "OpenValue",
    "ParticleFilter",
    "Path",
    "Policy",
    "Rebase",
    "RewardModel",
    "RoundRecord",
    "Search",
    "SearchFacts",
    "SearchHistory",
    "SearchProgress",
    "SearchResult",
    "SearchTree",
    "StepBeam",
    "StepEnd",
    "TokenPolicy",
    "Value",
    "ValueHead",
    "best_subtree",
    "select",
]

export(globals(), POLICIES, VALUES)
