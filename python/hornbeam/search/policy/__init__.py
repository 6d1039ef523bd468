"""Policies, one a file."""

from hornbeam.search.policy.a_star import AStar
from hornbeam.search.policy.base import Expansion, Policy, Search
from hornbeam.search.policy.best_of_n import BestOfN
from hornbeam.search.policy.dvts import DVTS
from hornbeam.search.policy.particle_filter import ParticleFilter
from hornbeam.search.policy.rebase import Rebase
from hornbeam.search.policy.step_beam import StepBeam

__all__ = [
    "DVTS",
    "AStar",
    "BestOfN",
    "Expansion",
    "ParticleFilter",
    "Policy",
    "Rebase",
    "Search",
    "StepBeam",
]
