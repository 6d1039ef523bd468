"""Scores, splits, reductions and moments of a user, in Python, each with the one method that it needs."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace

import pytest
import torch

import hornbeam as hb
from hornbeam.errors import ArgumentError, ShapeError
from tests import models
from tests.drafts import Foresight
from tests.keep.arrays import cache
from tests.lm.kept import HEADS, LAYERS, Spy, arrays, continued, ids


class LargestValue(hb.keep.Score):
    """A key is worth the largest element of its value."""

    def scores(self, keys, values, queries, scale):
        return values.abs().amax(-1).transpose(0, 1)


class LastRows(hb.keep.Score):
    """A key is worth its mean product with the last queries; reads three rows of them."""

    num_rows = 3

    def scores(self, keys, values, queries, scale):
        assert queries.shape[3] == min(3, keys.shape[3])
        mean = queries.unflatten(2, (keys.shape[2], -1)).mean((3, 4))
        return (keys @ mean[..., None]).squeeze(-1).transpose(0, 1) * scale


@dataclass(frozen=True)
class FarFrom(hb.keep.Score):
    """A key is worth its distance from a point; keeps the newest two and sees tokens in pairs."""

    point: float = 0.0
    protected = (0, 2, 0)
    unit = 2

    def scores(self, keys, values, queries, scale):
        return (keys - self.point).norm(dim=-1).transpose(0, 1)


class AddMean(hb.keep.Reduce):
    """The mean of the values that go is added to those that stay."""

    def reduce(self, keys, values, scores, kept):
        gone = torch.ones(len(keys), dtype=torch.bool)
        gone[kept] = False
        return hb.keep.Reduced(kept, keys[kept], values[kept] + values[gone].mean(0))


class EverySeventh(hb.keep.When):
    """At the end of the prompt, and seven tokens after the last time."""

    def due(self, moment):
        return moment.prefilled or moment.tokens_since >= 7


class FirstHead(hb.keep.Split):
    """The first head of a layer gets three quarters of what the layer has."""

    def budgets(self, scores, total, protected=(0, 0, 0)):
        layers, heads, _ = scores.shape
        out = torch.full((layers, heads), total // layers // 4 // (heads - 1))
        out[:, 0] = total // layers * 3 // 4
        return out


@pytest.fixture(scope="module")
def model():
    return models.llama()


@pytest.fixture
def lm(model):
    return hb.LM(model, page_tokens=4)


def best(scores, count):
    return scores.topk(count).indices.sort().values.tolist()


def planned(recipe, model, prompt):
    keys, values, queries, _ = arrays(model, prompt)
    kept = hb.keep.plan(recipe, keys, values, queries)
    return [kept[layer][0][head].tolist() for layer in range(LAYERS) for head in range(HEADS)]


class TestScores:
    def test_the_plan_keeps_the_best(self):
        keys, values, queries = cache(3, 2, 2, 2, 40, 5, 8)
        largest = hb.keep.plan(hb.keep.Recipe(LargestValue(), "25%"), keys, values, queries)
        rows = hb.keep.plan(hb.keep.Recipe(LastRows(), 10), keys, values, queries)
        for layer in range(3):
            for b in range(2):
                for head in range(2):
                    assert largest[layer][b][head].tolist() == best(values[layer, b, head].abs().amax(-1), 10)
                    mean = queries[layer, b, 2 * head : 2 * head + 2, -3:].mean((0, 1))
                    assert rows[layer][b][head].tolist() == best(keys[layer, b, head] @ mean, 10)

    def test_what_it_protects_and_its_unit_count(self):
        keys, values, queries = cache(1, 1, 1, 1, 21, 1, 4)
        keys[0, 0, 0, 10:12] = 50.0
        kept = hb.keep.plan(hb.keep.Recipe(FarFrom(1.0), 5), keys, values, queries)[0][0][0].tolist()
        assert {10, 11, 20} <= set(kept)
        assert FarFrom(1.0) == FarFrom(1.0) != FarFrom(2.0)

    @pytest.mark.parametrize("norm", ["l1", "l2"])
    def test_values_weigh_it(self, norm):
        class Python(hb.keep.Score):
            def scores(self, keys, values, queries, scale):
                return -keys.norm(dim=-1).transpose(0, 1)

        ins = (*cache(2, 2, 2, 2, 30, 1, 8), 1.0)
        own, rust = (hb.keep.ValueWeighted(score, norm) for score in (Python(), hb.keep.KeyNorm()))
        assert torch.allclose(own.scores(*ins), rust.scores(*ins), rtol=1e-5)
        assert hb.keep.ValueWeighted(FarFrom()).protected == (0, 2, 0)
        assert hb.keep.ValueWeighted(FarFrom()).unit == 2

    @pytest.mark.parametrize(
        "score", [LargestValue(), LastRows(), FarFrom(0.5), hb.keep.ValueWeighted(LastRows(), "l2")]
    )
    @pytest.mark.parametrize("pieces", [8192, 24])
    def test_generation_keeps_what_the_plan_keeps(self, model, monkeypatch, score, pieces):
        spy, prompt = Spy(monkeypatch), ids(60)
        lm = hb.LM(model, page_tokens=4, prefill_rows=pieces)
        lm.dense_rows = 16
        recipe = hb.keep.Recipe(score, "50%")
        out = lm.generate(prompt, keep=recipe, max_new_tokens=2, draft=None)
        assert out.stats.reductions == 1
        assert [plane[:-1] for plane in spy.positions()] == planned(recipe, model, prompt)

    def test_it_scores_while_decoding(self, lm, monkeypatch):
        spy = Spy(monkeypatch)
        recipe = hb.keep.Recipe(LastRows(), 12, hb.keep.AcrossHeads(), when=hb.keep.EveryTokens(4))
        out = lm.generate(ids(40), keep=recipe, max_new_tokens=12, draft=None)
        assert out.stats.reductions == 3
        assert len({len(plane) for plane in spy.positions()}) > 1


class TestSplits:
    def test_the_plan_gives_each_plane_its_best(self):
        keys, values, queries = cache(2, 2, 2, 1, 40, 1, 8)
        kept = hb.keep.plan(hb.keep.Recipe(hb.keep.KeyNorm(), 10, FirstHead()), keys, values, queries)
        for layer in range(2):
            for b in range(2):
                norms = -keys[layer, b].norm(dim=-1)
                assert kept[layer][b][0].tolist() == best(norms[0], 15)
                assert kept[layer][b][1].tolist() == best(norms[1], 5)

    def test_what_a_score_protects_stays(self):
        keys, values, queries = cache(1, 1, 2, 1, 40, 1, 8)
        recipe = hb.keep.Recipe(hb.keep.Position(2), 8, FirstHead())
        assert hb.keep.plan(recipe, keys, values, queries)[0][0][1].tolist() == [0, 1, 38, 39]

    def test_generation_goes_on_with_uneven_planes(self, model, lm, monkeypatch):
        spy, prompt = Spy(monkeypatch), ids(60)
        recipe = hb.keep.Recipe(hb.keep.KeyNorm(), 16, FirstHead())
        lm.generate(prompt, keep=recipe, max_new_tokens=2, draft=None)
        assert [plane[:-1] for plane in spy.positions()] == planned(recipe, model, prompt)
        often = replace(recipe, when=hb.keep.EveryTokens(5))
        out = lm.generate(prompt, keep=often, max_new_tokens=12, draft=None)
        assert out.stats.reductions == 3
        assert [len(plane) for plane in spy.positions()] == [25, 9] * LAYERS


class TestReductions:
    def test_arrays(self):
        keys, values, queries = (x.bfloat16() for x in cache(1, 1, 2, 1, 20, 1, 8))
        recipe = hb.keep.Recipe(LargestValue(), 5, reduce=AddMean())
        for head, plane in enumerate(hb.keep.reduce(recipe, keys, values, queries)[0][0]):
            k, v = keys[0, 0, head].float(), values[0, 0, head].float()
            gone = [i for i in range(20) if i not in plane.kept.tolist()]
            assert torch.equal(plane.keys, k[plane.kept])
            assert torch.equal(plane.values, v[plane.kept] + v[gone].mean(0))

    def test_later_tokens_read_what_it_gives(self, model, lm):
        recipe, prompt = hb.keep.Recipe(LargestValue(), 20, reduce=AddMean()), ids(80, seed=5)
        keys, values, queries, token = arrays(model, prompt)
        planes = hb.keep.reduce(recipe, keys, values, queries)
        k, v = (
            [torch.stack([getattr(plane, name) for plane in layer[0]])[None] for layer in planes]
            for name in ("keys", "values")
        )
        want = continued(model, k, v, 80, token, 12)
        assert lm.generate(prompt, keep=recipe, max_new_tokens=12, draft=None).token_ids == want
        dropped = replace(recipe, reduce=hb.keep.Drop())
        assert lm.generate(prompt, keep=dropped, max_new_tokens=12, draft=None).token_ids != want

    def test_one_that_builds_on_another_is_asked(self, lm):
        asked = []

        class Watched(hb.keep.Drop):
            def reduce(self, *arguments):
                asked.append(arguments)
                return super().reduce(*arguments)

        recipe = hb.keep.Recipe(LargestValue(), 20, reduce=Watched())
        lm.generate(ids(40), keep=recipe, max_new_tokens=2, draft=None)
        assert len(asked) == LAYERS * HEADS


class TestMoments:
    @pytest.mark.parametrize("score", [LargestValue(), hb.keep.WindowMass(4)])
    def test_it_is_asked_at_commits(self, lm, score):
        recipe = hb.keep.Recipe(score, 16, when=EverySeventh())
        out = lm.generate(ids(40), keep=recipe, max_new_tokens=17, draft=None)
        assert out.stats.reductions == 3
        assert len(hb.keep.plan(recipe, *cache(1, 1, 1, 1, 20, 20, 4))[0][0][0]) == 16

    def test_it_is_told_of_the_cache(self, model):
        seen = []

        class Never(hb.keep.When):
            def due(self, moment):
                seen.append(moment)
                return False

        lm = hb.LM(model, max_kv_bytes=1 << 24, prefill_rows=16)
        lm.generate(
            ids(40), keep=hb.keep.Recipe(LargestValue(), 8, when=Never()), max_new_tokens=6, draft=None
        )
        assert [moment.prefilled for moment in seen] == [True] + [False] * (len(seen) - 1)
        assert [moment.tokens_since for moment in seen] == list(range(len(seen)))
        assert len(seen) > 3
        assert all(moment.kv_bytes > 0 and moment.byte_budget == lm.tree.max_bytes for moment in seen)
        count = len(seen)

        class AlsoBefore(Never):
            within_prompt = True

        lm = hb.LM(model, prefill_rows=16)
        lm.dense_rows = 8
        lm.generate(ids(40, 1), keep=hb.keep.Recipe(LargestValue(), 8, when=AlsoBefore()), max_new_tokens=1)
        assert [moment.prefilled for moment in seen[count:]][:3] == [False, False, True]

    def test_a_draft_ends_where_its_period_ends(self, lm):
        class Fifth(EverySeventh):
            period = 5

            def due(self, moment):
                assert moment.tokens_since <= 5
                return moment.prefilled or moment.tokens_since == 5

        prompt = ids(10) * 5
        recipe = hb.keep.Recipe(LargestValue(), 30, when=Fifth())
        want = lm.generate(prompt, keep=recipe, max_new_tokens=16, draft=None)
        known = Foresight([prompt + want.token_ids], wrong=60)
        got = lm.generate(prompt, keep=recipe, max_new_tokens=16, draft=known, length=hb.spec.Fixed(6))
        assert got.token_ids == want.token_ids
        assert got.stats.accepted > 6
        assert got.stats.reductions == want.stats.reductions == 3


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("field", "kind", "method"),
        [
            ("score", hb.keep.Score, "scores"),
            ("split", hb.keep.Split, "budgets"),
            ("reduce", hb.keep.Reduce, "reduce"),
            ("when", hb.keep.When, "due"),
        ],
    )
    def test_a_class_without_its_method(self, field, kind, method):
        bare = type("Bare", (kind,), {})
        with pytest.raises(ArgumentError, match=f"Bare has no method {method}"):
            hb.keep.Recipe(**{"score": LargestValue(), "budget": 4, field: bare()})
        with pytest.raises(ArgumentError, match=f"{field} is .*, expected a hornbeam.keep.{kind.__name__}"):
            hb.keep.Recipe(**{"score": LargestValue(), "budget": 4, field: bare})

    def test_a_press_whose_values_are_weighed(self):
        press = hb.integrations.kvpress.PressScore(None)
        with pytest.raises(ArgumentError, match="PressScore, which reads what attention is given"):
            hb.keep.ValueWeighted(press)
        with pytest.raises(ArgumentError, match="norm is 'l3'"):
            hb.keep.ValueWeighted(LargestValue(), "l3")
        with pytest.raises(ArgumentError, match="Bare has no method scores"):
            hb.keep.ValueWeighted(type("Bare", (hb.keep.Score,), {})())

    def test_scores_of_another_shape(self, lm):
        class Wrong(hb.keep.Score):
            def scores(self, keys, values, queries, scale):
                return keys

        recipe, ins = hb.keep.Recipe(Wrong(), 4), cache(2, 1, 2, 1, 9, 1, 4)
        with pytest.raises(ShapeError, match=r"Wrong.scores gave \[2, 1, 2, 9, 4\], expected \[1, 2, 2, 9\]"):
            hb.keep.plan(recipe, *ins)
        with pytest.raises(ShapeError, match=r"Wrong.scores gave"):
            lm.generate(ids(20), keep=recipe, max_new_tokens=2)
        assert lm.tree.stats()["branches"] == 0
        with pytest.raises(ShapeError, match="queries has 1 rows, expected 3, which LastRows reads"):
            hb.keep.plan(hb.keep.Recipe(LastRows(), 4), *ins)
        keys, values, queries = ins
        for bad in ((keys, values[..., :5, :], queries), (keys, values, queries[:, :, :1])):
            with pytest.raises(ShapeError, match="has shape"):
                hb.keep.plan(hb.keep.Recipe(LargestValue(), 4), *bad)

    @pytest.mark.parametrize(
        ("gives", "error", "message"),
        [
            ([4, 4], ShapeError, r"Wrong.budgets gave list, expected \[1, 2\]"),
            (torch.tensor([4, 4]), ShapeError, r"Wrong.budgets gave \[2\], expected \[1, 2\]"),
            (torch.tensor([[4, 5]]), ArgumentError, "expected none below 0, 8 in all"),
            (torch.tensor([[-1, 4]]), ArgumentError, "expected none below 0, 8 in all"),
        ],
    )
    def test_budgets_of_another_shape_or_sum(self, gives, error, message):
        class Wrong(hb.keep.Split):
            def budgets(self, scores, total, protected=(0, 0, 0)):
                return gives

        with pytest.raises(error, match=message):
            hb.keep.plan(hb.keep.Recipe(LargestValue(), 4, Wrong()), *cache(1, 1, 2, 1, 9, 1, 4))

    @pytest.mark.parametrize(
        ("gives", "error", "message"),
        [
            (lambda kept, k, v: (k, v), ArgumentError, "gave tuple, expected hornbeam.keep.Reduced"),
            (
                lambda kept, k, v: hb.keep.Reduced(kept, k, v[kept]),
                ShapeError,
                r"gave shape \[9, 4\], expected \[4, 4\]",
            ),
            (
                lambda kept, k, v: hb.keep.Reduced(kept.flip(0), k[kept], v[kept]),
                ArgumentError,
                "kept other indices",
            ),
        ],
    )
    def test_planes_of_another_shape(self, gives, error, message):
        class Wrong(hb.keep.Reduce):
            def reduce(self, keys, values, scores, kept):
                return gives(kept, keys, values)

        recipe = hb.keep.Recipe(LargestValue(), 4, reduce=Wrong())
        with pytest.raises(error, match=f"Wrong.reduce {message}"):
            hb.keep.reduce(recipe, *cache(1, 1, 2, 1, 9, 1, 4))


def test_names_are_where_they_are_documented():
    for path, name in (
        ("score.key_norm", "KeyNorm"),
        ("split.pyramid", "Pyramid"),
        ("reduce.drop", "Drop"),
        ("when.after_prefill", "AfterPrefill"),
    ):
        kind = path.split(".")[0]
        for module in (f"hornbeam.keep.{path}", f"hornbeam.keep.{kind}", "hornbeam.keep"):
            assert getattr(importlib.import_module(module), name) is getattr(hb.keep, name)
    assert callable(hb.keep.reduce)  # the function, although a package has the name too
    assert hb.keep.score.Score is hb.keep.Score
