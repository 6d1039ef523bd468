"""Entropy: its estimate and its threshold against the paper's formulas, and its drafts in use."""

from __future__ import annotations

from math import inf, log
from types import SimpleNamespace

import pytest
import torch
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st

import hornbeam as hb
from hornbeam import _native
from hornbeam.errors import ArgumentError, ShapeError
from hornbeam.speculation import Entropy, Fixed, SmallModel, Union, shape
from hornbeam.speculation.protocols import Ask
from hornbeam.speculation.tree_building import Child, DraftTree, Node, Tree, TreeBuilder
from tests import models
from tests.heads import drawing_draft
from tests.ops.test_warp import leaves_a_token, warps
from tests.reference import draws
from tests.reference import entropy as reference
from tests.reference import warp as reference_warp
from tests.reference.verify import outcomes
from tests.speculation.test_draws import Tables, chi_square


@pytest.fixture(scope="module")
def lm():
    return hb.LM(models.llama())


@pytest.fixture(scope="module")
def small():
    return hb.LM(models.llama(layers=1))


def ids(length, seed=0):
    return models.prompt(length, seed)[0].tolist()


PROMPTS = [ids(9 + 11 * i, seed=i) for i in range(8)]


def chain(count):
    return DraftTree(list(range(count)), hb.spec.Signals([0.5] * count), list(range(-1, count - 1)))


@given(st.lists(st.integers(0, 4), max_size=30), st.floats(0, 1), st.floats(0, 0.3), st.floats(0, 1))
def test_thresholds_are_those_of_the_reference(accepted, aim, step, memory):
    rule = Entropy(threshold=0.5, acceptance=aim, step=step, acceptance_memory=memory, threshold_memory=0.7)
    stop = rule.start()
    trees = [Tree(Ask(7, 0, 0, 0, 9))]
    shares = [count / 4 for count in accepted]
    expected = reference.thresholds(shares, 0.5, aim, step, memory, 0.7)
    for count, threshold in zip(accepted, expected, strict=True):
        stop.begin(trees)
        stop.observe([chain(4)], [4], [list(range(count))])
        assert stop.sequences[7].threshold == pytest.approx(min(max(threshold, 0), 1), abs=1e-12)
        if not 0 <= threshold <= 1:
            return  # ours stays between 0 and 1


@settings(deadline=None, max_examples=60)
@given(
    st.integers(2, 90).flatmap(lambda size: st.tuples(st.just(size), warps(size))).filter(leaves_a_token),
    st.integers(0, 99),
    st.floats(0, 0.99),
)
def test_draws_stop_where_the_bound_is_below_the_threshold(case, seed, threshold):
    """Native limits on entropy against the bound of the reference, on the law that tokens are drawn from."""
    size, warp = case
    logits = torch.randn(1, size, generator=torch.Generator().manual_seed(seed)) * 2
    try:
        law = [float(p) for p in reference_warp.law(logits[0].numpy(), warp, [0], [size - 1])]
    except reference_warp.NoLaw:
        reject()
    bound = reference.bound(law, 0.2)
    assume(abs(bound - threshold) > 1e-4)
    stop = Entropy(threshold=threshold, min_length=0).start()
    limits = stop.limits([Tree(Ask(0, 0, 0, 0, 9))], [Node(0, -1)], None)
    handle = warp._handle
    drawn = _native.draw(logits, "own", [handle], 1, [0], [0], [0], [1], [([0], [size - 1])], limits)
    assert bool(drawn[0]) is (bound >= threshold)


def test_limits_are_checked():
    with pytest.raises(ShapeError, match="limits is 2, expected 1"):
        _native.draw(torch.zeros(1, 4), "own", [hb.Warp()._handle], 1, [0], [0], [0], [1], None, [1.0, 2.0])


@pytest.mark.parametrize(("size", "width", "depth"), [(3, 2, 2), (4, 2, 2), (3, 3, 2)])
def test_a_gated_beam_follows_its_definition(size, width, depth):
    """The trees of 6,000 beams below whose flat nodes nothing is drawn, against the enumerated law."""
    tables, count = Tables(size, depth), 6_000
    bounds = sorted(reference.bound(tables.law((token,)), 0.2) for token in range(size))
    rule = Entropy(threshold=(bounds[0] + bounds[1]) / 2, min_length=1)

    def ends(path):
        return len(path) >= 1 and reference.bound(tables.law(path), 0.2) < rule.threshold

    assert {ends((token,)) for token in range(size)} == {True, False}
    law = {}
    for probability, (tree, _) in outcomes(lambda chance: draws.beam(chance, tables.law, width, depth, ends)):
        law[tuple(tree)] = law.get(tuple(tree), 0) + probability
    builder = tables.grow(shape.StochasticBeam(width, depth), count, gate=rule.start())
    seen = {}
    for tree in builder.trees:
        key = tuple(zip(tree.tokens, tree.parents, strict=True))
        seen[key] = seen.get(key, 0) + 1
    assert set(seen) <= set(law)
    trees = list(law)
    assert chi_square([seen.get(t, 0) for t in trees], [law[t] for t in trees], count) > 1e-4


@pytest.mark.parametrize(
    "grows",
    [
        shape.Chain(4),
        shape.Fixed((2, 2)),
        shape.Fixed((2, 2), "independent"),
        shape.GumbelTree((3, 2)),
        shape.StochasticBeam(3, 3),
        shape.Sequoia(12, 4, 3, acceptance=(0.6, 0.2, 0.1)),
        shape.BestFirst(8, 3, 3),
    ],
    ids=repr,
)
@pytest.mark.parametrize("kind", ["small", "layer_skip", "feature_head"])
def test_every_draft_that_draws(tmp_path, kind, grows):
    """The coupled text stays, and drafts end early; a threshold of 1 leaves only what is always drawn."""
    model = models.llama()
    lm = hb.LM(model)
    draft = drawing_draft(kind, model, grows, tmp_path)
    options = dict(max_new_tokens=12, temperature=1.1, seed=3)
    plain = lm.generate(PROMPTS[:3], draft=None, **options)
    drafted = {}
    for rule in (Fixed(99), Entropy(threshold=0.0), Entropy(threshold=1.0), Entropy(gamma=0.02)):
        out = lm.generate(PROMPTS[:3], draft=draft, length=rule, **options)
        assert [o.token_ids for o in out] == [o.token_ids for o in plain]
        drafted[rule] = sum(o.stats.drafted for o in out) / sum(o.stats.forward_passes for o in out)
    everything, unlimited, least, some = drafted.values()
    if not isinstance(grows, shape.Sequoia):  # it takes the tree that pays by the clock
        assert everything == unlimited
        assert least < some <= everything
    lm.tree.debug_check()
    assert lm.tree.stats()["branches"] == 0


def test_ratio_tests_take_it(lm, small):
    for grows, rule in (
        (shape.Chain(4), "block"),
        (shape.GumbelTree((3, 2)), "without_replacement"),
        (shape.StochasticBeam(3, 3), "without_replacement"),
    ):
        out = lm.generate(
            PROMPTS[0],
            max_new_tokens=12,
            temperature=0.8,
            draft=SmallModel(small, grows),
            length=Entropy(),
            verify=rule,
        )
        assert len(out.token_ids) == 12


def test_a_sequence_keeps_its_text_in_a_batch(lm, small):
    """The threshold is a sequence's own: under a ratio test the text is the same alone and in a batch."""
    options = dict(
        max_new_tokens=20,
        temperature=0.8,
        draft=SmallModel(small, shape.Chain(4)),
        length=Entropy(gamma=0.02, step=0.2),
        verify="chain",
    )
    batch = lm.generate(PROMPTS, **options)
    for prompt, together in zip(PROMPTS[2:5], batch[2:5], strict=True):
        assert lm.generate(prompt, **options).token_ids == together.token_ids


def test_a_draft_that_draws_nothing_is_refused(lm, small):
    for source in (hb.spec.Suffix(), hb.spec.NGram(), Union(SmallModel(small))):
        with pytest.raises(ArgumentError, match="which stops a draft before a token is drawn, and draft is"):
            lm.generate([1, 2], draft=source, length=Entropy())


@pytest.mark.parametrize(
    "bad", [{"gamma": 0}, {"gamma": inf}, {"threshold": 1.2}, {"step": -0.1}, {"min_length": -1}]
)
def test_settings_out_of_range(bad):
    (name,) = bad
    with pytest.raises(ArgumentError, match=f"{name} is"):
        Entropy(**bad)


def test_levels_always_drawn():
    trees = [Tree(Ask(0, 0, 0, 0, 9))]
    TreeBuilder.add(SimpleNamespace(trees=trees), Node(0, -1), Child(1, 0.5, 0.0))
    limits = Entropy(min_length=1).start().limits(trees, [Node(0, -1), Node(0, 0)], None)
    assert limits == [inf, pytest.approx(0.25 / 0.2)]
    assert log(2) < limits[1]
