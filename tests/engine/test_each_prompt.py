"""Processors that keep state: one for each sequence, asked in order, and never twice."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from transformers.generation.logits_process import (
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
)

import hornbeam as hb
from hornbeam.engine.processors import is_pure
from hornbeam.errors import ArgumentError
from tests import models
from tests.drafts import Foresight

PROMPTS = [models.prompt(n, n)[0].tolist() for n in (5, 12, 9)]
SAMPLING: dict[str, Any] = {"temperature": 0.9, "top_k": 40, "seed": 5}


class Sum:
    """A grammar with a state of its own: of three tokens one is allowed, by the sum of those so far. Like
    the matchers of grammars it takes one token a call, the last; the first call takes none."""

    def __init__(self, index: int = 0) -> None:
        self.sum = index
        self.is_begun = False
        self.num_calls = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        assert input_ids.shape[0] == scores.shape[0] == 1
        self.num_calls += 1
        if self.is_begun:
            token = int(input_ids[0, -1])
            assert token % 3 == self.sum % 3, "a token that was ruled out"
            self.sum += token + 1
        self.is_begun = True
        scores[:, torch.arange(scores.shape[1]) % 3 != self.sum % 3] = -torch.inf
        return scores


@pytest.fixture(scope="module")
def lm() -> hb.LM:
    return hb.LM(models.llama())


def alone(lm: hb.LM, prompt: list[int], processor: Any, **options: Any) -> list[int]:
    options = {"max_new_tokens": 20, "draft": None, **options}
    return lm.generate(prompt, logits_processor=processor, **options).token_ids


def drafts(lm: hb.LM, texts: list[list[int]]) -> list[Any]:
    small = hb.spec.SmallModel(hb.LM(models.llama(layers=1)))
    return [None, hb.spec.Auto(), small, Foresight(texts, wrong=4)]


@pytest.mark.parametrize("sampling", [{}, SAMPLING], ids=["greedy", "sampled"])
@pytest.mark.parametrize("which", range(4))
def test_a_batch_is_each_prompt_alone(lm: hb.LM, which: int, sampling: dict[str, Any]) -> None:
    want = [alone(lm, prompt, Sum(index), **sampling) for index, prompt in enumerate(PROMPTS)]
    draft = drafts(lm, [[*prompt, *text] for prompt, text in zip(PROMPTS, want, strict=True)])[which]
    made: list[tuple[int, list[int], Sum]] = []

    def factory(index: int, prompt_ids: list[int]) -> Sum:
        made.append((index, prompt_ids, Sum(index)))
        return made[-1][2]

    out = lm.generate(
        PROMPTS,
        max_new_tokens=20,
        draft=draft,
        length=hb.spec.Fixed(4),
        logits_processor=hb.EachPrompt(factory),
        **sampling,
    )
    assert [own.token_ids for own in out] == want
    assert [(index, ids) for index, ids, _ in made] == list(enumerate(PROMPTS))
    assert [own.num_calls for _, _, own in made] == [20, 20, 20]
    if which == 3:
        assert all(own.stats.accepted > 5 for own in out), "drafts stay"
        assert all(own.stats.forward_passes < 15 for own in out)


def test_they_share_the_passes_of_their_drafts(lm: hb.LM) -> None:
    """Requests are drafted for together, whoever their processors are."""
    for processor in (hb.EachPrompt(lambda index, _: Sum(index)), hb.EachPrompt(lambda index, _: pure)):
        requests = [
            lm.engine.submit(prompt, max_new_tokens=4, logits_processor=processor) for prompt in PROMPTS
        ]
        assert len({id(lm.engine.group_of(request)) for request in requests}) == 1
        for request in requests:
            request.cancel()


def pure(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    return scores.index_fill(1, input_ids[0, -2:], -torch.inf)


pure.is_pure = True  # type: ignore[attr-defined]


def test_pure_processors_of_their_own_mask_drafts(lm: hb.LM) -> None:
    class Odd:
        is_pure = True

        def __init__(self, index: int) -> None:
            self.index = index

        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            scores[:, torch.arange(scores.shape[1]) % 3 != (len(input_ids[0]) + self.index) % 3] = -torch.inf
            return scores

    out = lm.generate(
        PROMPTS,
        max_new_tokens=20,
        draft=hb.spec.SmallModel(lm, hb.spec.shape.Chain(4)),
        length=hb.spec.Fixed(4),
        logits_processor=hb.EachPrompt(lambda index, _: Odd(index)),
    )
    assert [own.token_ids for own in out] == [alone(lm, p, Odd(i)) for i, p in enumerate(PROMPTS)]
    assert all(own.stats.accepted == own.stats.drafted > 10 for own in out), "drafts are masked alike"


def test_samples_get_one_each(lm: hb.LM) -> None:
    made: list[int] = []

    def factory(index: int, prompt_ids: list[int]) -> Sum:
        made.append(index)
        assert prompt_ids == PROMPTS[index // 2]
        return Sum()

    out = lm.generate(PROMPTS, n=2, logits_processor=hb.EachPrompt(factory), max_new_tokens=12, **SAMPLING)
    assert made == list(range(6))
    again = lm.generate(
        [prompt for prompt in PROMPTS for _ in range(2)],
        logits_processor=hb.EachPrompt(lambda *_: Sum()),
        max_new_tokens=12,
        **SAMPLING,
    )
    assert [own.token_ids for samples in out for own in samples] == [own.token_ids for own in again]


def test_none_and_lists(lm: hb.LM) -> None:
    def factory(index: int, prompt_ids: list[int]) -> Any:
        return [None, Sum(), [Sum(), pure]][index]

    out = lm.generate(PROMPTS, logits_processor=hb.EachPrompt(factory), max_new_tokens=20)
    want = [alone(lm, PROMPTS[0], None), alone(lm, PROMPTS[1], Sum()), alone(lm, PROMPTS[2], [Sum(), pure])]
    assert [own.token_ids for own in out] == want
    # Some for all, one for each.
    out = lm.generate(PROMPTS, logits_processor=[hb.EachPrompt(lambda i, _: Sum(i)), pure], max_new_tokens=20)
    assert [own.token_ids for own in out] == [alone(lm, p, [Sum(i), pure]) for i, p in enumerate(PROMPTS)]


class TestRefused:
    def test_a_factory_that_fails(self, lm: hb.LM) -> None:
        def factory(index: int, prompt_ids: list[int]) -> Any:
            if index == 1:
                raise KeyError("no schema for prompt 1")
            return Sum()

        other = lm.engine.submit(PROMPTS[0], max_new_tokens=6)
        with pytest.raises(KeyError, match="no schema for prompt 1"):
            lm.generate(PROMPTS, logits_processor=hb.EachPrompt(factory))
        assert lm.engine.requests == [other]
        assert other.result().token_ids == alone(lm, PROMPTS[0], None, max_new_tokens=6)
        assert lm.tree.stats()["branches"] == 1
        other.release()

    @pytest.mark.parametrize(
        "found", [3, "json", [Sum(), 3], hb.EachPrompt(print)], ids=["int", "str", "list", "each"]
    )
    def test_what_is_no_processor(self, lm: hb.LM, found: Any) -> None:
        with pytest.raises(ArgumentError, match=r"factory of EachPrompt gave .*for sequence 0"):
            lm.generate(PROMPTS, logits_processor=hb.EachPrompt(lambda *_: found))
        with pytest.raises(ArgumentError, match="factory is 3, expected a callable"):
            hb.EachPrompt(3)  # type: ignore[arg-type]

    def test_one_that_may_keep_state_for_several(self, lm: hb.LM) -> None:
        with pytest.raises(
            ArgumentError, match=r"processor Sum may keep state.*3 sequences: expected hb.EachPrompt"
        ):
            lm.generate(PROMPTS, logits_processor=Sum())
        with pytest.raises(ArgumentError, match="2 sequences"):
            lm.generate(PROMPTS[0], n=2, logits_processor=[pure, Sum()])
        with pytest.raises(ArgumentError, match="may keep state"):
            lm.generate(PROMPTS, logits_processor=Sum().__call__)
        # Functions, and what is known to be pure, serve any number.
        shared = [pure, partial(pure), lambda _, scores: scores, NoRepeatNGramLogitsProcessor(2)]
        out = lm.generate(PROMPTS, logits_processor=shared, max_new_tokens=8)
        want = [alone(lm, prompt, shared, max_new_tokens=8) for prompt in PROMPTS]
        assert [own.token_ids for own in out] == want

    def test_rules_that_ask_about_guesses(self, lm: hb.LM) -> None:
        for processor in (Sum(), hb.EachPrompt(lambda *_: Sum())):
            with pytest.raises(ArgumentError, match="verify is 'chain'"):
                lm.generate(PROMPTS[0], verify="chain", logits_processor=processor)

    def test_inside_of_transformers(self) -> None:
        with pytest.raises(ArgumentError, match=r"holds an hb.EachPrompt, expected it in hb.LM.generate"):
            models.llama().generate(
                models.prompt(5),
                max_new_tokens=2,
                custom_generate=hb.integrations.transformers.generate,
                logits_processor=[hb.EachPrompt(lambda *_: Sum())],
            )

    def test_forks_and_answers_that_follow(self, lm: hb.LM) -> None:
        request = lm.engine.submit(PROMPTS[0], max_new_tokens=6, logits_processor=Sum())
        lm.engine.step()
        with pytest.raises(ArgumentError, match="Sum may keep state, so that it cannot be forked"):
            request.fork()
        request.result()
        with pytest.raises(ArgumentError, match=r"cannot go on with another answer: expected hb.EachPrompt"):
            request.extend([1])
        request.release()


def test_each_answer_of_a_chat_has_its_own(lm: hb.LM) -> None:
    prompts: list[list[int]] = []

    def factory(index: int, prompt_ids: list[int]) -> Sum:
        prompts.append(prompt_ids)
        return Sum(index)

    request = lm.engine.submit(PROMPTS[0], max_new_tokens=6, logits_processor=hb.EachPrompt(factory))
    first = request.result().token_ids
    second = request.extend([7, 8], max_new_tokens=9).result().token_ids
    request.release()
    assert prompts == [PROMPTS[0], [*PROMPTS[0], *first, 7, 8]]
    assert second == alone(lm, prompts[1], Sum(), max_new_tokens=9)


@pytest.mark.parametrize("at", [1, 4])
@pytest.mark.parametrize("what", ["logits_processor", "draft"])
def test_a_neighbour_that_fails_has_nobody_asked_twice(lm: hb.LM, what: str, at: int) -> None:
    """Its step is taken back, and taken again without it."""

    class Boom(Exception):
        pass

    class Fails(Sum):
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            if self.num_calls + 1 == at:
                raise Boom
            return super().__call__(input_ids, scores)

    want = [alone(lm, prompt, Sum(index)) for index, prompt in enumerate(PROMPTS)]
    options: dict[str, Any] = {"max_new_tokens": 20, "length": hb.spec.Fixed(4)}
    if what == "draft":
        options["draft"] = Foresight([[*p, *text] for p, text in zip(PROMPTS, want, strict=True)], wrong=3)
    requests = [
        lm.engine.submit(prompt, logits_processor=Sum(index), **options)
        for index, prompt in enumerate(PROMPTS)
    ]
    bad = lm.engine.submit(PROMPTS[1], logits_processor=Fails(), **{**options, "draft": None})
    worse = lm.engine.submit(
        PROMPTS[1][:8], logits_processor=Fails(), **{**options, "draft": hb.spec.Suffix()}
    )
    for request in (bad, worse):
        with pytest.raises(Boom):
            request.result()
    assert [request.result().token_ids for request in requests] == want
    for request in requests:
        request.release()
    lm.tree.debug_check()


def test_a_criterion_is_not_asked_twice_either(lm: hb.LM) -> None:
    asked: list[int] = []

    def criterion(prompt: list[int], output: list[int]) -> bool:
        asked.append(len(output))
        return len(asked) == 9

    def fail(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if input_ids.shape[1] > len(PROMPTS[1]) + 3:
            raise RuntimeError("enough")
        return scores

    request = lm.engine.submit(PROMPTS[0], max_new_tokens=20, stopping_criterion=criterion)
    bad = lm.engine.submit(PROMPTS[1], max_new_tokens=20, logits_processor=fail)
    assert len(request.result().token_ids) == 9
    assert asked == list(range(1, 10))
    with pytest.raises(RuntimeError, match="enough"):
        bad.result()
    request.release()


def test_what_is_known_to_be_pure() -> None:
    class Derived(NoRepeatNGramLogitsProcessor):
        pass

    assert is_pure(NoRepeatNGramLogitsProcessor(2))
    assert is_pure(RepetitionPenaltyLogitsProcessor(1.2))
    assert not is_pure(RepetitionPenaltyLogitsProcessor(1.2, prompt_ignore_length=torch.tensor([1, 2])))
    assert not is_pure(Derived(2))
    assert not is_pure(Sum())
    assert is_pure(pure)
