"""Which causal LMs of the installed transformers hornbeam takes, and why it refuses the others.

Makes a model of every configuration in transformers' mapping, two layers of 64 with random weights, and
compares greedy text with that of ``model.generate``, and logits of a prompt in two parts with those of one
dense pass.
Prints one line a configuration, tab-separated: its name, an outcome, and the reason or what differs.

    PYTHONPATH=python:. python scripts/survey_architectures.py [NAME ...]

Exits with 1 if any text or logit is wrong. Outcomes: ``works``; ``refused``, with the reason;
``without cache``: the text is that of ``model.generate(use_cache=False)``, and not of its cache;
``not made``: there is no tiny model by these settings, or it does not run in transformers; ``wrong``.
"""

from __future__ import annotations

import logging
import signal
import sys
import warnings
from typing import Any

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

import hornbeam as hb
from tests import models

#: The names under which configurations ask for what makes a model small.
TINY: dict[int | None, str] = {
    2: "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers "
    "num_key_value_heads num_kv_heads num_experts_per_tok",
    4: "num_attention_heads n_head n_heads num_heads decoder_attention_heads encoder_attention_heads "
    "num_experts num_local_experts n_routed_experts moe_num_experts",
    1: "n_group topk_group n_shared_experts",
    8: "sliding_window rotary_dim qk_rope_head_dim qk_nope_head_dim hidden_size_per_layer_input "
    "mamba_d_state state_size d_state",
    16: "head_dim kv_channels attention_head_size v_head_dim kv_lora_rank d_kv",
    24: "q_lora_rank",
    32: "moe_intermediate_size shared_expert_intermediate_size expert_ffn_hidden_size",
    64: "hidden_size d_model n_embd dim embed_dim word_embed_proj_dim embedding_size emb_dim lru_width",
    96: "intermediate_size n_inner ffn_dim decoder_ffn_dim encoder_ffn_dim ffn_hidden_size d_ff",
    256: "vocab_size vocab_size_per_layer_input",
    512: "max_position_embeddings n_positions max_seq_len n_ctx max_target_positions",
    0: "pad_token_id num_kv_shared_layers",
    None: "bos_token_id eos_token_id",
}
MOST_PARAMETERS = 30_000_000
SECONDS = 60
TOLERANCE = 1e-4


def tiny(kind: Any) -> Any:
    """The smallest configuration of a class that these settings give."""
    large = kind()
    text = large.get_text_config()
    names = getattr(type(text), "attribute_map", {})
    known = set(text.to_dict()) | set(names)
    settings: dict[str, Any] = {
        name: value for value, line in TINY.items() for name in line.split() if name in known
    }
    settings = {name: value for name, value in settings.items() if names.get(name) not in settings}
    if "qk_rope_head_dim" in settings:  # latent attention: the head is what is rotated
        settings["head_dim"] = settings["qk_rope_head_dim"]
        settings["num_key_value_heads"] = 4
    for name in ("layer_types", "mlp_layer_types", "no_rope_layers"):
        if isinstance(vars(text).get(name), list):
            settings[name] = vars(text)[name][:2]
    try:
        made = type(text)(**settings)
    except Exception:  # some insist on tokens that begin and end
        made = type(text)(**settings | {"bos_token_id": 1, "eos_token_id": 2})
    if type(text) is kind:
        return made
    return kind(**{name: made for name, value in vars(large).items() if value is text})


def survey(kind: Any) -> tuple[str, str]:
    """The outcome for a configuration class, and what there is to say."""
    try:
        config = tiny(kind)
        with torch.device("meta"):
            empty = transformers.AutoModelForCausalLM.from_config(config)
        size = sum(parameter.numel() for parameter in empty.parameters())
        if size > MOST_PARAMETERS:
            return "not made", f"{size} parameters, expected at most {MOST_PARAMETERS}"
        model = models.build(config, 0, std=0.1)
        models.greedy(model, models.prompt(7), 2)
    except TimeoutError:
        raise
    except Exception as error:
        return "not made", f"{type(error).__name__}: {error}"
    try:
        lm = hb.LM(model)
    except hb.errors.UnsupportedModel as error:
        return "refused", str(error)
    wrong, without_cache = [], []
    for length in (1, 7, 40, 130):
        prompt = models.prompt(length, length)
        text = lm.generate(prompt[0].tolist(), max_new_tokens=12).token_ids
        if text != models.greedy(model, prompt, 12):
            dense = model.generate(prompt, max_new_tokens=12, do_sample=False, use_cache=False)
            (without_cache if text == dense[0, length:].tolist() else wrong).append(length)
    if wrong:
        return "wrong", f"text after prompts of {wrong} tokens"
    difference = logits_difference(lm, model)
    if difference > TOLERANCE:
        return "wrong", f"logits differ by {difference:.2g} of their spread"
    shape = lm.runner.shape
    facts = f"{shape.num_heads}/{shape.num_kv_heads} heads of {shape.head_dim}, logits to {difference:.0e}"
    return ("without cache" if without_cache else "works"), facts


def logits_difference(lm: hb.LM, model: Any) -> float:
    """The largest, over the spread of the dense logits."""
    prompt = models.prompt(50, 3)
    with torch.inference_mode():
        dense = model(prompt).logits[0]
    branch, parts = lm.tree.branch(), []
    for begin, end in ((0, 20), (20, 50)):
        with lm.tree.step([(branch, prompt[0, begin:end].tolist(), None)]) as step:
            parts.append(lm.runner.forward(lm.tree, step).logits)
            step.commit([range(end - begin)])
    branch.release()
    return float((torch.cat(parts) - dense).abs().max() / (dense.max() - dense.min()))


def main(names: list[str]) -> int:
    warnings.filterwarnings("ignore")
    logging.disable(logging.CRITICAL)
    transformers.logging.set_verbosity_error()

    def stop(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, stop)
    any_wrong = False
    for kind in sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING.keys()), key=lambda kind: str(kind.__name__)):
        if names and kind.__name__ not in names:
            continue
        signal.alarm(SECONDS)
        try:
            outcome, reason = survey(kind)
        except TimeoutError:
            outcome, reason = "not made", f"took more than {SECONDS} s"
        except Exception as error:
            outcome, reason = "wrong", f"{type(error).__name__}: {error}"
        finally:
            signal.alarm(0)
        any_wrong = any_wrong or outcome == "wrong"
        print(kind.__name__, outcome, " ".join(reason.split())[:300], sep="\t", flush=True)
    return int(any_wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
