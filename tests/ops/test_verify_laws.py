"""hornbeam.ops.verify: what comes out follows the target's law, by counting."""

from typing import Any

import numpy as np
import pytest
import torch

import hornbeam as hb
from tests.ops.verifying import EXACT, RATIO, batch_of, chi_square, tensors
from tests.reference import warp as reference_warp


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
