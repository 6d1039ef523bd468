"""What workers do, without a cluster: the answers of one engine, whoever works on them and dies at it."""

from __future__ import annotations

import pickle
import random
from typing import Any

import pytest

import hornbeam as hb
from hornbeam.errors import ArgumentError, BudgetExhausted
from hornbeam.integrations.ray.coordinator import Orders, Told
from hornbeam.integrations.ray.given import numbered
from hornbeam.integrations.ray.parcel import Parcel
from hornbeam.integrations.ray.searching import Searching
from hornbeam.integrations.ray.shares import Terms
from hornbeam.integrations.ray.work import Generating, Scoring
from tests import models
from tests.integrations.ray_desk import Crew

PROMPTS = [f"{'word ' * (place % 5)}prompt {place % 9}" for place in range(12)]
SAMPLED: dict[str, Any] = {"max_new_tokens": 20, "temperature": 0.9, "seed": 5}
FREE = Terms(hb.Budget(), ("tokens",))
SEARCHES = Terms(hb.Budget(), ("tokens", "verifier_calls"), in_rounds=True)


@pytest.fixture(scope="module")
def lms() -> list[hb.LM]:
    """Two engines with one model, as two workers have. Some bytes end a text."""
    model = models.llama()
    model.generation_config.eos_token_id = list(range(40, 56))
    return [hb.LM(model, models.byte_tokenizer()) for _ in range(2)]


def texts(answers: list[Any]) -> list[tuple[str, list[int], str]]:
    return [(answer.text, answer.token_ids, answer.finish_reason) for answer in answers]


@pytest.fixture(scope="module")
def whole(lms: list[hb.LM]) -> list[Any]:
    """What one engine writes without a budget."""
    answers = lms[0].generate(PROMPTS, **SAMPLED)
    assert {answer.finish_reason for answer in answers} == {"eos", "length"}, "or nothing is shared"
    return answers


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("in_flight", [3, 64])
def test_the_texts_of_one_engine(lms: list[hb.LM], whole: list[Any], workers: int, in_flight: int) -> None:
    crew = Crew(Generating(SAMPLED, in_flight), numbered(PROMPTS), lms[:workers], FREE)
    found, progress = crew.run()
    assert texts(found) == texts(whole)
    assert progress.tokens == sum(len(answer.token_ids) for answer in whole)
    assert (progress.lost_tries, progress.workers) == (0, workers)


@pytest.mark.parametrize("seed", range(3))
def test_workers_that_die_leave_answers_and_ledger_exact(
    lms: list[hb.LM], whole: list[Any], seed: int
) -> None:
    budget = 110
    assert sum(len(answer.token_ids) for answer in whole) > budget
    terms = Terms(hb.Budget(tokens=budget), ("tokens",))
    calm, spent = Crew(Generating(SAMPLED, 64), numbered(PROMPTS), lms[:1], terms).run()
    assert spent.tokens == budget, "texts would go on, and some of the budget is left"
    for own, full in zip(calm, whole, strict=True):
        assert own.token_ids == full.token_ids[: len(own.token_ids)]
        assert full.text.startswith(own.text)
    lengths = [len(answer.token_ids) for answer in calm]
    cut = [length for length, full in zip(lengths, whole, strict=True) if length < len(full.token_ids)]
    assert max(cut) - min(cut) <= 1, "those that are cut have equal shares"
    assert min(cut) > budget // len(PROMPTS), "what short texts left went to them"

    draw = random.Random(seed)
    kills = [draw.randrange(1, 9), draw.choice([None, draw.randrange(1, 9)])]
    found, progress = Crew(Generating(SAMPLED, 4), numbered(PROMPTS), lms, terms, kills).run()
    assert texts(found) == texts(calm)
    assert progress.tokens == budget


def test_a_share_is_never_passed_by_a_draft(lms: list[hb.LM]) -> None:
    """Greedy text of a model that repeats itself: drafts are long, and accepted."""
    prompt = list(range(60, 90)) * 3
    options: dict[str, Any] = {"max_new_tokens": 30, "draft": "ngram", "length": hb.spec.Fixed(8)}
    whole = lms[0].generate(prompt, **options, eos_token_id=[])
    terms = Terms(hb.Budget(tokens=2 * 7), ("tokens",))
    work = Generating(options | {"eos_token_id": []}, 64)
    found, progress = Crew(work, numbered([prompt, prompt]), lms[:1], terms).run()
    assert [answer.token_ids for answer in found] == [whole.token_ids[:7]] * 2
    assert progress.tokens == 14


def test_a_text_at_its_share_leaves_its_memory_to_others(lms: list[hb.LM]) -> None:
    """One decodes at a time; those before it stand at their share."""
    engine = lms[0].engine
    options = {"max_new_tokens": 20, "eos_token_id": [], "draft": None}
    terms = Terms(hb.Budget(tokens=3 * 8), ("tokens",))
    crew = Crew(Generating(options, 1), numbered(PROMPTS[:3]), lms[:1], terms)
    exchange, held = crew.exchange, list[list[bool]]()

    def watched(*given: Any) -> Any:
        orders = exchange(*given)
        held.append([not request.is_closed for request in engine.requests if request.is_paused])
        return orders

    crew.exchange = watched  # type: ignore[method-assign]
    found, _ = crew.run()
    assert [len(answer.token_ids) for answer in found] == [8, 8, 8]
    assert max(map(len, held)) > 1, "none has waited for another"
    # One that has come to its share since the exchange before may still have its pages.
    assert max(map(sum, held)) == 1


def test_a_worker_that_was_taken_for_dead_goes_on_with_what_it_holds(
    lms: list[hb.LM], whole: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is given again what it holds."""
    jobs = dict(enumerate(numbered(PROMPTS[:4])))
    answers: dict[int, Any] = {}

    class Desk:
        def exchange(self, told: Told) -> Orders:
            answers.update({item: answer for item, (answer, _) in told.answers.items()})
            left = {item: job for item, job in jobs.items() if item not in answers}
            return Orders(left, {item: {} for item in left}, is_over=not left)

    begun: list[int] = []
    submit_all = hb.Engine.submit_all

    def counted(self: Any, prompts: Any, *given: Any, **options: Any) -> Any:
        begun.append(len(prompts))
        return submit_all(self, prompts, *given, **options)

    monkeypatch.setattr(hb.Engine, "submit_all", counted)
    assert Generating(SAMPLED, 64).run(lms[0], Desk()) == 4
    assert texts([answers[item] for item in jobs]) == texts(whole[:4])
    assert begun == [4]


def test_each_prompt_has_its_place(lms: list[hb.LM]) -> None:
    def forced(place: int, prompt_ids: list[int]) -> Any:
        def processor(ids: Any, scores: Any) -> Any:
            scores[:, :] = -1e9
            scores[:, 100 + place] = 0.0
            return scores

        return processor

    work = Generating({"max_new_tokens": 2, "logits_processor": hb.EachPrompt(forced)}, 2)
    found, _ = Crew(work, numbered(PROMPTS), lms, FREE).run()
    assert [answer.token_ids for answer in found] == [[100 + place] * 2 for place in range(len(PROMPTS))]


def test_a_prompt_that_fails_is_named(lms: list[hb.LM]) -> None:
    jobs = numbered(["fine", [1, 999], "fine too"])
    with pytest.raises(ArgumentError, match=r"prompt 1: .*999"):
        Crew(Generating({"max_new_tokens": 2}, 8), jobs, lms, FREE).run()

    def broken(ids: Any, scores: Any) -> Any:
        raise ZeroDivisionError("of a processor")

    with pytest.raises(ZeroDivisionError, match="of a processor"):
        Crew(Generating({"max_new_tokens": 2, "logits_processor": broken}, 8), jobs[:1], lms, FREE).run()


def test_scores_of_one_engine(lms: list[hb.LM]) -> None:
    continuations = [[f" {place}", " and more"] for place in range(len(PROMPTS))]
    wanted = lms[0].score(PROMPTS, continuations)
    jobs = [
        type(job)(job.prompt, continuations=own)
        for job, own in zip(numbered(PROMPTS), continuations, strict=True)
    ]
    found, progress = Crew(Scoring(3), jobs, lms, Terms(hb.Budget(), ()), kills=[1, None]).run()
    for own, like in zip(found, wanted, strict=True):
        assert [one.total for one in own] == pytest.approx([one.total for one in like], abs=1e-4)
    assert progress.answered == len(PROMPTS)
    bad = [*jobs[:2], type(jobs[0])("prompt", continuations=[""])]
    with pytest.raises(ArgumentError, match="prompt 2: continuation is empty"):
        Crew(Scoring(3), bad, lms, Terms(hb.Budget(), ())).run()


STEP = hb.search.StepEnd(delimiter=None, max_tokens=4)
SEARCH: dict[str, Any] = {"recipe": hb.recipes.rebase(width=4, max_depth=4), "step": STEP, "seed": 2}


def nodes(result: Any) -> dict[int, tuple[list[int], str, bool]]:
    return {node: (path.token_ids, path.text, path.is_finished) for node, path in result.tree.paths.items()}


def values(result: Any) -> list[float]:
    return [path.value for node, path in sorted(result.tree.paths.items()) if node]


@pytest.mark.parametrize("kills", [(), (2, None)])
def test_searches_of_one_engine(lms: list[hb.LM], kills: tuple[int | None, ...]) -> None:
    wanted = [lms[0].search(prompt, **SEARCH) for prompt in PROMPTS[:5]]
    work = Searching(SEARCH, hb.Budget(), 2, is_durable=False, is_watched=True)
    found, progress = Crew(work, numbered(PROMPTS[:5]), lms, SEARCHES, kills).run()
    for parcel, like in zip(found, wanted, strict=True):
        own = parcel.result()
        assert nodes(own) == nodes(like)
        assert values(own) == pytest.approx(values(like), abs=1e-4)
        assert own.best.node == like.best.node
        assert [one.text for one in own.answers] == [one.text for one in like.answers]
        assert own.ledger.tokens == like.ledger.tokens
    assert progress.tokens == sum(like.ledger.tokens for like in wanted)
    assert progress.verifier_calls == sum(like.ledger.verifier_calls for like in wanted)


@pytest.mark.parametrize("kills", [(), (6, None)])
def test_searches_share_a_budget_in_rounds(lms: list[hb.LM], kills: tuple[int | None, ...]) -> None:
    """Each result is that of a search with what it has got in all."""
    prompts = PROMPTS[:4]
    free = [lms[0].search(prompt, **SEARCH).ledger.tokens for prompt in prompts]
    budget = sum(free) - 14
    terms = Terms(hb.Budget(tokens=budget), ("tokens", "verifier_calls"), in_rounds=True)
    work = Searching(SEARCH, hb.Budget(), 2, is_durable=True, is_watched=True)
    found, progress = Crew(work, numbered(prompts), lms, terms, kills).run()
    results = [parcel.result() for parcel in found]
    got = [result.history.budget.tokens for result in results]
    assert progress.tokens == sum(result.ledger.tokens for result in results) <= budget
    for prompt, result, tokens in zip(prompts, results, got, strict=True):
        assert tokens >= budget // len(prompts)
        alone = lms[1].search(prompt, **SEARCH, budget=hb.Budget(tokens=tokens))
        assert nodes(result) == nodes(alone)
        assert result.stop == alone.stop
    assert max(got) > budget // len(prompts) + 1, "what one left went to another"


def test_a_search_that_fails_is_named(lms: list[hb.LM]) -> None:
    work = Searching(SEARCH, hb.Budget(kv_bytes=1), 2, is_durable=False, is_watched=True)
    with pytest.raises(BudgetExhausted, match=r"prompt \d: "):
        Crew(work, numbered(PROMPTS[:2]), lms, SEARCHES).run()


def test_a_parcel_holds_a_deep_search() -> None:
    lm = hb.LM(models.llama(), models.byte_tokenizer())
    step = hb.search.StepEnd(delimiter=None, max_tokens=1)
    result = lm.search("prompt", recipe=hb.recipes.best_of_n(1, max_depth=300), step=step, draft=None)
    assert max(path.depth for path in result.tree.paths.values()) == 300, "or pickle would do"
    own = pickle.loads(pickle.dumps(Parcel.of(result))).result()
    assert (nodes(own), values(own)) == (nodes(result), values(result))
    assert (own.stop, own.best.node) == (result.stop, result.best.node)
    assert own.ledger.snapshot() == result.ledger.snapshot()
    assert own.history == result.history
