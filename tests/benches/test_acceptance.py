"""The expectations that the acceptance bench sums up, against the enumeration of the rules themselves."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from hornbeam.bench import acceptance
from tests.reference import verify as reference

VOCABULARY = 4
TREES = {
    "target_only": [(0, -1), (2, -1), (1, 0), (3, 0), (0, 2)],
    "without_replacement": [(0, -1), (2, -1), (1, 0), (3, 0), (0, 2)],
    "chain": [(1, -1), (0, 0), (2, 1)],
    "block": [(1, -1), (0, 0), (2, 1)],
}


def laws(seed: int) -> Callable[[int], list[Fraction]]:
    """Laws by row, in rationals; row 0 is the root."""

    def law(row: int) -> list[Fraction]:
        weights = np.random.default_rng([seed, row]).integers(0, 9, VOCABULARY)
        weights[seed % VOCABULARY] += 1
        return [Fraction(int(w), int(weights.sum())) for w in weights]

    return law


def rows(law: Callable[[int], list[Fraction]]) -> Callable[[int], torch.Tensor]:
    """The same as the bench asks for them: by token, -1 for the root."""
    return lambda token: torch.tensor([float(p) for p in law(token + 1)], dtype=torch.float64)


@pytest.mark.parametrize("rule", list(TREES))
@pytest.mark.parametrize("seed", range(12))
def test_expected_acceptance_is_that_of_all_outcomes(rule: str, seed: int) -> None:
    """A residual that is not renormalised, or a refused token that stays in the draft's law, is red."""
    tree, target, draft = TREES[rule], laws(seed), laws(100 + seed)
    every = reference.outcomes(lambda chance: reference.verify(rule, tree, target, draft, chance))
    expected = sum(probability * len(accepted) for probability, (accepted, _) in every)
    tokens, parents = [token for token, _ in tree], [parent for _, parent in tree]
    found = acceptance.EXPECTED[rule](tokens, parents, rows(target), rows(draft))
    assert found == pytest.approx(float(expected), abs=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_acceptance_by_rank_is_that_of_trees_of_one_level(seed: int) -> None:
    """Over all ordered draws of distinct siblings, each with its probability."""
    target, draft = laws(seed)(0), laws(100 + seed)(0)
    p, q = (torch.tensor([float(x) for x in law], dtype=torch.float64) for law in (target, draft))
    expected, found = [0.0, 0.0], [0.0, 0.0]
    for first in range(VOCABULARY):
        for second in range(VOCABULARY):
            if first == second or not draft[first] or not draft[second]:
                continue
            drawn = float(draft[first] * draft[second] / (1 - draft[first]))
            tree = [(first, -1), (second, -1)]

            def run(chance: Any, tree: Any = tree) -> Any:
                return reference.recursive(
                    tree, lambda row: target, lambda row: draft, chance, distinct=True
                )[0]

            for probability, accepted in reference.outcomes(run):
                for row in accepted:
                    expected[row - 1] += drawn * float(probability)
            own = acceptance.accepted_by_rank([first, second], p, q)
            found = [total + drawn * value for total, value in zip(found, own, strict=True)]
    assert found == pytest.approx(expected, abs=1e-12)
