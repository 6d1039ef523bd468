"""The target's own layers as a draft: the same text, and no row computed twice."""

from __future__ import annotations

import itertools
from itertools import pairwise

import pytest

import hornbeam as hb
from hornbeam.errors import ArgumentError
from hornbeam.speculation import Fixed, LayerSkip, MeasuredGain, shape
from hornbeam.speculation.draft.payoff import Payoff
from tests import models

SAMPLING = dict(temperature=1.1, top_k=30, top_p=0.97)


def ids(length, seed=0):
    return models.prompt(length, seed)[0].tolist()


PROMPTS = [ids(9 + 11 * i, seed=i) for i in range(8)]
DRAFTS = [
    LayerSkip(exit_layer=3),
    LayerSkip(exit_layer=3, shape=shape.GumbelTree((3, 2))),
    LayerSkip(exit_layer=2, shape=shape.BestFirst(6, 3, 3)),
    LayerSkip(skip=1, shape=shape.StochasticBeam(3, 3)),
    LayerSkip(layers=(1, 2, 3)),
]


@pytest.fixture(scope="module")
def lm():
    return hb.LM(models.llama(layers=4))


@pytest.mark.parametrize("draft", DRAFTS, ids=str)
@pytest.mark.parametrize("options", [{}, SAMPLING])
def test_text_alone_and_in_a_batch(lm, draft, options):
    plain = lm.generate(PROMPTS, max_new_tokens=14, seed=5, draft=None, **options)
    for prompts, expected in ((PROMPTS, plain), (PROMPTS[3:4], plain[3:4])):
        for length in (Fixed(40), Fixed(2)):
            out = lm.generate(prompts, max_new_tokens=14, seed=5, draft=draft, length=length, **options)
            assert [o.token_ids for o in out] == [o.token_ids for o in expected]
            lm.tree.debug_check()
    assert lm.tree.stats()["branches"] == 0


@pytest.mark.parametrize("name", ["gemma3", "gpt_oss", "qwen3_moe", "phi3", "mistral", "gpt_neox"])
def test_architectures(name):
    lm = hb.LM(getattr(models, name)())
    plain = lm.generate(PROMPTS[:3], max_new_tokens=12, draft=None)
    for grown in (shape.Chain(3), shape.Fixed((2, 2))):
        draft = LayerSkip(exit_layer=1, shape=grown)
        out = lm.generate(PROMPTS[:3], max_new_tokens=12, draft=draft, length=Fixed(40))
        assert [o.token_ids for o in out] == [o.token_ids for o in plain]


def test_a_draft_of_nearly_all_layers_is_often_right(lm):
    (out,) = lm.generate([ids(20)], max_new_tokens=40, draft=DRAFTS[0], length=Fixed(3))
    assert out.stats.accepted > 10


class Counter:
    """Rows that went through each layer's attention."""

    def __init__(self, lm):
        layers = lm.model.model.layers
        self.rows = [0] * len(layers)
        self.handles = [
            layer.self_attn.register_forward_pre_hook(self.count(i), with_kwargs=True)
            for i, layer in enumerate(layers)
        ]

    def count(self, index):
        def hook(_module, inputs, options):
            hidden = inputs[0] if inputs else options["hidden_states"]
            self.rows[index] += hidden.shape[1]

        return hook

    def close(self):
        for handle in self.handles:
            handle.remove()


@pytest.mark.parametrize("draft", DRAFTS[:2], ids=str)
def test_rows_below_the_first_layer_left_out_are_computed_once(lm, draft):
    """By draft and verification together: what is drafted is verified here, to the last token."""
    lm.clear_cache()
    first = draft.exit_layer
    lm.runner.decoder_layers()  # looks at the layers with a row of its own, once
    counter = Counter(lm)
    out = lm.generate(ids(30), max_new_tokens=16, draft=draft, length=Fixed(40))
    counter.close()
    once = 30 + out.stats.rows
    assert counter.rows[0] == counter.rows[first - 1] == once
    assert counter.rows[first] == counter.rows[-1] == once


def test_an_exception_leaves_the_model_as_it_was(lm):
    plain = lm.generate(ids(20), max_new_tokens=8, draft=None).token_ids
    layer = lm.model.model.layers[0]
    calls = [0]

    def fail(*_):
        calls[0] += 1
        if calls[0] == 4:
            raise ZeroDivisionError

    handle = layer.self_attn.register_forward_pre_hook(fail)
    with pytest.raises(ZeroDivisionError):
        lm.generate(ids(20), max_new_tokens=8, draft=DRAFTS[1], length=Fixed(40))
    handle.remove()
    assert all("forward" not in vars(layer) for layer in lm.model.model.layers)
    lm.tree.debug_check()
    assert lm.tree.stats()["branches"] == 0
    assert lm.generate(ids(20), max_new_tokens=8, draft=None).token_ids == plain


def test_measured_gain_and_ratio_tests(lm):
    plain = lm.generate(ids(20), max_new_tokens=20, draft=None, **SAMPLING).token_ids
    gain = lm.generate(ids(20), max_new_tokens=20, draft=DRAFTS[1], length=MeasuredGain(), **SAMPLING)
    assert gain.token_ids == plain
    for rule in ("without_replacement", "target_only"):
        for length in (MeasuredGain(), Fixed(9)):
            out = lm.generate(
                ids(20), max_new_tokens=20, draft=DRAFTS[1], length=length, verify=rule, **SAMPLING
            )
            assert len(out.token_ids) == 20


def test_balanced_spacing():
    kept = LayerSkip(skip=8).kept(30)
    skipped = sorted(set(range(30)) - kept)
    assert len(skipped) == 8
    assert {0, 29} <= kept
    gaps = [b - a for a, b in pairwise(skipped)]
    assert max(gaps) - min(gaps) <= 1
    assert LayerSkip(skip=2).kept(4) == {0, 3}


@pytest.mark.parametrize(
    ("draft", "message"),
    [
        (lambda: LayerSkip(), "expected exactly one"),
        (lambda: LayerSkip(exit_layer=2, skip=1), "expected exactly one"),
        (lambda: LayerSkip(exit_layer=4).kept(4), "expected 1 to 3"),
        (lambda: LayerSkip(skip=3).kept(4), "expected 1 to 2 of 4 layers"),
        (lambda: LayerSkip(layers=(0, 9)).kept(4), "expected some of 0 to 3"),
        (lambda: LayerSkip(layers=(0, 1)).kept(2), "not all"),
    ],
)
def test_wrong_subsets(draft, message):
    with pytest.raises(ArgumentError, match=message):
        draft()


@pytest.mark.parametrize("verify", ["coupled", "without_replacement"])
def test_a_draft_that_is_asked_now_and_then_is_asked_for_the_whole_batch(monkeypatch, verify):
    """What the verification goes on from are the rows of all sequences of the step. Red where each sequence
    is asked about."""
    lm, turns = hb.LM(models.llama(layers=4)), itertools.count()
    monkeypatch.setattr(Payoff, "is_due", lambda *_: next(turns) % 3 != 0)
    prompts = [models.prompt(6 + n, n)[0].tolist() for n in range(4)]
    draft = LayerSkip(exit_layer=3, shape=shape.GumbelTree((2, 1)))
    options = dict(max_new_tokens=24, temperature=0.8, seed=2)
    outs = lm.generate(prompts, draft=draft, verify=verify, **options)
    assert sum(out.stats.drafted for out in outs) > 0
    if verify == "coupled":
        plain = lm.generate(prompts, draft=None, **options)
        assert [out.token_ids for out in outs] == [out.token_ids for out in plain]
