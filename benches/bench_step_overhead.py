"""What a step of decoding costs outside of the model.

A stub takes the model's place: 30 layers that call attention on numbers made beforehand, and compute nothing
else. Rows ``batch_1`` and ``batch_8`` are the seconds of a step of plain decoding over it, and how many
times as fast as another checkout's: each is timed in a process of its own, in turn.

Row ``notice`` is what seeing that the default model changed costs: before each pass, as a share of a step of
plain decoding, and before each call, in milliseconds.

    python benches/run.py step_overhead [--quick]
    HORNBEAM_BENCH_AGAINST=/path/to/checkout python benches/run.py step_overhead
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

import harness

LAYERS, HEADS, SIZE, VOCABULARY, PROMPT, STEPS = 30, 2, 32, 256, 32, 64


def run(quick: bool, only: list[str] | None = None) -> dict[str, Any]:
    rows = only or ["batch_1", "batch_8", "notice"]
    results: dict[str, Any] = {}
    against = os.environ.get("HORNBEAM_BENCH_AGAINST")
    for row in rows:
        results[row] = (
            notice(quick) if row == "notice" else steps(int(row.removeprefix("batch_")), against, quick)
        )
        print(row, results[row], flush=True)
    return results


def steps(batch: int, against: str | None, quick: bool) -> dict[str, Any]:
    """Seconds of a step, and beside another checkout."""
    checkouts = {"ours": harness.ROOT} | ({"theirs": Path(against)} if against else {})
    workers = {name: Worker(root, batch) for name, root in checkouts.items()}
    try:
        calls = {name: worker.run for name, worker in workers.items()}
        seconds = harness.alternate(calls, 5 if quick else 15, warm_up=2)
    finally:
        for worker in workers.values():
            worker.close()
    result: dict[str, Any] = {"step_seconds": statistics.median(seconds["ours"])}
    if against:
        result["times_as_fast"] = harness.ratio(seconds["ours"], seconds["theirs"])
    return result


class Worker:
    """A process that decodes with the package of one checkout."""

    def __init__(self, root: Path, batch: int) -> None:
        environment = {**os.environ, "PYTHONPATH": str(root / "python")}
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(batch)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self) -> float:
        """Seconds of a step."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def work(batch: int) -> None:
    """Decodes once for every line of the input, and prints the seconds of a step."""
    import hornbeam as hb

    lm = hb.LM(stub())
    # What seeing a change costs is a row of its own.
    getattr(lm, "engine", lm).notice = lambda: None
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

        def forward(self, input_ids=None, position_ids=None, logits_to_keep=0, use_cache=False, **options):  # type: ignore[no-untyped-def, override]
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


def notice(quick: bool) -> dict[str, Any]:
    """What looking costs on the default model."""
    import hornbeam as hb

    lm = hb.LM.from_pretrained("smollm2")
    prompt = list(range(100, 400))
    stamps: list[float] = []
    passes, calls, paces = [], [], []
    for _ in range(3 if quick else 9):
        stamps.clear()
        lm.generate(
            prompt,
            max_new_tokens=12,
            draft=None,
            eos_token_id=[],
            stream=lambda *_: stamps.append(time.perf_counter()),
        )
        paces.append((stamps[-1] - stamps[0]) / (len(stamps) - 1))
        # As in decoding, other work has filled the caches.
        for seconds, closely in ((passes, False), (calls, True)):
            lm.score(prompt, [[1, 2]])
            begin = time.perf_counter()
            lm.runner.look(closely=closely)
            seconds.append(time.perf_counter() - begin)
    step = statistics.median(paces)
    return {
        "share_of_a_step": statistics.median(passes) / step,
        "pass_microseconds": statistics.median(passes) * 1e6,
        "call_milliseconds": statistics.median(calls) * 1e3,
        "step_milliseconds": step * 1e3,
    }


if __name__ == "__main__":
    work(int(sys.argv[1]))
