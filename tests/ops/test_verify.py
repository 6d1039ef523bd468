"""hornbeam.ops.verify: decision by decision against the reference, statistics, edges, errors."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import hornbeam as hb
from hornbeam.errors import ArgumentError, LogitsError, ShapeError
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


def chi_square(observed: Any, law: Any, count: int) -> float:
    """The p-value, rare outcomes pooled."""
    law = np.asarray(law, np.float64)
    observed, mean = np.asarray(observed, np.float64), law * count
    assert observed[law == 0].sum() == 0
    common = mean >= 10
    f, e = np.append(observed[common], observed[~common].sum()), np.append(mean[common], mean[~common].sum())
    keep = e > 0
    return float(stats.chisquare(f[keep], e[keep] * f.sum() / e.sum()).pvalue)


@pytest.mark.parametrize("rule", EXACT)
@pytest.mark.parametrize(
    ("warp", "draft_warp"),
    [
        (hb.Warp(), hb.Warp(temperature=1.3)),
        (hb.Warp(0.8, top_p=0.9), hb.Warp(top_k=5)),
        (hb.Warp(presence_penalty=0.8, repetition_penalty=1.2), hb.Warp(frequency_penalty=0.5)),
    ],
    ids=["plain", "cut", "penalised"],
)
def test_law_of_two_tokens(rule: str, warp: hb.Warp, draft_warp: hb.Warp) -> None:
    """40,000 drafts of two levels: what comes out follows the target's joint law."""
    size, count, width = 8, 40_000, 2 if rule not in ("chain", "block") else 1
    rng = np.random.default_rng(1)
    table = {path: rng.normal(0, 1, size) for path in [(), *((i,) for i in range(size))]}
    target = np.stack([table[()], *(table[(i,)] for i in range(size))]).astype(np.float32)
    draft = (target + rng.normal(0, 1, target.shape)).astype(np.float32)
    history = ([1, 2], [3])

    def laws(logits: Any, warp: hb.Warp) -> Any:
        out = [reference_warp.law(logits[0], warp, *history)]
        out += [reference_warp.law(logits[i + 1], warp, [1, 2], [3, i]) for i in range(size)]
        return np.array(out, np.float64)

    p, q = laws(target, warp), laws(draft, draft_warp)

    def children(law: Any) -> Any:
        """Draws ``width`` tokens a row: without replacement, but for the rule that wants them independent."""
        noise = rng.gumbel(size=(law.shape[0], width, size))
        with np.errstate(divide="ignore"):
            keys = np.log(law)[:, None] + noise
        if rule == "with_replacement":
            return keys.argmax(-1)
        return np.argsort(-keys[:, 0], axis=-1, kind="stable")[:, :width]

    first = children(np.repeat(q[:1], count, 0))
    second = children(q[1 + first[:, 0]])
    tokens = np.concatenate([first, second], 1)
    parents = [-1] * width + [0] * width
    rows = np.concatenate([np.zeros((count, 1), np.int64), 1 + tokens], 1)
    rows[:, 1 + width :] = 0  # leaves: filled below with rows of their own
    got = hb.ops.verify(
        torch.tensor(tokens.reshape(-1)),
        torch.tensor(parents * count, dtype=torch.int32),
        torch.arange(0, count * 2 * width + 1, 2 * width, dtype=torch.int32),
        torch.tensor(target)[rows.reshape(-1)],
        torch.tensor(draft)[rows.reshape(-1)],
        rule=rule,
        warp=warp,
        draft_warp=draft_warp,
        seed=11,
        positions=torch.zeros(count, dtype=torch.int64),
        history=[history] * count,
    )
    accepted, last = got.accepted.numpy(), got.next_token.numpy()
    a = np.where(
        accepted[:, 0] > 0, np.take_along_axis(tokens, np.maximum(accepted[:, :1] - 1, 0), 1)[:, 0], last
    )
    taken = np.take_along_axis(tokens, np.maximum(accepted[:, 1:2] - 1, 0), 1)[:, 0]
    b = np.where(accepted[:, 1] > 0, taken, last)
    alone = got.num_accepted.numpy() == 0
    tail = (p[1 + a].cumsum(1) < rng.random((count, 1))).sum(1)
    b = np.where(alone, np.minimum(tail, size - 1), b)
    law = (p[0][:, None] * p[1:]).reshape(-1)
    assert chi_square(np.bincount(a * size + b, minlength=size * size), law, count) > 1e-4


@pytest.mark.parametrize("rule", EXACT)
@pytest.mark.parametrize("warp", [hb.Warp(), hb.Warp(0.8, top_p=0.95)], ids=["plain", "cut"])
def test_law_over_a_large_vocabulary(rule: str, warp: hb.Warp) -> None:
    """6,000 drafts over 32,768 tokens."""
    size, batch, rounds = 32_768, 200, 30
    rng = np.random.default_rng(2)
    rows = rng.normal(0, 2.5, (2, size)).astype(np.float32)
    rows[1] = rows[0] + rng.normal(0, 1, size)
    weights = [np.array(reference_warp.weights(row, warp), np.float64) for row in rows]
    p, q = (w / w.sum() for w in weights)
    target, draft = (torch.tensor(row).expand(2 * batch, size) for row in rows)
    tokens = torch.tensor(rng.choice(size, batch * rounds, p=q))
    parents = torch.full((batch,), -1, dtype=torch.int32)
    offsets = torch.arange(batch + 1, dtype=torch.int32)
    seen = np.zeros(size)
    for i in range(rounds):
        part = tokens[i * batch : (i + 1) * batch]
        got = hb.ops.verify(
            part,
            parents,
            offsets,
            target,
            draft,
            rule=rule,
            warp=warp,
            draft_warp=warp,
            seed=3,
            positions=torch.full((batch,), 2 * i),
        )
        np.add.at(seen, torch.where(got.num_accepted > 0, part, got.next_token).numpy(), 1)
    assert chi_square(seen, p, batch * rounds) > 1e-4


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


def test_one_seed_one_text() -> None:
    """Coupled verification emits the text of plain sampling, whatever is drafted."""
    size, length = 50, 30
    generator = torch.Generator().manual_seed(4)
    table = torch.randn(size, size, generator=generator) * 2
    warp = hb.Warp(0.9, top_k=20, presence_penalty=0.4)
    key = {"seed": 17, "sequences": torch.tensor([5])}
    plain = [3]
    while len(plain) < length:
        history = [([], plain)]
        position = torch.tensor([len(plain)])
        row = table[plain[-1]][None]
        plain.append(hb.ops.sample(row, warp, positions=position, history=history, **key).item())
    rng = np.random.default_rng(0)
    for rule in ("coupled", "chain", "without_replacement"):
        text = [3]
        while len(text) < length:
            right = [*plain[len(text) : len(text) + int(rng.integers(0, 5))], int(rng.integers(size))]
            tree = [(token, i - 1) for i, token in enumerate(right)]
            if rule != "chain":
                tree.append((int(rng.integers(size)), -1))
            rows = table[[text[-1], *(token for token, _ in tree)]]
            got = hb.ops.verify(
                *tensors([tree]),
                rows,
                rule=rule,
                warp=warp,
                positions=torch.tensor([len(text)]),
                history=[([], text)],
                **key,
            )
            text += [tree[row - 1][0] for row in got.accepted[0].tolist() if row > 0]
            text.append(got.next_token.item())
        assert text[:length] == plain


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


@pytest.mark.parametrize("rule", RATIO)
def test_equal_laws_accept_everything(rule: str) -> None:
    _, target, _ = batch_of(3, count=1)
    chain = [(int(i), n - 1) for n, i in enumerate(np.random.default_rng(0).integers(0, 300, 10))]
    for seed in range(50):
        got = hb.ops.verify(
            *tensors([chain]),
            target[:1].expand(11, 300),
            target[:1].expand(11, 300),
            rule=rule,
            seed=seed,
            positions=torch.tensor([0]),
        )
        assert got.num_accepted.item() == 10


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


@pytest.mark.parametrize("rule", EXACT)
def test_rows_off_the_walk_are_not_read(rule: str) -> None:
    """NaN behind a refused token is nobody's business; on the walk it is named."""
    rows = torch.zeros(4, 3)
    rows[0] = torch.tensor([0.0, -float("inf"), -float("inf")])
    rows[2:] = float("nan")
    tree = [(1, -1), (0, 0), (0, 1)]
    laws = torch.zeros(4, 3)
    got = hb.ops.verify(*tensors([tree]), rows, laws, rule=rule, positions=torch.tensor([0]))
    assert (got.num_accepted.item(), got.next_token.item()) == (0, 0)
    tree = [(0, -1), (0, 0), (0, 1)]
    rows[1] = rows[0]
    laws[:, 1:] = -float("inf")
    with pytest.raises(LogitsError, match="logits of sequence 1, row 2 contain NaN"):
        hb.ops.verify(
            *tensors([tree, tree]),
            torch.cat([rows[:1].expand(4, 3), rows]),
            torch.cat([laws, laws]),
            rule=rule,
            positions=torch.tensor([0, 0]),
        )


@pytest.mark.parametrize(
    ("value", "name"), [(float("nan"), "NaN"), (float("inf"), r"\+inf"), (None, "-inf only")]
)
@pytest.mark.parametrize("size", [1, 15, 16, 33, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_faults(value: float | None, name: str, size: int, dtype: torch.dtype) -> None:
    for place in {0, size // 2, size - 1}:
        row = torch.full((1, size), -float("inf") if value is None else 1.0, dtype=dtype)
        if value is not None:
            row[0, place] = value
        for warp in (hb.Warp(), hb.Warp(temperature=0)):
            with pytest.raises(LogitsError, match=f"logits of sequence 0, row 0 contain {name}, expected"):
                hb.ops.sample(row, warp, positions=torch.tensor([0]))


def test_empty_batch() -> None:
    got = hb.ops.verify(*tensors([]), torch.zeros(0, 5))
    assert [tuple(x.shape) for x in got] == [(0, 0), (0,), (0,)]


def call(**changes: Any) -> Any:
    arguments: dict[str, Any] = {
        "draft_tokens": torch.tensor([1, 2]),
        "draft_parents": torch.tensor([-1, 0], dtype=torch.int32),
        "offsets": torch.tensor([0, 2], dtype=torch.int32),
        "target_logits": torch.zeros(3, 8),
        "positions": torch.tensor([0]),
        **changes,
    }
    return hb.ops.verify(**arguments)


I32 = torch.int32


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"rule": "exact"}, ArgumentError, 'rule is "exact", expected chain, block'),
        ({"positions": None}, ArgumentError, "positions is None, expected one a sequence"),
        ({"seed": -1}, ArgumentError, "seed is -1, expected 0 to"),
        ({"seed": 2**64}, ArgumentError, "seed is 18446744073709551616"),
        ({"positions": torch.tensor([-1])}, ArgumentError, "positions is -1, expected 0 to 4294967295"),
        ({"sequences": torch.tensor([2**32])}, ArgumentError, "sequences is 4294967296"),
        ({"sequences": torch.tensor([0, 1])}, ShapeError, "sequences is 2, expected 1"),
        ({"draft_tokens": torch.tensor([1, -2])}, ArgumentError, "a draft token is -2"),
        (
            {"draft_tokens": torch.tensor([1, 2], dtype=I32)},
            ShapeError,
            "draft_tokens is int32, expected int64",
        ),
        ({"draft_tokens": torch.tensor([1])}, ShapeError, "draft_tokens is 1, expected 2"),
        (
            {"draft_parents": torch.tensor([0, -1], dtype=I32)},
            ArgumentError,
            "parent is 0, expected -1 to -1",
        ),
        ({"draft_parents": torch.tensor([-1, -2], dtype=I32)}, ArgumentError, "parent is -2"),
        (
            {"draft_parents": torch.tensor([-1, -1], dtype=I32), "rule": "chain"},
            ArgumentError,
            "verifies chains",
        ),
        (
            {"offsets": torch.tensor([0, 1], dtype=I32)},
            ShapeError,
            r"offsets is \[0, 1\], expected ascending to 2",
        ),
        ({"offsets": torch.tensor([1, 2], dtype=I32)}, ShapeError, r"offsets is \[1, 2\], expected"),
        ({"target_logits": torch.zeros(2, 8)}, ShapeError, "target_logits rows is 2, expected 3"),
        ({"target_logits": torch.zeros(3, 8, dtype=torch.float64)}, TypeError, "target_logits has dtype"),
        ({"target_logits": torch.zeros(8, 3).T}, ShapeError, "target_logits is strided"),
        ({"draft_logits": torch.zeros(2, 8)}, ShapeError, "draft_logits rows is 2, expected 3"),
        (
            {"warp": hb.Warp(presence_penalty=1.0)},
            ArgumentError,
            "history is None, expected prompt and output",
        ),
        ({"warp": [hb.Warp()] * 3}, ShapeError, "warp is 3, expected 1"),
        (
            {"warp": hb.Warp(presence_penalty=1.0), "history": [([9], [])]},
            ArgumentError,
            "history is 9, expected 0 to 7",
        ),
        ({"history": []}, ShapeError, "history is 0, expected 1"),
    ],
)
def test_errors(changes: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        call(**changes)


def test_wide_and_narrow_vocabularies() -> None:
    """A draft token that only one side knows is refused, and neither side reads past its row."""
    for rule in RATIO:
        got = call(
            draft_tokens=torch.tensor([11, 2]),
            draft_logits=torch.zeros(3, 12),
            rule=rule,
        )
        assert got.num_accepted.item() == 0
        assert got.next_token.item() < 8
        narrow = call(draft_logits=torch.zeros(3, 3), rule=rule)
        assert narrow.next_token.item() < 8


def test_bf16_and_f16_are_widened_exactly() -> None:
    trees, target, draft = batch_of(7)
    for dtype in (torch.bfloat16, torch.float16):
        runs = [
            hb.ops.verify(*tensors(trees), t, d, positions=torch.arange(12))
            for t, d in [
                (target.to(dtype), draft.to(dtype)),
                (target.to(dtype).float(), draft.to(dtype).float()),
            ]
        ]
        assert all(torch.equal(a, b) for a, b in pairwise(runs) for a, b in zip(a, b, strict=True))


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
