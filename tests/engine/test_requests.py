"""Requests of an engine: each gets the text that it gets alone, whatever happens to the others."""

from __future__ import annotations

import gc
import inspect
from typing import Any

import pytest
import torch

import hornbeam as hb
from hornbeam.engine.host import Host, HostKeywords
from hornbeam.errors import ArgumentError, StateError
from tests import models
from tests.engine.requests import OTHER, PROMPT, RECYCLING, SAMPLING, finished, text


def test_requests_with_different_settings_share_steps(model: Any, engine: hb.Engine) -> None:
    settings: list[dict[str, Any]] = [
        {"draft": None},
        {"seed": 3, **SAMPLING},
        {"seed": 4, **SAMPLING, **RECYCLING},
        {"temperature": 1.2, "min_p": 0.02, "draft": None},
        {"warp": hb.Warp(temperature=0.7, repetition_penalty=1.3), **RECYCLING},
        {"logits_processor": lambda ids, scores: scores.index_fill(1, ids[0, -3:], -torch.inf)},
        {"keep": hb.recipes.knorm(budget="50%"), "draft": None},
        {"keep": hb.recipes.snap_kv(budget="40%"), **RECYCLING},
        {"draft": hb.spec.LayerSkip(exit_layer=1), "length": hb.spec.Fixed(3), **SAMPLING},
    ]
    requests = [
        engine.submit(PROMPT if i % 2 else OTHER, max_new_tokens=16, **own) for i, own in enumerate(settings)
    ]
    steps = 0
    while engine.requests:
        assert engine.step()
        steps += 1
    assert steps <= 2 * 17, "they do not wait for each other"
    for i, (request, own) in enumerate(zip(requests, settings, strict=True)):
        assert request.result().token_ids == text(model, PROMPT if i % 2 else OTHER, **own)
    finished(engine, requests)


def test_a_request_comes_while_others_decode(model: Any, engine: hb.Engine) -> None:
    first = engine.submit(PROMPT, max_new_tokens=16, draft=None)
    for _ in range(4):
        engine.step()
    long = models.prompt(150, 8)[0].tolist()
    second = engine.submit(long, max_new_tokens=8, **SAMPLING)
    before = len(first.output)
    events = engine.step()
    assert {event.request for event in events} == {first, second}, "one pass for both"
    assert len(first.output) == before + 1
    assert first.result().token_ids == text(model)
    assert second.result().token_ids == text(model, long, max_new_tokens=8, **SAMPLING)
    finished(engine, [first, second])


def test_keywords_of_models_are_declared_once(model: Any) -> None:
    """Those of ``LM`` and ``Engine`` are handed through to where they are used."""
    parameters = inspect.signature(Host.__init__).parameters.values()
    keywords = {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}
    assert keywords == set(HostKeywords.__annotations__)
    for made in (hb.LM, hb.Engine):
        assert made(model, page_tokens=4, prefill_rows=12).tree.page_tokens == 4
        with pytest.raises(TypeError, match="page_size"):
            made(model, page_size=4)


def test_events_tell_what_a_step_did(engine: hb.Engine) -> None:
    request = engine.submit(PROMPT, max_new_tokens=3, draft=None)
    events = [event for _ in range(3) for event in engine.step()]
    assert [piece.token for event in events for piece in event.pieces] == request.output
    assert [event.finish_reason for event in events] == [None, None, "length"]
    assert engine.step() == []


def test_no_new_tokens(engine: hb.Engine) -> None:
    request = engine.submit(PROMPT, max_new_tokens=0)
    assert request.done
    assert (request.result().token_ids, request.result().finish_reason) == ([], "length")


class TestPauseAndCancel:
    def test_a_paused_request_stands_still(self, model: Any, engine: hb.Engine) -> None:
        request, other = (engine.submit(PROMPT, max_new_tokens=16, draft=None) for _ in range(2))
        engine.step()
        engine.step()
        request.pause()
        with pytest.raises(StateError, match="paused"):
            request.result()
        other.result()
        assert len(request.output) < 3
        assert engine.step() == []
        request.resume()
        assert request.result().token_ids == text(model)

    @pytest.mark.parametrize(
        "own", [{"draft": None}, {"draft": "ngram", "length": hb.spec.Fixed(6)}, SAMPLING]
    )
    def test_a_request_pauses_at_a_length(self, model: Any, engine: hb.Engine, own: dict[str, Any]) -> None:
        request = engine.submit(PROMPT * 3, max_new_tokens=16, **own)
        for at, release in ((0, True), (3, False), (4, True), (4, False), (9, False), (2, True)):
            request.pause(at)
            while engine.step():
                pass
            assert request.is_paused
            assert len(request.output) == max(at, 9 if at == 2 else 0), "not a token beyond"
            request.pause(at, release=release)
            assert request.is_closed or not release
        request.pause(99)
        with pytest.raises(StateError, match="release is True for a request that goes on to 99 tokens"):
            request.pause(99, release=True)
        assert request.result().token_ids == text(model, PROMPT * 3, **own)
        with pytest.raises(ArgumentError, match="at is -1"):
            engine.submit(PROMPT).pause(-1)

    def test_a_cancelled_request_keeps_what_there_is(self, engine: hb.Engine) -> None:
        request = engine.submit(PROMPT, max_new_tokens=16, draft=None)
        for _ in range(3):
            engine.step()
        request.cancel()
        request.cancel()
        assert (request.result().finish_reason, len(request.result().token_ids)) == ("cancelled", 3)
        for act in (request.pause, request.resume, request.fork, lambda: request.extend([1])):
            with pytest.raises(StateError):
                act()
        finished(engine, [request])

    def test_release_is_of_what_is_done(self, engine: hb.Engine) -> None:
        request = engine.submit(PROMPT, max_new_tokens=2)
        with pytest.raises(StateError, match="not done"):
            request.release()
        request.result()
        assert engine.tree.stats()["branches"] == 1
        request.release()
        assert engine.tree.stats()["branches"] == 0

    def test_a_finished_request_that_nobody_holds_is_released(self, engine: hb.Engine) -> None:
        engine.submit(PROMPT, max_new_tokens=2, draft=None).result()
        gc.collect()
        assert engine.tree.stats()["branches"] == 0


class TestExtend:
    @pytest.mark.parametrize("options", [{"draft": None}, {**SAMPLING, **RECYCLING}])
    def test_is_a_prompt_of_all_that_was(
        self, model: Any, engine: hb.Engine, options: dict[str, Any]
    ) -> None:
        request = engine.submit(PROMPT, max_new_tokens=9, **options)
        first = request.result().token_ids
        more = [5, 6, 7, 8]
        answer = request.extend(more, max_new_tokens=12).result()
        assert answer.token_ids == text(model, [*PROMPT, *first, *more], **{**options, "max_new_tokens": 12})
        assert answer.stats.reused_tokens == len(PROMPT) + len(first) - 1
        third = request.extend([9]).result()
        assert len(third.token_ids) == 12

    def test_goes_on_with_what_the_cache_keeps(self, model: Any, engine: hb.Engine) -> None:
        request = engine.submit(OTHER, max_new_tokens=9, keep=hb.recipes.knorm(budget=12), draft=None)
        request.result()
        assert request.stats.reductions == 1
        answer = request.extend([5, 6, 7], max_new_tokens=6).result()
        assert answer.stats.reductions == 1
        assert int(request.branch.stats()["keys"]) < 30
        assert answer.token_ids != text(model, request.prompt, max_new_tokens=6)

    @pytest.mark.parametrize("keep", [None, hb.recipes.knorm(budget="50%")])
    def test_after_the_model_has_changed(self, keep: Any) -> None:
        model = models.llama(seed=3)
        engine = hb.Engine(model)
        request = engine.submit(PROMPT, max_new_tokens=5, draft=None, keep=keep)
        first = request.result().token_ids
        with torch.no_grad():
            model.model.layers[0].self_attn.k_proj.weight.mul_(-1.5)
        engine.submit(OTHER, max_new_tokens=2, draft=None).result()  # a step that has seen the change
        if keep is not None:
            with pytest.raises(StateError, match="the model has changed"):
                request.extend([5, 6])
            return
        answer = request.extend([5, 6], max_new_tokens=8).result()
        assert answer.token_ids == text(model, [*PROMPT, *first, 5, 6], max_new_tokens=8)
        assert answer.stats.reused_tokens == 0

    def test_a_chat_goes_on_with_messages(self, model: Any) -> None:
        tokenizer = models.byte_tokenizer()
        engine = hb.Engine(model, tokenizer)
        chat = [{"role": "user", "content": "Hello"}]
        letters = tokenizer("abcdefgh ", add_special_tokens=False)["input_ids"]
        allowed = torch.full((256,), -torch.inf).index_fill(0, torch.tensor(letters), 0.0)
        options: dict[str, Any] = {
            "draft": None,
            "eos_token_id": [],
            "logits_processor": lambda _, scores: scores + allowed,
        }
        request = engine.submit(chat, max_new_tokens=9, **options)
        first = request.result()
        question = [{"role": "user", "content": "And then?"}]
        answer = request.extend(question, max_new_tokens=5).result()
        spoken = [*chat, {"role": "assistant", "content": first.text}, *question]
        whole = hb.LM(model, tokenizer).generate(spoken, max_new_tokens=5, **options)
        assert answer.token_ids == whole.token_ids
        assert answer.stats.prompt_tokens == whole.stats.prompt_tokens
        assert answer.stats.reused_tokens == first.stats.prompt_tokens + 8
        request = engine.submit("text", max_new_tokens=2)
        request.result()
        with pytest.raises(ArgumentError, match="began with messages"):
            request.extend(question)

    def test_what_cannot_be_extended(self, engine: hb.Engine) -> None:
        request = engine.submit(PROMPT, max_new_tokens=4)
        with pytest.raises(StateError, match="done"):
            request.extend([1])
        request.result()
        with pytest.raises(ArgumentError, match="513"):
            request.extend([1] * (513 - len(PROMPT) - 4))
        with pytest.raises(ArgumentError, match="empty"):
            request.extend([])
        request.release()
        with pytest.raises(StateError, match="released"):
            request.extend([1])
        request = engine.submit(PROMPT, max_new_tokens=2, logprobs=0, echo=True)
        request.result()
        with pytest.raises(ArgumentError, match="echo=True"):
            request.extend([1])


def test_settings_of_torch_are_those_at_submit(model: Any, engine: hb.Engine) -> None:
    plain, right = engine.submit(PROMPT, max_new_tokens=8, draft=None), text(model, max_new_tokens=8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = engine.submit(PROMPT, max_new_tokens=8, draft=None, logprobs=0)
        assert plain.result().token_ids == right
    out = cast.result()
    exact = engine.submit(PROMPT, max_new_tokens=8, draft=None, logprobs=0).result()
    assert out.logprobs is not None
    assert exact.logprobs is not None
    assert exact.token_ids == right
    assert out.logprobs[0].logprob != pytest.approx(exact.logprobs[0].logprob, abs=1e-7)
    assert not torch.is_autocast_enabled("cpu")
