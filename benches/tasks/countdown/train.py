"""Trains a Countdown model and its value head, from a seed, on one thread of a CPU.

    python benches/tasks/countdown/train.py small|large|small-traces [--out FOLDER] [--scale 1.0]

1. The model learns solutions of problems that are made forward (``data.py``); the loss is on answers alone.
2. Partway it rolls out training problems, and from each prefix of a rollout further ones. The value head, two
   layers on the last hidden state at a step's end, learns the share that ended right. While the model goes on
   learning solutions, the head's loss goes through the model too, so that its hidden states hold what the
   head needs. No label comes from anything but outcomes of rollouts.
3. The trained model rolls out other training problems, and the head alone is fitted to these.

``small-traces`` begins from the weights of ``small`` and learns longer answers, which look at several
operations before each step; its head is trained in the third stage alone. The folder gets the weights in
bfloat16, the head, and ``training.json`` with what was measured.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "python"), str(Path(__file__).parent)]

import data
import numpy as np
import sampling
import torch
import transformers
from torch.nn import functional as F

from hornbeam.build import environment
from hornbeam.tasks.countdown import tokens
from hornbeam.tensor_file import write_tensors

WEIGHTS = ROOT / "python" / "hornbeam" / "tasks" / "countdown" / "weights"
VALUE_FORMAT = {"format": "hornbeam.value_head", "version": "1", "activation": "gelu", "output": "sigmoid"}


@dataclass(frozen=True)
class Plan:
    """One training run.

    Attributes:
        hidden, inner, layers, heads: of the model.
        steps: of the optimiser on solutions.
        joint_from: the part of them after which the value head learns too.
        batch: solutions a step.
        value_batch: rollouts a step, of the joint part.
        rate: the greatest learning rate.
        shares: how often a batch is of problems of 3, 4 and 5 numbers.
        rollouts: problems that are rolled out, for the joint part and for the last stage each.
        begin: the folder of the weights to begin from; None for random ones.
        traces: whether answers show what was looked at.
        seed: of everything.
    """

    hidden: int
    inner: int
    layers: int
    heads: int
    steps: int
    joint_from: float
    batch: int = 64
    value_batch: int = 48
    rate: float = 3e-3
    shares: tuple[float, float, float] = (0.1, 0.7, 0.2)
    rollouts: tuple[int, int] = (10_000, 6_000)
    begin: str | None = None
    traces: bool = False
    seed: int = 0


PLANS = {
    "small": Plan(96, 256, 3, 3, steps=2400, joint_from=0.55),
    "large": Plan(192, 512, 3, 6, steps=1200, joint_from=0.7, rate=1.5e-3, rollouts=(4_000, 3_000)),
    "small-traces": Plan(
        96,
        256,
        3,
        3,
        steps=450,
        joint_from=1.0,
        batch=32,
        rate=2e-3,
        shares=(0.2, 0.8, 0.0),
        rollouts=(0, 2_500),
        begin="small",
        traces=True,
    ),
}


def new_model(plan: Plan) -> Any:
    """A Llama with random weights."""
    config = transformers.LlamaConfig(
        vocab_size=tokens.VOCABULARY,
        hidden_size=plan.hidden,
        intermediate_size=plan.inner,
        num_hidden_layers=plan.layers,
        num_attention_heads=plan.heads,
        num_key_value_heads=plan.heads,
        head_dim=plan.hidden // plan.heads,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=tokens.END,
    )
    return transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def new_head(plan: Plan) -> torch.nn.Module:
    """Two layers, 0 and 2 of the sequence."""
    return torch.nn.Sequential(torch.nn.Linear(plan.hidden, 128), torch.nn.GELU(), torch.nn.Linear(128, 1))


def problems(plan: Plan, rng: np.random.Generator, size: int) -> Iterator[data.Solved]:
    """Training problems of 3, 4 or 5 numbers with solutions, ``size`` at a time."""
    kept: dict[int, list[data.Solved]] = {3: [], 4: [], 5: []}
    while True:
        n = int(rng.choice([3, 4, 5], p=plan.shares))
        if not kept[n]:
            found = data.draw(rng, 64 * size, n, plan.traces)
            found = found.where(data.is_training(found))
            slices = range(0, len(found) - size + 1, size)
            kept[n] = [found.where(np.arange(begin, begin + size)) for begin in slices]
        yield kept[n].pop()


def rolled_out(
    plan: Plan, model: Any, rng: np.random.Generator, generator: torch.Generator, count: int
) -> dict[int, tuple[torch.Tensor, list[int], torch.Tensor]]:
    """Rollouts of ``count`` training problems in all, by how many numbers these have."""
    model.eval()
    found = {}
    for n, share in zip((3, 4, 5), plan.shares, strict=True):
        if size := round(count * share):
            drawn = data.draw(rng, 2 * size, n)
            drawn = drawn.where(data.is_training(drawn))
            found[n] = sampling.rollouts(model, drawn.where(np.arange(size)), plan.traces, generator)
            print(f"  rollouts of {n} numbers: {size}, right {found[n][2][:, -1].mean():.4f}", flush=True)
    model.train()
    return found


def value_loss(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy of the share of right outcomes."""
    return F.binary_cross_entropy_with_logits(scores, labels)


def fit(
    plan: Plan, model: Any, head: torch.nn.Module, rng: np.random.Generator, generator: Any
) -> dict[str, Any]:
    """The first two stages. Returns the mean losses of the last tenth."""
    parameters = [*model.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=plan.rate, betas=(0.9, 0.98), weight_decay=0.05, fused=True)
    warm_up = min(100, plan.steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda i: min((i + 1) / warm_up, 0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * i / plan.steps))),
    )
    stream = problems(plan, rng, plan.batch)
    joint_from = round(plan.steps * plan.joint_from)
    rolled: dict[int, Any] = {}
    history: list[tuple[float, float]] = []
    begin = time.perf_counter()
    for index in range(plan.steps):
        if index == joint_from:
            rolled = rolled_out(plan, model, rng, generator, plan.rollouts[0])
        found = next(stream)
        prompt = torch.from_numpy(data.prompts(found.numbers, found.target))
        ids = torch.cat([prompt, torch.from_numpy(data.answers(found))], 1)
        start = prompt.shape[1]
        hidden = model.model(ids[:, :-1], use_cache=False).last_hidden_state[:, start - 1 :]
        loss = F.cross_entropy(model.lm_head(hidden).flatten(0, 1), ids[:, start:].flatten())
        loss.backward()
        scored = 0.0
        if rolled:
            n = int(rng.choice([3, 4, 5], p=plan.shares))
            written, ends, labels = rolled[n]
            rows = torch.from_numpy(rng.integers(0, len(written), plan.value_batch))
            hidden = model.model(written[rows], use_cache=False).last_hidden_state[:, ends]
            of_value = value_loss(head(hidden)[..., 0], labels[rows])
            of_value.backward()
            scored = of_value.item()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        history.append((loss.item(), scored))
        if (index + 1) % 50 == 0:
            means = np.mean(history[-50:], 0)
            spent = time.perf_counter() - begin
            print(f"  step {index + 1}: loss {means[0]:.4f}, value {means[1]:.4f}, {spent:.0f} s", flush=True)
    last = np.mean(history[-(plan.steps // 10 or 1) :], 0)
    return {"loss": round(float(last[0]), 4), "value_loss": round(float(last[1]), 4)}


@torch.no_grad()
def features(model: Any, rolled: dict[int, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states at the ends of steps [R, hidden], and their labels [R]."""
    hidden, labels = [], []
    for written, ends, of_rows in rolled.values():
        for begin in range(0, len(written), sampling.ROWS):
            states = model.model(written[begin : begin + sampling.ROWS], use_cache=False).last_hidden_state
            hidden.append(states[:, ends].flatten(0, 1))
            labels.append(of_rows[begin : begin + sampling.ROWS].flatten())
    return torch.cat(hidden), torch.cat(labels)


def fit_head(
    plan: Plan, model: Any, head: torch.nn.Module, rng: np.random.Generator, generator: Any
) -> dict[str, Any]:
    """The third stage. Returns its losses on a tenth that it is not fitted to."""
    hidden, labels = features(model, rolled_out(plan, model, rng, generator, plan.rollouts[1]))
    order = torch.from_numpy(rng.permutation(len(hidden)))
    held, kept = order[: len(order) // 10], order[len(order) // 10 :]
    optimiser = torch.optim.AdamW(head.parameters(), lr=1e-3, weight_decay=0.01)

    def measured() -> float:
        with torch.no_grad():
            return round(value_loss(head(hidden[held])[:, 0], labels[held]).item(), 4)

    figures = {"value_loss_before": measured()}
    best = (figures["value_loss_before"], {name: t.clone() for name, t in head.state_dict().items()})
    for _ in range(12):
        for rows in kept[torch.from_numpy(rng.permutation(len(kept)))].split(512):
            loss = value_loss(head(hidden[rows])[:, 0], labels[rows])
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
        if (now := measured()) < best[0]:
            best = (now, {name: t.clone() for name, t in head.state_dict().items()})
    head.load_state_dict(best[1])
    mean = labels[kept].mean()
    constant = value_loss(torch.logit(mean).expand(len(held)), labels[held]).item()
    return {**figures, "value_loss_held_out": best[0], "value_loss_of_a_constant": round(constant, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=PLANS)
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="a folder for each model is made in it")
    parser.add_argument("--scale", type=float, default=1.0, help="of all counts of steps and rollouts")
    arguments = parser.parse_args()
    plan = PLANS[arguments.name]
    plan = replace(
        plan,
        steps=round(plan.steps * arguments.scale),
        rollouts=tuple(round(count * arguments.scale) for count in plan.rollouts),
    )
    torch.set_num_threads(1)
    torch.manual_seed(plan.seed)
    rng, generator = np.random.default_rng(plan.seed), torch.Generator().manual_seed(plan.seed)
    begin = time.perf_counter()
    if plan.begin is None:
        model = new_model(plan)
    else:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            arguments.out / plan.begin, dtype=torch.float32
        )
    head = new_head(plan)
    model.train()
    figures = fit(plan, model, head, rng, generator)
    model.eval()
    figures |= fit_head(plan, model, head, rng, generator)
    folder = arguments.out / arguments.name
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "model.safetensors").chmod(0o644)
    layers = [head[0], head[2]]
    tensors = {}
    for index, layer in enumerate(layers):
        tensors[f"layers.{index}.weight"] = layer.weight.detach().contiguous()
        tensors[f"layers.{index}.bias"] = layer.bias.detach().contiguous()
    write_tensors(folder / "value_head.safetensors", tensors, VALUE_FORMAT)
    facts = environment()
    report = {
        "name": arguments.name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "head_parameters": sum(parameter.numel() for parameter in head.parameters()),
        **figures,
        "seconds": round(time.perf_counter() - begin, 1),
        "processor": facts["processor"],
        "threads": 1,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "plan": asdict(plan),
    }
    (folder / "training.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
