"""A small model and tokenizer for tests of what harnesses ask."""

from __future__ import annotations

from typing import Any

import transformers

from tests import models

END = "<end>"


def model_and_tokenizer(positions: int = 4096) -> tuple[Any, Any]:
    """A model over bytes with a token that ends texts.

    Args:
        positions: tokens of its context.
    """
    size = {"vocab_size": models.VOCABULARY + 4, "hidden_size": 96, "max_position_embeddings": positions}
    config = transformers.LlamaConfig(
        **models.SMALL | size, num_attention_heads=6, num_key_value_heads=2, head_dim=32
    )
    tokenizer = models.byte_tokenizer([END])
    tokenizer.eos_token = tokenizer.pad_token = END
    model = models.build(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return model, tokenizer
