"""The models of Countdown that ship with the package, and the problems that none was trained on."""

from __future__ import annotations

import pytest

import hornbeam as hb
from benches.tasks.countdown import data
from hornbeam.errors import ArgumentError
from hornbeam.tasks import countdown
from hornbeam.tasks.countdown import Problem
from hornbeam.tensor_file import read_tensors

SIZES = {"small": (300_000, 400_000), "large": (1_200_000, 1_700_000), "small-traces": (300_000, 400_000)}


@pytest.fixture(scope="module")
def lm() -> hb.LM:
    return countdown.load("small")


@pytest.mark.parametrize("name", countdown.SHIPPED)
def test_models_and_heads_are_what_they_say(name: str) -> None:
    size, _, traces = name.partition("-")
    facts = countdown.training(size, bool(traces))
    tensors, metadata = read_tensors(countdown.value_head_file(size, bool(traces)), "weights")
    assert SIZES[name][0] < facts["parameters"] < SIZES[name][1]
    assert metadata == {
        "format": "hornbeam.value_head",
        "version": "1",
        "activation": "gelu",
        "output": "sigmoid",
    }
    assert sorted(tensors) == [f"layers.{i}.{part}" for i in range(2) for part in ("bias", "weight")]
    assert tensors["layers.0.weight"].shape == (128, facts["plan"]["hidden"])
    assert tensors["layers.1.weight"].shape == (1, 128)
    # The head knows more than how often rollouts end right.
    assert facts["value_loss_held_out"] < facts["value_loss_of_a_constant"]


@pytest.mark.parametrize("recipe", [hb.recipes.rebase(16), hb.recipes.a_star(4)], ids=lambda r: r.name)
def test_a_search_solves_an_easy_problem(lm: hb.LM, recipe: hb.search.Policy) -> None:
    problem = Problem.parse("2 4 6 -> 12")
    result = lm.search(
        problem.prompt,
        recipe=recipe,
        value=problem.oracle,
        finish=problem.finish,
        step=problem.step_end(),
        budget=hb.Budget(tokens=400),
        draft=None,
    )
    assert result.best is not None
    assert problem.solves(result.best.text), problem.fault(result.best.text)
    assert result.best.answer is not None
    assert result.best.answer.endswith("= 12")


@pytest.mark.parametrize("name", sorted({*countdown.MODELS} - {*countdown.SHIPPED}))
def test_models_that_are_not_shipped_say_how_to_train_them(name: str) -> None:
    size, _, traces = name.partition("-")
    with pytest.raises(ArgumentError, match=rf"train\.py {name} trains it"):
        countdown.load(size, traces=bool(traces))


def test_held_out_problems_are_held_out() -> None:
    keys = set()
    for split, low, high in (
        ("test", 0, data.TEST),
        ("development", data.TEST, data.TEST + data.DEVELOPMENT),
    ):
        problems = countdown.problems(split)
        assert len(problems) == 500
        for problem in problems:
            drawn = data.np.array([problem.numbers]), data.np.array([problem.target])
            assert low <= data.split_of(*drawn)[0] < high
            assert problem.is_open()
            keys.add((tuple(sorted(problem.numbers)), problem.target))
    assert len(keys) == 1000


def test_data_is_right_by_the_rules() -> None:
    rng = data.np.random.default_rng(0)
    tokenizer = countdown.tokenizer()
    for n in (3, 4, 5):
        for traces in (False, True):
            found = data.draw(rng, 300, n, traces)
            ids = data.answers(found)
            assert data.are_right(found.numbers, found.target, ids, traces).all()
            ids[:, -9] = data.np.roll(ids[:, -9], 1)  # something is wrong in most of them now
            right = data.are_right(found.numbers, found.target, ids, traces)
            for row in range(40):
                problem = Problem(tuple(found.numbers[row].tolist()), int(found.target[row]))
                text = tokenizer.decode(ids[row].tolist(), skip_special_tokens=True)
                assert problem.solves(text) == right[row], text
