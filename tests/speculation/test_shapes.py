"""Model-based drafts of every shape: the text is the target's, and trees are what the shape says."""

from __future__ import annotations

import pytest

import hornbeam as hb
from hornbeam.errors import ArgumentError
from hornbeam.speculation import Fixed, MeasuredGain, SmallModel, shape
from tests import models

SHAPES = {
    "chain": shape.Chain(4),
    "likeliest": shape.Fixed((3, 2)),
    "independent": shape.Fixed((3, 2), "independent"),
    "gumbel": shape.GumbelTree((3, 2, 1)),
    "beam": shape.StochasticBeam(3, 3),
    "sequoia": shape.Sequoia(12, 4, 3, acceptance=(0.6, 0.2, 0.1)),
    "best_first": shape.BestFirst(8, 3, 3),
}
SAMPLING = dict(temperature=1.1, top_k=30, top_p=0.97)


@pytest.fixture(scope="module")
def lm():
    return hb.LM(models.llama())


@pytest.fixture(scope="module")
def small():
    """A draft model that is right now and then: the target without its last layer."""
    return hb.LM(models.llama(layers=1))


def ids(length, seed=0):
    return models.prompt(length, seed)[0].tolist()


PROMPTS = [ids(9 + 11 * i, seed=i) for i in range(8)]


class TestOneSeedOneText:
    @pytest.mark.parametrize("name", SHAPES)
    @pytest.mark.parametrize("options", [{}, SAMPLING, dict(SAMPLING, verify="chain")])
    def test_any_shape_alone_and_in_a_batch(self, lm, small, name, options):
        """Coupled text is that of plain decoding, and so is that of a deterministic draft."""
        if options.get("verify") == "chain" and SHAPES[name].law != "deterministic":
            pytest.skip("a drawn draft under a ratio test has a text of its own")
        plain = lm.generate(PROMPTS, max_new_tokens=12, seed=3, draft=None, **options)
        for source in (small, lm):
            draft = SmallModel(source, SHAPES[name])
            for prompts in (PROMPTS, PROMPTS[2:3]):
                out = lm.generate(
                    prompts, max_new_tokens=12, seed=3, draft=draft, length=Fixed(40), **options
                )
                expected = plain if len(prompts) > 1 else plain[2:3]
                assert [o.token_ids for o in out] == [o.token_ids for o in expected]
                lm.tree.debug_check()
                small.tree.debug_check()
        assert sum(o.stats.accepted for o in out) > 0

    def test_the_draft_shares_the_targets_noise(self, lm):
        """The target drafting for itself is always right, at any temperature."""
        draft = SmallModel(lm, shape.Chain(5))
        (out,) = lm.generate([ids(30)], max_new_tokens=31, temperature=1.5, draft=draft, length=Fixed(5))
        assert out.stats.accepted == out.stats.drafted > 20

    def test_the_target_as_its_own_draft_knows_the_best_path(self, lm):
        """Every level of every step is right: the drafts read the keys of their own ancestors."""
        for grown in (shape.BestFirst(20, 3, 3), shape.Fixed((2, 1, 1)), shape.StochasticBeam(2, 3)):
            (out,) = lm.generate([ids(30)], max_new_tokens=33, draft=SmallModel(lm, grown), length=Fixed(99))
            assert out.stats.accepted == 3 * out.stats.forward_passes == 24

    def test_measured_gain_prunes_trees(self, lm, small):
        draft = SmallModel(small, shape.GumbelTree((4, 2, 2)))
        plain = lm.generate(PROMPTS[:3], max_new_tokens=30, draft=None, **SAMPLING)
        out = lm.generate(PROMPTS[:3], max_new_tokens=30, draft=draft, length=MeasuredGain(), **SAMPLING)
        assert [o.token_ids for o in out] == [o.token_ids for o in plain]

    def test_penalties_follow_the_draft(self, lm):
        warp = hb.Warp(temperature=0.9, repetition_penalty=1.3, frequency_penalty=0.4)
        plain = lm.generate(PROMPTS[:2], max_new_tokens=25, draft=None, warp=warp)
        draft = SmallModel(lm, shape.StochasticBeam(3, 4))
        out = lm.generate(PROMPTS[:2], max_new_tokens=25, draft=draft, warp=warp, length=Fixed(40))
        assert [o.token_ids for o in out] == [o.token_ids for o in plain]
        assert sum(o.stats.accepted for o in out) > 20


@pytest.mark.parametrize("rule", ["chain", "block", "with_replacement", "without_replacement"])
def test_a_draft_that_equals_the_target_passes_every_ratio_test(lm, rule):
    shapes = {"with_replacement": shape.Fixed((2, 2), "independent"), "without_replacement": SHAPES["gumbel"]}
    draft = SmallModel(lm, shapes.get(rule, shape.Chain(3)))
    (out,) = lm.generate(
        [ids(20)], max_new_tokens=25, temperature=1.0, verify=rule, draft=draft, length=Fixed(99)
    )
    levels = 2 if rule == "with_replacement" else 3
    assert out.stats.accepted >= levels * (out.stats.forward_passes - 1)


class TestWrongPairs:
    @pytest.mark.parametrize(
        ("name", "rule"),
        [
            ("gumbel", "chain"),
            ("beam", "block"),
            ("gumbel", "with_replacement"),
            ("independent", "chain"),
            ("sequoia", "with_replacement"),
        ],
    )
    def test_a_law_that_the_rule_is_not_exact_for(self, lm, small, name, rule):
        with pytest.raises(ArgumentError, match=f"verify is '{rule}' for a draft whose law is"):
            lm.generate([1, 2], temperature=1.0, verify=rule, draft=SmallModel(small, SHAPES[name]))

    def test_a_stop_that_looks_at_what_was_drawn(self, lm, small):
        class Looking(Fixed):
            is_predictable = False

        options = dict(temperature=1.0, draft=SmallModel(small), length=Looking(3), max_new_tokens=4)
        with pytest.raises(ArgumentError, match="a token is dropped for what was drawn"):
            lm.generate([1, 2], verify="chain", **options)
        lm.generate([1, 2], verify="coupled", **options)
        lm.generate([1, 2], verify="target_only", **options)
        lm.generate([1, 2], verify="chain", **(options | {"temperature": 0.0}))

    def test_a_shape_without_an_outline_under_measured_gain(self, lm, small):
        draft = SmallModel(small, SHAPES["beam"])
        with pytest.raises(ArgumentError, match="before its draws"):
            lm.generate([1, 2], temperature=1.0, verify="without_replacement", draft=draft)

    def test_a_vocabulary_of_another_size(self, lm):
        other = models.llama()
        other.resize_token_embeddings(300)
        with pytest.raises(ArgumentError, match="a vocabulary of 300, expected the target's 256"):
            lm.generate([1, 2], draft=SmallModel(hb.LM(other)))

    @pytest.mark.parametrize(
        "make",
        [
            lambda: shape.Chain(0),
            lambda: shape.Fixed(()),
            lambda: shape.Fixed((2, 0)),
            lambda: shape.Fixed((2,), "some"),  # type: ignore[arg-type]
            lambda: shape.GumbelTree((0,)),
            lambda: shape.StochasticBeam(0),
            lambda: shape.BestFirst(width=0),
            lambda: shape.Sequoia(depth=0),
            lambda: shape.Sequoia(acceptance=(0.9, 0.3)),
        ],
    )
    def test_settings_out_of_range(self, make):
        with pytest.raises(ArgumentError):
            make()


def test_nothing_is_held_after_a_run(lm, small):
    lm.generate(PROMPTS[:3], max_new_tokens=9, draft=SmallModel(small, SHAPES["gumbel"]))
    for model in (lm, small):
        assert model.tree.stats()["branches"] == 0
        model.clear_cache()
        assert model.tree.num_bytes == 0


def test_a_failure_in_the_draft_leaves_both_trees_whole(lm, small, monkeypatch):
    calls = [0]

    def fail(*_):
        calls[0] += 1
        if calls[0] == 4:
            raise ZeroDivisionError

    handle = small.model.model.layers[0].register_forward_pre_hook(fail)
    draft = SmallModel(small, SHAPES["gumbel"])
    with pytest.raises(ZeroDivisionError):
        lm.generate(PROMPTS[:2], max_new_tokens=9, draft=draft, length=Fixed(15))
    handle.remove()
    for model in (lm, small):
        model.tree.debug_check()
        assert model.tree.stats()["branches"] == 0


def test_a_draft_with_fewer_positions_stops_drafting(lm):
    draft = models.llama(layers=1)
    draft.config.max_position_embeddings = 24
    short = hb.LM(draft)
    out = lm.generate(ids(18), max_new_tokens=12, draft=SmallModel(short), length=Fixed(4))
    assert out.token_ids == lm.generate(ids(18), max_new_tokens=12, draft=None).token_ids
    assert short.max_positions == 24
