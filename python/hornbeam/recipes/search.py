"""Published ways to search, one function each, with the paper's defaults.

Each gives a policy for :meth:`hornbeam.LM.search`::

    lm.search(prompt, recipe=hb.recipes.rebase(width=16), value=value, finish=is_answer)
"""

from __future__ import annotations

from typing import Any

from hornbeam.search import DVTS, AStar, BestOfN, ParticleFilter, Rebase, StepBeam

__all__ = ["a_star", "best_of_n", "dvts", "particle_filter", "rebase", "step_beam"]


def best_of_n(n: int = 16, **settings: Any) -> BestOfN:
    """``n`` independent paths. ``select=`` says whether the most votes or the greatest value wins."""
    return BestOfN(n=n, **settings)


def step_beam(width: int = 16, *, children: int = 4, **settings: Any) -> StepBeam:
    """Beam search over steps (Snell et al. 2024, arXiv 2408.03314)."""
    return StepBeam(width=width, children=children, **settings)


def dvts(width: int = 16, *, children: int = 4, **settings: Any) -> DVTS:
    """Diverse verifier tree search (Beeching et al. 2024)."""
    return DVTS(width=width, children=children, **settings)


def rebase(width: int = 16, *, balance: float = 0.2, **settings: Any) -> Rebase:
    """Reward-balanced search (Wu et al. 2024, arXiv 2408.00724)."""
    return Rebase(width=width, balance=balance, **settings)


def particle_filter(width: int = 16, *, balance: float = 1.0, **settings: Any) -> ParticleFilter:
    """Particle filtering (Puri et al. 2025, arXiv 2502.01618)."""
    return ParticleFilter(width=width, balance=balance, **settings)


def a_star(children: int = 4, **settings: Any) -> AStar:
    """A*-Decoding. Its own cost of a path is not at hand; ``cost=`` chooses one of ours."""
    return AStar(children=children, **settings)
