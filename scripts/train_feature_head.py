"""Trains a feature head (:class:`hornbeam.speculation.FeatureHead`) on recorded text of its target.

    python scripts/record_states.py FOLDER
    python scripts/train_feature_head.py FOLDER --out head.safetensors [--minutes 32] ...

The head is one decoder layer. Row ``i`` takes the embedding of token ``i + 1`` and the target's hidden
states of token ``i`` and guesses token ``i + 2``; its output stands in for the hidden states of the next,
unknown row. It begins as a closed-form fit (``closed_form.py``) and is then trained as it is used (the
"training-time test" of EAGLE-3, Li et al. 2025, arXiv:2503.01840): after the first pass over true features,
a share of the rows is continued for ``--unroll - 1`` further steps on the head's own outputs. The loss of
every step is the cross entropy with the target's own distribution over the draft vocabulary, not with the
token that was drawn: a recorded token then teaches as much as many. The draft vocabulary is the tokens with
the most expected occurrences.

The curve of the held-out sequences (every 20th) goes to ``--curve``: for each depth the share of rows
where head and target agree on the best token, and the mean of the sum of min(p, q), which is the chance
that a token drawn from the head survives a ratio test at temperature 1.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "python"), str(Path(__file__).parent)]

from closed_form import fit  # noqa: E402
from dense_head import Head, load_weights, save, unrolled  # noqa: E402
from muon import optimizers  # noqa: E402
from record_states import TAPS  # noqa: E402
from recorded_text import HELD_OUT_EVERY, Text, batches, load_texts, stack  # noqa: E402


def choose_vocabulary(
    texts: list[Text], embedding: Tensor, size: int, samples: int = 12000
) -> tuple[Tensor, float]:
    """The tokens with the most expected occurrences under the target's own distributions, and the share
    of the probability that they cover on positions that did not choose them."""
    generator = torch.Generator().manual_seed(0)
    states = torch.cat([text.hidden[:-1, -1] for text in texts])
    picked = states[torch.randperm(len(states), generator=generator)[: 2 * samples]].float()
    halves = []
    for half in picked.chunk(2):
        total = torch.zeros(len(embedding), dtype=torch.float64)
        for part in half.split(1000):
            total += (part @ embedding.T).softmax(dim=-1).sum(dim=0).double()
        halves.append(total / len(half))
    covered = halves[1][halves[0].argsort(descending=True)[:size]].sum()
    ids = (halves[0] + halves[1]).argsort(descending=True)[:size].sort().values
    return ids, float(covered)


@torch.no_grad()
def measure(head: Head, texts: list[Text], depth: int) -> list[dict[str, float]]:
    """Acceptance by depth over held-out text, rows given the true tokens before them."""
    generator = torch.Generator().manual_seed(1)
    agreed, overlap, count = torch.zeros(depth), torch.zeros(depth), torch.zeros(depth)
    ids_of = head.draft_ids
    for group in batches(texts, 4096, generator):
        tokens, hidden, lengths = stack(group)
        finals = hidden[:, :, -1].flatten(0, 1)
        for step, (features, where) in enumerate(
            unrolled(head, tokens, hidden, lengths, depth, 48, generator)
        ):
            target = (finals[where].float() @ head.embedding.T).softmax(dim=-1)
            guess = head.logits(features).softmax(dim=-1)
            agreed[step] += (ids_of[guess.argmax(dim=-1)] == target.argmax(dim=-1)).sum()
            overlap[step] += torch.minimum(guess, target[:, ids_of]).sum()
            count[step] += len(guess)
    return [
        {
            "depth": step + 1,
            "greedy": float(agreed[step] / count[step]),
            "overlap": float(overlap[step] / count[step]),
        }
        for step in range(depth)
    ]


def train(given: argparse.Namespace) -> None:
    from hornbeam.model import loading

    torch.manual_seed(given.seed)
    target, _ = loading.load(loading.resolve("smollm2"), dtype=torch.float32)
    target.requires_grad_(False)
    embedding = target.get_input_embeddings().weight.detach()
    taps = tuple(given.taps)
    texts = load_texts(given.folder, taps)[: given.limit]
    held_out, training = texts[::HELD_OUT_EVERY], [t for i, t in enumerate(texts) if i % HELD_OUT_EVERY]
    held_out = held_out[: given.held_out]
    num_tokens = sum(len(text.tokens) for text in training)
    draft_ids, covered = choose_vocabulary(training, embedding, given.vocabulary)
    print(f"{len(training)} texts, {num_tokens} tokens, vocabulary covers {covered:.4f}", flush=True)
    head = Head(target.config, taps, draft_ids, embedding, given.inner)
    head.start(target)
    if given.resume:
        load_weights(head, given.resume)
    else:
        fit(head, training)
    log = [{"minutes": 0.0, "steps": 0, "tokens": 0, "held_out": measure(head, held_out, 4)}]
    print("fitted", log[0]["held_out"], flush=True)
    optimizers_ = optimizers(head, given.rate)
    generator = torch.Generator().manual_seed(given.seed)
    begin, steps, seen = time.monotonic(), 0, 0
    running = torch.zeros(given.unroll)
    epoch = 0
    done = 0.0
    while done < 1:
        if epoch:
            texts = load_texts(given.folder, taps)[: given.limit]
            training = [t for i, t in enumerate(texts) if i % HELD_OUT_EVERY]
        print(f"epoch {epoch}: {len(training)} texts", flush=True)
        for group in batches(training, given.batch, generator):
            spent = (time.monotonic() - begin) / 60
            done = max(spent / given.minutes, seen / given.epochs / num_tokens)
            if done >= 1:
                break
            rate = given.rate * min(1.0, (steps + 1) / 20) * (0.02 + 0.98 * min(1.0, 1.25 * (1 - done)))
            for optimizer in optimizers_:
                for part in optimizer.param_groups:
                    part["lr"] = rate
            tokens, hidden, lengths = stack(group)
            finals = hidden[:, :, -1].flatten(0, 1).float()
            truth = torch.log_softmax(finals @ head.vocabulary.T, dim=-1)
            loss, losses = torch.zeros(()), []
            for step, (features, where) in enumerate(
                unrolled(head, tokens, hidden, lengths, given.unroll, given.continued, generator)
            ):
                wanted = truth[where]
                got = torch.log_softmax(head.logits(features), dim=-1)
                divergence = (wanted.exp() * (wanted - got)).sum(dim=-1).mean()
                losses.append(float(divergence.detach()))
                loss = loss + given.decay**step * divergence
            loss.backward()
            nn.utils.clip_grad_norm_(head.parameters(), 1.0)
            for optimizer in optimizers_:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            steps += 1
            seen += int(lengths.sum())
            running = torch.tensor(losses) if steps == 1 else 0.8 * running + 0.2 * torch.tensor(losses)
            if steps % given.every == 0:
                curve = measure(head, held_out, 4)
                entry = {
                    "minutes": round(spent, 2),
                    "steps": steps,
                    "tokens": seen,
                    "epoch": seen / num_tokens,
                    "divergence": [round(x, 4) for x in running.tolist()],
                    "held_out": curve,
                }
                log.append(entry)
                print(
                    f"{spent:5.1f} min {steps} steps {seen / num_tokens:.2f} epochs {entry['divergence']} "
                    + " ".join(f"{c['greedy']:.3f}/{c['overlap']:.3f}" for c in curve),
                    flush=True,
                )
                save(head, target, given.out)
        epoch += 1
    held_out = texts[::HELD_OUT_EVERY]
    curve = measure(head, held_out, 6)
    print(
        "end",
        json.dumps(curve),
        f"{(time.monotonic() - begin) / 60:.1f} min, {seen / num_tokens:.2f} epochs",
        flush=True,
    )
    save(head, target, given.out)
    if given.curve:
        settings = {
            name: value
            for name, value in vars(given).items()
            if name not in ("folder", "out", "curve", "resume")
        }
        report = {
            "settings": settings,
            "training_tokens": num_tokens,
            "held_out_texts": len(held_out),
            "covered": covered,
            "log": log,
            "held_out": curve,
        }
        given.curve.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--curve", type=Path)
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--minutes", type=float, default=32)
    parser.add_argument("--epochs", type=float, default=1e9)
    parser.add_argument("--batch", type=int, default=2560)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--unroll", type=int, default=3)
    parser.add_argument("--continued", type=int, default=48)
    parser.add_argument("--decay", type=float, default=0.8)
    parser.add_argument("--vocabulary", type=int, default=6144)
    parser.add_argument("--inner", type=int, default=1536)
    parser.add_argument("--taps", type=int, nargs="+", default=list(TAPS))
    parser.add_argument("--limit", type=int, default=10**9)
    parser.add_argument("--held-out", type=int, default=10)
    parser.add_argument("--every", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
