"""Every field of transformers' generation config and every input of a forward pass: as in transformers' own
loop, or refused by name. A field that a newer transformers brings fails here."""

from __future__ import annotations

import inspect
import os
import warnings
from typing import Any

import pytest
import torch
from transformers import DynamicCache, GenerationConfig, StoppingCriteriaList, StopStringCriteria
from transformers.generation import logits_process
from transformers.generation.configuration_utils import CompileConfig, WatermarkingConfig

import hornbeam as hb
from hornbeam.errors import ArgumentError
from tests import models
from tests.integrations.laws import outlying

loop = hb.integrations.transformers.generate

MODELS = (
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3",
    "phi3",
    "gpt_neox",
    "olmo2",
    "mixtral",
    "qwen3_moe",
    "gpt_oss",
)

#: Fields meet the loop, of which architectures differ little: here each meets one of three, and with
#: `make test-transformers` all of them.
IS_WHOLE = os.environ.get("HORNBEAM_ARCHITECTURES") == "all"
LOOPED = MODELS if IS_WHOLE else ("llama", "gemma3", "qwen3_moe")

#: A telling value of each field, with what it needs beside it.
VALUES: dict[str, Any] = {
    "max_length": {"max_length": 20, "max_new_tokens": None},
    "max_new_tokens": 7,
    "min_length": {"min_length": 17, "eos_token_id": list(range(1, 200))},
    "min_new_tokens": {"min_new_tokens": 6, "eos_token_id": list(range(1, 200))},
    "early_stopping": True,
    "max_time": 1000.0,
    "stop_strings": {"stop_strings": ["a", "e"], "tokenizer": models.byte_tokenizer()},
    "num_beams": 2,
    "use_mtp": True,
    "use_cache": False,
    "cache_implementation": "static",
    "cache_config": {},
    "max_cache_len": 64,
    "temperature": 0.7,
    "top_k": 5,
    "top_p": 0.8,
    "min_p": 0.1,
    "top_h": 0.4,
    "typical_p": 0.7,
    "epsilon_cutoff": 0.02,
    "eta_cutoff": 0.02,
    "repetition_penalty": 1.4,
    "encoder_repetition_penalty": 1.4,
    "length_penalty": 2.0,
    "no_repeat_ngram_size": 2,
    "bad_words_ids": [[7], [9, 11]],
    "renormalize_logits": True,
    "forced_bos_token_id": 7,
    "forced_eos_token_id": 9,
    "remove_invalid_values": True,
    "exponential_decay_length_penalty": {"exponential_decay_length_penalty": (3, 1.5), "eos_token_id": 7},
    "suppress_tokens": list(range(60, 200)),
    "begin_suppress_tokens": list(range(60, 250)),
    "sequence_bias": {(5,): 3.0, (7, 9): -2.0},
    "token_healing": {"token_healing": True, "tokenizer": models.byte_tokenizer()},
    "guidance_scale": 1.5,
    "watermarking_config": WatermarkingConfig(greenlist_ratio=0.4, bias=3.0),
    "num_return_sequences": 1,
    "output_attentions": {"output_attentions": True, "return_dict_in_generate": True},
    "output_hidden_states": {"output_hidden_states": True, "return_dict_in_generate": True},
    "output_scores": {"output_scores": True, "return_dict_in_generate": True},
    "output_logits": {"output_logits": True, "return_dict_in_generate": True},
    "return_dict_in_generate": True,
    "pad_token_id": {"pad_token_id": 3, "eos_token_id": list(range(1, 120))},
    "bos_token_id": 4,
    "eos_token_id": list(range(1, 120)),
    "encoder_no_repeat_ngram_size": 2,
    "decoder_start_token_id": 5,
    "is_assistant": False,
    "num_assistant_tokens": 3,
    "num_assistant_tokens_schedule": "heuristic",
    "assistant_confidence_threshold": 0.2,
    "prompt_lookup_num_tokens": 3,
    "max_matching_ngram_size": 2,
    "assistant_early_exit": 1,
    "assistant_lookbehind": 5,
    "target_lookbehind": 5,
    "assistant_ensemble_weight": 0.5,
    "speculation_type": "ngram",
    "compile_config": CompileConfig(),
    "disable_compile": True,
    "continuous_batching_config": None,
    "low_memory": True,
    "penalty_alpha": {"penalty_alpha": 0.6, "top_k": 4},
    "dola_layers": "low",
    "diversity_penalty": 0.5,
    "num_beam_groups": 2,
    "constraints": [],
    "force_words_ids": [[7]],
    "prefill_chunk_size": 4,
}
#: Fields that say how the text is sampled at all; see :class:`TestSampling`.
SAMPLED = {"do_sample"}
#: transformers hands no tokenizer to loops that are not its own, and raises where one is needed.
NEED_A_TOKENIZER = {"stop_strings", "token_healing"}


def inputs_of(is_batch: bool) -> dict[str, torch.Tensor]:
    lengths = [5, 12, 9] if is_batch else [12]
    prompts = [models.prompt(n, n)[0] for n in lengths]
    ids = torch.stack([torch.nn.functional.pad(p, (12 - len(p), 0)) for p in prompts])
    mask = torch.stack([torch.arange(12) >= 12 - len(p) for p in prompts]).long()
    return {"input_ids": ids, "attention_mask": mask}


def outcome(model: Any, inputs: dict[str, Any], options: dict[str, Any]) -> Any:
    """The tokens, or what was raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = model.generate(**inputs, **options)
        except Exception as error:
            return error
    return (found if isinstance(found, torch.Tensor) else found.sequences).tolist()


def compare(
    model: Any, inputs: dict[str, Any], options: dict[str, Any], name: str, drafter: Any, theirs: Any
) -> str:
    """Whether it is alike, refused, or raised by transformers itself, whose outcome is ``theirs``."""
    ours = outcome(model, inputs, {**options, "custom_generate": loop, "drafter": drafter})
    if isinstance(ours, ArgumentError):
        assert name in str(ours), f"{name}: {ours}"
        return "refused"
    if isinstance(theirs, Exception) or (name in NEED_A_TOKENIZER and isinstance(ours, Exception)):
        return "raised"
    assert ours == theirs, f"{name}: {ours} and {theirs}"
    return "alike"


@pytest.mark.parametrize("name", LOOPED)
def test_every_field(name: str) -> None:
    fields = {field for field in vars(GenerationConfig()) if not field.startswith("_")}
    fields -= {"transformers_version"} | SAMPLED
    assert fields <= set(VALUES), f"fields that this test does not know: {sorted(fields - set(VALUES))}"
    mine = sorted(fields) if IS_WHOLE else sorted(fields)[LOOPED.index(name) :: len(LOOPED)]
    seen: dict[str, set[str]] = {}
    for field in mine:
        value = VALUES[field]
        given = value if isinstance(value, dict) and field in value else {field: value}
        options = {"do_sample": False, "max_new_tokens": 8, "pad_token_id": 0, **given}
        # A new one each: where transformers raises it may leave the config changed.
        model = getattr(models, name)()
        for is_batch in (False, True):
            inputs = inputs_of(is_batch)
            theirs = outcome(model, inputs, options)
            for drafter in (None, hb.spec.Auto()):
                seen.setdefault(field, set()).add(compare(model, inputs, options, field, drafter, theirs))
    alike = {field for field, kinds in seen.items() if "alike" in kinds}
    assert len(alike) > 0.6 * len(mine), f"alike are {sorted(alike)}"


@pytest.mark.parametrize("name", MODELS)
def test_every_input(name: str) -> None:
    """Whatever a forward pass takes beside ids, mask and cache is refused, or makes no difference."""
    model = getattr(models, name)()
    values: dict[str, Any] = {
        "position_ids": lambda ids: torch.arange(ids.shape[1])[None].expand_as(ids) * 2,
        "past_key_values": lambda ids: filled(model, ids[:, :4]),
        "inputs_embeds": lambda ids: model.get_input_embeddings()(ids),
        "labels": lambda ids: ids,
        "use_cache": lambda ids: False,
        "output_attentions": lambda ids: False,
        "output_hidden_states": lambda ids: False,
        "output_router_logits": lambda ids: False,
        "return_dict": lambda ids: True,
        "cache_position": lambda ids: torch.arange(ids.shape[1]),
        "logits_to_keep": lambda ids: 1,
        "token_type_ids": lambda ids: torch.ones_like(ids),
        "pixel_values": lambda ids: torch.ones(1, 3, 4, 4),
        "cache": lambda ids: filled(model, ids[:, :4]),
    }
    known = {"self", "input_ids", "attention_mask", "kwargs", "args"}
    taken = set(inspect.signature(model.forward).parameters) - known
    assert taken <= set(values), f"inputs that this test does not know: {sorted(taken - set(values))}"
    options = {"do_sample": False, "max_new_tokens": 8, "pad_token_id": 0}
    for keyword in sorted({*taken, "pixel_values", "token_type_ids", "cache"}):
        for is_batch in (False, True):
            inputs = inputs_of(is_batch)
            given = {**options, keyword: values[keyword](inputs["input_ids"])}
            theirs = outcome(model, inputs, given)
            compare(model, inputs, given, keyword, None, theirs)


def filled(model: Any, ids: torch.Tensor) -> DynamicCache:
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(ids, past_key_values=cache)
    return cache


def test_stop_strings_go_by_their_criterion() -> None:
    model, tokenizer = models.llama(), models.byte_tokenizer()
    options: dict[str, Any] = {"do_sample": False, "max_new_tokens": 30, "pad_token_id": 0}
    for is_batch in (False, True):
        plain = model.generate(**inputs_of(is_batch), **options)
        stop = tokenizer.decode(plain[0, 20:21])
        found = [
            model.generate(
                **inputs_of(is_batch),
                **options,
                stopping_criteria=StoppingCriteriaList([StopStringCriteria(tokenizer, [stop])]),
                **more,
            )
            for more in ({}, {"custom_generate": loop})
        ]
        assert torch.equal(*found)


def test_a_model_whose_inputs_are_made_by_somebody_else() -> None:
    model = models.llama()
    original = model.prepare_inputs_for_generation

    def prepare(input_ids: Any, attention_mask: Any = None, **options: Any) -> Any:
        return original(input_ids, attention_mask=attention_mask, **options)

    model.prepare_inputs_for_generation = prepare
    with pytest.raises(ArgumentError, match="prepare_inputs_for_generation was replaced"):
        model.generate(**inputs_of(False), custom_generate=loop, max_new_tokens=3)


@pytest.mark.parametrize(
    "mask", [[1, 1, 0, 1, 1, 1], [1, 1, 1, 1, 1, 0], [0, 1, 0, 1, 1, 1], [0, 0, 0, 0, 0, 0]], ids=str
)
def test_masks_of_another_kind(mask: list[int]) -> None:
    with pytest.raises(ArgumentError, match="attention_mask"):
        models.llama().generate(
            models.prompt(6), attention_mask=torch.tensor([mask]), custom_generate=loop, max_new_tokens=3
        )


class TestSampling:
    """The first token's law, by chi-square, is that of transformers' own warpers."""

    @pytest.mark.parametrize("drafter", [None, hb.spec.Auto()], ids=repr)
    @pytest.mark.parametrize(
        ("field", "value", "warper"),
        [
            ("temperature", 0.6, logits_process.TemperatureLogitsWarper(0.6)),
            ("top_k", 5, logits_process.TopKLogitsWarper(5)),
            ("top_p", 0.7, logits_process.TopPLogitsWarper(0.7)),
            ("min_p", 0.2, logits_process.MinPLogitsWarper(0.2)),
            ("top_h", 0.5, logits_process.TopHLogitsWarper(0.5)),
            ("typical_p", 0.6, logits_process.TypicalLogitsWarper(0.6)),
            ("epsilon_cutoff", 0.03, logits_process.EpsilonLogitsWarper(0.03)),
            ("eta_cutoff", 0.03, logits_process.EtaLogitsWarper(0.03)),
        ],
    )
    def test_a_warper(self, field: str, value: float, warper: Any, drafter: Any) -> None:
        model, inputs = models.llama(), inputs_of(False)
        options: dict[str, Any] = {"top_k": 0, field: value, "do_sample": True, "max_new_tokens": 2}
        ours = model.generate(
            **inputs,
            **options,
            num_return_sequences=1200,
            pad_token_id=0,
            custom_generate=loop,
            drafter=drafter,
            sampling_seed=7,
        )
        with torch.no_grad():
            logits = model(**inputs).logits[:, -1].float()
        law = warper(inputs["input_ids"], logits).softmax(-1)[0]
        expected = {(token,): float(mass) for token, mass in enumerate(law) if mass > 0}
        # Cells that are hardly ever met are one.
        rare = {cell for cell, mass in expected.items() if mass < 0.004}
        grouped = {cell: mass for cell, mass in expected.items() if cell not in rare}
        if rare:
            grouped[-1,] = sum(expected[cell] for cell in rare)
        drawn = [(token,) for token in ours[:, 12].tolist()]
        assert all(cell in expected for cell in drawn)
        assert outlying([(-1,) if cell in rare else cell for cell in drawn], grouped) < 5
