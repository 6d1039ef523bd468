"""Suffix trees from counts against the enumeration of all continuations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hornbeam as hb
from hornbeam.errors import ArgumentError
from tests.reference import suffix as reference

texts = st.lists(st.integers(0, 2), max_size=50)


def paths(proposal) -> list[tuple[int, ...]]:
    found: list[tuple[int, ...]] = []
    for token, parent in zip(proposal.tokens, proposal.parents, strict=True):
        found.append((*(found[parent] if parent >= 0 else ()), token))
    return found


@given(
    texts, st.lists(st.integers(0, 3), max_size=2), st.integers(1, 9), st.integers(0, 5), st.floats(0.05, 1)
)
def test_holds_the_most_probable_paths(text, pending, max_tokens, max_depth, least):
    expected = reference.tree(text, pending, max_tokens, max_depth, least)
    probability = {path: chance for chance, path in expected}
    drafter = hb.spec.Suffix(max_length=max_tokens, tree=True, min_probability=least).start(text)
    found = paths(drafter.propose(pending, max_depth))
    on_the_threshold = any(abs(chance - least) <= 1e-3 * least for chance in probability.values())
    assert len(set(found)) == len(found)
    assert len(found) == min(max_tokens, len(expected)) or on_the_threshold
    taken = [probability[path] for path in found]
    assert sorted(taken, reverse=True) == pytest.approx([chance for chance, _ in expected[: len(found)]])


def test_signals_speak_of_each_token():
    drafter = hb.spec.Suffix(tree=True, max_length=8).start([9, 1, 9, 2, 8, 9, 1, 7, 9, 2, 4, 9])
    proposal = drafter.propose((), 1)
    assert (proposal.tokens, proposal.parents) == ([2, 1], [-1, -1])
    assert proposal.signals.counts == [4, 4]
    assert proposal.signals.match_lengths == [1, 1]
    assert proposal.signals.confidences == pytest.approx([2 / 5, 2 / 5])
    assert len(proposal) == 2


def test_refuses_a_probability_out_of_range():
    for value in (0, 1.5, float("nan")):
        with pytest.raises(ArgumentError, match="min_probability is"):
            hb.spec.Suffix(min_probability=value)
