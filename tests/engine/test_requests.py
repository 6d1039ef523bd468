"""Requests of an engine: each gets the text that it gets alone, whatever happens to the others."""

from __future__ import annotations

import asyncio
import functools
import gc
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

import hornbeam as hb
from hornbeam.engine.random_key import RandomKey
from hornbeam.engine.request import Request
from hornbeam.errors import ArgumentError, StateError
from hornbeam.keep.when import EveryTokens
from tests import models
from tests.heads import drawing_draft

PROMPT = models.prompt(21, 4)[0].tolist()
OTHER = models.prompt(34, 5)[0].tolist()
SAMPLING = {"temperature": 0.9, "top_k": 40}
RECYCLING = {"draft": hb.spec.TokenRecycling(size=8, width=3, depth=3), "length": hb.spec.Fixed(8)}


@pytest.fixture(scope="module")
def model() -> Any:
    return models.llama()


@pytest.fixture
def engine(model: Any) -> hb.Engine:
    return hb.Engine(model)


def text(model: Any, prompt: list[int] = PROMPT, **options: Any) -> list[int]:
    return hb.LM(model).generate(prompt, **{"draft": None, "max_new_tokens": 16, **options}).token_ids


def finished(engine: hb.Engine, requests: list[Request]) -> None:
    """Nothing is left of them."""
    for request in requests:
        if request.done:
            request.release()
    assert engine.requests == []
    engine.tree.debug_check()
    assert engine.tree.stats()["branches"] == 0


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


class Boom(Exception):
    pass


class TestFailures:
    """What fails is one request."""

    @pytest.mark.parametrize("what", ["logits_processor", "stopping_criterion", "draft"])
    @pytest.mark.parametrize("at", [1, 4])
    def test_the_others_go_on(self, model: Any, engine: hb.Engine, what: str, at: int) -> None:
        calls = [0]

        def fail(*arguments: Any) -> Any:
            calls[0] += 1
            if calls[0] == at:
                raise Boom
            return arguments[1] if what == "logits_processor" else False

        class Source:
            def start(self, prompt: Any) -> Any:
                return self

            def extend(self, tokens: Any) -> None:
                return

            def propose(self, pending: Any, most: int) -> Any:
                fail()
                return hb.spec.NGram().start([1]).propose(pending, most)

        others = [engine.submit(prompt, max_new_tokens=16, **RECYCLING) for prompt in (PROMPT, OTHER)]
        option = Source() if what == "draft" else fail
        options = {what: option} if what == "draft" else {what: option, "draft": None}
        bad = engine.submit(PROMPT[:9], max_new_tokens=16, **{"length": hb.spec.Fixed(2), **options})
        with pytest.raises(Boom):
            bad.result()
        for request, prompt in zip(others, (PROMPT, OTHER), strict=True):
            assert request.result().token_ids == text(model, prompt)
        finished(engine, others)

    def test_an_error_of_the_model_ends_all_of_the_step(self, model: Any, engine: hb.Engine) -> None:
        requests = [engine.submit(prompt, max_new_tokens=16, draft=None) for prompt in (PROMPT, OTHER)]
        engine.step()
        waiting = engine.submit(PROMPT[:5], max_new_tokens=4, draft=None)
        waiting.pause()
        calls = [0]

        def fail(*_: Any) -> None:
            calls[0] += 1
            if calls[0] == 2:
                raise Boom

        handle = model.model.layers[1].register_forward_pre_hook(fail)
        try:
            for request in requests:
                with pytest.raises(Boom):
                    request.result()
        finally:
            handle.remove()
        waiting.resume()
        assert waiting.result().token_ids == text(model, PROMPT[:5], max_new_tokens=4)
        finished(engine, [waiting])

    def test_an_interrupt_leaves_the_others_going_on(self, model: Any, engine: hb.Engine) -> None:
        lm = hb.LM(model)
        lm.engine = engine
        other = engine.submit(OTHER, max_new_tokens=16, **SAMPLING, **RECYCLING)
        seen = []

        def fail(*_: Any) -> None:
            seen.append(1)
            if len(seen) == 5:
                raise KeyboardInterrupt

        handle = model.model.layers[1].register_forward_pre_hook(fail)
        out = lm.generate(PROMPT, max_new_tokens=16, draft=None)
        handle.remove()
        assert out.finish_reason == "interrupted"
        assert out.token_ids == text(model)[: len(out.token_ids)]
        assert other.result().token_ids == text(model, OTHER, **SAMPLING)
        finished(engine, [other])

    def test_memory_for_one_at_a_time(self, model: Any) -> None:
        slab = hb.LM(model).tree.slab_bytes
        engine = hb.Engine(model, max_kv_bytes=9 * slab)
        prompts = [models.prompt(70, seed)[0].tolist() for seed in range(4)]
        requests = [engine.submit(prompt, max_new_tokens=16, draft=None) for prompt in prompts]
        for request, prompt in zip(requests, prompts, strict=True):
            assert request.result().token_ids == text(model, prompt)
            request.release()
        finished(engine, [])


class TestStream:
    def test_shows_what_generate_answers(self, model: Any) -> None:
        lm = hb.LM(model)
        chunks = list(lm.stream(PROMPT, max_new_tokens=16, **SAMPLING))
        assert [token for chunk in chunks for token in chunk.token_ids] == text(model, **SAMPLING)
        assert lm.tree.stats()["branches"] == 0

    def test_an_early_break_frees_everything(self, model: Any) -> None:
        lm = hb.LM(model)
        for _ in lm.stream(PROMPT, max_new_tokens=16):
            break
        gc.collect()
        assert lm.engine.requests == []
        assert lm.tree.stats()["branches"] == 0
        with lm.stream(PROMPT, max_new_tokens=16) as stream:
            next(stream)
        assert stream.request.result().finish_reason == "cancelled"

    def test_as_an_async_iterator(self, model: Any) -> None:
        lm = hb.LM(model)

        async def read(prompt: list[int], most: int) -> list[int]:
            stream = lm.stream(prompt, max_new_tokens=16, draft=None)
            tokens: list[int] = []
            async for chunk in stream:
                tokens += chunk.token_ids
                if len(tokens) >= most:
                    await stream.aclose()
                    break
            return tokens

        async def both() -> list[list[int]]:
            return await asyncio.gather(read(PROMPT, 99), read(OTHER, 99), read(OTHER, 3))

        texts = asyncio.run(both())
        assert texts == [text(model), text(model, OTHER), text(model, OTHER)[:3]]
        assert lm.engine.requests == []

    def test_an_error_is_raised_where_it_is_read(self, model: Any) -> None:
        def fail(*_: Any) -> Any:
            raise Boom

        stream = hb.LM(model).stream(PROMPT, logits_processor=fail)
        with pytest.raises(Boom):
            next(stream)


def test_sixteen_threads_on_one_lm(model: Any) -> None:
    lm = hb.LM(model)
    settings = [{"seed": seed % 3, **SAMPLING, **(RECYCLING if seed % 2 else {})} for seed in range(16)]
    right = [text(model, OTHER[seed % 4 :], **own) for seed, own in enumerate(settings)]
    seen: dict[int, list[list[int]]] = {seed: [] for seed in range(16)}

    def work(seed: int) -> None:
        for _ in range(3):
            out = lm.generate(OTHER[seed % 4 :], max_new_tokens=16, **settings[seed])
            seen[seed].append(out.token_ids)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(seen[seed] == [right[seed]] * 3 for seed in range(16))
    assert lm.tree.stats()["branches"] == 0


def test_a_callback_that_fails_beside_other_threads(model: Any) -> None:
    """The calls of the others do not meet a request that is closed within their step."""
    lm, right = hb.LM(model), text(model, OTHER, **SAMPLING)
    seen: list[bool] = []

    def fail(*_: Any) -> None:
        raise Boom

    def note(shown: list[int], _text: str, tokens: list[int], _source: str) -> None:
        shown.extend(tokens)

    def work() -> None:
        for _ in range(6):
            shown: list[int] = []
            stream = functools.partial(note, shown)
            out = lm.generate(OTHER, max_new_tokens=16, draft=None, stream=stream, **SAMPLING)
            seen.append(out.token_ids == right == shown)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    failures = 0
    while any(thread.is_alive() for thread in threads):
        with pytest.raises(Boom):
            lm.generate(PROMPT, max_new_tokens=16, draft=None, stream=fail)
        failures += 1
    assert failures > 0
    assert seen == [True] * 18
    assert lm.engine.requests == []
    assert lm.tree.stats()["branches"] == 0


def test_a_call_from_inside_a_callback(model: Any) -> None:
    lm, inner = hb.LM(model), []

    def stream(_text: str, tokens: list[int], _source: str) -> None:
        inner.append(lm.generate(OTHER, max_new_tokens=4, draft=None).token_ids)

    out = lm.generate(PROMPT, max_new_tokens=6, draft=None, stream=stream)
    assert out.token_ids == text(model, max_new_tokens=6)
    assert inner == [text(model, OTHER, max_new_tokens=4)] * 6


class TestSamples:
    @pytest.mark.parametrize("draft", [{"draft": None}, RECYCLING])
    def test_are_those_of_equal_prompts(self, model: Any, draft: dict[str, Any]) -> None:
        lm = hb.LM(model)
        outs = lm.generate(PROMPT, n=8, max_new_tokens=12, seed=5, **SAMPLING, **draft)
        listed = hb.LM(model).generate([PROMPT] * 8, max_new_tokens=12, seed=5, **SAMPLING, **draft)
        assert [out.token_ids for out in outs] == [out.token_ids for out in listed]
        assert len({tuple(out.token_ids) for out in outs}) == 8
        assert [out.stats.reused_tokens for out in outs] == [0] + 7 * [len(PROMPT) - 1]

    def test_of_several_prompts(self, model: Any) -> None:
        lm = hb.LM(model)
        outs = lm.generate([PROMPT, OTHER], n=2, max_new_tokens=5, **SAMPLING)
        alone = [lm.generate(prompt, n=2, max_new_tokens=5, **SAMPLING) for prompt in (PROMPT, OTHER)]
        assert [[out.token_ids for out in own] for own in outs] == [
            [out.token_ids for out in own] for own in alone
        ]
        with pytest.raises(ArgumentError, match="n is 0"):
            lm.generate(PROMPT, n=0)


class TestLogprobs:
    def entries(self, model: Any, prompt: list[int], output: list[int], count: int) -> list[Any]:
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *output]])).logits[0].float()
        values = torch.log_softmax(logits, -1)
        return [
            (token, float(row[token]), torch.topk(row, count).indices.tolist())
            for token, row in zip([*prompt[1:], *output], values, strict=False)
        ]

    @pytest.mark.parametrize(
        "draft", [{"draft": None}, RECYCLING, {"draft": hb.spec.LayerSkip(exit_layer=1)}]
    )
    @pytest.mark.parametrize("options", [{}, SAMPLING])
    def test_are_those_of_the_model(self, model: Any, draft: dict[str, Any], options: dict[str, Any]) -> None:
        lm = hb.LM(model)
        lm.generate(PROMPT, max_new_tokens=4)
        out = lm.generate(PROMPT, max_new_tokens=12, logprobs=3, echo=True, **draft, **options)
        assert out.prompt_logprobs is not None
        assert out.logprobs is not None
        assert out.prompt_logprobs[0] is None
        found = [*out.prompt_logprobs[1:], *out.logprobs]
        right = self.entries(model, PROMPT, out.token_ids, 3)
        assert len(found) == len(right)
        for entry, (token, logprob, top) in zip(found, right, strict=True):
            assert entry is not None
            assert entry.token_id == token
            assert entry.logprob == pytest.approx(logprob, abs=2e-4)
            assert [token for token, _ in entry.top] == top

    def test_end_with_the_text(self, model: Any) -> None:
        tokens = text(model)
        out = hb.LM(model).generate(
            PROMPT, max_new_tokens=16, logprobs=0, eos_token_id=tokens[5], **RECYCLING
        )
        assert out.logprobs is not None
        assert [entry.token_id for entry in out.logprobs] == out.token_ids == tokens[:6]
        assert all(entry.top == [] for entry in out.logprobs)
        assert hb.LM(model).generate(PROMPT, max_new_tokens=2).logprobs is None

    def test_of_prompts_in_several_passes(self, model: Any) -> None:
        lm = hb.LM(model)
        lm.prefill_rows, lm.dense_rows = 12, 8
        whole = hb.LM(model).generate(OTHER, max_new_tokens=2, logprobs=1, echo=True).prompt_logprobs
        parts = lm.generate(OTHER, max_new_tokens=2, logprobs=1, echo=True).prompt_logprobs
        assert whole is not None
        assert parts is not None
        assert len(parts) == len(OTHER) == len(whole)
        for a, b in zip(parts[1:], whole[1:], strict=True):
            assert a is not None
            assert b is not None
            assert a.token_id == b.token_id
            assert a.logprob == pytest.approx(b.logprob, abs=1e-4)

    def test_bad_options(self, model: Any) -> None:
        with pytest.raises(ArgumentError, match="logprobs is -1"):
            hb.LM(model).generate(PROMPT, logprobs=-1)
        with pytest.raises(ArgumentError, match="echo"):
            hb.LM(model).generate(PROMPT, echo=True)


def test_scores_of_many_prompts(model: Any) -> None:
    lm = hb.LM(model)
    greedy = text(model, max_new_tokens=3)
    both = lm.score([PROMPT, OTHER], [[greedy, [1, 2], greedy[:1]], [[3]]])
    assert [len(own) for own in both] == [3, 1]
    assert [own.is_greedy for own in both[0]] == [True, False, True]
    for own, right in zip(both[0], lm.score(PROMPT, [greedy, [1, 2], greedy[:1]]), strict=True):
        assert own.token_logprobs == pytest.approx(right.token_logprobs, abs=1e-4)


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
