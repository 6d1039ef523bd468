"""No draft makes the model compute what the tree holds: the rows of prompts are those of plain decoding,
whatever the sources, and the text too."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hornbeam as hb
from hornbeam.engine.drafting import Drafting
from hornbeam.speculation import (
    Auto,
    FeatureHead,
    LayerSkip,
    SmallModel,
    Suffix,
    TokenRecycling,
    Union,
)
from hornbeam.speculation.draft import feature_head
from hornbeam.speculation.draft.payoff import Payoff
from hornbeam.speculation.shape import BestFirst, Chain
from hornbeam.speculation.tree_building import DraftTree
from tests import models
from tests.heads import random_head

LENGTH = hb.spec.Fixed(8)


class Watches:
    """A source of somebody else's that wants hidden states, guesses nothing, and notes what it is shown."""

    hidden_layers = (1,)

    def __init__(self):
        self.texts = {}

    def open(self, run):
        return self

    def start(self, index, prompt_ids):
        self.texts[index] = list(prompt_ids), []

    def propose(self, asks):
        for ask in asks:
            prompt, shown = self.texts[ask.index]
            first = shown[0][0]
            assert [at for at, _ in shown] == list(range(first, ask.position - 1))
            assert [t for _, t in shown] == [*ask.prompt, *ask.output][first : ask.position - 1]
            assert prompt == list(ask.prompt)
        return [DraftTree([], hb.spec.Signals([]), []) for _ in asks]

    def observe(self, outcomes):
        for outcome in outcomes:
            assert outcome.hidden.shape[:2] == (len(outcome.token_ids), 1)
            at = range(outcome.position, outcome.position + len(outcome.kept))
            self.texts[outcome.index][1].extend(zip(at, outcome.committed, strict=True))

    def finish(self, index):
        self.texts.pop(index, None)


@pytest.fixture(scope="module")
def model():
    return models.llama(layers=3)


@pytest.fixture(scope="module")
def head(model, tmp_path_factory):
    return random_head(tmp_path_factory.mktemp("head"), model)


@pytest.fixture(scope="module")
def sources(model, head):
    return {
        "suffix": Suffix(),
        "recycling": TokenRecycling(size=6, width=2, depth=3),
        "head": FeatureHead(head, BestFirst(5, 2, 3)),
        "chain": FeatureHead(head, Chain(2)),
        "skip": LayerSkip(exit_layer=1, shape=Chain(2)),
        "small": SmallModel(hb.LM(models.llama(layers=1)), Chain(2)),
        "watches": Watches(),
    }


@pytest.fixture
def computed(monkeypatch):
    """Rows of prompts that forward passes computed."""
    rows = []
    genuine = Drafting.observe

    def observe(self, outcomes):
        rows.extend(len(outcome.token_ids) for outcome in outcomes if outcome.is_prompt)
        genuine(self, outcomes)

    monkeypatch.setattr(Drafting, "observe", observe)
    return rows


def ids(length, seed=0):
    return models.prompt(length, seed)[0].tolist()


NAMES = ["suffix", "recycling", "head", "chain", "skip", "small", "watches"]


@st.composite
def histories(draw):
    """Calls of prompts that share beginnings with each other and with earlier ones; None clears the cache."""
    stems = [ids(draw(st.integers(17, 40)), seed) for seed in range(2)]
    calls, number = [], 0
    for _ in range(draw(st.integers(1, 4))):
        if draw(st.integers(0, 5)) == 0:
            calls.append(None)
        prompts = []
        for _ in range(draw(st.integers(1, 3))):
            stem, number = draw(st.sampled_from(stems)), number + 1
            cut = draw(st.integers(1, len(stem)))
            more = ids(draw(st.integers(0, 5)), number) if draw(st.booleans()) else []
            prompts.append([*stem[:cut], *more])
        calls.append((prompts, draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True))))
    return calls


class TestEverySource:
    """Red where a prompt is computed whole because a source has not read it (tried)."""

    @settings(max_examples=20, deadline=None)
    @given(history=histories(), seed=st.integers(0, 9), data=st.data())
    def test_prompts_are_computed_as_without_drafts(self, model, sources, history, seed, data):
        temperature = data.draw(st.sampled_from([0.0, 0.9]))
        is_due = data.draw(st.booleans())
        options = dict(max_new_tokens=6, temperature=temperature, seed=seed, length=LENGTH)
        with pytest.MonkeyPatch.context() as patch:
            if is_due:
                patch.setattr(Payoff, "is_due", lambda *_: True)
            drafted, plain = hb.LM(model), hb.LM(model)
            for call in history:
                if call is None:
                    drafted.clear_cache()
                    plain.clear_cache()
                    continue
                prompts, names = call
                draft = Union(*(sources[name] for name in names))
                ours = drafted.generate(prompts, draft=draft, **options)
                theirs = plain.generate(prompts, draft=None, **options)
                assert [o.token_ids for o in ours] == [o.token_ids for o in theirs]
                assert [o.stats.reused_tokens for o in ours] == [o.stats.reused_tokens for o in theirs]
            drafted.tree.debug_check()
            assert drafted.tree.stats()["branches"] == 0

    @pytest.mark.parametrize("name", NAMES)
    def test_alone(self, model, sources, name, computed):
        lm, prompt = hb.LM(model), ids(40)
        options = dict(max_new_tokens=6, draft=sources[name], length=LENGTH)
        first = lm.generate(prompt, **options)
        assert sum(computed) == 40
        for _ in range(2):
            again = lm.generate(prompt, **options)
            assert again.token_ids == first.token_ids
            assert again.stats.reused_tokens == 39
        assert sum(computed) == 42
        lm.generate([ids(30, 1), [*ids(30, 1), 7], [*ids(29, 1), 8]], **options)
        assert sum(computed) == 42 + 30 + 1 + 1


class TestTheDefaultDraft:
    @pytest.fixture(autouse=True)
    def shipped(self, head, monkeypatch):
        """As if the head that comes with the package were one for the tiny model."""
        monkeypatch.setattr(feature_head, "SHIPPED", str(head))

    def test_questions_on_one_document_share_it(self, model, computed):
        lm = hb.LM(model)
        assert FeatureHead() in Auto().union(lm).drafts
        lm.calibrate()
        document = ids(300)
        prompts = [[*document, i, *ids(12, i)] for i in range(1, 7)]
        for prepare in (lambda: None, lm.clear_cache):
            prepare()
            del computed[:]
            outs = lm.generate(prompts, max_new_tokens=8)
            assert [out.stats.reused_tokens for out in outs] == [0, *[300] * 5]
            assert sum(computed) == 300 + 6 * 13

    @pytest.mark.parametrize("asked", [True, False])
    def test_a_chat_computes_what_is_new(self, model, computed, monkeypatch, asked):
        monkeypatch.setattr(Payoff, "is_due", lambda *_: asked)
        lm, chat = hb.LM(model), []
        for turn in range(8):
            if turn == 3:
                lm.clear_cache()
            del computed[:]
            before = len(chat) if turn != 3 else 0
            chat += ids(20, turn)
            out = lm.generate(chat, max_new_tokens=10)
            # The last token that was emitted never was a row.
            assert sum(computed) == len(chat) - before + (before > 0)
            chat += out.token_ids

    def test_the_same_prompt_again_computes_one_row(self, model, computed):
        lm, prompt = hb.LM(model), ids(200)
        lm.generate(prompt, max_new_tokens=4, draft=None)
        for _ in range(3):
            del computed[:]
            lm.generate(prompt, max_new_tokens=4)
            assert computed == [1]
