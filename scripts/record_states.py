"""Lets the default model write, and keeps what it wrote with its hidden states: data for a feature head.

    python scripts/record_states.py FOLDER [--prompts 576] [--seed 0] [--batch 64] [--tokens 224]

Every batch becomes one file ``FOLDER/NNNN.safetensors`` with ``tokens`` (int32, all sequences one after
the other), ``offsets`` (where each begins), ``prompt_lengths`` and ``hidden`` (float16
``[tokens, taps, hidden]``; the last token of a sequence never was a row and has none, so its row is 0).
Files that exist are kept, so that the script goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import save_file

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "python"), str(Path(__file__).parent)]

from head_prompts import prompts  # noqa: E402

import hornbeam as hb  # noqa: E402

TAPS = (3, 15, 27, 30)
TEMPERATURES = (1.0, 0.0, 1.0, 0.7)


class Recorder:
    """A draft source that guesses nothing and keeps every outcome, of a call that begins with an empty
    cache."""

    hidden_layers = TAPS

    def __init__(self) -> None:
        self.prompts: dict[int, list[int]] = {}
        self.tokens: dict[int, list[int]] = {}
        self.states: dict[int, list[torch.Tensor]] = {}

    def open(self, run: Any) -> Recorder:
        return self

    def start(self, index: int, prompt_ids: Sequence[int]) -> None:
        self.prompts[index] = list(prompt_ids)
        self.tokens[index], self.states[index] = [], []

    def propose(self, asks: Sequence[Any]) -> list[Any]:
        return [_Nothing() for _ in asks]

    def observe(self, outcomes: Sequence[Any]) -> None:
        for outcome in outcomes:
            tokens, states = self.tokens[outcome.index], self.states[outcome.index]
            if not tokens and outcome.position:
                # What a prompt shares with one before it was computed for that one.
                shared = self.prompts[outcome.index][: outcome.position]
                donor = next(i for i, own in self.tokens.items() if own[: len(shared)] == shared)
                tokens += shared
                states.append(torch.cat(self.states[donor])[: len(shared)])
            tokens += outcome.committed
            states.append(outcome.hidden[outcome.kept].half())

    def finish(self, index: int) -> None:
        pass


class _Nothing:
    tokens: ClassVar[list[int]] = []
    signals = hb.spec.Signals([])


def record(
    lm: hb.LM, texts: list[str], temperature: float, seed: int, budget: int
) -> dict[str, torch.Tensor]:
    """One batch."""
    lm.clear_cache()
    recorder = Recorder()
    chats = [[{"role": "user", "content": text}] for text in texts]
    outs = lm.generate(
        chats,
        max_new_tokens=budget,
        draft=recorder,
        length=hb.spec.Fixed(0),
        temperature=temperature,
        seed=seed,
    )
    tokens, states, offsets, prompt_lengths = [], [], [0], []
    for index, out in enumerate(outs):
        rows = torch.cat(recorder.states[index])
        own = [*recorder.tokens[index], out.token_ids[-1]]
        assert len(own) == len(rows) + 1, (len(own), len(rows))
        tokens += own
        states += [rows, torch.zeros_like(rows[:1])]
        offsets.append(len(tokens))
        prompt_lengths.append(len(own) - len(out.token_ids))
    return {
        "tokens": torch.tensor(tokens, dtype=torch.int32),
        "offsets": torch.tensor(offsets, dtype=torch.int64),
        "prompt_lengths": torch.tensor(prompt_lengths, dtype=torch.int64),
        "hidden": torch.cat(states),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--prompts", type=int, default=576)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=224)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    lm = hb.LM.from_pretrained("smollm2")
    texts = prompts(given.prompts, given.seed)
    for number, begin in enumerate(range(0, len(texts), given.batch)):
        file = given.folder / f"{number:04d}.safetensors"
        if file.exists():
            continue
        start = time.perf_counter()
        batch = texts[begin : begin + given.batch]
        data = record(lm, batch, TEMPERATURES[number % len(TEMPERATURES)], given.seed + number, given.tokens)
        scratch = file.with_suffix(".part")
        save_file(data, scratch)
        scratch.rename(file)
        spent = time.perf_counter() - start
        print(f"{file.name}: {len(data['tokens'])} tokens in {spent:.0f} s", flush=True)


if __name__ == "__main__":
    main()
