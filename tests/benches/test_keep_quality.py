"""The keep_quality bench: what it asks, and what it makes of the answers."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import pytest

import hornbeam as hb
from benches import keep_quality_table
from hornbeam.bench import bench_keep_quality as bench
from hornbeam.bench import keep_quality_ours, needles
from tests import models
from tests.lm.kept import Spy


class Words:
    """A tokenizer of whole words."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {}

    def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
        return {"input_ids": [self.known.setdefault(word, len(self.known)) for word in text.split()]}

    def apply_chat_template(self, turns: list[dict[str, str]], **options: Any) -> str:
        return f"<user> {turns[0]['content']} <assistant> "

    def text(self, tokens: list[int]) -> list[str]:
        words = list(self.known)
        return [words[token] for token in tokens]


def test_every_needle_lies_at_its_depth_and_only_its_own_answer_follows_its_question() -> None:
    words = Words()
    item = needles.Items(words).needles("one", 1024, 1)
    context = words.text(item.context)
    assert len(context) == 1024
    assert context[0] == "<user>"
    nouns = set()
    for depth, question, answer in zip(item.depths, item.questions, item.answers, strict=True):
        asked = words.text(question)
        noun = asked[asked.index("<assistant>") - 1].removesuffix("?")
        assert asked[-2:] == [noun, "is:"]
        nouns.add(noun)
        [number] = words.text(answer)
        begin = context.index(f"{number}.")
        assert context[begin - 7 : begin] == f"The magic number of the {noun} is:".split()
        assert abs(begin / 1024 - depth) < 0.05
    assert len(nouns) == 5


def test_parts_of_the_grid_are_balanced() -> None:
    rounds = needles.Items(Words()).grid()
    assert sum(len(item.questions) for own in rounds for item in own) == 200
    assert len({tuple(item.context) for own in rounds for item in own}) == 40
    for count in range(2, len(rounds) + 1, 2):
        cells = Counter(
            (len(item.context), depth) for own in rounds[:count] for item in own for depth in item.depths
        )
        assert len(cells) == 40
        assert set(cells.values()) == {count // 2}


def test_windows_do_not_overlap() -> None:
    items = needles.Items(Words())
    windows = items.windows(100, 20)
    whole = [token for w in windows for token in w.context + w.questions[0] + w.answers[0]]
    assert whole == items.scored[: len(whole)]
    assert all(len(w.context) == 100 and len(w.answers[0]) == 19 for w in windows)
    assert len(items.scored) - len(whole) < 120


def context(ours: list[bool], theirs: list[bool]) -> dict[str, Any]:
    """An outcome in which all recipes answered alike."""

    def side(names: Any, found: list[bool]) -> dict[str, Any]:
        answers = [[hit, -1.0 if hit else -9.0] for hit in found]
        kept = {str(keep): answers for keep in bench.KEEPS}
        return {"full": answers, **dict.fromkeys(names, kept)}

    return {
        "tokens": 1024,
        "depths": [0.25, 0.75],
        "scored": 8,
        "ours": side(bench.COUNTERPARTS, ours),
        "theirs": side(bench.PRESSES, theirs),
    }


def test_differences_are_paired_and_what_was_not_run_is_absent() -> None:
    outcomes = {
        "needles-0-1024": context([True, True], [True, False]),
        "needles-1-1024": context([False, True], [True, True]),
        "needles-2-1024": context([True, True], [False, True]),
    }
    results = bench.report(outcomes)
    assert "perplexity" not in results
    found = results["needles"]
    assert (found["needles"], found["contexts"], found["lengths"]) == (6, 3, {"1024": 3})
    assert found["full_cache"]["differing"] == 3
    assert found["full_cache"]["by_depth"] == pytest.approx({"0.25": 200 / 3, "0.75": 100})
    row = found["recipes"]["snap_kv"]["0.25"]
    assert (row["ours"], row["kvpress"]) == pytest.approx((500 / 6, 400 / 6))
    assert row["difference"] == pytest.approx(100 / 6)
    # The mean of three draws of contexts whose means are 50, -50 and 50 points.
    assert row["interval"] == pytest.approx([-50, 50])
    assert row["logprob"] == pytest.approx((5 * -1 - 9) / 6)
    assert "kvpress" not in found["recipes"]["ems"]["0.25"]
    assert "| `snap_kv` | `snap_kv` | 83.3 / 66.7, +16.7 [-50.0, +50.0] |" in "\n".join(
        keep_quality_table.needles(found)
    )


def test_the_report_says_which_keys_one_side_kept() -> None:
    outcomes = {
        "check": {"name": "check", "kept_by_one_side": {"knorm": 0.0002, "h2o": 0.171}},
        "needles-0-1024": context([True, True], [True, False]),
    }
    lines = keep_quality_table.other_keys(bench.report(outcomes))
    assert lines[-2:] == ["| `knorm` | `knorm` | 0.02 % |", "| `h2o` | `observed_attention` | 17 % |"]


def test_perplexity_is_that_of_all_tokens() -> None:
    outcomes = {}
    for number, (own, their) in enumerate([(-6.0, -4.0), (-10.0, -12.0)]):
        kept = {"0.25": [[False, own]]}, {"0.25": [[False, their]]}
        outcomes[f"window-{number}"] = {
            "tokens": 100,
            "scored": 8,
            "ours": {"full": [[False, -2.0]], **dict.fromkeys(bench.COUNTERPARTS, kept[0])},
            "theirs": {"full": [[False, -2.0]], **dict.fromkeys(bench.PRESSES, kept[1])},
        }
    found = bench.report(outcomes)["perplexity"]
    assert found["tokens_scored"] == 16
    assert found["full_cache"]["ours"] == pytest.approx(2.718281828459045**0.25)
    row = found["recipes"]["knorm"]
    assert (row["ours"], row["ratio"]) == pytest.approx((2.718281828459045, 1))
    assert row["interval"][0] < 1 < row["interval"][1]


def test_a_fork_is_reduced_as_generate_reduces(monkeypatch: pytest.MonkeyPatch) -> None:
    """The prompt is read once, by keepers that only watch; every recipe then reduces a fork of it."""
    model, prompt = models.llama(), models.prompt(90, 5)[0].tolist()
    ours = keep_quality_ours.Ours(model, None)
    ours.read(prompt)
    for name in sorted(set(keep_quality_ours.RECIPES)):
        recipe = ours.recipe(name, 0.5)
        fork, planes = ours.reduced(recipe)
        fork.close()
        spy = Spy(monkeypatch)
        lm = hb.LM(model)
        lm.generate(prompt, keep=dataclasses.replace(recipe, when=hb.keep.AfterPrefill()), max_new_tokens=2)
        expected = [[place for place in plane if place < len(prompt)] for plane in spy.positions()]
        assert planes == expected, name
    ours.forget()
