"""Policies, one a file."""

from hornbeam.methods import export, methods_in
from hornbeam.search.policy.a_star import AStar
from hornbeam.search.policy.base import Expansion, Policy, Search, TokenPolicy
from hornbeam.search.policy.beam import Beam
from hornbeam.search.policy.best_of_n import BestOfN
from hornbeam.search.policy.diverse_beam import DiverseBeam
from hornbeam.search.policy.dvts import DVTS
from hornbeam.search.policy.ets import Ets
from hornbeam.search.policy.particle_filter import ParticleFilter
from hornbeam.search.policy.rebase import Rebase
from hornbeam.search.policy.step_beam import StepBeam

__all__ = [
    "DVTS",
    "AStar",
    "Beam",
    "BestOfN",
    "DiverseBeam",
    "Ets",
    "Expansion",
    "ParticleFilter",
    "Policy",
    "Rebase",
    "Search",
    "StepBeam",
    "TokenPolicy",
]

POLICIES = methods_in(__name__, __path__, lambda found: issubclass(found, (Policy, TokenPolicy)))
"""All policies of this folder, by name; those above are named for type checkers."""
export(globals(), POLICIES)
