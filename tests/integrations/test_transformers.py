"""hornbeam's loop inside transformers' generate."""

from __future__ import annotations

import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

import hornbeam as hb
from hornbeam.errors import ArgumentError
from tests import models

loop = hb.integrations.transformers.generate


@pytest.fixture(scope="module")
def model():
    return models.llama()


def batch():
    prompts = [models.prompt(n, n)[0] for n in (5, 12, 9)]
    length = max(map(len, prompts))
    ids = torch.stack([torch.nn.functional.pad(p, (length - len(p), 0)) for p in prompts])
    mask = torch.stack([torch.arange(length) >= length - len(p) for p in prompts]).long()
    return dict(input_ids=ids, attention_mask=mask)


def both(model, inputs, **options):
    ours = model.generate(**inputs, custom_generate=loop, **options)
    return ours, model.generate(**inputs, **options)


GREEDY = dict(do_sample=False, max_new_tokens=20)


@pytest.mark.parametrize("drafter", [None, hb.spec.Suffix()])
def test_greedy_batch_with_left_padding(model, drafter):
    inputs = batch()
    ours = model.generate(**inputs, custom_generate=loop, drafter=drafter, **GREEDY)
    assert torch.equal(ours, model.generate(**inputs, **GREEDY))


@pytest.mark.parametrize(
    "options",
    [
        dict(repetition_penalty=1.4),
        dict(no_repeat_ngram_size=2),
        dict(bad_words_ids=[[7], [9, 11]]),
        dict(min_new_tokens=15, eos_token_id=list(range(1, 60))),
        dict(suppress_tokens=list(range(100, 200))),
        dict(eos_token_id=list(range(1, 120))),
        dict(max_length=20, max_new_tokens=None),
    ],
    ids=lambda options: next(iter(options)),
)
def test_the_generation_config_is_honoured(model, options):
    prompt = dict(input_ids=models.prompt(12, 5), attention_mask=torch.ones(1, 12, dtype=torch.long))
    ours, theirs = both(model, prompt, **{**GREEDY, **options})
    assert torch.equal(ours, theirs)


def test_processors_and_criteria_of_the_user(model):
    class Odd(LogitsProcessor):
        def __call__(self, input_ids, scores):
            scores = scores.clone()
            scores[:, ::2] = -float("inf")
            return scores

    class Tall(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            return input_ids[:, -1] > 200

    prompt = dict(input_ids=models.prompt(9, 2), attention_mask=torch.ones(1, 9, dtype=torch.long))
    ours, theirs = both(
        model,
        prompt,
        **GREEDY,
        logits_processor=LogitsProcessorList([Odd()]),
        stopping_criteria=StoppingCriteriaList([Tall()]),
    )
    assert torch.equal(ours, theirs)


def test_sampling_follows_torchs_seed_and_not_the_draft(model):
    prompt = dict(input_ids=models.prompt(12, 5), attention_mask=torch.ones(1, 12, dtype=torch.long))
    options = dict(do_sample=True, temperature=0.8, top_k=20, top_p=0.9, min_p=0.01, max_new_tokens=25)
    texts = []
    for drafter in (None, hb.spec.Suffix()):
        torch.manual_seed(3)
        texts.append(model.generate(**prompt, custom_generate=loop, drafter=drafter, **options))
    assert torch.equal(*texts)
    torch.manual_seed(4)
    assert not torch.equal(texts[0], model.generate(**prompt, custom_generate=loop, **options))


def test_sampling_obeys_the_warpers(model):
    prompt = dict(input_ids=models.prompt(12, 5), attention_mask=torch.ones(1, 12, dtype=torch.long))
    ours = model.generate(**prompt, custom_generate=loop, do_sample=True, top_k=1, max_new_tokens=10)
    assert torch.equal(ours, model.generate(**prompt, do_sample=False, max_new_tokens=10))


def test_a_streamer_goes_by_another_name(model):
    class Record(BaseStreamer):
        def __init__(self):
            self.tokens, self.ended = [], False

        def put(self, value):
            self.tokens.extend(value.flatten().tolist())

        def end(self):
            self.ended = True

    record = Record()
    prompt = dict(input_ids=models.prompt(12, 5), attention_mask=torch.ones(1, 12, dtype=torch.long))
    ours = model.generate(**prompt, custom_generate=loop, token_streamer=record, **GREEDY)
    assert record.tokens == ours[0].tolist()
    assert record.ended


def test_a_dict_on_request(model):
    prompt = dict(input_ids=models.prompt(12, 5), attention_mask=torch.ones(1, 12, dtype=torch.long))
    out = model.generate(**prompt, custom_generate=loop, return_dict_in_generate=True, **GREEDY)
    assert torch.equal(out.sequences, model.generate(**prompt, **GREEDY))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(num_beams=2), "num_beams"),
        (dict(return_dict_in_generate=True, output_scores=True), "output_scores"),
    ],
)
def test_what_is_not_served_is_refused(model, options, message):
    prompt = dict(input_ids=models.prompt(12, 5), attention_mask=torch.ones(1, 12, dtype=torch.long))
    with pytest.raises(ArgumentError, match=message):
        model.generate(**prompt, custom_generate=loop, **GREEDY, **options)
