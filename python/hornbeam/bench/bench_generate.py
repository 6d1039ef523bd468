"""Whole generations against transformers on the default model, on the CPU.

Each row is a ratio over plain ``model.generate`` of the same loaded model in the same process:
wall time of the whole call where the text is short of prompt, and of the phase that the row names
elsewhere. Beside it, where transformers can draft for itself, its own prompt lookup with the best of
three lengths. Every row first checks what both sides write: ``identical`` counts the jobs whose
tokens are all the same (the floating-point sums of two implementations differ in their last bits, so a
near tie may fall either way; pages in bfloat16 are not exact for a float32 model).

    hornbeam bench generate [--quick] [--only ROW ...]

Rows: edit chat batch prefill_2048 prefill_7900 decode_7900_f32 decode_7900_bf16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch

import hornbeam as hb
from hornbeam.bench import harness
from hornbeam.bench.compare import Clock
from hornbeam.bench.workload import CHATS, Sides, ignoring, sources, type_hints

LOOKUP_LENGTHS = (3, 10, 16)


class Bench(Sides):
    """The rows."""

    def edit(self) -> dict[str, Any]:
        """The job of ``make demo``: a source file is written again with type hints."""
        return self.alone([self.raw(type_hints())], 96 if self.quick else 295)

    def chats(self) -> dict[str, Any]:
        """Free chat, one prompt at a time: the geometric mean over the prompts."""
        prompts = [self.chat(text) for text in (CHATS[:2] if self.quick else CHATS)]
        return self.alone(prompts, 24 if self.quick else 40)

    def batch(self) -> dict[str, Any]:
        """The same prompts in one call. transformers has no prompt lookup for batches."""
        prompts = [self.chat(text) for text in CHATS]
        budget = 16 if self.quick else 64
        pairs = zip(self.ours(prompts, budget), self.theirs(prompts, budget), strict=True)
        identical = sum(ours == theirs for ours, theirs in pairs)
        seconds = self.race(partial(self.ours, prompts, budget), partial(self.theirs, prompts, budget))
        return {"jobs": len(prompts), "identical": identical, "hornbeam": harness.ratio(*seconds)}

    def prefill(self, length: int) -> dict[str, Any]:
        """Seconds to the first token of a prompt of ``length`` tokens."""
        prompts = [self.long_prompt(length)]
        identical = int(self.ours(prompts, 1, draft=None) == self.theirs(prompts, 1))
        seconds = self.race(partial(self.ours, prompts, 1, draft=None), partial(self.theirs, prompts, 1))
        return {"jobs": 1, "identical": identical, "hornbeam": harness.ratio(*seconds)}

    def decode(self, length: int, kv_dtype: torch.dtype) -> dict[str, Any]:
        """Seconds of plain decoding after ``length`` tokens that both sides hold in their caches."""
        prompt, budget = self.long_prompt(length), 8 if self.quick else 32
        lm = hb.LM(self.model, self.tokenizer, kv_dtype=kv_dtype)
        ours, theirs = [partial(decode_ours, lm), self.decode_theirs(prompt, budget)]
        ours = partial(ours, prompt, budget)
        ours()  # fills the tree
        same = ours()[1] == theirs()[1]
        seconds = harness.alternate(
            {"ours": lambda: ours()[0], "theirs": lambda: theirs()[0]}, self.alternations, warm_up=0
        )
        compared = harness.ratio(seconds["ours"], seconds["theirs"])
        return {"jobs": 1, "identical": int(same), "hornbeam": compared}

    def decode_theirs(self, prompt: list[int], budget: int) -> Callable[[], tuple[float, list[int]]]:
        """A call that decodes after a filled cache, and takes what it appended off again."""
        from transformers import DynamicCache

        ids = torch.tensor([prompt])
        cache = DynamicCache(config=self.model.config)
        with torch.inference_mode():
            self.model(ids[:, :-1], past_key_values=cache, logits_to_keep=1)

        def call() -> tuple[float, list[int]]:
            clock = Clock()
            output = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                past_key_values=cache,
                do_sample=False,
                max_new_tokens=budget,
                streamer=clock,
            )
            seconds = after_first(clock, budget)
            cache.crop(len(prompt) - 1 - cache.get_seq_length())
            return seconds, output[0, len(prompt) :].tolist()

        return call

    def alone(self, prompts: list[list[int]], budget: int) -> dict[str, Any]:
        """Prompts one at a time: hornbeam and prompt lookup over plain, geometric means over prompts."""
        ours, lookup, identical, seconds = [], [], 0, {}
        best = self.best_lookup(prompts[0], budget)
        for prompt in prompts:
            plain = self.theirs([prompt], budget)
            identical += self.ours([prompt], budget) == plain
            seconds = harness.alternate(
                {
                    "ours": ignoring(partial(self.ours, [prompt], budget)),
                    "plain": ignoring(partial(self.theirs, [prompt], budget)),
                    "lookup": ignoring(partial(self.theirs, [prompt], budget, prompt_lookup_num_tokens=best)),
                },
                self.alternations,
            )
            ours.append(harness.ratio(seconds["ours"], seconds["plain"]))
            lookup.append(harness.ratio(seconds["lookup"], seconds["plain"]))
        return {
            "jobs": len(prompts),
            "identical": identical,
            "hornbeam": combined(ours),
            "prompt_lookup": combined(lookup) | {"prompt_lookup_num_tokens": best},
        }

    def best_lookup(self, prompt: list[int], budget: int) -> int:
        """The best length of prompt lookup on a job, by the best of two runs each."""
        calls = {
            str(length): ignoring(partial(self.theirs, [prompt], budget, prompt_lookup_num_tokens=length))
            for length in LOOKUP_LENGTHS
        }
        seconds = harness.alternate(calls, 2, warm_up=0)
        return int(min(seconds, key=lambda name: min(seconds[name])))

    def long_prompt(self, length: int) -> list[int]:
        """``length`` tokens of this project's own sources."""
        text = "\n\n".join(sources())
        ids: list[int] = self.tokenizer(text, verbose=False)["input_ids"][:length]
        if len(ids) < length:
            raise RuntimeError(f"the sources have {len(ids)} tokens, expected {length}")
        return ids


def decode_ours(lm: hb.LM, prompt: list[int], budget: int) -> tuple[float, list[int]]:
    clock = Clock()
    out = lm.generate(prompt, max_new_tokens=budget, draft=None, stream=clock)
    return after_first(clock, budget), out.token_ids


def after_first(clock: Clock, num_tokens: int) -> float:
    """Seconds between the first token and the last."""
    timing = clock.stop(num_tokens)
    return timing.seconds - timing.first_seconds


def combined(ratios: list[harness.Ratio]) -> dict[str, Any]:
    """Geometric means over jobs; the interval is that of the ends, which is wider than the mean's own."""
    keys = ("median", "low", "high", "ours_seconds", "theirs_seconds")
    means = {key: harness.geometric_mean([getattr(ratio, key) for ratio in ratios]) for key in keys}
    return means | {"alternations": ratios[0].alternations}


def run(quick: bool = False, only: Iterable[str] | None = None) -> dict[str, Any]:
    """All rows, or those that ``only`` names."""
    bench = Bench(quick)
    rows: dict[str, Callable[[], dict[str, Any]]] = {
        "edit": bench.edit,
        "chat": bench.chats,
        "batch": bench.batch,
        "prefill_2048": partial(bench.prefill, 2048),
        "prefill_7900": partial(bench.prefill, 7900),
        "decode_7900_f32": partial(bench.decode, 7900, torch.float32),
        "decode_7900_bf16": partial(bench.decode, 7900, torch.bfloat16),
    }
    chosen = list(rows) if only is None else list(only)
    if unknown := sorted(set(chosen) - set(rows)):
        raise SystemExit(f"rows are {', '.join(unknown)}, expected some of: {', '.join(rows)}")
    results = {}
    for name in chosen:
        results[name] = rows[name]()
        ours = harness.plain(results[name]["hornbeam"])
        print(f"{name:18} {ours['median']:.2f}x  [{ours['low']:.2f}, {ours['high']:.2f}]", flush=True)
    return results
