"""What was computed with another model is never served: each way to change one, noticed by each way to
ask."""

from __future__ import annotations

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaMLP

import hornbeam as hb
from hornbeam.errors import StateError
from tests import models
from tests.model.changes import BETWEEN_CALLS, CHANGES, UNDONE, prepare

PROMPT = models.prompt(40, 1)


@pytest.fixture(autouse=True)
def classes_stay_as_they_are(monkeypatch):
    """Puts back what `forward_of_a_class` exchanges."""
    monkeypatch.setattr(LlamaMLP, "forward", LlamaMLP.forward)


def ours(lm, **options):
    return lm.generate(PROMPT[0].tolist(), max_new_tokens=12, **options).token_ids


def plain(model, num_tokens=12):
    return models.greedy(model, PROMPT, num_tokens)


def logprobs(model, text):
    ids = torch.tensor([[*PROMPT[0].tolist(), *text]])
    with torch.inference_mode():
        rows = torch.log_softmax(model(ids).logits[0].float(), dim=-1)
    begin = PROMPT.shape[1]
    return [float(rows[begin - 1 + i, token]) for i, token in enumerate(text)]


def tolerance(model):
    """What logits differ by when a model is run in another order of sums."""
    return 0.3 if model.dtype == torch.bfloat16 else 1e-3


def inside(model):
    ids = PROMPT
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=12,
        custom_generate=hb.integrations.transformers.generate,
    )
    return out[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_a_changed_model_gives_its_own_text(name):
    model = prepare(name, models.llama())
    lm, tokens = hb.LM(model), [5, 9, 200]
    assert ours(lm) == inside(model) == plain(model)
    lm.score(PROMPT[0].tolist(), [tokens])
    before = plain(model)
    CHANGES[name](model)
    right = plain(model)
    assert right != before, "the change changes nothing that this test could see"
    found = lm.score(PROMPT[0].tolist(), [tokens])[0].token_logprobs
    torch.testing.assert_close(found, logprobs(model, tokens), atol=tolerance(model), rtol=0)
    if model.dtype == torch.bfloat16:  # rounding decides between tokens that are nearly as likely
        right = ours(hb.LM(model))
    else:
        assert inside(model) == right
    assert ours(lm) == right
    lm.tree.debug_check()


@pytest.mark.parametrize("name", sorted(UNDONE))
def test_a_change_that_is_undone_gives_the_old_text(name):
    model = prepare(name, models.llama())
    lm = hb.LM(model)
    before = ours(lm)
    undo = UNDONE[name](model)
    assert ours(lm) == plain(model) != before
    undo()
    assert ours(lm) == plain(model) == before


@pytest.mark.parametrize("name", sorted(set(CHANGES) - set(BETWEEN_CALLS)))
@pytest.mark.parametrize("draft", [None, hb.spec.Suffix()], ids=["plain", "suffix"])
def test_a_text_that_is_under_way_goes_on_with_the_changed_model(name, draft):
    """Every token is the argmax of the model as it was when the token was decided."""
    model = prepare(name, models.llama())
    lm, first, seen = hb.LM(model), plain(model), []
    changed: list[int] = []

    def stream(_text, tokens, _source):
        seen.extend(tokens)
        if len(seen) >= 5 and not changed:
            changed.append(len(seen))
            CHANGES[name](model)

    text = ours(lm, stream=stream, draft=draft)
    [at] = changed
    assert text[:at] == first[:at]
    for end in range(at, len(text)):
        with torch.inference_mode():
            row = model(torch.tensor([[*PROMPT[0].tolist(), *text[:end]]])).logits[0, -1].float()
        assert row[text[end]] >= row.max() - tolerance(model)


def test_a_text_under_keep_ends_with_an_error():
    model = models.llama()
    lm = hb.LM(model)

    def stream(_text, _tokens, _source):
        with torch.no_grad():
            model.lm_head.weight.neg_()

    with pytest.raises(StateError, match="the model changed while a text with keep= was under way"):
        ours(lm, stream=stream, keep=hb.recipes.knorm(budget="50%"))
    assert ours(lm) == plain(model)


def test_the_prefix_of_an_unchanged_model_is_shared():
    model = models.llama()
    lm = hb.LM(model)
    lm.generate(PROMPT[0].tolist(), max_new_tokens=2, draft=None)
    for harmless in (model.train, model.eval, lambda: model.requires_grad_(False), lambda: plain(model)):
        harmless()
        again = lm.generate(PROMPT[0].tolist(), max_new_tokens=2, draft=None)
        assert again.stats.reused_tokens == PROMPT.shape[1] - 1, harmless
    other = models.llama(seed=3)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    other(input_ids=PROMPT, labels=PROMPT).loss.backward()
    optimizer.step()
    again = lm.generate(PROMPT[0].tolist(), max_new_tokens=2, draft=None)
    assert again.stats.reused_tokens == PROMPT.shape[1] - 1


def test_what_a_hook_leaves_on_modules_is_no_change():
    model = models.llama()
    for layer in model.model.layers:
        layer.register_forward_hook(lambda module, _inputs, output: setattr(module, "seen", output))
    lm = hb.LM(model)
    for _ in range(3):
        out = lm.generate(PROMPT[0].tolist(), max_new_tokens=4, draft=None)
    assert out.stats.reused_tokens == PROMPT.shape[1] - 1
    assert model.model.layers[0].seen.shape == (1, 1, 96)
    assert model.model.layers[0].seen is not model.model.layers[1].seen


def test_hidden_states_asked_of_the_model_are_no_change():
    model = models.llama()
    lm = hb.LM(model)
    lm.generate(PROMPT[0].tolist(), max_new_tokens=2, draft=None)
    model(PROMPT, output_hidden_states=True)
    again = lm.generate(PROMPT[0].tolist(), max_new_tokens=2, draft=None)
    assert again.stats.reused_tokens == PROMPT.shape[1] - 1


def test_what_cannot_be_seen_is_said():
    model = models.llama()
    lm = hb.LM(model)
    ours(lm)
    model.model.layers[0].mlp.up_proj.weight.data[3, 5] += 80.0  # no counter moves, and few numbers differ
    lm.invalidate()
    assert ours(lm) == plain(model)
    changes = lm.runner.changes
    lm.generate(PROMPT[0].tolist(), max_new_tokens=2)
    assert lm.runner.changes == changes


def test_an_invalidation_from_a_callback():
    model = models.llama()
    lm = hb.LM(model)

    def stream(_text, _tokens, _source):
        lm.invalidate()

    assert ours(lm, stream=stream, draft=None) == plain(model)


def test_the_tree_follows_the_type_of_the_model():
    model = models.llama()
    lm = hb.LM(model)
    ours(lm)
    assert lm.tree.dtype == torch.float32
    model.bfloat16()
    ours(lm)
    assert lm.tree.dtype == torch.bfloat16
    model.float()
    ours(lm)
    assert lm.tree.dtype == torch.float32


def test_new_tokens_may_be_asked_for():
    model = models.llama()
    lm = hb.LM(model)
    with pytest.raises(hb.errors.ArgumentError, match="token id 280, expected 0 to 255"):
        lm.generate([280], max_new_tokens=1)
    model.resize_token_embeddings(300)
    lm.generate([280], max_new_tokens=1)


def test_a_model_that_no_longer_fits_is_refused_until_it_does():
    model = models.llama()
    lm = hb.LM(model)
    layer = model.model.layers[1]
    kept = layer.self_attn
    layer.self_attn = torch.nn.Identity()
    for _ in range(2):
        with pytest.raises(hb.errors.UnsupportedModel):
            ours(lm)
    layer.self_attn = kept
    assert ours(lm) == plain(model)


@pytest.mark.parametrize("rounds", [4])
def test_a_training_loop_that_generates(rounds):
    model = models.llama().train()
    lm = hb.LM(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02, fused=True)
    texts = []
    for _ in range(rounds):
        model(input_ids=PROMPT, labels=PROMPT).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        texts.append(ours(lm))
        model.eval()
        assert texts[-1] == plain(model)
        model.train()
    assert len({tuple(text) for text in texts}) > 1
