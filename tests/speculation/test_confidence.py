"""Confidence keeps the doubtful token and drops what hangs below it; ratio tests stay exact.

The biased variant (drop the doubtful token itself) is put in here, and its bias is seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import pytest

import hornbeam as hb
from hornbeam.errors import ArgumentError
from hornbeam.speculation import Confidence, Signals
from tests import models
from tests.reference import verify as reference


@dataclass
class Drafted:
    tokens: list[int]
    signals: Signals
    parents: list[int] | None = None


def chosen(confidences, parents=None, threshold=0.4):
    drafted = Drafted(list(range(len(confidences))), Signals(confidences), parents)
    return Confidence(threshold).start().choose([drafted])[0]


def test_stops_after_the_first_doubtful_token():
    assert chosen([0.9, 0.5, 0.1, 0.9]) == 3
    assert chosen([0.1, 0.9]) == 1
    assert chosen([]) == 0
    assert chosen([0.4, 0.4]) == 2
    assert chosen([0.9, 0.1, 0.9, 0.9], [-1, -1, 0, 1]) == [0, 1, 2]
    with pytest.raises(ArgumentError, match=r"threshold is 1.5, expected 0 to 1"):
        Confidence(1.5)


def text_law(keeps_the_doubtful: bool) -> dict[tuple[int, ...], Fraction]:
    """The law of two tokens when a chain of two is drafted from q and cut by confidence, exactly."""
    p = [Fraction(1, 10), Fraction(3, 10), Fraction(6, 10)]
    q = [Fraction(6, 10), Fraction(1, 10), Fraction(3, 10)]
    law: dict[tuple[int, ...], Fraction] = {}

    def experiment(chance):
        drawn = [chance.pick(0, 0, q), chance.pick(0, 0, q)]
        confidences = [float(q[token]) for token in drawn]
        if keeps_the_doubtful:
            length = chosen(confidences)
        else:
            length = next((i for i, c in enumerate(confidences) if c < 0.4), 2)
        tree = [(token, i - 1) for i, token in enumerate(drawn[:length])]
        kept, token = reference.chain(tree, lambda row: p, lambda row: q, chance)
        text = [*(drawn[row - 1] for row in kept), token]
        while len(text) < 2:
            text.append(chance.pick(0, 0, p))
        return tuple(text[:2])

    for probability, text in reference.outcomes(experiment):
        law[text] = law.get(text, Fraction(0)) + probability
    return {text: mass - p[text[0]] * p[text[1]] for text, mass in law.items()}


def test_the_chain_rule_stays_exact_and_the_biased_variant_does_not():
    assert all(difference == 0 for difference in text_law(True).values())
    assert sum(map(abs, text_law(False).values())) / 2 > Fraction(5, 100)


def test_drives_a_ratio_test_and_a_coupled_text():
    lm, draft = hb.LM(models.llama()), hb.LM(models.llama())
    source = hb.spec.SmallModel(draft, hb.spec.shape.Chain(4))
    prompt = models.prompt(6, 1)[0].tolist()
    out = lm.generate(
        prompt, max_new_tokens=12, temperature=0.8, draft=source, length=Confidence(0.01), verify="block"
    )
    assert out.stats.drafted > 0
    plain = lm.generate(prompt, max_new_tokens=12, draft=None)
    assert (
        lm.generate(prompt, max_new_tokens=12, draft=source, length=Confidence()).token_ids == plain.token_ids
    )
