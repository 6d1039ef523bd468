"""Token Recycling against a dictionary of last-seen successors."""

from __future__ import annotations

import random
from itertools import pairwise, product
from types import SimpleNamespace

import pytest
import torch

import hornbeam as hb
from hornbeam.errors import ArgumentError
from hornbeam.speculation import Ask, Outcome, Run, TokenRecycling
from hornbeam.speculation.draft.token_recycling import FIRST, NEXT, static_tree
from tests import models


def test_the_static_tree_holds_the_likeliest_paths():
    size, width, depth = 20, 3, 4
    tree = static_tree(size, width, depth)
    ranks: list[tuple[int, ...]] = []
    for node, (parent, rank) in enumerate(tree):
        assert parent < node
        ranks.append((*(ranks[parent] if parent >= 0 else ()), rank))
    every = [path for levels in range(1, depth + 1) for path in product(range(width), repeat=levels)]

    def likelihood(path):
        return FIRST ** len(path) * NEXT ** sum(path)

    assert len(set(ranks)) == size
    best = sorted(map(likelihood, every), reverse=True)[:size]
    assert sorted(map(likelihood, ranks), reverse=True) == pytest.approx(best)


@pytest.mark.parametrize("seed", range(5))
def test_proposals_follow_what_was_seen_last(seed):
    random_, vocab, width = random.Random(seed), 7, 3
    generator = torch.Generator().manual_seed(seed)
    lm = type("Model", (), {})()
    lm.runner = SimpleNamespace(shape=SimpleNamespace(vocab_size=vocab))
    lm.recalled = {}
    source = TokenRecycling(size=15, width=width, depth=3)
    prompt = [random_.randrange(vocab) for _ in range(10)]
    known: dict[int, list[int]] = {}
    for token, after in pairwise(prompt):
        known[token] = [after, *(t for t in known.get(token, []) if t != after)][:width]
    proposer = source.open(Run(lm, hb.Warp(), 0, "coupled"))
    proposer.start(0, prompt)
    for _ in range(20):
        pending, room = random_.randrange(vocab), random_.randrange(4)
        proposal = proposer.propose([Ask(0, 0, pending, 11, room)])[0]
        expected: list[tuple[int, int]] = []
        places = {-1: -1}
        depth_of = {-1: 0}
        for node, (parent, rank) in enumerate(static_tree(15, width, 3)):
            if parent not in places:
                continue
            token = pending if parent < 0 else expected[places[parent]][0]
            after = known.get(token, [])
            if rank < len(after) and depth_of[parent] < room:
                places[node], depth_of[node] = len(expected), depth_of[parent] + 1
                expected.append((after[rank], places[parent]))
        assert list(zip(proposal.tokens, proposal.parents, strict=True)) == expected
        rows = [random_.randrange(vocab) for _ in range(3)]
        logits = torch.randn(3, vocab, generator=generator)
        proposer.observe([Outcome(0, rows, [0], False, 0, logits)])
        for token, row in zip(rows, logits, strict=True):
            known[token] = row.argsort(descending=True)[:width].tolist()
    again = source.open(Run(lm, hb.Warp(), 0, "coupled"))
    assert again.successors is proposer.successors, "a later run goes on with what was learned"


def test_drafts_come_true_and_leave_the_text():
    lm = hb.LM(models.llama())
    source = TokenRecycling(size=12)
    prompt = models.prompt(9, 1)[0].tolist()
    plain = lm.generate(prompt, max_new_tokens=24, draft=None)
    first = lm.generate(prompt, max_new_tokens=24, draft=source, length=hb.spec.Fixed(12))
    second = lm.generate(prompt, max_new_tokens=24, draft=source, length=hb.spec.Fixed(12))
    assert first.token_ids == second.token_ids == plain.token_ids
    assert second.stats.accepted > max(4, first.stats.accepted)
    lm.clear_cache()
    third = lm.generate(prompt, max_new_tokens=24, draft=source, length=hb.spec.Fixed(12))
    assert third.stats.accepted == first.stats.accepted, "what was cleared is forgotten"


def test_refusals():
    for name in ("size", "width", "depth"):
        with pytest.raises(ArgumentError, match=f"{name} is 0"):
            TokenRecycling(**{name: 0})
