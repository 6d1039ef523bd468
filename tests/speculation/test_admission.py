"""Drafts from elsewhere: what does not fit the model is dropped, and what is no tree is refused by name."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import hornbeam as hb
from hornbeam.errors import ArgumentError
from hornbeam.speculation import Signals, TokenRecycling, Union
from hornbeam.speculation.admission import admitted
from hornbeam.speculation.draft.payoff import Payoff
from tests import models
from tests.drafts import Proposed

VOCABULARY = 256
PROMPT = [1, 5, 6, 9]


@dataclass
class Says:
    """Proposes the same every time."""

    tokens: list[int]
    parents: list[int] | None = None
    num_signals: int | None = None
    num_proposals: int | None = None
    law: str = "deterministic"
    hidden_layers = ()

    def open(self, run):
        self.vocab_size = run.target.runner.shape.vocab_size
        return self

    def start(self, index, prompt_ids):
        pass

    def propose(self, asks):
        count = len(self.tokens) if self.num_signals is None else self.num_signals
        logits = None
        if self.law != "deterministic":
            logits = torch.zeros(1 + len(self.tokens), self.vocab_size)
        drafted = Proposed(self.tokens, Signals([0.9] * count), self.parents, logits)
        return [drafted] * (len(asks) if self.num_proposals is None else self.num_proposals)

    def observe(self, outcomes):
        pass

    def finish(self, index):
        pass


@dataclass
class SaysAlone:
    """The same, a source that works on one sequence at a time."""

    tokens: list[int]

    def start(self, prompt_ids):
        return self

    def extend(self, token_ids):
        pass

    def propose(self, pending, max_length):
        return Proposed(self.tokens, Signals([0.9] * len(self.tokens)))


@pytest.fixture(scope="module")
def lm():
    return hb.LM(models.llama())


@pytest.fixture(autouse=True)
def eager(monkeypatch):
    """Every source is asked in every step: beside a step of a tiny model none would pay."""
    monkeypatch.setattr(Payoff, "is_due", lambda *_: True)


def take(proposal, max_tokens=99, law="deterministic", is_ratio_test=False):
    return admitted(
        proposal, "Name", vocab_size=10, max_tokens=max_tokens, law=law, is_ratio_test=is_ratio_test
    )


def generate(lm, draft, length=None, **options):
    length = hb.spec.Fixed(30) if length is None else length
    return lm.generate(PROMPT, max_new_tokens=12, draft=draft, length=length, **options)


@st.composite
def proposals(draw):
    tokens = draw(st.lists(st.integers(-3, 14) | st.sampled_from([2**31, -(2**40)]), max_size=14))
    parents = None
    if draw(st.booleans()):
        parents = [draw(st.integers(-1, node - 1)) for node in range(len(tokens))]
    confidences = [draw(st.integers(0, 1000)) / 1000 for _ in tokens]
    logits = torch.arange(1.0 + len(tokens))[:, None].expand(-1, 10) if draw(st.booleans()) else None
    return Proposed(tokens, Signals(confidences, list(range(len(tokens)))), parents, logits)


@given(proposals(), st.integers(-1, 6))
def test_what_fits_stays_and_hangs_where_it_hung(proposal, max_tokens):
    count = len(proposal.tokens)
    parents = list(range(-1, count - 1)) if proposal.parents is None else proposal.parents

    def path(node):
        return [] if node < 0 else [*path(parents[node]), node]

    fits = [
        node
        for node in range(count)
        if len(path(node)) <= max_tokens and all(0 <= proposal.tokens[above] < 10 for above in path(node))
    ]
    found = take(proposal, max_tokens, law="with_replacement")
    if len(fits) == count:
        assert found is proposal
        return
    assert found.origin == fits
    assert found.tokens == [proposal.tokens[node] for node in fits]
    assert found.signals.confidences == [proposal.signals.confidences[node] for node in fits]
    assert found.signals.match_lengths == fits
    hung = range(-1, len(fits) - 1) if found.parents is None else found.parents
    assert [-1 if p < 0 else fits[p] for p in hung] == [parents[node] for node in fits]
    if proposal.logits is not None:
        assert found.logits[:, 0].tolist() == [0, *(1 + node for node in fits)]


class TestForeignIds:
    """Red without the check (tried): the embedding raises an IndexError."""

    @pytest.mark.parametrize("bad", [VOCABULARY, 301, 2**31 - 1, 2**40, -1, -256])
    @pytest.mark.parametrize("place", [0, 1, 3])
    @pytest.mark.parametrize("kind", ["chain", "tree", "alone", "union"])
    def test_they_change_no_text_and_others_are_still_verified(self, lm, bad, place, kind):
        plain = generate(lm, None)
        tokens = plain.token_ids[1:5]
        tokens[place] = bad
        if kind == "tree":
            draft = Says([333, *tokens, 7], [-1, -1, 1, 2, 3, 0])
        elif kind == "alone":
            draft = SaysAlone(tokens)
        else:
            draft = Says(tokens)
        if kind == "union":
            draft = Union(draft, Says([bad]), hb.spec.Suffix(), rows=max(place, 1))
        out = generate(lm, draft)
        assert out.token_ids == plain.token_ids
        # Up to the bad token the first proposal is right.
        assert out.stats.accepted >= place

    def test_of_a_corpus(self, lm):
        plain = generate(lm, None)
        corpus = hb.spec.build_corpus([[*PROMPT, *plain.token_ids[:3], 300, 301, 302]] * 3)
        for draft in (hb.spec.Suffix(corpus=corpus), hb.spec.Auto(corpus=corpus)):
            out = generate(lm, draft)
            assert out.token_ids == plain.token_ids
            assert out.stats.accepted >= 2

    def test_of_a_table_of_successors(self, lm):
        draft, plain = TokenRecycling(size=8, width=2, depth=3), generate(lm, None)
        generate(lm, draft)
        lm.recalled[draft].ids[:] = 4000
        out = generate(lm, draft)
        assert out.token_ids == plain.token_ids

    def test_a_ratio_test_is_not_biased_in_silence(self, lm):
        with pytest.raises(ArgumentError, match="the draft Says drew token id 300, expected 0 to 255"):
            generate(lm, Says([300], law="chain"), verify="chain", temperature=1.0)
        with pytest.raises(ArgumentError, match="the draft Says drew token id 300, expected 0 to 255"):
            generate(lm, Union(Says([300], law="chain")), verify="chain", temperature=1.0)

    def test_a_chain_that_is_too_long_is_cut(self, lm):
        plain = generate(lm, None)
        out = generate(lm, Says(plain.token_ids[1:] * 9), length=hb.spec.Fixed(200))
        assert out.token_ids == plain.token_ids
        # The first step has room for ten drafted tokens, and they end the text.
        assert out.stats.drafted == 10


class TestNoTrees:
    @pytest.mark.parametrize("wrapped", [False, True])
    @pytest.mark.parametrize(
        ("draft", "message"),
        [
            (Says([7, 8], [-1, 2]), "the draft Says proposed parent 2 of token 1, expected -1 or"),
            (Says([7, 8], [-1, 1]), "proposed parent 1 of token 1"),
            (Says([7, 8], [1, 0]), "proposed parent 1 of token 0"),
            (Says([7, 8], [-1, -2]), "proposed parent -2 of token 1"),
            (Says([7, 8, 7], [-1, -1, -1]), "proposed token id 7 twice below token -1"),
            (Says([7, 8], [-1]), "proposed 2 tokens with 2 signals and 1 parents"),
            (Says([7, 8], num_signals=1), "proposed 2 tokens with 1 signals"),
            (Says([7, 8], num_proposals=2), "gave 2 proposals for 1 sequences"),
            (Says([7, 8], num_proposals=0), "gave 0 proposals for 1 sequences"),
        ],
    )
    def test_they_are_refused_by_name(self, lm, draft, message, wrapped):
        with pytest.raises(ArgumentError, match=message):
            generate(lm, Union(draft, hb.spec.Suffix()) if wrapped else draft)
        assert lm.tree.stats()["branches"] == 0

    def test_equal_siblings_of_a_law_with_repetition_are_fine(self):
        twins = Proposed([7, 7], Signals([0.5, 0.5]), [-1, -1])
        assert take(twins, law="with_replacement") is twins
        with pytest.raises(ArgumentError, match="twice"):
            take(twins, law="without_replacement")


class TestSmallBudgets:
    """Red where a step that does not fit is not tried without its drafts (tried)."""

    @pytest.mark.parametrize("slabs", [1, 2, 3])
    def test_a_draft_that_does_not_fit_is_left_out(self, slabs):
        model = models.llama()
        plain = generate(hb.LM(model), None)
        small = hb.LM(model, max_kv_bytes=slabs * hb.LM(model).tree.slab_bytes)
        wide = Says([*range(10, 70), *plain.token_ids[1:3]], [*[-1] * 61, 60])
        out = generate(small, wide, length=hb.spec.Fixed(100))
        assert out.token_ids == plain.token_ids
        small.tree.debug_check()
        assert small.tree.stats()["branches"] == 0

    def test_a_ratio_test_says_so(self):
        model = models.llama()
        small = hb.LM(model, max_kv_bytes=hb.LM(model).tree.slab_bytes)
        draft = hb.spec.SmallModel(hb.LM(model), hb.spec.shape.GumbelTree((40,)))
        with pytest.raises(hb.errors.OutOfPages):
            generate(small, draft, length=hb.spec.Fixed(40), verify="without_replacement", temperature=1.0)
