"""hornbeam.ops.verify: decision by decision against the reference, alone, in batches and in threads."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hornbeam as hb
from hornbeam.errors import LogitsError
from tests.ops.verifying import (
    RATIO,
    RULES,
    batch_of,
    batches,
    expected,
    paths_of,
    tensors,
)
from tests.reference import warp as reference_warp


@settings(max_examples=500, deadline=None)
@given(batches(), st.integers(0, 2**64 - 1), st.data())
def test_decisions_follow_the_reference(batch: Any, seed: int, data: Any) -> None:
    rule, trees, targets, drafts, histories, warp_pairs, drawn = batch
    options = {"epsilon": 0.3, "alpha": 0.5} if rule == "typical" else {}
    numbers = data.draw(st.permutations(range(5, 5 + len(trees))))
    positions = [7 * n + 1 for n in numbers]
    arguments = {
        "rule": rule,
        "warp": [pair[0] for pair in warp_pairs],
        "draft_warp": [pair[1] for pair in warp_pairs],
        "seed": seed,
        "sequences": torch.tensor(numbers),
        "positions": torch.tensor(positions),
        "history": histories,
    }
    run = lambda: hb.ops.verify(  # noqa: E731
        *tensors(trees),
        torch.tensor(np.concatenate(targets)),
        torch.tensor(np.concatenate(drafts)) if drawn else None,
        **arguments,
        **options,
    )
    try:
        want = [
            expected(
                rule,
                trees[b],
                targets[b],
                drafts[b] if drawn else None,
                *warp_pairs[b],
                (seed, numbers[b], positions[b]),
                histories[b],
                **options,
            )
            for b in range(len(trees))
        ]
    except reference_warp.NoLaw:  # a bias has forbidden all that a row had
        with pytest.raises(LogitsError, match="-inf only"):
            run()
        return
    got = run()
    depth = max((len(path) for tree in trees for path in paths_of(tree)), default=0)
    assert got.accepted.shape == (len(trees), depth)
    for b, (rows, token) in enumerate(want):
        assert got.accepted[b].tolist() == rows + [-1] * (depth - len(rows))
        assert got.num_accepted[b] == len(rows)
        assert got.next_token[b] == token


@pytest.mark.parametrize("rule", RULES[2:])
def test_a_sequence_alone_decides_the_same(rule: str) -> None:
    """Neither the batch, nor its order, nor the row stride matters."""
    trees, target, draft = batch_of(0)
    numbers = torch.arange(12) * 3 + 1
    warp = hb.Warp(0.9, top_p=0.97)
    arguments = {"rule": rule, "warp": warp, "draft_warp": warp, "seed": 9}
    whole = hb.ops.verify(
        *tensors(trees), target, draft, sequences=numbers, positions=numbers * 5, **arguments
    )
    offsets = np.cumsum([0, *map(len, trees)])
    for b in reversed(range(12)):
        rows = slice(offsets[b] + b, offsets[b + 1] + b + 1)
        wide = torch.full((rows.stop - rows.start, 310), float("nan"))
        wide[:, 5:305] = target[rows]
        alone = hb.ops.verify(
            *tensors([trees[b]]),
            wide[:, 5:305],
            draft[rows],
            sequences=numbers[b : b + 1],
            positions=numbers[b : b + 1] * 5,
            **arguments,
        )
        count = int(alone.num_accepted)
        assert count == whole.num_accepted[b]
        assert alone.accepted[0, :count].tolist() == whole.accepted[b, :count].tolist()
        assert alone.next_token[0] == whole.next_token[b]


@pytest.mark.parametrize("rule", RULES[2:])
def test_threads_decide_the_same(rule: str) -> None:
    """Eight Python threads at once, and one or two threads of torch's pool."""
    trees, target, draft = batch_of(1, size=20_000)
    arguments = {"rule": rule, "positions": torch.arange(12), "seed": 2, "warp": hb.Warp(0.8, top_p=0.9)}
    run = lambda _: hb.ops.verify(*tensors(trees), target, draft, **arguments)  # noqa: E731
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        want = run(0)
        torch.set_num_threads(2)
        with ThreadPoolExecutor(8) as pool:
            results = [run(0), *pool.map(run, range(24))]
    finally:
        torch.set_num_threads(threads)
    for got in results:
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("rule", RULES)
def test_greedy(rule: str) -> None:
    """Temperature 0 follows the argmax under every rule; ties go to the lowest id."""
    rows = torch.tensor([[0.0, 2.0, 2.0, 1.0], [5.0, 0.0, 0.0, 5.0], [0.0, 0.0, 1.0, 0.0]])
    drafts = torch.randn(3, 4)
    greedy = hb.Warp(temperature=0)
    for tokens, accepted, last in [((1, 0), 2, 2), ((2, 0), 0, 1), ((1, 3), 1, 0)]:
        tree = [(token, i - 1) for i, token in enumerate(tokens)]
        for draft in (drafts, None):
            got = hb.ops.verify(*tensors([tree]), rows, draft, rule=rule, warp=greedy)
            assert (got.num_accepted.item(), got.next_token.item()) == (accepted, last)


def test_typical_keeps_the_longest_path() -> None:
    """Lossy: a path of unlikely but typical tokens passes, the likelier of two long ones wins."""
    flat = torch.zeros(5, 4)
    flat[0, 1] = 0.5
    tree = [(0, -1), (1, -1), (2, 0), (3, 1)]
    got = hb.ops.verify(
        *tensors([tree]), flat, rule="typical", positions=torch.tensor([0]), epsilon=0.2, alpha=0.5
    )
    assert got.accepted.tolist() == [[2, 4]]
    strict = hb.ops.verify(
        *tensors([tree]), flat, rule="typical", positions=torch.tensor([0]), epsilon=0.9, alpha=4.0
    )
    assert strict.num_accepted.item() == 0


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("warp", [hb.Warp(0.8), hb.Warp(0.8, top_p=0.9), hb.Warp(0)], ids=repr)
def test_reads_are_those_of_the_walk(rule: str, warp: hb.Warp) -> None:
    """A row of the target for every node that the walk visits, and one of the draft where children are tried:
    from the tree and the outcome alone. Red when a row is read twice, or one beside the walk."""
    random = np.random.default_rng(5)
    torch.manual_seed(5)
    size, seen = 1000, 0
    for seed in range(20):
        target = torch.randn(9, size) * 3
        draft = target + torch.randn(9, size)
        linear = rule in ("chain", "block")
        parents = [i - 1 if linear else int(random.integers(-1, i)) for i in range(8)]
        laws = torch.softmax(draft / 0.8, -1)
        tree = [(int(torch.multinomial(laws[parent + 1], 1)), parent) for parent in parents]
        reads = hb.ops.Reads()
        arguments = dict(rule=rule, warp=warp, draft_warp=warp, seed=seed, positions=torch.tensor([0]))
        got = hb.ops.verify(*tensors([tree]), target, draft, **arguments, reads=reads)
        rows = [0, *got.accepted[0, : got.num_accepted.item()].tolist()]
        seen += len(rows)
        asks_draft = rule in RATIO and not warp.is_greedy
        parent_rows = {parent + 1 for parent in parents}
        if rule == "block" and asks_draft:  # goes on while any longer prefix may pass
            assert len(rows) <= reads.target_rows <= 9
            assert reads.target_rows - 1 <= reads.draft_rows <= min(reads.target_rows, 8)
        elif rule == "typical" and not warp.is_greedy:  # every path that passes
            assert len(rows) <= reads.target_rows <= 9
            assert reads.draft_rows == 0
        else:
            assert reads.target_rows == len(rows)
            assert reads.draft_rows == (len(parent_rows & set(rows)) if asks_draft else 0)
        passes = reads.elements / (size * (reads.target_rows + reads.draft_rows))
        assert passes == 1 if warp.is_greedy else 1 <= passes <= 2
        again = hb.ops.verify(*tensors([tree]), target, draft, **arguments)
        assert all(torch.equal(a, b) for a, b in zip(got, again, strict=True))
    assert seen > 20  # some walk left the root


def test_reads_add_up_over_calls_and_threads() -> None:
    reads = hb.ops.Reads()
    logits = torch.randn(600, 2000)
    for _ in range(3):
        hb.ops.verify(*tensors([[]] * 600), logits, rule="coupled", positions=torch.arange(600), reads=reads)
    assert (reads.target_rows, reads.draft_rows) == (1800, 0)
    assert 1800 * 2000 <= reads.elements <= 2 * 1800 * 2000


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(RULES), st.integers(0, 2**32 - 1), st.sampled_from([2, 3, 50]), st.integers(0, 3))
def test_edges_follow_the_reference(rule: str, seed: int, size: int, edge: int) -> None:
    """The edges by name: rows with one finite logit; rows all equal; p = q; and laws of the draft that hold
    nothing of the target's, with more siblings than the draft has tokens, so that residuals run out."""
    rng = np.random.default_rng(seed)
    trees, targets, drafts = [], [], []
    for count in (0, 1, 4, 7):
        parents = [
            i - 1 if rule in ("chain", "block") else int(rng.integers(-1, min(i, 1))) for i in range(count)
        ]
        rows = np.full((count + 1, size), -np.inf)
        if edge == 0:
            rows[np.arange(count + 1), rng.integers(0, size, count + 1)] = 1.5
        elif edge == 1:
            rows[:] = -2.0
        elif edge == 2:
            rows = rng.normal(0, 2, (count + 1, size))
        else:
            rows[:, : size // 2] = rng.normal(0, 1, (count + 1, size // 2))
        q = rows if edge < 3 else np.where(np.isfinite(rows), -np.inf, 0.5)
        trees.append([(int(rng.integers(size)), parent) for parent in parents])
        targets.append(rows.astype(np.float32))
        drafts.append(q.astype(np.float32))
    warp, key = hb.Warp(), torch.arange(4)
    got = hb.ops.verify(
        *tensors(trees),
        torch.tensor(np.concatenate(targets)),
        torch.tensor(np.concatenate(drafts)),
        rule=rule,
        seed=seed,
        sequences=key,
        positions=key,
    )
    for b, (tree, target, draft) in enumerate(zip(trees, targets, drafts, strict=True)):
        options = {"epsilon": 0.3, "alpha": 0.09} if rule == "typical" else {}
        rows, token = expected(rule, tree, target, draft, warp, warp, (seed, b, b), ([], []), **options)
        assert got.accepted[b, : got.num_accepted[b]].tolist() == rows
        assert got.next_token[b] == token
