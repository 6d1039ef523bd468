"""What tests of verification share: batches of draft trees, and the decision of the reference on one."""

from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from scipy import stats

import hornbeam as hb
from tests.ops.test_warp import warps
from tests.reference import verify as reference
from tests.reference import warp as reference_warp

RATIO = ["chain", "block", "with_replacement", "without_replacement"]
EXACT = [*RATIO, "target_only", "coupled"]
RULES = [*EXACT, "typical"]


def tensors(trees: list[list[tuple[int, int]]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens, parents and offsets of a batch of trees."""
    offsets = np.cumsum([0, *map(len, trees)])
    tokens = [token for tree in trees for token, _ in tree]
    parents = [parent for tree in trees for _, parent in tree]
    return (
        torch.tensor(tokens, dtype=torch.int64),
        torch.tensor(parents, dtype=torch.int32),
        torch.tensor(offsets, dtype=torch.int32),
    )


def paths_of(tree: list[tuple[int, int]]) -> list[list[int]]:
    """The tokens that lead to each row."""
    paths: list[list[int]] = [[]]
    for token, parent in tree:
        paths.append([*paths[parent + 1], token])
    return paths


def expected(
    rule: str,
    tree: list[tuple[int, int]],
    target: Any,
    draft: Any,
    warp: hb.Warp,
    draft_warp: hb.Warp,
    key: tuple[int, int, int],
    history: tuple[list[int], list[int]],
    **options: float,
) -> reference.Outcome:
    """The reference's decision on one sequence."""
    paths, (prompt, output) = paths_of(tree), history
    size = max(target.shape[1], draft.shape[1] if draft is not None else 0, *(t + 1 for t, _ in tree), 0)

    def law(logits: Any, warp: hb.Warp) -> Any:
        def at(row: int) -> reference.Law:
            p = reference_warp.law(logits[row], warp, prompt, [*output, *paths[row]])
            return p + [reference.ZERO] * (size - len(p))

        return at

    chance = reference.PhiloxChance(*key)
    if warp.is_greedy:
        rule = "coupled"
    if rule == "typical":
        return reference.typical(tree, law(target, warp), chance, **options)
    laws = None if draft is None else law(draft, draft_warp)
    return reference.verify(rule, tree, law(target, warp), laws, chance)


@st.composite
def batches(draw: Any) -> Any:
    """Ragged trees over small vocabularies, logits full of ties, zeros and equal laws."""
    rule = draw(st.sampled_from(RULES))
    size = draw(st.sampled_from([2, 3, 5, 9, 40]))
    draft_size = draw(st.sampled_from([size, size, max(size - 1, 1), size + 3]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    trees, targets, drafts, histories = [], [], [], []
    for _ in range(draw(st.integers(1, 4))):
        count = int(rng.integers(0, 9))
        linear = rule in ("chain", "block")
        tree = [(0, i - 1 if linear else int(rng.integers(-1, i))) for i in range(count)]
        rows = rng.choice([-np.inf, -1, 0, 0.5, 2, *rng.normal(0, 2, 4)], (count + 1, size))
        rows[:, int(rng.integers(size))] = 0.25
        q = np.resize(rows, (count + 1, draft_size)) if rng.random() < 0.3 else None
        if q is None:
            q = rng.choice([-np.inf, 0, 1, *rng.normal(0, 2, 4)], (count + 1, draft_size))
            q[:, int(rng.integers(draft_size))] = 0.5
        # Mostly tokens that the draft can draw; a few that it cannot.
        for i, (_, parent) in enumerate(tree):
            likely = np.flatnonzero(q[parent + 1] > 0)
            token = rng.choice(likely) if len(likely) and rng.random() < 0.9 else rng.integers(draft_size)
            tree[i] = (int(token), parent)
        trees.append([(min(token, size + 1), parent) for token, parent in tree])
        targets.append(rows.astype(np.float32))
        drafts.append(q.astype(np.float32))
        histories.append((rng.integers(0, size, 3).tolist(), rng.integers(0, size, 4).tolist()))
    warp_pairs = [(draw(warps(size)), draw(warps(draft_size))) for _ in trees]
    return rule, trees, targets, drafts, histories, warp_pairs, bool(rng.random() < 0.8)


def chi_square(observed: Any, law: Any, count: int) -> float:
    """The p-value, rare outcomes pooled."""
    law = np.asarray(law, np.float64)
    observed, mean = np.asarray(observed, np.float64), law * count
    assert observed[law == 0].sum() == 0
    common = mean >= 10
    f, e = np.append(observed[common], observed[~common].sum()), np.append(mean[common], mean[~common].sum())
    keep = e > 0
    return float(stats.chisquare(f[keep], e[keep] * f.sum() / e.sum()).pvalue)


def batch_of(seed: int, size: int = 300, count: int = 12, dtype: torch.dtype = torch.float32) -> Any:
    generator = torch.Generator().manual_seed(seed)
    rng = np.random.default_rng(seed)
    trees = [
        [(int(rng.integers(6)), int(rng.integers(-1, i))) for i in range(int(rng.integers(0, 20)))]
        for _ in range(count)
    ]
    total = sum(map(len, trees)) + count
    target = torch.randn(total, size, generator=generator)
    target[:, :6] += 4
    draft = target + torch.randn(total, size, generator=generator)
    return trees, target.to(dtype), draft.to(dtype)
