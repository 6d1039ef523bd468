"""Requests that fail, and threads: the others go on, and nothing is left of those that ended."""

from __future__ import annotations

import functools
import threading
from typing import Any

import pytest

import hornbeam as hb
from tests import models
from tests.engine.requests import OTHER, PROMPT, RECYCLING, SAMPLING, Boom, finished, text


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
