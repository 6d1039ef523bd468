"""What callers read of requests: streams, several samples, log-probabilities and scores."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
import torch

import hornbeam as hb
from hornbeam.errors import ArgumentError
from tests.engine.requests import OTHER, PROMPT, RECYCLING, SAMPLING, Boom, text


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
