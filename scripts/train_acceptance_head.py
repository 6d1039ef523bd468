"""Trains an acceptance head (:class:`hornbeam.speculation.AcceptanceHead`) for a feature head, as SpecDec++
does (Huang et al. 2024, arXiv:2405.19715, section 4.2), on recorded text of the target.

    python scripts/record_states.py FOLDER
    python scripts/train_acceptance_head.py FOLDER --out acceptance.safetensors [--report report.json] ...

At rows of each text, taken at random, the feature head guesses ``--depth`` tokens in a row. At each depth a
token Y is drawn from its law q given the *recorded* tokens before, and labelled with the probability
min(1, p(Y) / q(Y)) that a ratio test at temperature 1 accepts it, p being the target's law there. The head
reads the states of mixed text, as it will when it is used: Y in most places and the recorded token in a
share of ``--mixing``, which has no label. The loss is the binary cross entropy with ``--weight`` times
the weight on refusals.

The report has the figures of held-out texts (every 20th): per depth the mean label, the mean estimate,
and the area under the ROC curve of outcomes drawn from the labels; and for some thresholds how many
tokens are drawn and accepted, beside chains of fixed length.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "python"), str(Path(__file__).parent)]

from dense_head import Head, load_weights  # noqa: E402
from recorded_text import HELD_OUT_EVERY, Text, batches, load_texts, stack  # noqa: E402

from hornbeam.model import loading  # noqa: E402
from hornbeam.speculation import FeatureHead  # noqa: E402
from hornbeam.speculation.draft.head_network import HeadFile  # noqa: E402
from hornbeam.speculation.stop.acceptance_head import FORMAT, acceptance  # noqa: E402


def feature_head(file: Path, target: Any) -> Head:
    """The feature head with dense attention."""
    stored = HeadFile.load(file)
    embedding = target.get_input_embeddings().weight.detach()
    draft_ids = stored.tensors["draft_ids"].long()
    inner = stored.tensors["gate.weight"].shape[0]
    head = Head(target.config, tuple(stored.settings["taps"]), draft_ids, embedding, inner)
    load_weights(head, file)
    return head.requires_grad_(False)


@torch.no_grad()
def examples(
    head: Head, texts: list[Text], depth: int, rows_a_text: int, mixing: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """States ``[n, depth, H]`` and labels ``[n, depth]``, NaN where there is none."""
    states, labels = [], []
    for group in batches(texts, 2560, generator):
        tokens, hidden, lengths = stack(group)
        outputs, keys, values = head.first(tokens[:, 1:], hidden[:, :-1])
        # Row i guesses token i + 2; its truth is the state at i + 1, known up to lengths - 2.
        good = torch.arange(outputs.shape[1]) + depth <= lengths[:, None] - 2
        order = torch.rand(good.shape, generator=generator).masked_fill(~good, -1.0)
        rows = order.topk(min(rows_a_text, outputs.shape[1]), dim=1).indices
        is_good = good.gather(1, rows)
        true = outputs.gather(1, rows[:, :, None].expand(-1, -1, outputs.shape[-1]))
        mixed, own_true, own_mixed = true, [], []
        found_states, found_labels = [], []
        for step in range(1, depth + 1):
            q = head.logits(true).softmax(dim=-1)
            place = rows + step
            guess = torch.multinomial(q.flatten(0, 1), 1, generator=generator).view(rows.shape)
            y = head.draft_ids[guess]
            p = (
                hidden[:, :, -1].gather(1, place[:, :, None].expand_as(true)).float() @ head.embedding.T
            ).softmax(-1)
            chance = p.gather(2, y[:, :, None])[..., 0] / q.gather(2, guess[:, :, None])[..., 0]
            recorded = tokens.gather(1, place + 1)
            is_recorded = torch.rand(rows.shape, generator=generator) < mixing
            label = chance.clamp(max=1.0).masked_fill(is_recorded | ~is_good, torch.nan)
            z = torch.where(is_recorded, recorded, y)
            mixed = head.further(z, mixed, rows, step, (keys, values), own_mixed)
            true = head.further(recorded, true, rows, step, (keys, values), own_true)
            found_states.append(mixed)
            found_labels.append(label)
        states.append(torch.stack(found_states, dim=2).flatten(0, 1)[is_good.flatten()])
        labels.append(torch.stack(found_labels, dim=2).flatten(0, 1)[is_good.flatten()])
    return torch.cat(states), torch.cat(labels)


def begin(hidden: int, width: int, blocks: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Random weights: blocks that do little, and an even guess."""
    weights = {"in.weight": torch.randn(width, hidden, generator=generator) / hidden**0.5}
    for block in range(blocks):
        weights[f"{block}.weight"] = torch.randn(width, width, generator=generator) / width**0.5
        weights[f"{block}.bias"] = torch.zeros(width)
    weights |= {"out.weight": torch.zeros(1, width), "out.bias": torch.zeros(1)}
    return {name: nn.Parameter(value) for name, value in weights.items()}


def loss_of(weights: dict[str, Tensor], states: Tensor, labels: Tensor, weight: float) -> Tensor:
    """Refusals count ``weight`` times; divided by the mass of all labels, as the authors do."""
    estimate = acceptance(weights, states).clamp(1e-6, 1 - 1e-6)
    refused = weight * (1 - labels)
    return -(labels * estimate.log() + refused * (1 - estimate).log()).sum() / (labels + refused).sum()


def area(scores: Tensor, labels: Tensor) -> float:
    """Under the ROC curve of outcomes that are drawn from the labels, in expectation."""
    order = scores.argsort()
    accepted, refused = labels[order].double(), 1 - labels[order].double()
    return float((accepted * (refused.cumsum(0) - refused / 2)).sum() / (accepted.sum() * refused.sum()))


def judge(weights: dict[str, Tensor], states: Tensor, labels: Tensor) -> dict[str, Any]:
    """The figures of held-out rows, whose every token is drawn."""
    with torch.no_grad():
        estimates = acceptance(weights, states.flatten(0, 1)).view(labels.shape)
    depth = labels.shape[1]
    by_depth = [
        {
            "depth": i + 1,
            "label": float(labels[:, i].mean()),
            "estimate": float(estimates[:, i].mean()),
            "area_under_roc": area(estimates[:, i], labels[:, i]),
        }
        for i in range(depth)
    ]
    # The labels are given true tokens before, so their product is that of a whole accepted path.
    survival = labels.cumprod(dim=1)
    refusal = 1 - estimates.cumprod(dim=1)

    def lengths(stop: Tensor, least: int) -> dict[str, float]:
        """``stop[:, i]``: whether nothing is drawn after token i."""
        goes_on = torch.ones_like(labels, dtype=torch.bool)
        for i in range(1, depth):
            goes_on[:, i] = goes_on[:, i - 1] & ((i < least) | ~stop[:, i - 1])
        drawn = goes_on.sum(dim=1).double().mean()
        accepted = (survival * goes_on).sum(dim=1).double().mean()
        return {"drawn": float(drawn), "accepted": float(accepted), "share": float(accepted / drawn)}

    thresholds = {str(h): lengths(refusal > h, 1) for h in (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95)}
    fixed = {
        str(k): lengths(
            torch.zeros_like(refusal, dtype=torch.bool).index_fill(1, torch.arange(k - 1, depth), True), 1
        )
        for k in range(1, depth + 1)
    }
    return {"rows": len(labels), "by_depth": by_depth, "thresholds": thresholds, "fixed": fixed}


def train(given: argparse.Namespace) -> None:
    torch.manual_seed(given.seed)
    generator = torch.Generator().manual_seed(given.seed)
    target, _ = loading.load(loading.resolve("smollm2"), dtype=torch.float32)
    target.requires_grad_(False)
    file = FeatureHead(given.head).path
    head = feature_head(file, target)
    texts = load_texts(given.folder, head.taps)
    held_out = texts[::HELD_OUT_EVERY][: given.held_out]
    training = [text for i, text in enumerate(texts) if i % HELD_OUT_EVERY][: given.limit]
    started = time.monotonic()
    states, labels = examples(head, training, given.depth, given.rows, given.mixing, generator)
    states, labels = states.flatten(0, 1), labels.flatten()
    states, labels = states[~labels.isnan()], labels[~labels.isnan()]
    minutes = (time.monotonic() - started) / 60
    print(f"{len(labels)} labels, mean {labels.mean():.3f}, {minutes:.1f} min", flush=True)
    test = examples(head, held_out, given.depth, given.rows, 0.0, generator)
    weights = begin(states.shape[1], given.width, given.blocks, generator)
    optimizer = torch.optim.AdamW(weights.values(), lr=given.rate, weight_decay=given.decay)
    steps = given.epochs * -(-len(labels) // given.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, given.rate, total_steps=steps, pct_start=0.03)
    losses = []
    for epoch in range(given.epochs):
        total = 0.0
        for at in torch.randperm(len(labels), generator=generator).split(given.batch):
            loss = loss_of(weights, states[at], labels[at], given.weight)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()
            total += float(loss.detach()) * len(at) / len(labels)
        with torch.no_grad():
            other = float(loss_of(weights, test[0].flatten(0, 1), test[1].flatten(), given.weight))
        losses.append({"epoch": epoch + 1, "training": total, "held_out": other})
        print(losses[-1], flush=True)
    stored = {name: value.detach().bfloat16() for name, value in weights.items()}
    figures = judge({name: value.float() for name, value in stored.items()}, *test)
    fuse = HeadFile.load(file).tensors["fuse.weight"]
    stored["signature"] = fuse[:: max(len(fuse) // 8, 1), :8].flatten().float()
    settings = {"blocks": given.blocks, "draft": file.name}
    save_file(stored, given.out, {"format": FORMAT, "settings": json.dumps(settings)})
    print(json.dumps(figures, indent=1))
    if given.report:
        own = {k: v for k, v in vars(given).items() if k not in ("folder", "out", "report", "head")}
        report = {"settings": own, "training_labels": len(labels), "training_texts": len(training)}
        report |= {"mean_label": float(labels.mean()), "losses": losses, "held_out": figures}
        given.report.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--report", type=Path)
    parser.add_argument("--head", type=Path, help="the feature head; by default the one that is shipped")
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--rows", type=int, default=24, help="rows a text that are continued")
    parser.add_argument("--limit", type=int, default=240, help="texts to train on")
    parser.add_argument("--held-out", type=int, default=20)
    parser.add_argument("--mixing", type=float, default=0.15)
    parser.add_argument("--weight", type=float, default=6.0)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--decay", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
