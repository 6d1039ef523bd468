"""Requests with recipes side by side: what one holds back for another's sake, and whose an error is."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import hornbeam as hb
from tests import models

PROMPT = models.prompt(60, 4)[0].tolist()
WINDOW = hb.recipes.snap_kv(budget=16, window=8)


class RefusesLong(hb.keep.Score):
    """A score in Python that fails for prompts of more than 80 tokens."""

    def scores(self, keys: torch.Tensor, values: Any, queries: Any, scale: float) -> torch.Tensor:
        if keys.shape[3] > 80:
            raise RuntimeError("too long")
        return keys.norm(dim=-1).transpose(0, 1)


@pytest.fixture(scope="module")
def model() -> Any:
    return models.llama()


@pytest.fixture
def engine(model: Any) -> hb.Engine:
    return hb.Engine(model, page_tokens=4)


def alone(model: Any, prompt: list[int], recipe: hb.keep.Recipe) -> list[int]:
    lm = hb.LM(model, page_tokens=4)
    return lm.generate(prompt, keep=recipe, max_new_tokens=8, draft=None).token_ids


def test_one_decodes_while_the_prompt_of_another_is_read(model: Any) -> None:
    """The one has no use for its queries, the other has; two prompts are the same."""
    prompts = [models.prompt(n, seed)[0].tolist() for n, seed in ((40, 1), (110, 2), (7, 3), (40, 1))]
    outs = hb.LM(model, page_tokens=4).generate(prompts, keep=WINDOW, max_new_tokens=8, draft=None)
    assert [out.token_ids for out in outs] == [alone(model, prompt, WINDOW) for prompt in prompts]
    assert [out.stats.reductions for out in outs] == [1, 1, 0, 1]


def test_one_that_waited_for_a_request_that_is_gone_goes_on(model: Any, engine: hb.Engine) -> None:
    first, second = (
        engine.submit(PROMPT, max_new_tokens=8, keep=WINDOW, draft=None, seed=seed) for seed in (1, 2)
    )
    engine.step()
    assert first.keeper is not None
    assert first.keeper.is_awaiting(first)  # the other takes up its pages first
    second.cancel()
    assert first.result().token_ids == alone(model, PROMPT, WINDOW)
    assert first.stats.reductions == 1
    first.release()
    second.release()
    assert engine.tree.stats()["branches"] == 0


def test_a_score_that_fails_ends_its_own_request_alone(model: Any, engine: hb.Engine) -> None:
    recipe = hb.keep.Recipe(RefusesLong(), 16)
    long = PROMPT + models.prompt(60, 5)[0].tolist()
    requests = [
        engine.submit(prompt, max_new_tokens=8, keep=recipe, draft=None) for prompt in (PROMPT, long, PROMPT)
    ]
    while engine.step():
        pass
    assert [request.error is None for request in requests] == [True, False, True]
    assert "too long" in str(requests[1].error)
    for request in (requests[0], requests[2]):
        assert request.result().token_ids == alone(model, PROMPT, recipe)
    for request in requests:
        request.release()
    assert engine.tree.stats()["branches"] == 0


def test_a_failure_before_a_step_is_told(engine: hb.Engine) -> None:
    """The reduction that was put off comes when the other has gone, between two steps."""
    long = PROMPT + models.prompt(60, 5)[0].tolist()
    recipe = hb.keep.Recipe(RefusesLong(), 16)
    first, second = (engine.submit(long, max_new_tokens=8, keep=recipe, draft=None) for _ in range(2))
    engine.step()
    assert first.keeper is not None
    assert first.keeper.is_awaiting(first)
    second.cancel()
    [event] = [event for event in engine.step() if event.request is first]
    assert "too long" in str(event.error)
    assert not engine.step()
    for request in (first, second):
        request.release()
    assert engine.tree.stats()["branches"] == 0
