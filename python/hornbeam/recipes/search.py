"""Published ways to search, one function each, with the paper's defaults.

Each gives a policy for :meth:`hornbeam.LM.search`::

    policy = hb.recipes.rebase(width=4, max_depth=2)
    lm.search(prompt, recipe=policy, step=hb.search.StepEnd(max_tokens=8))
"""

from __future__ import annotations

from typing import Any

from hornbeam.search import DVTS, AStar, Beam, BestOfN, DiverseBeam, Ets, ParticleFilter, Rebase, StepBeam

__all__ = [
    "a_star",
    "beam",
    "best_of_n",
    "diverse_beam",
    "dvts",
    "ets",
    "particle_filter",
    "rebase",
    "step_beam",
]


def best_of_n(n: int = 16, **settings: Any) -> BestOfN:
    """``n`` independent paths. ``select=`` says whether the most votes or the greatest value wins.

    Args:
        n: paths.
        settings: further fields of the policy, such as ``max_depth`` and ``temperature``.
    """
    return BestOfN(n=n, **settings)


def step_beam(width: int = 16, *, children: int = 4, **settings: Any) -> StepBeam:
    """Beam search over steps (Snell et al. 2024, arXiv 2408.03314).

    Args:
        width: children of a round.
        children: continuations of each of the best leaves.
        settings: further fields of the policy, such as ``max_depth`` and ``temperature``.
    """
    return StepBeam(width=width, children=children, **settings)


def dvts(width: int = 16, *, children: int = 4, **settings: Any) -> DVTS:
    """Diverse verifier tree search (Beeching et al. 2024).

    Args:
        width: children of a round.
        children: continuations of a subtree's best leaf.
        settings: further fields of the policy, such as ``max_depth`` and ``temperature``.
    """
    return DVTS(width=width, children=children, **settings)


def rebase(width: int = 16, *, balance: float = 0.2, **settings: Any) -> Rebase:
    """Reward-balanced search (Wu et al. 2024, arXiv 2408.00724).

    Args:
        width: children of the first round.
        balance: the temperature of the shares.
        settings: further fields of the policy, such as ``max_depth`` and ``temperature``.
    """
    return Rebase(width=width, balance=balance, **settings)


def ets(width: int = 16, **settings: Any) -> Ets:
    """Efficient tree search (Hooper et al. 2025, arXiv 2502.13575).

    Args:
        width: children of the first round.
        settings: further fields of the policy, such as ``coverage_weight``, ``cost`` and ``clusters``.
    """
    return Ets(width=width, **settings)


def particle_filter(width: int = 16, *, balance: float = 1.0, **settings: Any) -> ParticleFilter:
    """Particle filtering (Puri et al. 2025, arXiv 2502.01618).

    Args:
        width: particles.
        balance: the temperature of the draws.
        settings: further fields of the policy, such as ``max_depth`` and ``temperature``.
    """
    return ParticleFilter(width=width, balance=balance, **settings)


def a_star(children: int = 4, **settings: Any) -> AStar:
    """A*-Decoding. Its own cost of a path is not at hand; ``cost=`` chooses one of ours.

    Args:
        children: continuations of the leaf that goes on.
        settings: further fields of the policy, such as ``max_depth`` and ``temperature``.
    """
    return AStar(children=children, **settings)


def beam(width: int = 8, *, length_penalty: float = 1.0, **settings: Any) -> Beam:
    """Beam search over tokens, the texts and scores of transformers' ``num_beams=width``.

    Args:
        width: beams.
        length_penalty: a score is the sum of log-probabilities over the length to this power.
        settings: further fields of the policy: ``early_stopping`` and ``max_new_tokens``.
    """
    return Beam(width=width, length_penalty=length_penalty, **settings)


def diverse_beam(width: int = 8, *, groups: int = 4, diversity: float = 0.5, **settings: Any) -> DiverseBeam:
    """Diverse beam search over tokens (Vijayakumar et al. 2016, arXiv 1610.02424).

    Args:
        width: beams of all groups.
        groups: which choose one after the other.
        diversity: what a token costs for each time that an earlier group has chosen it in the same step.
        settings: further fields of the policy, such as ``length_penalty`` and ``max_new_tokens``.
    """
    return DiverseBeam(width=width, groups=groups, diversity=diversity, **settings)
