"""FlashInfer's published cases for its chains, told anew.

Batches of up to 989 rows and vocabularies of up to 128,256 tokens, in every combination of which one row's
probabilities a place fit into memory: they are shared by the rows.
"""

from __future__ import annotations

import pytest
import torch

from hornbeam.integrations.flashinfer import chain_speculative_sampling

SIZES = [(1, 111), (99, 111), (989, 111), (1, 32_000), (99, 32_000), (1, 128_256)]


@pytest.mark.parametrize(("batch", "vocab"), SIZES)
@pytest.mark.parametrize("length", [1, 3, 5, 7])
@pytest.mark.parametrize("sure", [False, True], ids=["any target", "sure target"])
def test_chains(batch, vocab, length, sure):
    torch.manual_seed(length)
    q = torch.rand(1, length, vocab)
    q = (q / q.sum(-1, keepdim=True)).expand(batch, -1, -1)
    drafts = torch.randint(vocab, (1 if sure else batch, length)).expand(batch, -1)
    if sure:
        last = torch.randint(vocab, (1, 1)).expand(batch, -1)
        wanted = torch.cat([drafts, last], dim=1)
        p = torch.zeros(1, length + 1, vocab).scatter_(2, wanted[:1, :, None], 1).expand(batch, -1, -1)
    else:
        p = torch.rand(1, length + 1, vocab)
        p = (p / p.sum(-1, keepdim=True)).expand(batch, -1, -1)
    counts = [torch.zeros(batch, dtype=torch.int32) for _ in range(2)]
    output, accepted, emitted = chain_speculative_sampling(q, drafts, p, *counts)
    assert output.shape == (batch, length + 1)
    assert torch.equal(emitted + 1, (output != -1).sum(1))
    assert bool((accepted >= emitted).all())
    assert bool((output < vocab).all())
    if sure:
        assert torch.equal(output.long(), wanted)
        return
    # Up to the emitted ones the draft, then one token of its own, then nothing.
    places = torch.arange(length + 1)
    kept = places[:-1] < emitted[:, None]
    assert torch.equal(output[:, :-1][kept].long(), drafts[kept])
    assert bool((output[places > emitted[:, None]] == -1).all())
    assert bool((output[torch.arange(batch), emitted.long()] >= 0).all())


@pytest.mark.parametrize(("batch", "length", "vocab"), [(3, 4, 128), (2, 3, 96)])
def test_a_sure_draft_of_a_sure_target_passes_whole(batch, length, vocab):
    torch.manual_seed(batch)
    wanted = torch.randint(vocab, (batch, length + 1))
    p = torch.zeros(batch, length + 1, vocab).scatter_(2, wanted[..., None], 1)
    drafts = wanted[:, :length]
    output, accepted, emitted = chain_speculative_sampling(p[:, :length], drafts.int(), p, deterministic=True)
    assert torch.equal(output.long(), wanted)
    assert accepted.tolist() == emitted.tolist() == [length] * batch
