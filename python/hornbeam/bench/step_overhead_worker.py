"""What :mod:`hornbeam.bench.bench_step_overhead` times, as a process of its own: decoding over a stub.

It is run with the hornbeam of another checkout too, and so imports no other part of the benches.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import torch

LAYERS, HEADS, SIZE, VOCABULARY, PROMPT, STEPS = 30, 2, 32, 256, 32, 64


def work(batch: int) -> None:
    """Decodes once for every line of the input, and prints the seconds of a step."""
    import hornbeam as hb

    lm = hb.LM(stub())
    # What seeing a change costs is a row of its own.
    setattr(getattr(lm, "engine", lm), "notice", lambda: None)  # noqa: B010
    generator = torch.Generator().manual_seed(0)
    for _ in sys.stdin:
        prompts = torch.randint(1, VOCABULARY, (batch, PROMPT), generator=generator).tolist()
        begins: list[float] = []

        def stream(*_: Any, begins: list[float] = begins, **__: Any) -> None:
            begins.append(time.perf_counter())

        lm.generate(prompts, max_new_tokens=STEPS + 1, draft=None, stream=stream)
        # The first token of each prompt comes of the prefill.
        print((begins[-1] - begins[batch - 1]) / STEPS, flush=True)


def stub() -> Any:
    """A causal LM whose layers compute nothing."""
    import transformers
    from transformers.modeling_outputs import CausalLMOutput
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    class Layer(torch.nn.Module):
        is_causal = True

        def __init__(self, index: int) -> None:
            super().__init__()
            self.layer_idx = index

    class Stub(transformers.LlamaForCausalLM):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.stubs = torch.nn.ModuleList(map(Layer, range(LAYERS)))
            generator = torch.Generator().manual_seed(0)
            rows = 8 * (PROMPT + 1)
            # The same for every row: what a pass answers must not depend on where a row lies in it.
            self.states = torch.randn(1, HEADS, 1, SIZE, generator=generator).repeat(1, 1, rows, 1)
            self.table = torch.randn(1, VOCABULARY, generator=generator).repeat(rows, 1)

        def forward(self, input_ids=None, position_ids=None, logits_to_keep=0, use_cache=False, **options):  # type: ignore[no-untyped-def]
            count = input_ids.shape[1]
            states = self.states[:, :, :count]
            attend = ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation]
            for layer in self.stubs:
                attend(layer, states, states, states, None, scaling=1.0, **options)
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            return CausalLMOutput(logits=self.table[:count][kept][None])

    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HEADS * SIZE,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=2048,
        eos_token_id=None,
        bos_token_id=None,
    )
    model = Stub(config).eval()
    model.model.layers = torch.nn.ModuleList()
    model.config.num_hidden_layers = LAYERS
    model.generation_config = transformers.GenerationConfig(pad_token_id=0)
    return model


if __name__ == "__main__":
    work(int(sys.argv[1]))
