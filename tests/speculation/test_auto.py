"""The default draft: what it consists of, and that it changes no text."""

from __future__ import annotations

import inspect
import itertools
import re

import pytest
import torch

import hornbeam as hb
from hornbeam.errors import ArgumentError, UnsupportedModel
from hornbeam.speculation import Auto, FeatureHead, NGram, Suffix, TokenRecycling
from hornbeam.speculation.draft import feature_head
from hornbeam.speculation.draft.payoff import Payoff
from tests import models
from tests.heads import random_head


@pytest.fixture(scope="module")
def model():
    return models.llama()


@pytest.fixture
def shipped(model, tmp_path, monkeypatch):
    """As if the head that comes with the package were one for the tiny model."""
    file = random_head(tmp_path, model)
    monkeypatch.setattr(feature_head, "SHIPPED", str(file))
    return file


@pytest.fixture
def eager(monkeypatch):
    """Every source is asked in every step: beside a step of a tiny model none would pay."""
    monkeypatch.setattr(Payoff, "is_due", lambda *_: True)


def kinds(union):
    return [type(source) for source in union.drafts]


def test_it_is_the_default_and_the_recipe():
    assert inspect.signature(hb.LM.generate).parameters["draft"].default == Auto()
    assert hb.recipes.auto() == {"draft": Auto(), "verify": "coupled", "length": hb.spec.MeasuredGain()}


def test_the_shipped_head_drafts_for_its_own_model_alone(model, shipped):
    own, other = hb.LM(model), hb.LM(models.llama(seed=1))
    assert kinds(Auto().union(own)) == [Suffix, TokenRecycling, FeatureHead]
    assert kinds(Auto().union(other)) == [Suffix, TokenRecycling]
    assert kinds(Auto(NGram(), rows=3).union(other)) == [Suffix, TokenRecycling, NGram]
    own.graphs = object()
    assert FeatureHead not in kinds(Auto().union(own)), "a captured step shows no hidden states"


class Wrapped(torch.nn.Module):
    """A head of somebody else's, without the attributes of a linear layer."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


class Codes(torch.nn.Module):
    """A head in int8 with a scale for each row."""

    def __init__(self, inner):
        super().__init__()
        scale = inner.weight.detach().abs().amax(dim=1, keepdim=True) / 127
        self.register_buffer("weight", (inner.weight.detach() / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)

    def forward(self, x):
        return torch.nn.functional.linear(x, self.weight * self.scale)


class TestModelsWithoutAMatrix:
    """What plain decoding takes, the default draft takes."""

    @pytest.mark.parametrize(
        ("kind", "reason"),
        [
            (Wrapped, r"output head \(Wrapped\) has no weight"),
            (Codes, "weight of the model's output head is a Tensor of torch.int8"),
        ],
    )
    def test_the_head_is_left_out_with_the_reason(self, shipped, eager, kind, reason):
        model = models.llama()
        lm = hb.LM(model)
        assert Auto().left_out(lm) == {}
        options = dict(max_new_tokens=12, length=hb.spec.Fixed(20))
        lm.generate([1, 2, 3], **options)
        model.lm_head = kind(model.lm_head)
        for changed in (hb.LM(model), lm):
            plain = changed.generate([1, 2, 3], draft=None, **options)
            assert changed.generate([1, 2, 3], **options).token_ids == plain.token_ids
            [(name, found)] = Auto().left_out(changed).items()
            assert name == "FeatureHead"
            assert re.search(reason, found)
            with pytest.raises(UnsupportedModel, match=reason):
                changed.generate([1, 2, 3], draft=FeatureHead(shipped), **options)

    def test_an_embedding_without_a_weight(self, shipped, eager):
        model = models.llama()
        lm = hb.LM(model)
        model.model.embed_tokens = Wrapped(model.model.embed_tokens)
        plain = lm.generate([1, 2, 3], max_new_tokens=12, draft=None)
        assert lm.generate([1, 2, 3], max_new_tokens=12).token_ids == plain.token_ids
        assert "input embedding (Wrapped) has no weight" in Auto().left_out(lm)["FeatureHead"]

    def test_of_the_model_as_it_is_now(self, shipped, eager):
        model = models.llama()
        lm = hb.LM(model)
        matrix = model.lm_head.weight.detach().clone()
        assert FeatureHead in kinds(Auto().union(lm))
        with torch.no_grad():
            model.lm_head.weight.neg_()
        lm.generate([1, 2, 3], max_new_tokens=4)
        assert "other weights" in Auto().left_out(lm)["FeatureHead"]
        with torch.no_grad():
            model.lm_head.weight.copy_(matrix)
        lm.generate([1, 2, 3], max_new_tokens=4)
        assert Auto().left_out(lm) == {}


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("length", [hb.spec.MeasuredGain(), hb.spec.Fixed(20)])
def test_the_text_is_that_of_no_draft_alone_and_in_a_batch(model, shipped, eager, length, temperature):
    lm = hb.LM(model)
    prompts = [models.prompt(6 + n, n)[0].tolist() for n in range(8)]
    options = dict(max_new_tokens=20, temperature=temperature, seed=3)
    plain = [out.token_ids for out in lm.generate(prompts, draft=None, **options)]
    together = lm.generate(prompts, length=length, **options)
    assert [out.token_ids for out in together] == plain
    if isinstance(length, hb.spec.Fixed):
        assert sum(out.stats.drafted for out in together) > 1000
    assert lm.generate(prompts[2], length=length, **options).token_ids == plain[2]


def test_the_text_is_the_same_where_sources_come_and_go(model, shipped, monkeypatch):
    """A source that is left out for some steps reads what it missed when it is asked again."""
    lm, turns = hb.LM(model), itertools.count()
    monkeypatch.setattr(Payoff, "is_due", lambda *_: next(turns) % 5 in (0, 1))
    prompts = [models.prompt(6 + n, n)[0].tolist() for n in range(4)]
    plain = [out.token_ids for out in lm.generate(prompts, draft=None, max_new_tokens=40)]
    outs = lm.generate(prompts, max_new_tokens=40, length=hb.spec.MeasuredGain())
    assert [out.token_ids for out in outs] == plain


def test_what_it_drafts_from_is_named_in_a_trace(model, shipped, eager):
    lm, trace = hb.LM(model), hb.Trace()
    lm.generate([1, 2, 3, 1, 2, 3, 1, 2], max_new_tokens=12, length=hb.spec.Fixed(20), trace=trace)
    assert "FeatureHead" in trace.to_html()


def test_bad_arguments_are_refused_at_once():
    with pytest.raises(ArgumentError, match="rows is 0"):
        Auto(rows=0)


@pytest.mark.model
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_default_model_has_its_head_and_writes_the_same(default_model, temperature):
    lm = hb.LM(*default_model)
    assert FeatureHead in kinds(Auto().union(lm))
    prompts = [[{"role": "user", "content": text}] for text in ("Name three trees.", "Count to nine.")]
    options = dict(max_new_tokens=40, temperature=temperature, seed=1)
    plain = [out.token_ids for out in lm.generate(prompts, draft=None, **options)]
    assert [out.token_ids for out in lm.generate(prompts, **options)] == plain
    assert lm.generate(prompts[0], **options).token_ids == plain[0]
