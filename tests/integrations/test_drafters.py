"""hornbeam's sources inside other stacks' loops: transformers' assisted generation, vLLM's proposer."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import hornbeam as hb
from hornbeam.errors import ArgumentError, ShapeError
from hornbeam.integrations import transformers, vllm
from tests import models
from tests.drafts import Foresight


@pytest.fixture(scope="module")
def model():
    return models.llama()


def assisted(model, generator, prompt, **options):
    """transformers' own assisted loop over our candidates."""
    forwards = []
    hook = model.register_forward_pre_hook(lambda *_: forwards.append(1))
    model._get_candidate_generator = lambda **_: generator
    try:
        text = model.generate(prompt, prompt_lookup_num_tokens=3, pad_token_id=0, **options)
    finally:
        del model._get_candidate_generator
        hook.remove()
    return text, len(forwards)


def test_candidates_keep_the_greedy_text(model):
    prompt = models.prompt(12, 3)
    options = dict(do_sample=False, max_new_tokens=24, attention_mask=torch.ones_like(prompt))
    plain = model.generate(prompt, pad_token_id=0, **options)
    source = Foresight([plain[0].tolist()], wrong=5)
    generator = transformers.CandidateGenerator(source, max_length=36, num_assistant_tokens=6)
    text, forwards = assisted(model, generator, prompt, **options)
    assert torch.equal(text, plain)
    assert forwards < 16, "candidates that come true save forward passes"
    text, _ = assisted(model, transformers.CandidateGenerator(max_length=36), prompt, **options)
    assert torch.equal(text, plain)


def test_candidates_end_before_eos_and_the_longest_text():
    text = torch.tensor([[1, 2, 3, 9, 4, 1, 2]])
    generator = transformers.CandidateGenerator(max_length=20, eos_token_id=9)
    assert generator.get_candidates(text)[0].tolist() == [[*text[0].tolist(), 3]]
    generator = transformers.CandidateGenerator(max_length=10)
    assert generator.get_candidates(text)[0].tolist() == [[*text[0].tolist(), 3, 9]]
    assert generator.get_candidates(torch.cat([text, torch.tensor([[3, 9]])], 1))[0].shape[1] == 9
    # A text that is not a continuation of the last one is begun anew.
    assert generator.get_candidates(torch.tensor([[5, 6, 5]]))[0].tolist() == [[5, 6, 5, 6, 5, 6, 5, 6, 5]]
    empty = torch.zeros(1, 0, dtype=torch.long)
    assert transformers.CandidateGenerator(max_length=10).get_candidates(empty)[0] is empty
    with pytest.raises(ShapeError, match=r"input_ids has shape \[2, 3\]"):
        generator.get_candidates(torch.zeros(2, 3, dtype=torch.long))
    with pytest.raises(ArgumentError, match="max_length is 0"):
        transformers.CandidateGenerator(max_length=0)


@pytest.mark.parametrize(
    "eos",
    [3, [7, 3], (3,), torch.tensor(3), torch.tensor([7, 3]), torch.tensor([3], dtype=torch.int32)],
    ids=["id", "list", "tuple", "scalar tensor", "tensor", "int32 tensor"],
)
def test_eos_in_every_form_of_a_generation_config(eos):
    """transformers keeps it as a tensor while it generates."""
    text = torch.tensor([[1, 2, 3, 9, 4, 1]])
    generator = transformers.CandidateGenerator(max_length=20, eos_token_id=eos)
    assert generator.get_candidates(text)[0].tolist() == [[*text[0].tolist(), 2]]


@pytest.mark.parametrize("eos", [[True], [None], torch.tensor([1.5])], ids=["flag", "nothing", "float"])
def test_eos_that_is_no_token_is_refused(eos):
    with pytest.raises(ArgumentError, match=r"eos_token_id holds (True|None|1\.5), expected token ids"):
        transformers.CandidateGenerator(max_length=20, eos_token_id=eos)


def config(tokens=4, longest=100):
    return SimpleNamespace(
        speculative_config=SimpleNamespace(num_speculative_tokens=tokens),
        model_config=SimpleNamespace(max_model_len=longest),
    )


def test_vllm_drafter_follows_requests_through_the_batch():
    """Three requests that start, stop and swap places, against a drafter made anew for every step."""
    started = []

    class Counted(hb.spec.Suffix):
        def start(self, prompt_ids):
            started.append(len(prompt_ids))
            return super().start(prompt_ids)

    drafter = vllm.Drafter(config())
    drafter.source = Counted()
    drafter.load_model()
    random = np.random.default_rng(0)
    texts = [random.integers(0, 3, 12).tolist() for _ in range(3)]
    order = [0, 1, 2]
    for step in range(12):
        order = [order[1], order[2], order[0]] if step % 3 == 2 else order
        scheduled = [request for request in order if not (request == 1 and step in (4, 5))]
        table = np.zeros((4, 100), dtype=np.int32)
        sampled, lengths = [], np.zeros(4, dtype=np.int32)
        for row, request in enumerate(scheduled):
            fresh = random.integers(0, 3, 1 + step % 3).tolist() if step != 7 or request else []
            texts[request] += fresh
            table[row, : len(texts[request])] = texts[request]
            lengths[row] = len(texts[request])
            sampled.append(fresh)
        drafts = drafter.propose(sampled, lengths, table, slot_mappings=None)
        for request, fresh, draft in zip(scheduled, sampled, drafts, strict=True):
            own = hb.spec.Suffix().start(texts[request][:-1]).propose(texts[request][-1], 4).tokens
            assert draft == (own if fresh else [])
    assert len(started) == 3, "each request is indexed once"


def test_vllm_drafter_stops_at_the_longest_text_and_forgets():
    drafter = vllm.Drafter(config(tokens=8, longest=9))
    table = np.array([[1, 2, 3, 1, 2, 3, 1, 2, 3]])
    assert len(drafter.propose([[3]], [6], table)[0]) == 2
    assert drafter.propose([[2]], [8], table) == [[]]
    assert drafter.propose([[2], [3]], [0, 6], np.vstack([table, table]))[0] == [], "no text, no draft"
    drafter.max_requests = 2
    for first in range(5):
        drafter.propose([[0]], [3], np.array([[first, 7, 0]]))
    assert len(drafter._known) == 2
    with pytest.raises(ShapeError, match="token_ids_cpu"):
        drafter.propose([[1], [2]], [1, 1], np.zeros((1, 4)))
