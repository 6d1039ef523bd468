"""Values: rewards are the plain model's, each token is read once, and nothing is left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

import hornbeam as hb
from hornbeam.errors import ArgumentError
from hornbeam.search import OpenValue, Path, RewardModel, SearchFacts, Value
from tests import models
from tests.reference import value as reference
from tests.search.valuing import PROMPT, RECIPES, STEP, rows_of, score


@pytest.fixture(scope="module")
def lm() -> hb.LM:
    return hb.LM(models.llama(), models.byte_tokenizer())


@pytest.fixture(scope="module")
def judge() -> hb.LM:
    """A second model, with pages of another size."""
    return hb.LM(models.llama(seed=5, layers=1), models.byte_tokenizer(), page_tokens=4)


def assert_same(one: Any, other: Any) -> None:
    """The same paths, and the same values but for rounding."""
    assert set(one.tree.paths) == set(other.tree.paths)
    for node, path in one.tree.paths.items():
        assert path.token_ids == other.tree.paths[node].token_ids
        assert path.value == pytest.approx(other.tree.paths[node].value, abs=1e-4)


class TestRewardModel:
    def tokens(self, judge: hb.LM, path: Path) -> list[int]:
        """The prompt's tokens and those of each step by itself."""
        if path.parent is None:
            return list(judge.tokenizer(PROMPT)["input_ids"])
        more = (
            judge.tokenizer(path.step_text, add_special_tokens=False)["input_ids"] if path.step_text else []
        )
        return [*self.tokens(judge, path.parent), *more]

    @pytest.mark.parametrize("suffix", ["", " Good?"])
    @pytest.mark.parametrize("recipe", RECIPES)
    def test_is_the_whole_texts_reward(
        self, lm: hb.LM, judge: hb.LM, recipe: str, suffix: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """And reads the prompt once, each step once, and the suffix once a path."""
        judge.clear_cache()
        rows = rows_of(judge, monkeypatch)
        value = RewardModel(judge, suffix=suffix)
        result = lm.search(PROMPT, recipe=RECIPES[recipe], value=value, step=STEP, draft=None)
        assert result.error is None
        good, bad = (judge.tokenizer(text)["input_ids"][0] for text in "+-")
        assert value.answers == (good, bad)
        more = judge.tokenizer(suffix)["input_ids"] if suffix else []
        texts, expected = set(), len(judge.tokenizer(PROMPT)["input_ids"])
        for path in result.tree.paths.values():
            if path.parent is None:
                continue
            tokens = self.tokens(judge, path)
            want = reference.reward(judge.model, [*tokens, *more], good, bad)
            assert path.value == pytest.approx(want, abs=1e-4)
            if tuple(tokens) not in texts:
                texts.add(tuple(tokens))
                expected += len(tokens) - len(self.tokens(judge, path.parent)) + len(more)
        assert len(texts) > 8
        assert sum(rows) == expected
        assert result.ledger.verifier_calls == len(result.tree.paths) - 1
        assert judge.tree.stats()["branches"] == 0
        judge.tree.debug_check()

    def test_all_paths_of_a_round_are_one_batch(
        self, lm: hb.LM, judge: hb.LM, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rows = rows_of(judge, monkeypatch)
        lm.search(PROMPT, recipe=RECIPES["rebase"], value=judge, step=STEP, draft=None)
        assert len(rows) == 1 + 3  # the prompt, and a round each

    def test_equal_texts_are_read_once(
        self, lm: hb.LM, judge: hb.LM, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        judge.clear_cache()
        rows = rows_of(judge, monkeypatch)
        recipe = hb.recipes.best_of_n(n=3, temperature=0.0, max_depth=2)
        result = lm.search(PROMPT, recipe=recipe, value=judge, step=STEP, draft=None)
        last = [path for path in result.tree.paths.values() if path.depth == 2]
        assert len(last) == 3
        assert len({(path.text, path.value) for path in last}) == 1
        assert sum(rows) == len(self.tokens(judge, last[0]))

    def test_a_model_is_one(self, lm: hb.LM, judge: hb.LM) -> None:
        options: dict[str, Any] = {"recipe": RECIPES["rebase"], "step": STEP, "draft": None}
        plain = lm.search(PROMPT, value=judge, **options)
        assert_same(plain, lm.search(PROMPT, value=RewardModel(judge), **options))

    def test_the_model_may_value_itself(self, lm: hb.LM) -> None:
        """As a second model with the same weights does."""
        options: dict[str, Any] = {"recipe": RECIPES["rebase"], "step": STEP, "draft": None}
        own = lm.search(PROMPT, value=lm, **options)
        assert own.error is None
        twin = lm.search(PROMPT, value=hb.LM(models.llama(), models.byte_tokenizer()), **options)
        assert_same(own, twin)
        assert lm.tree.stats()["branches"] == 0

    def test_does_not_depend_on_what_runs_beside_it(self, lm: hb.LM, judge: hb.LM) -> None:
        options: dict[str, Any] = {
            "recipe": RECIPES["step_beam"],
            "value": judge,
            "step": STEP,
            "draft": None,
        }
        plain = lm.search(PROMPT, **options)
        others = [
            one.engine.submit("another text", max_new_tokens=400, temperature=1.0, draft=None)
            for one in (lm, judge)
        ]
        beside = lm.search(PROMPT, **options)
        assert not any(other.done for other in others)
        assert others[1].output
        for other in others:
            other.cancel()
        assert_same(plain, beside)

    def test_a_template_says_what_is_read_of_the_prompt(self, lm: hb.LM, judge: hb.LM) -> None:
        options: dict[str, Any] = {
            "recipe": hb.recipes.best_of_n(n=2, max_depth=1),
            "step": STEP,
            "draft": None,
        }
        told = []

        def template(prompt: Any) -> str:
            told.append(prompt)
            return f"Question: {prompt}\n"

        result = lm.search(PROMPT, value=RewardModel(judge, template=template), **options)
        assert told == [PROMPT]
        read = judge.tokenizer(f"Question: {PROMPT}\n{result.tree.paths[1].text}")["input_ids"]
        good, bad = RewardModel(judge).answers
        assert result.tree.paths[1].value == pytest.approx(
            reference.reward(judge.model, read, good, bad), abs=1e-4
        )
        chat = [{"role": "user", "content": "hi"}]
        lm.search(chat, value=RewardModel(judge, template=lambda said: told.append(said) or said), **options)
        lm.search(lm.tokenizer("plain")["input_ids"], value=RewardModel(judge, template=template), **options)
        assert told[1:] == [chat, "plain"]

    def test_what_is_let_go_of_is_let_go_of_there(self, lm: hb.LM, judge: hb.LM) -> None:
        """Of sixteen texts no more are held than the search holds."""
        held = []

        class Watched(Value):
            def open(self, facts: SearchFacts) -> OpenValue:
                opened = RewardModel(judge).open(facts)

                class Watching(OpenValue):
                    def forget(self, nodes: Sequence[int]) -> None:
                        opened.forget(nodes)
                        held.append(judge.tree.stats()["branches"])

                    def close(self) -> None:
                        opened.close()

                return Watching(opened)

        recipe = hb.recipes.step_beam(width=4, children=4, max_depth=4)
        result = lm.search(PROMPT, recipe=recipe, value=Watched(), step=STEP, draft=None)
        assert len(result.tree.paths) == 1 + 16
        assert max(held) == 1 + 4  # the prompt, and what a round may go on from
        assert judge.tree.stats()["branches"] == 0

    @pytest.mark.parametrize("error", [RuntimeError("no pass"), KeyboardInterrupt()])
    def test_a_pass_that_fails_leaves_nothing(
        self, lm: hb.LM, judge: hb.LM, error: BaseException, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        forward, passes = judge.engine.forward, []

        def failing(step: Any, **options: Any) -> Any:
            passes.append(step.num_rows)
            if len(passes) == 3:
                raise error
            return forward(step, **options)

        monkeypatch.setattr(judge.engine, "forward", failing)
        options: dict[str, Any] = {"recipe": RECIPES["rebase"], "step": STEP, "draft": None}
        result = lm.search(PROMPT, value=judge, **options)
        assert result.stop == ("interrupted" if isinstance(error, KeyboardInterrupt) else "error")
        assert len(result.tree.paths) == 1 + 6
        for one in (lm, judge):
            assert one.engine.requests == []
            assert one.tree.stats()["branches"] == 0
        monkeypatch.setattr(judge.engine, "forward", forward)
        assert lm.search(PROMPT, value=judge, **options).stop == "over"

    def test_a_text_beyond_its_context_ends_the_search(self, lm: hb.LM, judge: hb.LM) -> None:
        long = RewardModel(judge, template=lambda prompt: "x" * 480)
        recipe = hb.recipes.best_of_n(n=2, max_depth=9)
        result = lm.search(PROMPT, recipe=recipe, value=long, step=STEP, draft=None)
        assert result.stop == "error"
        assert "expected 1 to the model's 512 positions" in str(result.error)
        assert judge.tree.stats()["branches"] == 0

    def test_arguments_are_checked(self, lm: hb.LM, judge: hb.LM) -> None:
        for options, message in (
            ({"good": "yes"}, "good is 'yes', which is 3 tokens of lm, expected one token"),
            ({"bad": ""}, "bad is empty, expected at least one token"),
            ({"bad": 300}, "bad holds token id 300, expected 0 to 255"),
            ({"good": "x", "bad": "x"}, "good and bad are both token"),
            ({"template": "text"}, "template is 'text', expected a callable or None"),
            ({"suffix": 3}, "suffix is 3, expected text"),
        ):
            with pytest.raises(ArgumentError, match=message):
                RewardModel(judge, **options)  # type: ignore[arg-type]
        with pytest.raises(ArgumentError, match=r"lm is 3, expected a hornbeam\.LM"):
            RewardModel(3)  # type: ignore[arg-type]
        mute = hb.LM(models.llama())
        with pytest.raises(ArgumentError, match="lm has no tokenizer"):
            lm.search(PROMPT, recipe=RECIPES["rebase"], value=mute)
        with pytest.raises(ArgumentError, match="the model that searches has no tokenizer"):
            mute.search([1, 2, 3], recipe=RECIPES["rebase"], value=judge, step=STEP)


class TestOpenedValues:
    """Told what is let go of, and closed at the end, well or not."""

    def test_is_told_and_closed(self, lm: hb.LM) -> None:
        log: list[Any] = []

        class Logged(OpenValue):
            def __call__(self, paths: Sequence[Path]) -> list[float]:
                if len(log) > 20:
                    raise RuntimeError("enough")
                log.append([path.node for path in paths])
                return score(paths)

            def forget(self, nodes: Sequence[int]) -> None:
                log.append(("forget", list(nodes)))

            def close(self) -> None:
                log.append("close")

        class Opens:
            def open(self, facts: SearchFacts) -> Any:
                log.append(facts)
                return Logged()

            def __call__(self, paths: Sequence[Path]) -> list[float]:
                raise AssertionError("what was opened is asked")

        options: dict[str, Any] = {"recipe": RECIPES["rebase"], "step": STEP, "draft": None}
        result = lm.search(PROMPT, value=Opens(), **options)
        facts = log[0]
        assert (facts.prompt, facts.hidden_size, facts.has_text) == (PROMPT, 96, True)
        assert facts.prompt_ids == lm.tokenizer(PROMPT)["input_ids"]
        assert log[-1] == "close"
        forgotten = sorted(node for one in log if isinstance(one, tuple) for node in one[1])
        assert forgotten == sorted(set(result.tree.paths) - {0})
        log[:] = [None] * 21
        with pytest.raises(RuntimeError, match="enough"):
            lm.search(PROMPT, value=Opens(), **options)
        assert log[-1] == "close"
        assert log.count("close") == 1

    def test_what_open_gives_is_checked(self, lm: hb.LM) -> None:
        class Wrong(Value):
            def open(self, facts: SearchFacts) -> Any:
                return 3

        with pytest.raises(ArgumentError, match=r"open of the value Wrong gave 3, expected a hornbeam"):
            lm.search(PROMPT, recipe=RECIPES["rebase"], value=Wrong(), step=STEP)
        result_of = [Value(), OpenValue()]
        for value in result_of:
            with pytest.raises(ArgumentError, match="has no method __call__"):
                value([])
