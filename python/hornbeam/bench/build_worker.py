"""What :mod:`hornbeam.bench.bench_builds` times, as a process of its own: whole calls on the default model.

It is run with the hornbeam of another checkout too, and so imports no other part of the benches.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hornbeam as hb

Call = Callable[[], tuple[int, Any]]
"""Makes what a row times; gives the number of tokens that it wrote, and the texts."""


def work(row: str, folder: Path) -> None:
    """Makes the row's calls once for every line of the input, and prints their seconds and a digest."""
    lm = hb.LM.from_pretrained("smollm2")
    lm.calibrate()
    call = {"generate": generate, "spec_generate": spec_generate, "keep_decode": keep_decode}[row](lm, folder)
    for _ in sys.stdin:
        lm.clear_cache()
        begin = time.perf_counter()
        texts = call()
        seconds = time.perf_counter() - begin
        digest = hashlib.sha256(json.dumps(texts).encode()).hexdigest()
        print(json.dumps([seconds, digest]), flush=True)


def requests(lm: hb.LM, folder: Path, count: int) -> list[list[int]]:
    lines = (folder / "mixed.txt").read_text(encoding="utf-8").splitlines()
    return [chat(lm, line) for line in lines[:: len(lines) // count][:count]]


def chat(lm: hb.LM, text: str) -> list[int]:
    assert lm.tokenizer is not None
    encoded = lm.tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=True
    )
    return list(encoded["input_ids"])


def generate(lm: hb.LM, folder: Path) -> Callable[[], Any]:
    """Eight chats in one call without a draft, then a long prompt's first tokens."""
    chats = requests(lm, folder, 8)
    long = [token for prompt in requests(lm, folder, 30) for token in prompt][:1000]

    def call() -> Any:
        outs = lm.generate(chats, max_new_tokens=24, draft=None)
        return [out.token_ids for out in outs] + [lm.generate(long, max_new_tokens=8, draft=None).token_ids]

    return call


def spec_generate(lm: hb.LM, folder: Path) -> Callable[[], Any]:
    """Chats one at a time with the default draft, and a file that is written again."""
    chats = requests(lm, folder, 4)
    assert lm.tokenizer is not None
    edit = lm.tokenizer((folder / "type_hints.txt").read_text(encoding="utf-8").removesuffix("\n"))[
        "input_ids"
    ]

    def call() -> Any:
        outs = [lm.generate(prompt, max_new_tokens=32) for prompt in chats]
        return [out.token_ids for out in [*outs, lm.generate(edit, max_new_tokens=96)]]

    return call


def keep_decode(lm: hb.LM, folder: Path) -> Callable[[], Any]:
    """A long prompt of which a share is kept, and plain decoding after it."""
    long = [token for prompt in requests(lm, folder, 60) for token in prompt][:1500]

    def call() -> Any:
        return lm.generate(
            long, max_new_tokens=64, draft=None, keep=hb.recipes.ada_kv("12%"), eos_token_id=[]
        ).token_ids

    return call


if __name__ == "__main__":
    work(sys.argv[1], Path(sys.argv[2]))
