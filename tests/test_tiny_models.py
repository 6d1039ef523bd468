"""The tiny models are fit to test with: repeatable, varied, and sensitive to their context."""

from __future__ import annotations

import pytest
import torch

from tests.models import ARCHITECTURES, UNSUPPORTED, VOCABULARY, WINDOW, greedy, prompt


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_greedy_text_is_repeatable_and_varied(name: str) -> None:
    model = ARCHITECTURES[name]()
    text = greedy(model, prompt(20), 40)
    assert len(text) == 40
    assert len(set(text)) >= 8
    assert greedy(ARCHITECTURES[name](), prompt(20), 40) == text
    assert greedy(ARCHITECTURES[name](seed=1), prompt(20), 40) != text


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_order_matters(name: str) -> None:
    """Swapping two early tokens moves the last logits: keys and positions are really read."""
    model = ARCHITECTURES[name]()
    length = WINDOW - 1
    ids = prompt(length)
    swapped = ids.clone()
    swapped[0, [1, 3]] = ids[0, [3, 1]]
    with torch.inference_mode():
        straight = model(ids).logits[0, -1]
        other = model(swapped).logits[0, -1]
    assert straight.isfinite().all()
    assert straight.shape == (VOCABULARY,)
    assert (straight - other).abs().max() > 1e-2 * straight.abs().max()


def test_a_window_forgets() -> None:
    """Two layers of window 8 reach 14 tokens back, and no further."""
    model = ARCHITECTURES["mistral"]()
    ids = prompt(40)
    far, near = ids.clone(), ids.clone()
    far[0, 40 - 2 * WINDOW] += 1
    near[0, 40 - 2 * WINDOW + 2] += 1
    with torch.inference_mode():
        last = model(ids).logits[0, -1]
        assert torch.equal(model(far).logits[0, -1], last)
        assert not torch.equal(model(near).logits[0, -1], last)


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_models_build(name: str) -> None:
    model = UNSUPPORTED[name]()
    assert model.config.vocab_size == VOCABULARY
    assert not model.training
