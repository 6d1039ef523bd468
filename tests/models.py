"""Tiny models with random weights, one function an architecture: seeded, float32, no network.

Each differs from the others in what can break a decoder that drives the model's own forward
pass: group size, window, soft cap, sinks, rotary fraction, experts, norm order, tied weights.
The weights are drawn wider than a training run would, so that greedy text wanders (a constant
text would hide a wrong position or a lost key) and attention is far from uniform.

``ARCHITECTURES`` and ``UNSUPPORTED`` name the functions, for parametrised tests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import transformers

VOCABULARY = 256
WINDOW = 8

SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
    "tie_word_embeddings": False,
}


def build(config: Any, seed: int = 0, std: float = 0.3) -> Any:
    """The causal language model of ``config`` in evaluation mode.

    Matrices are normal with standard deviation ``std``, vectors (norms, biases, sinks) are shifted
    by a tenth of a standard normal. Attention is the eager one: it alone obeys soft caps and sinks.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, attn_implementation="eager"
        )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() >= 2:
                parameter.copy_(noise * std)
            else:
                parameter.add_(noise * 0.1)
    # A tiny model has no end token: every run fills its budget.
    model.generation_config = transformers.GenerationConfig(pad_token_id=0)
    return model.eval()


def llama(seed: int = 0, layers: int = 2) -> Any:
    """Three query heads to a key head, as SmolLM2 has."""
    config = transformers.LlamaConfig(
        **SMALL | {"num_hidden_layers": layers, "hidden_size": 96},
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
    )
    return build(config, seed)


def mistral(seed: int = 0) -> Any:
    """A window of 8 in every layer."""
    config = transformers.MistralConfig(
        **SMALL, num_attention_heads=4, num_key_value_heads=1, head_dim=32, sliding_window=WINDOW
    )
    return build(config, seed)


def qwen2(seed: int = 0) -> Any:
    """Biases on queries, keys and values; a tied head."""
    config = transformers.Qwen2Config(
        **SMALL | {"tie_word_embeddings": True}, num_attention_heads=2, num_key_value_heads=2
    )
    return build(config, seed)


def qwen3(seed: int = 0) -> Any:
    """Norms on queries and keys."""
    config = transformers.Qwen3Config(
        **SMALL, num_attention_heads=4, num_key_value_heads=2, head_dim=32, use_sliding_window=False
    )
    return build(config, seed)


def gemma2(seed: int = 0) -> Any:
    """Soft caps on scores and logits, every other layer windowed, a scale apart from the head size."""
    config = transformers.Gemma2Config(
        **SMALL | {"num_hidden_layers": 4},
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        sliding_window=WINDOW,
        query_pre_attn_scalar=24,
        attn_logit_softcapping=5.0,
        final_logit_softcapping=30.0,
        layer_types=["sliding_attention", "full_attention"] * 2,
    )
    return build(config, seed)


def gemma3(seed: int = 0) -> Any:
    """Windowed layers with a rotary base of their own beside full ones."""
    config = transformers.Gemma3TextConfig(
        **SMALL | {"num_hidden_layers": 4},
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=32,
        sliding_window=WINDOW,
        query_pre_attn_scalar=32,
        layer_types=["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
    )
    return build(config, seed)


def phi3(seed: int = 0) -> Any:
    """One matrix for queries, keys and values; rotary on half of each head."""
    config = transformers.Phi3Config(
        **SMALL, num_attention_heads=2, num_key_value_heads=2, partial_rotary_factor=0.5
    )
    return build(config, seed)


def gpt_neox(seed: int = 0) -> Any:
    """Attention and feed-forward in parallel, layer norms, rotary on a quarter of each head."""
    config = transformers.GPTNeoXConfig(
        **SMALL, num_attention_heads=2, rotary_pct=0.25, use_parallel_residual=True
    )
    return build(config, seed)


def olmo2(seed: int = 0) -> Any:
    """Norms after each block, and over all heads of queries and keys at once."""
    config = transformers.Olmo2Config(**SMALL, num_attention_heads=2, num_key_value_heads=1)
    return build(config, seed)


def mixtral(seed: int = 0) -> Any:
    """Two of four experts a token."""
    config = transformers.MixtralConfig(
        **SMALL,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=None,
    )
    return build(config, seed)


def qwen3_moe(seed: int = 0) -> Any:
    """Experts in some layers only, normalised routing."""
    config = transformers.Qwen3MoeConfig(
        **SMALL | {"num_hidden_layers": 3},
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=32,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=48,
        norm_topk_prob=True,
        mlp_only_layers=[1],
    )
    return build(config, seed)


def gpt_oss(seed: int = 0) -> Any:
    """Attention sinks, every other layer windowed, YaRN positions."""
    config = transformers.GptOssConfig(
        **SMALL,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        sliding_window=WINDOW,
        num_local_experts=4,
        num_experts_per_tok=2,
        layer_types=["sliding_attention", "full_attention"],
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 150000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 128,
            "truncate": False,
        },
    )
    return build(config, seed)


def mamba(seed: int = 0) -> Any:
    """No keys at all: the state of a recurrence."""
    config = transformers.MambaConfig(
        vocab_size=VOCABULARY, hidden_size=64, state_size=8, num_hidden_layers=2, eos_token_id=None
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return transformers.MambaForCausalLM(config).eval()


def t5(seed: int = 0) -> Any:
    """An encoder and a decoder."""
    config = transformers.T5Config(
        vocab_size=VOCABULARY, d_model=64, d_kv=32, d_ff=96, num_layers=2, num_heads=2
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return transformers.T5ForConditionalGeneration(config).eval()


def qwen3_next(seed: int = 0) -> Any:
    """Linear attention in three layers of four: part of the context has no keys."""
    config = transformers.Qwen3NextConfig(
        **SMALL | {"num_hidden_layers": 4},
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=16,
        linear_value_head_dim=16,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=48,
        shared_expert_intermediate_size=48,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return transformers.Qwen3NextForCausalLM(config).eval()


def stablelm(seed: int = 0) -> Any:
    """Layers that hand no keywords on to their attention; a quarter of each head is rotated."""
    config = transformers.StableLmConfig(**SMALL, num_attention_heads=4, num_key_value_heads=2)
    return build(config, seed)


def nemotron(seed: int = 0) -> Any:
    """As above, with other norms and activations."""
    config = transformers.NemotronConfig(**SMALL, num_attention_heads=4, num_key_value_heads=2, head_dim=16)
    return build(config, seed)


def bart(seed: int = 0) -> Any:
    """Counts positions along the rows of a pass."""
    config = transformers.BartConfig(
        vocab_size=VOCABULARY,
        d_model=64,
        encoder_layers=2,
        decoder_layers=2,
        decoder_attention_heads=4,
        decoder_ffn_dim=96,
        max_position_embeddings=512,
        is_decoder=True,
        is_encoder_decoder=False,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return build(config, seed)


def phimoe(seed: int = 0) -> Any:
    """A window that is in its masks alone."""
    config = transformers.PhimoeConfig(
        **SMALL,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=WINDOW,
    )
    return build(config, seed)


ARCHITECTURES: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        llama,
        mistral,
        qwen2,
        qwen3,
        gemma2,
        gemma3,
        phi3,
        gpt_neox,
        olmo2,
        mixtral,
        qwen3_moe,
        gpt_oss,
        stablelm,
        nemotron,
    )
}

UNSUPPORTED: dict[str, Callable[..., Any]] = {
    function.__name__: function for function in (mamba, t5, qwen3_next, bart, phimoe)
}


def byte_tokenizer(special: Sequence[str] = ()) -> Any:
    """One token a byte, ids 0 to 255, with a small chat template; ``special`` tokens from 256 on."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    # The 256 printable stand-ins for bytes, in an order that any run repeats.
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={sign: i for i, sign in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    template = (
        "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=template)
    if special:
        fast.add_special_tokens({"additional_special_tokens": list(special)})
    return fast


def wordpiece_tokenizer() -> Any:
    """As BERT has it: words, joined by spaces, and pieces that go on with a word."""
    from tokenizers import Tokenizer, decoders, models

    pieces = ["[PAD]", "[UNK]", "ab", "bad", "cab", "##a", "##b", "##cd", ".", ","]
    model = models.WordPiece(vocab={piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]")
    tokenizer = Tokenizer(model)
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]"
    )


def prompt(length: int, seed: int = 0) -> torch.Tensor:
    """Random token ids, int64 of shape [1, length]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, VOCABULARY, (1, length), generator=generator)


def greedy(model: Any, input_ids: torch.Tensor, num_tokens: int) -> list[int]:
    """What plain transformers writes after ``input_ids`` ([1, n])."""
    output = model.generate(
        input_ids,
        attention_mask=torch.ones_like(input_ids),
        do_sample=False,
        max_new_tokens=num_tokens,
        use_cache=True,
    )
    new: list[int] = output[0, input_ids.shape[1] :].tolist()
    return new
