"""The suffix draft source against the definition of a match."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hornbeam.errors import ArgumentError, HornbeamError
from hornbeam.speculation import Suffix, SuffixCorpus
from tests.reference import suffix as reference

SMALL = st.integers(0, 2)
texts = st.lists(SMALL, max_size=60)


@given(texts, st.lists(st.integers(0, 3), max_size=3), st.integers(0, 16), st.integers(1, 3))
def test_proposals_follow_the_definition(
    text: list[int], pending: list[int], max_length: int, min_match: int
) -> None:
    drafter = Suffix(min_match=min_match).start(text)
    proposal = drafter.propose(pending, max_length)
    tokens, lengths, counts, confidences = reference.chain(text, pending, max_length, min_match)
    assert proposal.tokens == tokens
    assert proposal.signals.match_lengths == lengths
    assert proposal.signals.counts == counts
    assert proposal.signals.confidences == pytest.approx(confidences)
    assert drafter.match_length == reference.earlier_match(text)


@given(texts, st.integers(0, 70))
def test_a_text_grown_by_tokens_equals_one_indexed_at_once(text: list[int], cut: int) -> None:
    grown = Suffix().start(text[:cut])
    for token in text[cut:]:
        grown.extend([token])
    whole = Suffix().start(text)
    assert grown.propose((), 10).tokens == whole.propose((), 10).tokens
    assert grown.num_tokens == whole.num_tokens == len(text)


@given(st.lists(st.integers(0, 1), min_size=1, max_size=30), st.lists(st.integers(2, 9), max_size=10))
def test_a_passage_that_went_on_in_several_ways_goes_on_as_last_time(
    passage: list[int], between: list[int]
) -> None:
    text = [20, *passage, 10, *between, 20, *passage, 11, *between, 20, *passage]
    assert Suffix().start(text).propose((), 1).tokens == [11]


@given(texts, st.integers(0, 12), st.integers(1, 12), st.integers(1, 4))
def test_bounds(text: list[int], asked: int, max_length: int, min_match: int) -> None:
    proposal = Suffix(max_length=max_length, min_match=min_match).start(text).propose((), asked)
    signals = proposal.signals
    assert len(proposal) == len(signals) == len(proposal.tokens) <= min(asked, max_length)
    assert len(signals.counts) == len(signals.confidences) == len(proposal)
    assert all(length >= min_match for length in signals.match_lengths)
    assert all(0 < confidence < 1 for confidence in signals.confidences)
    if asked and reference.earlier_match(text) < min_match:
        assert not proposal.tokens


@given(st.lists(texts.filter(bool), min_size=1, max_size=4), texts)
def test_a_corpus_never_runs_over_the_end_of_a_document(documents: list[list[int]], text: list[int]) -> None:
    # Marks above the text's own ids, so that nothing but the corpus can propose them.
    documents = [[token + 10 for token in document] for document in documents]
    text = [token + 10 for token in text]
    tokens = Suffix(corpus=SuffixCorpus(documents)).start([]).propose(text, 20).tokens
    if tokens:
        context = text[-1:]
        assert any(reference.occurrences(document, context + tokens) for document in documents)


def test_the_longer_match_wins_between_text_and_corpus() -> None:
    corpus = SuffixCorpus([[*range(100, 130), 1]])
    drafter = Suffix(corpus=corpus).start([*range(112, 120), 7, *range(100, 120)])
    assert drafter.propose((), 3).tokens == [120, 121, 122]
    drafter = Suffix(corpus=corpus).start([*range(90, 120), 7, *range(90, 120)])
    assert drafter.propose((), 1).tokens == [7]
    assert corpus.num_tokens == 32
    assert corpus.num_bytes > 0


def test_ids_come_as_sequences_arrays_tensors_or_one_int() -> None:
    drafter = Suffix().start(torch.tensor([1, 2, 3, 1]))
    drafter.extend(np.array([2]))
    assert drafter.propose(3, 2).tokens == drafter.propose([3], 2).tokens == [1, 2]
    assert drafter.num_bytes > 0


def test_refusals_name_the_value() -> None:
    with pytest.raises(ArgumentError, match="max_length is 0, expected at least 1"):
        Suffix(max_length=0)
    with pytest.raises(ArgumentError, match="min_match is -1"):
        Suffix(min_match=-1)
    drafter = Suffix().start([1])
    with pytest.raises(HornbeamError, match="token id is 4294967295"):
        drafter.extend([5, 2**32 - 1])
    assert drafter.num_tokens == 1
    with pytest.raises(OverflowError):
        drafter.extend([-1])
