"""A draft model that changes while it drafts."""

from __future__ import annotations

import pytest
import torch

import hornbeam as hb
from hornbeam.speculation import SmallModel
from hornbeam.speculation.shape import Chain
from tests import models

PROMPT = models.prompt(20)[0].tolist()
OPTIONS = dict(max_new_tokens=30, length=hb.spec.Fixed(3))


@pytest.mark.parametrize("wrapped", [False, True])
def test_drafts_are_of_the_draft_model_as_it_is_now(wrapped):
    """Red without a look before each draft (tried): its branches hold keys of the old weights."""
    target, small = models.llama(), models.llama(seed=1)
    lm, own = hb.LM(target), hb.LM(small)
    draft = SmallModel(own, Chain(3))
    plain = lm.generate(PROMPT, draft=None, **OPTIONS)
    seen, sources = [], []

    def stream(_text, tokens, source):
        seen.extend(tokens)
        sources.append(source)
        if len(seen) >= 10 and not torch.equal(small.lm_head.weight, target.lm_head.weight):
            small.load_state_dict(target.state_dict())
            sources.clear()

    out = lm.generate(PROMPT, draft=hb.spec.Union(draft) if wrapped else draft, stream=stream, **OPTIONS)
    assert out.token_ids == plain.token_ids
    # Equal models guess every token from then on: each step has three drafted ones and one of its own.
    assert "draft" in sources
    assert out.stats.forward_passes <= 10 + 6
    own.tree.debug_check()
    assert own.tree.stats()["branches"] == 0


def test_a_model_that_drafts_for_itself():
    lm = hb.LM(models.llama())
    plain = lm.generate(PROMPT, draft=None, **OPTIONS)
    out = lm.generate(PROMPT, draft=SmallModel(lm, Chain(3)), **OPTIONS)
    assert out.token_ids == plain.token_ids
    assert out.stats.forward_passes <= 9
