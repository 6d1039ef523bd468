"""hornbeam.Warp against its definition: supports, and whole laws by coupled draws."""

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hornbeam as hb
from hornbeam.errors import ArgumentError, LogitsError, ShapeError
from tests.reference import philox
from tests.reference import warp as reference

NEGATIVE_INFINITY = -float("inf")


def draw(weights: list[int], seed: int, sequence: int, position: int) -> int:
    """Coupled sampling by its definition."""

    def ratio(token: int) -> float:
        word = philox.words(seed, sequence, position, philox.SAMPLE, 0, token // 4)[token % 4]
        return philox.exponential(word) / weights[token]

    return min((token for token, w in enumerate(weights) if w), key=lambda token: (ratio(token), token))


logit = st.one_of(
    st.floats(-20, 20, width=32),
    st.integers(-2, 2).map(float),
    st.just(NEGATIVE_INFINITY),
)
penalty = st.none() | st.floats(-1, 1).map(lambda x: round(x, 2))


@st.composite
def warps(draw: Any, size: int) -> hb.Warp:
    ids = st.integers(0, size + 2)
    return hb.Warp(
        temperature=draw(st.sampled_from([0.0, 0.3, 0.8, 1.0, 1.7])),
        top_k=draw(st.none() | st.integers(1, size + 2)),
        top_p=draw(st.none() | st.floats(0.01, 1.0)),
        min_p=draw(st.none() | st.floats(0.0, 1.0)),
        bias=draw(st.none() | st.dictionaries(ids, logit, max_size=3)),
        repetition_penalty=draw(st.none() | st.floats(0.5, 2).map(lambda x: round(x, 2))),
        frequency_penalty=draw(penalty),
        presence_penalty=draw(penalty),
    )


def leaves_a_token(case: tuple[int, hb.Warp]) -> bool:
    """Whether a warp for so many tokens rules out less than all of them."""
    size, warp = case
    return any((warp.bias or {}).get(token, 0.0) > -float("inf") for token in range(size))


@st.composite
def cases(draw: Any) -> Any:
    size = draw(st.sampled_from([1, 2, 3, 7, 16, 17, 40, 300, 520]))
    row = draw(st.lists(logit, min_size=min(size, 40), max_size=min(size, 40)))
    if size > 40:
        rng = np.random.default_rng(draw(st.integers(0, 1000)))
        row = [*row, *rng.choice(rng.normal(0, 3, 30).round(1), size - 40)]
    token = st.integers(0, size - 1)
    history = (draw(st.lists(token, max_size=4)), draw(st.lists(token, max_size=6)))
    return row, draw(warps(size)), history


@settings(max_examples=400, deadline=None)
@given(cases(), st.sampled_from([torch.float32, torch.bfloat16, torch.float16]), st.integers(0, 2**64 - 1))
def test_draws_follow_the_definition(case: Any, dtype: torch.dtype, seed: int) -> None:
    row, warp, history = case
    logits = torch.tensor([row]).to(dtype)
    try:
        weights = reference.weights(logits[0].float().numpy(), warp, *history)
    except reference.NoLaw:
        weights = None
    arguments = {"seed": seed, "sequences": torch.tensor([3]), "history": [history]}
    if weights is None:
        with pytest.raises(LogitsError, match=r"sequence 0, row 0 contain -inf only"):
            hb.ops.sample(logits, warp, positions=torch.tensor([0]), **arguments)
        with pytest.raises(LogitsError, match=r"sequence 0, row 0 contain -inf only"):
            hb.ops.probabilities(logits, warp, history=[history])
        return
    law = hb.ops.probabilities(logits, warp, history=[history])
    assert law.tolist() == [[weight / sum(weights) for weight in weights]]
    for position in range(5):
        got = hb.ops.sample(logits, warp, positions=torch.tensor([position]), **arguments)
        assert got.item() == draw(weights, seed, 3, position)


@pytest.mark.parametrize("size", [49_152, 128_256])
@pytest.mark.parametrize(
    "warp",
    [
        hb.Warp(),
        hb.Warp(0.8, top_p=0.95),
        hb.Warp(1.3, top_p=0.999),
        hb.Warp(0.7, top_k=50),
        hb.Warp(1.0, top_k=1000, top_p=0.9, min_p=0.001),
        hb.Warp(0.8, min_p=0.02),
    ],
    ids=str,
)
def test_large_vocabularies(size: int, warp: hb.Warp) -> None:
    """Many draws land where, and only where, the definition puts weight."""
    generator = torch.Generator().manual_seed(size)
    row = (torch.randn(size, generator=generator) * 3).bfloat16()
    weights = reference.weights(row.float().numpy(), warp)
    count = 400
    tokens = hb.ops.sample(row.expand(count, size), warp, seed=5, positions=torch.arange(count))
    assert all(weights[token] for token in tokens.tolist())
    some = range(0, count, 100)
    assert [tokens[i].item() for i in some] == [vectorised_draw(weights, 5, i, i) for i in some]


def test_laws_of_several_rows() -> None:
    logits = torch.tensor([[0.0, 1.0, 1.0], [2.0, 2.0, -torch.inf]])
    warps = [hb.Warp(top_k=2), hb.Warp(temperature=0.0)]
    assert hb.ops.probabilities(logits, warps).tolist() == [[0.0, 0.5, 0.5], [1.0, 0.0, 0.0]]
    assert hb.ops.probabilities(logits[:0]).shape == (0, 3)
    with pytest.raises(ShapeError, match=r"logits has shape \[3\], expected \[rows, vocabulary\]"):
        hb.ops.probabilities(logits[0])
    with pytest.raises(ShapeError, match="warp"):
        hb.ops.probabilities(logits, [hb.Warp()] * 3)
    with pytest.raises(ArgumentError, match="history is None"):
        hb.ops.probabilities(logits, hb.Warp(presence_penalty=1.0))


def vectorised_draw(weights: list[int], seed: int, sequence: int, position: int) -> int:
    """As :func:`draw`, with numpy's log to find the few that can win."""
    w = np.array(weights, np.float64)
    block = np.arange((len(w) + 3) // 4, dtype=np.uint64)
    c = [block, block * 0 + np.uint64(position), block * 0 + np.uint64(sequence), block * 0]
    k = [np.uint64(seed & 0xFFFFFFFF), np.uint64(seed >> 32)]
    mask, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    for _ in range(10):
        a, b = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [(b >> shift) ^ c[1] ^ k[0], b & mask, (a >> shift) ^ c[3] ^ k[1], a & mask]
        k = [(k[0] + np.uint64(0x9E3779B9)) & mask, (k[1] + np.uint64(0xBB67AE85)) & mask]
    words = np.stack(c, 1).reshape(-1)[: len(w)]
    with np.errstate(divide="ignore"):
        ratio = -np.log((words.astype(np.float64) + 0.5) / 2**32) / w
    best = np.argsort(ratio)[:5]
    return min(best.tolist(), key=lambda v: (philox.exponential(int(words[v])) / weights[v], v))


def test_against_transformers() -> None:
    """The same support as transformers' processors, where nothing ties."""
    from transformers import (
        LogitsProcessorList,
        MinPLogitsWarper,
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    generator = torch.Generator().manual_seed(0)
    for trial in range(30):
        row = torch.randn(1, 200, generator=generator) * 4
        ids = torch.randint(0, 200, (1, 30), generator=generator)
        theirs = LogitsProcessorList(
            [
                RepetitionPenaltyLogitsProcessor(1.3),
                TemperatureLogitsWarper(0.8),
                TopKLogitsWarper(40),
                TopPLogitsWarper(0.9),
                MinPLogitsWarper(0.02),
            ]
        )(ids, row.clone())
        warp = hb.Warp(0.8, top_k=40, top_p=0.9, min_p=0.02, repetition_penalty=1.3)
        law = reference.law(row[0].numpy(), warp, ids[0, :10].tolist(), ids[0, 10:].tolist())
        ours = torch.tensor([float(p) for p in law])
        torch.testing.assert_close(ours, torch.softmax(theirs[0], -1), atol=1e-6, rtol=1e-5), trial


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": -1.0}, "temperature is -1, expected 0, or 1e-6 to 1e6"),
        ({"temperature": float("nan")}, "temperature is NaN"),
        ({"temperature": 1e-9}, "temperature is 0.000000001"),
        ({"temperature": None}, "temperature is None, expected a number"),
        ({"top_k": 0}, "top_k is 0, expected at least 1"),
        ({"top_k": 2.5}, "top_k is 2.5, expected an integer"),
        ({"top_p": 0.0}, "top_p is 0, expected above 0 and at most 1"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"min_p": -0.1}, "min_p is -0.1, expected 0 to 1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0, expected a finite number above 0"),
        ({"frequency_penalty": float("inf")}, "frequency_penalty is inf, expected a finite number"),
        ({"presence_penalty": float("nan")}, "presence_penalty is NaN"),
        ({"bias": {3: float("inf")}}, "bias is inf, expected a finite number or -inf"),
        ({"bias": {-1: 0.0}}, "a token of bias is -1, expected a vocabulary id"),
    ],
)
def test_errors(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=f"^{message}"):
        hb.Warp(**arguments)


def test_is_a_value() -> None:
    warp = hb.Warp(0.8, top_k=50, bias={1: 2.0})
    assert warp == hb.Warp(0.8, top_k=50, bias={1: 2.0})
    assert hash(warp) == hash(copy.deepcopy(warp))
    again = pickle.loads(pickle.dumps(warp))
    assert again == warp
    hb.ops.sample(torch.randn(1, 8), again, positions=torch.zeros(1, dtype=torch.int64))
    assert hb.Warp(repetition_penalty=1.2).has_penalties
    assert not hb.Warp(repetition_penalty=1.0, presence_penalty=0.0).has_penalties
