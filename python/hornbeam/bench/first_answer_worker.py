"""What :mod:`hornbeam.bench.bench_first_answer` times, as a process of its own: one answer of one side."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

TOKENS = 50
PROMPT = (
    "A hornbeam is a small tree with very hard wood. Its leaves have a saw-like edge, and its fruit is a "
    "small nut. Describe how a carpenter of the eighteenth century would have used such wood, and why."
)


def ours(model: str) -> tuple[list[int], float]:
    """New tokens, and the seconds of the call."""
    import hornbeam as hb

    lm = hb.LM.from_pretrained(model)
    begin = time.perf_counter()
    out = lm.generate(PROMPT, max_new_tokens=TOKENS, eos_token_id=[])
    return out.token_ids, time.perf_counter() - begin


def theirs(model: str) -> tuple[list[int], float]:
    """The same of transformers."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(model)
    network: Any = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    begin = time.perf_counter()
    inputs = tokenizer(PROMPT, return_tensors="pt")
    found = network.generate(
        **inputs, max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False, eos_token_id=None
    )
    tokens = found[0, inputs["input_ids"].shape[1] :].tolist()
    return tokens, time.perf_counter() - begin


if __name__ == "__main__":
    side, folder, started = sys.argv[1:]
    answer, seconds = {"ours": ours, "theirs": theirs}[side](folder)
    process = time.time() - float(started)
    print(json.dumps({"tokens": answer, "call": seconds, "process": process}))
