"""The default draft: what it consists of, and that it changes no text."""

from __future__ import annotations

import inspect
import itertools

import pytest

import hornbeam as hb
from hornbeam.errors import ArgumentError
from hornbeam.spec import Auto, FeatureHead, NGram, Suffix, TokenRecycling, feature_head
from hornbeam.spec.pace import Pacer
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
    monkeypatch.setattr(Pacer, "is_due", lambda *_: True)


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
    monkeypatch.setattr(Pacer, "is_due", lambda *_: next(turns) % 5 in (0, 1))
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
