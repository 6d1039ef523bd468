"""Likelihoods as rows of steps: each is that of the model, whoever decodes beside it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hornbeam as hb
from hornbeam.engine.likelihood import Scored
from tests import models

PROMPT = models.prompt(45, 4)[0].tolist()


@pytest.fixture(scope="module")
def model() -> Any:
    return models.llama()


def expected(model: Any, prompt: list[int], tokens: list[int]) -> tuple[list[float], bool]:
    """Of every token after the prompt, by one pass of the model over the whole text."""
    with torch.inference_mode():
        values = model(torch.tensor([[*prompt, *tokens]])).logits[0].double().log_softmax(-1)
    rows = values[len(prompt) - 1 : -1]
    own = torch.tensor(tokens)
    return rows.gather(1, own[:, None])[:, 0].tolist(), bool((rows.argmax(-1) == own).all())


def check(model: Any, prompt: list[int], texts: list[list[int]], found: list[hb.results.Likelihood]) -> None:
    assert len(found) == len(texts)
    for tokens, likelihood in zip(texts, found, strict=True):
        logprobs, is_greedy = expected(model, prompt, tokens)
        assert likelihood.token_logprobs == pytest.approx(logprobs, abs=1e-3)
        assert likelihood.total == pytest.approx(sum(logprobs), abs=1e-2)
        assert likelihood.is_greedy == is_greedy


token = st.integers(0, 255)


@settings(max_examples=40, deadline=None)
@given(
    prompt=st.lists(token, min_size=1, max_size=60),
    texts=st.lists(st.lists(st.sampled_from([3, 4, 5]), min_size=1, max_size=5), max_size=6),
    beside=st.booleans(),
    page_tokens=st.sampled_from([1, 4, 16]),
)
def test_any_continuations(
    model: Any, prompt: list[int], texts: list[list[int]], beside: bool, page_tokens: int
) -> None:
    lm = hb.LM(model, page_tokens=page_tokens)
    if beside:
        other = lm.engine.submit(PROMPT, draft=None, max_new_tokens=40)
        lm.engine.step()
    check(model, prompt, texts, lm.score(prompt, texts))
    if beside:
        other.cancel()
    assert lm.tree.stats()["branches"] == 0
    lm.tree.debug_check()


def test_another_request_decodes_in_the_same_steps(model: Any) -> None:
    engine = hb.Engine(model)
    request = engine.submit(PROMPT, draft=None, max_new_tokens=60)
    engine.step()
    engine.step()
    before = len(request.output)
    prompts = [models.prompt(70, seed)[0].tolist() for seed in range(3)]
    texts = [[[1, 2, 3], [4]], [[5, 6]], [[7] * 20]]
    for prompt, own, found in zip(prompts, texts, engine.score(lambda: (prompts, texts)), strict=True):
        check(model, prompt, own, found)
    assert len(request.output) > before
    alone = hb.LM(model).generate(PROMPT, draft=None, max_new_tokens=60)
    assert request.result().token_ids == alone.token_ids


def test_what_differs_in_the_last_token_alone_is_one_request(model: Any, monkeypatch: Any) -> None:
    made = []
    begin = Scored.__init__

    def noted(self: Scored, *arguments: Any, **options: Any) -> None:
        made.append(self)
        begin(self, *arguments, **options)

    monkeypatch.setattr(Scored, "__init__", noted)
    lm = hb.LM(model)
    texts = [[token] for token in range(20)] + [[1, 2], [1, 3], [1, 2]]
    check(model, PROMPT, texts, lm.score(PROMPT, texts))
    assert len(made) == 2
    assert lm.score(PROMPT, [[1, 2]])[0] == lm.score(PROMPT, [[1, 2], [1, 2]])[1]


def test_a_prompt_is_read_once(model: Any) -> None:
    lm = hb.LM(model)
    rows = []
    forward = lm.engine.forward

    def counted(step: Any, **options: Any) -> Any:
        rows.append(step.num_rows)
        return forward(step, **options)

    lm.engine.forward = counted
    lm.score(PROMPT, [[1, 2, 3], [4, 5, 6], [7, 8]])
    assert sum(rows) == len(PROMPT) + 2 + (1 + 2) + (1 + 1)
    assert len(rows) == 2


def test_the_weights_change_between_two_steps(model: Any) -> None:
    """What was read before is read anew."""
    model = models.llama()
    lm = hb.LM(model, prefill_rows=16)
    lm.engine.dense_rows = 8
    forward = lm.engine.forward
    changed = []

    def changing(step: Any, **options: Any) -> Any:
        output = forward(step, **options)
        if not changed:
            changed.append(True)
            with torch.no_grad():
                model.model.layers[0].mlp.down_proj.weight.mul_(1.5)
        return output

    lm.engine.forward = changing
    texts = [[1, 2, 3], [4, 5]]
    check(model, PROMPT, texts, lm.score(PROMPT, texts))


def test_a_pass_that_fails_leaves_nothing(model: Any) -> None:
    lm = hb.LM(model)

    def failing(step: Any, **options: Any) -> Any:
        raise RuntimeError("no pass")

    forward, lm.engine.forward = lm.engine.forward, failing
    with pytest.raises(RuntimeError, match="no pass"):
        lm.score(PROMPT, [[1, 2], [3]])
    assert lm.engine.requests == []
    assert lm.tree.stats()["branches"] == 0
    lm.engine.forward = forward
    check(model, PROMPT, [[1, 2], [3]], lm.score(PROMPT, [[1, 2], [3]]))


def test_with_little_memory(model: Any) -> None:
    lm = hb.LM(model, page_tokens=4)
    lm = hb.LM(model, page_tokens=4, max_kv_bytes=20 * lm.tree.slab_bytes)
    texts = [[token, 2, 3, 4, 5, 6, 7] for token in range(9)]
    check(model, PROMPT, texts, lm.score(PROMPT, texts))
    assert lm.tree.stats()["branches"] == 0
