"""Prompt lookup against its definition, and against transformers itself."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation.candidate_generator import PromptLookupCandidateGenerator

from hornbeam.errors import ArgumentError
from hornbeam.speculation import NGram
from tests.reference import ngram as reference

texts = st.lists(st.integers(0, 3), min_size=1, max_size=40)


@given(texts, st.integers(0, 3), st.integers(1, 4), st.integers(0, 4), st.integers(1, 12))
def test_finds_the_leftmost_of_the_longest(
    text: list[int], num_pending: int, min_ngram: int, more: int, max_length: int
) -> None:
    cut = max(len(text) - num_pending, 0)
    drafter = NGram(min_ngram, min_ngram + more, max_length).start(text[: cut // 2])
    drafter.extend(text[cut // 2 : cut])
    proposal = drafter.propose(text[cut:])
    assert proposal.tokens == reference.leftmost(text, min_ngram, min_ngram + more, max_length)
    assert len(proposal.signals) == len(proposal.tokens)
    assert drafter.propose(text[cut:], 2).tokens == proposal.tokens[:2]


@settings(deadline=None)
@given(texts, st.integers(1, 3))
def test_proposes_what_transformers_does(text: list[int], max_ngram: int) -> None:
    peer = PromptLookupCandidateGenerator(
        eos_token_id=torch.tensor([3]), max_matching_ngram_size=max_ngram, max_length=1000
    )
    candidates, _ = peer.get_candidates(torch.tensor([text]))
    expected = candidates[0, len(text) :].tolist()
    assert NGram(max_ngram=max_ngram, stop_ids=(3,)).start(text).propose().tokens == expected


def test_refusals_name_the_value() -> None:
    with pytest.raises(ArgumentError, match="max_ngram is 2, expected at least 3"):
        NGram(min_ngram=3)
    with pytest.raises(ArgumentError, match="min_ngram is 0"):
        NGram(min_ngram=0)
    with pytest.raises(ArgumentError, match="max_length is 0"):
        NGram(max_length=0)
