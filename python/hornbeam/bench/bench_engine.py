"""What many requests on one engine cost, on the default model on the CPU.

Each row first checks that both sides write the same; ``identical`` counts the texts whose tokens are all the
same (sums over other numbers of rows differ in their last bits, so a near tie may fall either way).

    hornbeam bench engine [--quick] [--only ROW ...]

Rows:

``samples``: eight samples of one prompt of 1,000 tokens, 64 tokens each, over transformers'
    ``generate(num_return_sequences=8)``: tokens per second, each from an empty cache.
``arrivals``: eight chats, one submitted every 300 ms, 128 tokens each, default draft, over the same eight run
    in turn: total tokens per second.
``admission``: a prompt of 4,000 tokens is submitted while another request decodes: the longest gap between
    two tokens of that one over the median step at ``draft=None``; and its first token over alone.
``fork``: microseconds of ``request.fork()`` at 8,000 tokens without a draft, and milliseconds of the first
    write after it beyond an ordinary step (median of all forks).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch

import hornbeam as hb
from hornbeam.bench import harness
from hornbeam.bench.workload import CHATS, Sides, sources

SAMPLES, PROMPT, TOKENS = 8, 1000, 64
EVERY, CHAT_TOKENS = 0.3, 128
LONG = 4000
DEEP = 8000
FORKS = 12


class Bench(Sides):
    """The rows."""

    def text(self, length: int, begin: int = 0) -> list[int]:
        """Tokens of this project's own sources."""
        tokens: list[int] = []
        for source in sources():
            tokens += self.raw(source)
            if len(tokens) >= begin + length:
                return tokens[begin : begin + length]
        raise RuntimeError(f"there are {len(tokens)} tokens, expected {begin + length}")

    def samples(self) -> dict[str, Any]:
        """Eight samples of one prompt."""
        prompt, budget = self.text(PROMPT), 16 if self.quick else TOKENS
        ids = torch.tensor([prompt])

        def ours(**options: Any) -> list[list[int]]:
            self.lm.clear_cache()
            outs = self.lm.generate(prompt, n=SAMPLES, max_new_tokens=budget, eos_token_id=[], **options)
            return [out.token_ids for out in outs]

        def theirs(**options: Any) -> list[list[int]]:
            out = self.model.generate(
                ids,
                num_return_sequences=SAMPLES,
                max_new_tokens=budget,
                eos_token_id=None,
                pad_token_id=0,
                **options,
            )
            return [row[PROMPT:].tolist() for row in out]

        beams = {"do_sample": False, "num_beams": 1}
        greedy = ours(draft=None)
        same = self.model.generate(
            ids.repeat(SAMPLES, 1), max_new_tokens=budget, eos_token_id=None, pad_token_id=0, **beams
        )[:, PROMPT:].tolist()
        torch.manual_seed(0)
        seconds = harness.alternate(
            {
                "ours": timed(lambda: ours(temperature=1.0)),
                "theirs": timed(lambda: theirs(do_sample=True, temperature=1.0, top_k=0, top_p=1.0)),
            },
            self.alternations,
        )
        return {
            "jobs": SAMPLES,
            "identical": sum(a == b for a, b in zip(greedy, same, strict=True)),
            "hornbeam": harness.ratio(seconds["ours"], seconds["theirs"]),
        }

    def arrivals(self) -> dict[str, Any]:
        """Eight chats that come one after the other."""
        prompts, budget = [self.chat(text) for text in CHATS], 32 if self.quick else CHAT_TOKENS
        options: dict[str, Any] = {"max_new_tokens": budget, "eos_token_id": []}
        texts: dict[str, list[list[int]]] = {}

        def together() -> float:
            self.lm.clear_cache()
            engine, waiting = self.lm.engine, list(prompts)
            requests: list[Any] = []
            begin = time.perf_counter()
            while waiting or engine.requests:
                while waiting and time.perf_counter() - begin >= EVERY * len(requests):
                    requests.append(engine.submit(waiting.pop(0), **options))
                if not engine.step():
                    time.sleep(0.001)
            spent = time.perf_counter() - begin
            texts["ours"] = [request.result().token_ids for request in requests]
            for request in requests:
                request.release()
            return spent

        def in_turn() -> float:
            self.lm.clear_cache()
            begin = time.perf_counter()
            texts["theirs"] = [self.lm.generate(prompt, **options).token_ids for prompt in prompts]
            return time.perf_counter() - begin

        seconds = harness.alternate({"ours": together, "theirs": in_turn}, self.alternations)
        same = zip(texts["ours"], texts["theirs"], strict=True)
        return {
            "jobs": len(prompts),
            "identical": sum(a == b for a, b in same),
            "hornbeam": harness.ratio(seconds["ours"], seconds["theirs"]),
        }

    def admission(self) -> dict[str, Any]:
        """A long prompt comes while another request decodes."""
        engine, prompt = self.lm.engine, self.text(1000 if self.quick else LONG, begin=200)
        options: dict[str, Any] = {"draft": None, "eos_token_id": []}
        gaps, firsts, alone = [], [], []
        for _ in range(1 + self.alternations):
            self.lm.clear_cache()
            begin = time.perf_counter()
            request = engine.submit(prompt, max_new_tokens=1, **options)
            request.result()
            alone.append(time.perf_counter() - begin)
            request.release()
            self.lm.clear_cache()
            running = engine.submit(self.chat(CHATS[0]), max_new_tokens=2000, **options)
            steps = [spent(engine) for _ in range(20)][4:]
            begin = time.perf_counter()
            request = engine.submit(prompt, max_new_tokens=1, **options)
            waits = []
            while not request.done:
                count = len(running.output)
                waits.append(spent(engine))
                assert len(running.output) > count
            firsts.append(time.perf_counter() - begin)
            gaps.append(max(waits) / statistics.median(steps))
            running.cancel()
            request.release()
        ratios = sorted(own / one for own, one in zip(firsts[1:], alone[1:], strict=True))
        return {
            "prompt_tokens": len(prompt),
            "longest_gap_over_step": statistics.median(gaps[1:]),
            "longest_gap_over_step_interval": harness.interval(sorted(gaps[1:])),
            "first_token_over_alone": statistics.median(ratios),
            "first_token_over_alone_interval": harness.interval(ratios),
            "alone_seconds": statistics.median(alone[1:]),
        }

    def fork(self) -> dict[str, Any]:
        """Forks of a long text."""
        engine = self.lm.engine
        request = engine.submit(
            self.text(1000 if self.quick else DEEP),
            max_new_tokens=190,
            temperature=1.0,
            eos_token_id=[],
            draft=None,
        )
        while not request.is_read:
            engine.step()
        for _ in range(4):
            engine.step()
        forks, writes = [], []
        for _ in range(FORKS):
            ordinary = statistics.median(spent(engine) for _ in range(2))
            if request.done:
                break
            begin = time.perf_counter()
            request, other = request.fork(2)
            forks.append(time.perf_counter() - begin)
            other.cancel()
            first = spent(engine)
            writes.append(first - ordinary)
        request.cancel()
        return {
            "tokens": len(request.prompt),
            "forks": len(forks),
            "fork_microseconds": 1e6 * statistics.median(forks),
            "first_write_milliseconds": 1e3 * statistics.median(writes),
        }


def spent(engine: hb.Engine) -> float:
    """Seconds of a step."""
    begin = time.perf_counter()
    engine.step()
    return time.perf_counter() - begin


def timed(call: Callable[[], Any]) -> Callable[[], None]:
    """The call without its answer, which the harness would take for seconds."""

    def run() -> None:
        call()

    return run


def run(quick: bool = False, only: Iterable[str] | None = None) -> dict[str, Any]:
    """All rows, or those that ``only`` names."""
    bench = Bench(quick)
    rows: dict[str, Callable[[], dict[str, Any]]] = {
        "samples": bench.samples,
        "arrivals": bench.arrivals,
        "admission": bench.admission,
        "fork": bench.fork,
    }
    return harness.run_rows(rows, only)
