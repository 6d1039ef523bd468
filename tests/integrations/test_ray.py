"""Calls over a Ray cluster of processes on this machine: ``make test-ray``, which installs Ray.

Workers are killed at random moments; ``HORNBEAM_RAY_KILLS`` says in how many runs, 2 by default.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import hornbeam as hb
from hornbeam.errors import ArgumentError
from tests import models

ray = pytest.importorskip("ray", reason="ray is not installed: make test-ray")
pytest.importorskip("ray.data", reason="ray.data is not installed: make test-ray")

many = hb.integrations.ray
ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("HORNBEAM_RAY_KILLS", "2"))
PROMPTS = [f"{'word ' * (place % 5)}prompt {place % 9}" for place in range(24)]
SAMPLED: dict[str, Any] = {"max_new_tokens": 80, "temperature": 0.9, "seed": 5}


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False):
        yield


def lm_of_tests() -> hb.LM:
    """A tiny model in which some bytes end a text."""
    model = models.llama()
    model.generation_config.eos_token_id = list(range(40, 44))
    return hb.LM(model, models.byte_tokenizer())


def maker(folder: Path) -> Callable[[], hb.LM]:
    """Makes the model on a worker, which leaves the number of its process in ``folder``."""
    root = str(ROOT)

    def make() -> hb.LM:
        sys.path.insert(0, root)
        from tests.integrations.test_ray import lm_of_tests

        (folder / str(os.getpid())).touch()
        return lm_of_tests()

    return make


@pytest.fixture(scope="module")
def lm() -> hb.LM:
    return lm_of_tests()


def texts(answers: Any) -> list[tuple[str, list[int], str]]:
    return [(answer.text, answer.token_ids, answer.finish_reason) for answer in answers]


def test_the_texts_of_one_engine(lm: hb.LM, tmp_path: Path) -> None:
    whole = lm.generate(PROMPTS, **SAMPLED)
    for workers in (1, 2):
        seen: list[Any] = []
        found = many.generate_many(maker(tmp_path), PROMPTS, **SAMPLED, workers=workers, watch=seen.append)
        assert texts(found) == texts(whole)
        assert found.progress.tokens == sum(len(answer.token_ids) for answer in whole)
        assert seen[-1].answered == len(PROMPTS)
        assert found.progress.workers == workers


class Killer:
    """Kills one worker at a random moment: somewhere between two answers, or while models are loaded."""

    def __init__(self, folder: Path, draw: random.Random) -> None:
        self.folder, self.draw = folder, draw
        self.after = draw.randrange(len(PROMPTS))
        self.has_killed = False

    def __call__(self, progress: Any) -> None:
        pids = sorted(int(file.name) for file in self.folder.iterdir())
        if pids and not self.has_killed and progress.answered >= self.after:
            time.sleep(self.draw.uniform(0.0, 0.2))
            os.kill(self.draw.choice(pids), signal.SIGKILL)
            self.has_killed = True


# Each run starts two processes, and a third one after the kill, which import torch.
@pytest.mark.timeout(900 + 120 * KILLS)
def test_workers_that_are_killed_leave_answers_and_ledger_exact(lm: hb.LM, tmp_path: Path) -> None:
    whole = lm.generate(PROMPTS, **SAMPLED)
    budget = sum(len(answer.token_ids) for answer in whole) * 3 // 4
    lost, wanted = 0, None
    for number in range(KILLS + 1):
        folder = tmp_path / str(number)
        folder.mkdir()
        found = many.generate_many(
            maker(folder),
            PROMPTS,
            **SAMPLED,
            workers=2,
            in_flight=4,
            budget=hb.Budget(tokens=budget),
            watch=Killer(folder, random.Random(number)) if number else None,
        )
        print(f"run {number}: {found.progress}, {found.progress.lost_tokens} tokens lost")
        assert found.progress.tokens == sum(len(answer.token_ids) for answer in found) == budget
        if wanted is None:
            wanted = texts(found)
            for own, full in zip(found, whole, strict=True):
                assert own.token_ids == full.token_ids[: len(own.token_ids)]
        assert texts(found) == wanted
        lost += found.progress.lost_tries
    assert lost or not KILLS, "no worker was killed while it held anything"


def test_data_sets_and_a_model_in_the_object_store(lm: hb.LM) -> None:
    rows = [
        {"number": place, "text": prompt, "more": ["a", "bc"]} for place, prompt in enumerate(PROMPTS[:6])
    ]
    rows_in = ray.data.from_items(rows, override_num_blocks=2)
    options: dict[str, Any] = {"max_new_tokens": 4, "temperature": 1.0, "eos_token_id": []}
    out = many.generate_many(lm, rows_in, column="text", n=2, workers=1, **options).take_all()
    wanted = lm.generate(PROMPTS[:6], n=2, **options)
    assert [row["number"] for row in out] == list(range(6))
    assert [[list(ids) for ids in row["token_ids"]] for row in out] == [
        [answer.token_ids for answer in own] for own in wanted
    ]
    assert [row["text_1"] for row in out] == [[answer.text for answer in own] for own in wanted]
    scored = many.score_many(lm, rows_in, column="text", continuations_column="more", workers=1).take_all()
    likelihoods = lm.score(PROMPTS[:6], [["a", "bc"]] * 6)
    for row, own in zip(scored, likelihoods, strict=True):
        assert list(row["total"]) == pytest.approx([one.total for one in own], abs=1e-4)


def test_searches_share_a_budget(lm: hb.LM, tmp_path: Path) -> None:
    search: dict[str, Any] = {
        "recipe": hb.recipes.rebase(width=4, max_depth=4),
        "step": hb.search.StepEnd(delimiter=None, max_tokens=4),
        "seed": 2,
    }
    free = sum(lm.search(prompt, **search).ledger.tokens for prompt in PROMPTS[:4])
    budget = free - 14
    found = many.search_many(
        maker(tmp_path), PROMPTS[:4], **search, budget=hb.Budget(tokens=budget), workers=2
    )
    assert found.progress.tokens == sum(own.ledger.tokens for own in found) <= budget
    for prompt, own in zip(PROMPTS[:4], found, strict=True):
        alone = lm.search(prompt, **search, budget=hb.Budget(tokens=own.history.budget.tokens))
        assert own.best.token_ids == alone.best.token_ids
        assert own.ledger.tokens == alone.ledger.tokens


def test_what_is_refused(lm: hb.LM, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"prompt 1: .*999"):
        many.generate_many(maker(tmp_path), ["fine", [1, 999]], workers=1)
    with pytest.raises(ArgumentError, match="workers is 3, expected at most 2"):
        many.generate_many(lm, ["a"] * 5, workers=3)
    with pytest.raises(ArgumentError, match="stream is given"):
        many.generate_many(lm, ["a"], stream=print)
    with pytest.raises(ArgumentError, match="budget limits seconds"):
        many.generate_many(lm, ["a"], budget=hb.Budget(seconds=1))
    with pytest.raises(ArgumentError, match="may keep state"):
        many.generate_many(
            lm, ["a", "b"], logits_processor=[type("Stateful", (), {"__call__": lambda *_: None})()]
        )
