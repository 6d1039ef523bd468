"""Draft sources, shapes, stop rules and verification rules of a user, each in one class, as documented."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch

import hornbeam as hb
from hornbeam.errors import ArgumentError
from hornbeam.speculation.rule import RULES, rule_of
from hornbeam.speculation.shape.levels import constant_outline, grow_levels
from hornbeam.speculation.source import Source
from tests import models
from tests.drafts import Foresight
from tests.integrations.laws import outlying

PROMPT = models.prompt(21, 4)[0].tolist()
SAMPLING = {"temperature": 0.9, "top_k": 40}


class Repeats:
    """Guesses that the pending token comes again."""

    def start(self, prompt_ids: Any) -> Repeats:
        return self

    def extend(self, token_ids: Any) -> None:
        pass

    def propose(self, pending: int, max_length: int) -> Any:
        tokens = [pending] * min(3, max_length)
        return SimpleNamespace(tokens=tokens, signals=hb.spec.Signals([0.5] * len(tokens)))


class Bush:
    """Three first tokens, and one after each."""

    law = "without_replacement"

    def grow(self, builder: Any) -> None:
        grow_levels(builder, builder.distinct, (3, 1))

    def outline(self, record: Any, max_tokens: int) -> list[int]:
        return constant_outline((3, 1), max_tokens)


@dataclass(frozen=True)
class EverySecondStep:
    """Verifies everything in every second step, and nothing in the others."""

    needs_costs: ClassVar[bool] = False
    is_predictable: ClassVar[bool] = True

    def start(self, cost: Any) -> Any:
        class AtWork:
            steps = 0

            def choose(self, proposals: Any) -> Any:
                self.steps += 1
                return [len(p.tokens) if self.steps % 2 else 0 for p in proposals]

            def observe(self, *arguments: Any) -> None:
                pass

        return AtWork()


class DrawAgain(hb.spec.Rule):
    """Draws from the target, and descends where a child holds the token."""

    name = "draw_again"

    def walk(self, draft: Any) -> tuple[list[int], int]:
        at, path = -1, []
        while True:
            token = draft.draw(draft.target(at))
            below = [child for child in draft.children(at) if draft.tokens[child] == token]
            if not below:
                return path, token
            at = below[0]
            path.append(at)


class Ratio(hb.spec.Rule):
    """Speculative sampling of a chain, from the paper."""

    name = "ratio"
    compares = frozenset({"chain"})

    def walk(self, draft: Any) -> tuple[list[int], int]:
        path: list[int] = []
        for node, token in enumerate(draft.tokens):
            p, q = draft.target(node - 1), draft.drafted(node - 1)
            if draft.uniform() * float(q[token]) >= float(p[token]):
                return path, draft.draw((p - q).clamp(min=0))
            path.append(node)
        return path, draft.draw(draft.target(len(draft.tokens) - 1))


@pytest.fixture(scope="module")
def lm() -> hb.LM:
    return hb.LM(models.llama())


def plain(lm: hb.LM, **options: Any) -> list[int]:
    return lm.generate(PROMPT, draft=None, max_new_tokens=16, **options).token_ids


@pytest.mark.parametrize("length", [hb.spec.Fixed(3), hb.spec.MeasuredGain(), EverySecondStep()], ids=repr)
def test_a_draft_and_a_stop_rule(lm: hb.LM, length: Any) -> None:
    out = lm.generate(PROMPT, draft=Repeats(), length=length, max_new_tokens=16, seed=2, **SAMPLING)
    assert out.token_ids == plain(lm, seed=2, **SAMPLING)
    assert out.stats.drafted > 0


def test_a_stop_rule_is_asked(lm: hb.LM) -> None:
    want = plain(lm)
    draft = Foresight([PROMPT + want], wrong=1000)
    out = lm.generate(PROMPT, draft=draft, length=EverySecondStep(), max_new_tokens=16)
    assert out.token_ids == want
    # A step of one token for every step that verifies all that is left.
    assert out.stats.forward_passes == 1


@pytest.mark.parametrize("verify", ["coupled", "without_replacement", DrawAgain()], ids=repr)
def test_a_shape(lm: hb.LM, verify: Any) -> None:
    draft = hb.spec.SmallModel(hb.LM(models.llama(layers=1)), Bush())
    options: dict[str, Any] = {"draft": draft, "length": hb.spec.Fixed(6), "verify": verify, **SAMPLING}
    out = lm.generate(PROMPT, max_new_tokens=16, **options)
    assert len(out.token_ids) == 16
    assert out.stats.drafted > 6
    if verify == "coupled":
        assert out.token_ids == plain(lm, **SAMPLING)
    assert lm.generate(PROMPT, max_new_tokens=16, **options).token_ids == out.token_ids


def test_a_shape_of_another_law_than_the_rule(lm: hb.LM) -> None:
    draft = hb.spec.SmallModel(hb.LM(models.llama(layers=1)), Bush())
    with pytest.raises(
        ArgumentError, match="verify is 'ratio' for a draft whose law is 'without_replacement'"
    ):
        lm.generate(PROMPT, draft=draft, verify=Ratio(), length=hb.spec.Fixed(3), **SAMPLING)
    late = type("MeasuredLate", (EverySecondStep,), {"is_predictable": False})
    with pytest.raises(ArgumentError, match="length is MeasuredLate, which looks at drawn tokens"):
        lm.generate(PROMPT, draft=draft, verify="without_replacement", length=late(), **SAMPLING)


class TestRules:
    @pytest.mark.parametrize("rule", [DrawAgain(), Ratio()], ids=lambda rule: rule.name)
    def test_greedy_text_is_the_models(self, lm: hb.LM, rule: hb.spec.Rule) -> None:
        want = plain(lm)
        draft = Foresight([PROMPT + want], wrong=7)
        out = lm.generate(PROMPT, draft=draft, length=hb.spec.Fixed(4), verify=rule, max_new_tokens=16)
        assert out.token_ids == want
        assert out.stats.accepted > 0

    @pytest.mark.parametrize("rule", [DrawAgain(), Ratio(), "chain"], ids=repr)
    def test_the_law_is_the_targets(self, lm: hb.LM, rule: Any) -> None:
        """Of the first two tokens together: drafts of a model that is not quite the same, 1,500 samples."""
        other, generator = models.llama(), torch.Generator().manual_seed(3)
        with torch.no_grad():
            for weight in other.parameters():
                weight += 0.1 * weight.std() * torch.randn(weight.shape, generator=generator)
        draft = hb.spec.SmallModel(hb.LM(other), hb.spec.shape.Chain(2))
        warp = hb.Warp(temperature=0.8, top_k=4)
        options: dict[str, Any] = {"warp": warp, "max_new_tokens": 3, "length": hb.spec.Fixed(2)}
        outs = lm.generate([PROMPT] * 1500, draft=draft, verify=rule, seed=11, **options)
        pairs = [tuple(out.token_ids[:2]) for out in outs]
        law: dict[tuple[int, int], float] = {}
        first = hb.ops.probabilities(logits_after(lm, PROMPT), warp)[0]
        for token in first.nonzero().flatten().tolist():
            after = hb.ops.probabilities(logits_after(lm, [*PROMPT, token]), warp)[0]
            for follows in after.nonzero().flatten().tolist():
                law[token, follows] = float(first[token] * after[follows])
        assert outlying(pairs, law) < 5
        assert sum(out.stats.accepted for out in outs) > 100

    def test_penalties_follow_the_path(self, lm: hb.LM) -> None:
        warp = hb.Warp(temperature=0.0, repetition_penalty=1.5)
        want = plain(lm, warp=warp)
        draft = Foresight([PROMPT + want], wrong=6)
        options: dict[str, Any] = {"draft": draft, "length": hb.spec.Fixed(4), "verify": DrawAgain()}
        out = lm.generate(PROMPT, warp=warp, max_new_tokens=16, **options)
        assert out.token_ids == want
        assert out.stats.accepted > 0

    def test_a_text_is_its_own_in_any_company(self, lm: hb.LM) -> None:
        options: dict[str, Any] = {"draft": Repeats(), "length": hb.spec.Fixed(3), "verify": DrawAgain()}
        options |= {"max_new_tokens": 12, "seed": 5, **SAMPLING}
        other = models.prompt(30, 6)[0].tolist()
        both = lm.generate([PROMPT, other], **options)
        assert [out.token_ids for out in both] == [
            lm.generate(prompt, **options).token_ids for prompt in (PROMPT, other)
        ]

    @pytest.mark.parametrize(
        ("gives", "message"),
        [
            (([1], 3), "Bad accepted tokens .1. of a draft with parents"),
            (([0, 0], 3), "expected a path from the root"),
            (([99], 3), "expected a path from the root"),
            (([], 256), "Bad gave token id 256, expected 0 to 255"),
        ],
    )
    def test_what_it_may_not_give(self, lm: hb.LM, gives: Any, message: str) -> None:
        class Bad(hb.spec.Rule):
            name = "Bad"

            def walk(self, draft: Any) -> Any:
                return gives if draft.tokens else ([], 0)

        draft = Foresight([PROMPT + plain(lm)], wrong=1000)
        with pytest.raises(ArgumentError, match=message):
            lm.generate(PROMPT, draft=draft, length=hb.spec.Fixed(3), verify=Bad(), max_new_tokens=8)
        assert lm.tree.stats()["branches"] == 0

    def test_what_is_none(self, lm: hb.LM) -> None:
        for bad in ("best", None, DrawAgain):
            with pytest.raises(ArgumentError, match="expected the name of a rule"):
                lm.generate(PROMPT, verify=bad, max_new_tokens=1)
        bare = type("Bare", (hb.spec.Rule,), {"name": "bare"})
        with pytest.raises(ArgumentError, match="Bare has no method walk"):
            lm.generate(PROMPT, draft=Repeats(), length=hb.spec.Fixed(1), verify=bare(), max_new_tokens=4)

    def test_those_of_the_package(self, lm: hb.LM) -> None:
        assert all(rule_of(name).name == name for name in RULES)
        assert [name for name, rule in RULES.items() if not rule.is_exact] == ["typical"]
        loose = hb.spec.rule.typical.Typical(epsilon=0.001, alpha=0.001)
        draft = Foresight([PROMPT + [7] * 30], wrong=1000)
        options: dict[str, Any] = {"draft": draft, "length": hb.spec.Fixed(4), "temperature": 1.0}
        strict = lm.generate(PROMPT, verify="typical", max_new_tokens=16, **options)
        assert lm.generate(PROMPT, verify=loose, max_new_tokens=16, **options).stats.accepted > (
            strict.stats.accepted
        )


class TestForks:
    @pytest.mark.parametrize("draft", [hb.spec.Suffix(), hb.spec.NGram()], ids=lambda d: type(d).__name__)
    def test_drafters_share_until_one_goes_on(self, draft: Any) -> None:
        text = [1, 2, 3, 4, 1, 2, 3]
        one = draft.start(text)
        two = one.fork()
        two.extend([9, 8])
        assert one.propose(4, 4).tokens == draft.start(text).propose(4, 4).tokens
        assert two.propose(1, 4).tokens == draft.start([*text, 9, 8]).propose(1, 4).tokens
        one.extend([5])
        assert one.propose(1, 4).tokens == draft.start([*text, 5]).propose(1, 4).tokens
        three = two.fork()
        del two
        assert three.propose(9, 2).tokens == draft.start([*text, 9, 8]).propose(9, 2).tokens

    def test_a_source_that_cannot_is_started_with_the_text(self) -> None:
        engine = hb.Engine(models.llama())
        started: list[list[int]] = []

        class Noted(Repeats):
            def start(self, prompt_ids: Any) -> Repeats:
                started.append(list(prompt_ids))
                return self

        request = engine.submit(PROMPT, draft=Noted(), length=hb.spec.Fixed(2), max_new_tokens=12)
        for _ in range(3):
            engine.step()
        text = list(request.output)
        children = request.fork(2)
        assert len(started) == 1
        engine.step()
        assert started[1:] == [PROMPT + text[:-1]]  # child 0 has the one that there is
        assert len({tuple(child.result().token_ids) for child in children}) == 1

    @pytest.mark.parametrize(
        "draft",
        [hb.spec.Suffix(), hb.spec.TokenRecycling(size=8, width=2, depth=2), hb.spec.Auto()],
        ids=repr,
    )
    def test_a_child_has_a_draft_in_its_first_step(self, draft: Any) -> None:
        engine = hb.Engine(models.llama())
        prompt = [3, 1, 4, 1, 5, 9, 2, 6] * 6
        options: dict[str, Any] = {"draft": draft, "length": hb.spec.Fixed(4)}
        request = engine.submit(prompt, max_new_tokens=40, **options)
        while len(request.output) < 4:
            engine.step()
        children = request.fork(3)
        engine.step()
        assert all(child.stats.drafted > request.stats.drafted for child in children)
        assert len({tuple(child.result().token_ids) for child in children}) == 1

    @pytest.mark.parametrize(
        "draft", [hb.spec.Suffix(), hb.spec.Auto(), Repeats()], ids=lambda d: type(d).__name__
    )
    def test_a_child_goes_on_though_the_first_is_cancelled_at_once(self, draft: Any) -> None:
        engine, prompt = hb.Engine(models.llama()), [3, 1, 4, 1, 5, 9, 2, 6] * 6
        request = engine.submit(prompt, draft=draft, max_new_tokens=12)
        while not request.output:
            engine.step()
        first, second = request.fork(2)
        first.cancel()
        want = hb.LM(models.llama()).generate(prompt, draft=None, max_new_tokens=12).token_ids
        assert second.result().token_ids == want

    def test_of_a_union_one_of_whose_sources_cannot(self) -> None:
        class Forks(Repeats):
            def fork(self) -> Forks:
                return self

        run = hb.spec.Run(hb.Engine(models.llama()), hb.Warp(), 0, "coupled")
        source = Source(hb.spec.Union(Forks(), Repeats()), run)
        source.start(0, PROMPT)
        assert not source.fork(0, 1)
        assert list(source.proposer.sources[0].proposer.drafters) == [0]
        whole = Source(hb.spec.Union(Forks(), Forks()), run)
        whole.start(0, PROMPT)
        assert whole.fork(0, 1)


def logits_after(lm: hb.LM, ids: list[int]) -> torch.Tensor:
    return lm.model(torch.tensor([ids])).logits[0, -1:].detach().float()
