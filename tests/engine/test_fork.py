"""Forks of requests: child 0 goes on as the request would have, whatever the draft and at any step."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch

import hornbeam as hb
from hornbeam.engine.random_key import RandomKey
from hornbeam.errors import StateError
from hornbeam.keep.when import EveryTokens
from tests import models
from tests.engine.requests import OTHER, PROMPT, RECYCLING, SAMPLING, finished, text
from tests.heads import drawing_draft


class TestFork:
    """Child 0 goes on as the request would have; the others on their own."""

    @pytest.mark.parametrize("before", [0, 1, 2, 5, 9])
    @pytest.mark.parametrize(
        "options",
        [
            {**SAMPLING, "draft": None},
            {**SAMPLING, **RECYCLING},
            {"warp": hb.Warp(temperature=0.9, frequency_penalty=0.4), **RECYCLING},
            {**SAMPLING, "keep": hb.recipes.knorm(budget="50%")},
            {
                **SAMPLING,
                **RECYCLING,
                "keep": hb.keep.Recipe(hb.recipes.h2o(16).score, 16, when=EveryTokens(3)),
            },
        ],
    )
    def test_at_any_step(self, model: Any, engine: hb.Engine, options: dict[str, Any], before: int) -> None:
        request = engine.submit(PROMPT, max_new_tokens=16, **options)
        for _ in range(before):
            engine.step()
        shared = list(request.output)
        children = request.fork(3)
        texts = [child.result().token_ids for child in children]
        assert texts[0] == text(model, **options)
        assert all(own[: len(shared)] == shared for own in texts)
        assert len({tuple(own) for own in texts}) == 3
        with pytest.raises(StateError, match="fork"):
            request.result()
        again = engine.submit(PROMPT, max_new_tokens=16, **{**options, "draft": None})
        while len(again.output) < len(shared) or (before and not again.output):
            engine.step()
        assert [child.result().token_ids for child in again.fork(3)] == texts
        gc.collect()
        finished(engine, children)

    @pytest.mark.parametrize("kind", ["small", "layer_skip", "feature_head"])
    @pytest.mark.parametrize("whole", [False, True])
    def test_of_every_kind_of_draft(
        self, model: Any, engine: hb.Engine, kind: str, whole: bool, tmp_path: Path
    ) -> None:
        draft = drawing_draft(kind, model, hb.spec.shape.Chain(3), tmp_path)
        draft = hb.spec.Union(hb.spec.Suffix(), draft) if whole else draft
        options: dict[str, Any] = {"draft": draft, "length": hb.spec.Fixed(3), "seed": 3, **SAMPLING}
        request = engine.submit(PROMPT, max_new_tokens=16, **options)
        for _ in range(3):
            engine.step()
        left, right = request.fork(2)
        engine.step()
        third, fourth = right.fork(2)
        texts = [child.result() for child in (left, third, fourth)]
        assert texts[0].token_ids == text(model, seed=3, **SAMPLING)
        assert len({tuple(own.token_ids) for own in texts}) == 3
        assert all(own.stats.drafted > 0 for own in texts)

    def test_in_the_middle_of_a_character(self, model: Any) -> None:
        tokenizer = models.byte_tokenizer()
        # Only bytes of characters of three bytes: the text is certain with every third.
        allowed = torch.full((256,), -torch.inf)
        spoken = tokenizer("\u20ac\u20b9\u20bd\u20ba", add_special_tokens=False)["input_ids"]
        engine = hb.Engine(model, tokenizer)

        def processor(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            at = (ids.shape[1] - len(PROMPT)) % 3
            allowed.fill_(-torch.inf)
            allowed[spoken[at::3]] = 0.0
            return scores + allowed

        options: dict[str, Any] = {"max_new_tokens": 12, "logits_processor": processor, **SAMPLING}
        for before in range(1, 9):
            request = engine.submit(PROMPT, draft=None, **options)
            while len(request.output) < before:
                engine.step()
            shown = "".join(chunk.text for chunk in request.chunks())
            assert len(shown) == before // 3
            for child in request.fork(2):
                text = child.result().text
                assert shown + "".join(chunk.text for chunk in child.chunks()) == text
                assert len(text) == 4
                assert "\ufffd" not in text

    def test_counts_are_of_each_alone(self, model: Any, engine: hb.Engine) -> None:
        request = engine.submit(PROMPT, max_new_tokens=16, **SAMPLING, draft=None)
        while len(request.output) < 4:
            engine.step()
        seconds = dict(request.stats.seconds)
        left, right = request.fork(2)
        right.pause()
        assert len(left.result().token_ids) == 16
        assert [own.stats.emitted for own in (request, left, right)] == [4, 16, 4]
        assert [own.stats.forward_passes for own in (request, left, right)] == [3, 15, 3]
        assert request.stats.seconds == right.stats.seconds == seconds != left.stats.seconds
        right.resume()
        assert right.result().stats.emitted == 16
        assert (request.stats.emitted, left.stats.emitted) == (4, 16)

    def test_keys_are_all_different(self) -> None:
        keys, seen = [RandomKey(number) for number in range(4)], set()
        for _ in range(2500):
            key = keys.pop(0)
            children = key.fork(5)
            assert (children[0].number, children[0].seed(7)) == (key.number, key.seed(7))
            seen.update((child.number, child.seed(7)) for child in children[1:])
            keys.extend(children)
        assert len(seen) == 10_000

    def test_of_a_fork_and_of_what_waits(self, model: Any, engine: hb.Engine) -> None:
        request = engine.submit(OTHER, max_new_tokens=12, **SAMPLING, draft=None)
        first, second = request.fork(2)
        engine.step()
        third, fourth = second.fork(2)
        texts = [child.result().token_ids for child in (first, third, fourth)]
        assert texts[0] == text(model, OTHER, max_new_tokens=12, **SAMPLING)
        assert len({tuple(own) for own in texts}) == 3
