"""What recipes keep of what a model knew: needles found and perplexity, beside kvpress at the same share.

    hornbeam bench keep_quality [--quick] [--only needles|perplexity|report --json FILE]

``needles``: 200 facts in real text, ten depths by four lengths up to 4,096 tokens; the context is
compressed, then the question comes. ``perplexity``: windows of 100 KB of text, of which 1,792 tokens are
compressed and the next 256 scored. Both sides answer the same prompts, in two processes. Differences are
paired, ours minus kvpress's; their intervals (95 %) are found by drawing contexts anew, since needles of one
context share its fate.

It takes hours on two cores. Every context's outcome is appended to a file in the cache folder as it comes,
so that a run may be stopped (Ctrl-C: it then reports what there is, as ``--only report`` does) and goes on
where it was; the result says how many needles it holds. Rounds of four contexts make each part of it balanced
over lengths. A recipe that is new, or of a new edition, is measured on the contexts that are known, too.
``--quick`` is one short context and one short window, from scratch.
"""

from __future__ import annotations

import json
import math
import random
import statistics
import time
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch

from hornbeam.bench.keep_quality_ours import COUNTERPARTS, EDITIONS, PRESSES, Ours
from hornbeam.bench.kvpress_peer import VERSION, Peer
from hornbeam.bench.needles import Item, Items
from hornbeam.model import loading

KEEPS = (0.5, 0.25, 0.12)
PERPLEXITY_KEEP = 0.25
#: At half of a short prompt kvpress's pyramid does not fall back to uniform.
CHECKED_KEEP = 0.5
#: Presses that are no recipe: without a score, with a split of their own, or in need of eager attention.
MORE_THAN_SCORES = ("ada_kv", "snap_kv_merged", "pyramid_kv", "observed_attention")
DRAWS = 10_000
#: Raise it when no outcome of an older state of the code is one of this state; for single recipes there is
#: ``EDITIONS``.
EDITION = 1

Outcome = dict[str, Any]


def run(quick: bool, only: Sequence[str] = ("needles", "perplexity", "report")) -> dict[str, Any]:
    folder = loading.resolve("smollm2")
    model, tokenizer = loading.load(folder, dtype=torch.float32)
    items = Items(tokenizer)
    if quick:
        grid = [[items.needles("quick", 640, 0, count=2)]]
        windows = items.windows(448, 32)[:1]
        outcomes, file = {}, None
    else:
        grid, windows = items.grid(), items.windows()
        file = loading.cache_folder() / "benches" / f"keep_quality-{items.digest}-{VERSION}-{EDITION}.jsonl"
        outcomes = recorded(file)
    keeps = KEEPS[1:2] if quick else KEEPS
    grid = grid if "needles" in only else []
    windows = windows if "perplexity" in only else []
    with torch.inference_mode(), Peer(folder, torch.get_num_threads()) as peer:
        bench = Bench(Ours(model, tokenizer), peer, outcomes, file)
        try:
            bench.calibrate([items.needles(f"heads-{number}", 320, 0, count=2) for number in range(2)])
            bench.check(items.needles("check", 320, 1, count=2))
            for number, (contexts, window) in enumerate(zip_longest(grid, windows)):
                for item in contexts or []:
                    bench.measure(item, f"round {number + 1}", keeps)
                if window is not None:
                    bench.measure(window, f"window {number + 1}", (PERPLEXITY_KEEP,))
        except KeyboardInterrupt:
            print("stopped; what there is:", flush=True)
        versions = peer.versions
    return {"peer": versions, "text": items.digest, **report(outcomes)}


class Bench:
    def __init__(self, ours: Ours, peer: Peer, outcomes: dict[str, Outcome], file: Path | None) -> None:
        self.ours, self.peer, self.outcomes, self.file = ours, peer, outcomes, file

    def measure(self, item: Item, label: str, keeps: Sequence[float]) -> None:
        """One side after the other, since threads of both at once would wait for each other's; of an outcome
        that is known, recipes that it lacks or has of an older edition."""
        known = self.outcomes.get(item.name)
        editions = {} if known is None else dict.fromkeys(known["ours"], 1) | known.get("editions", {})
        missing = [name for name in COUNTERPARTS if editions.get(name) != EDITIONS.get(name, 1)]
        if not missing:
            return
        begin = time.perf_counter()
        self.ours.read(item.context)
        ours = self.ours.ask(item, missing, list(keeps))
        self.ours.forget()
        if known is not None:
            self.record({**known, "ours": {**known["ours"], **ours}, "editions": EDITIONS})
        else:
            self.peer.call("read", context=item.context)
            asked = {"questions": item.questions, "answers": item.answers}
            theirs = self.peer.call("ask", **asked, presses=PRESSES, keeps=list(keeps))
            self.record(
                {
                    "name": item.name,
                    "tokens": len(item.context),
                    "depths": item.depths,
                    "scored": sum(map(len, item.answers)),
                    "ours": ours,
                    "theirs": theirs,
                    "editions": EDITIONS,
                }
            )
        print(f"{label}: {item.name}, {time.perf_counter() - begin:.0f} s", flush=True)

    def calibrate(self, items: list[Item]) -> None:
        if "head_scores" not in self.outcomes:
            self.record({"name": "head_scores", "scores": self.ours.measure_heads(items)})
        self.ours.head_scores = self.outcomes["head_scores"]["scores"]

    def check(self, item: Item) -> None:
        """That both sides are the same model without compression, that the worker's way of running presses
        is kvpress's own, and that presses as recipes keep what presses keep. Once a file of outcomes."""
        if "check" in self.outcomes:
            return
        self.ours.read(item.context)
        self.peer.call("read", context=item.context)
        asked = {"questions": item.questions, "answers": item.answers}
        mine = self.ours.ask(item, [], [])["full"]
        their = self.peer.call("ask", **asked, presses=[], keeps=[])["full"]
        differ = max(abs(a[1] - b[1]) for a, b in zip(mine, their, strict=True))
        if differ > 1e-3 or any(a[0] != b[0] for a, b in zip(mine, their, strict=True)):
            raise RuntimeError(f"with the full cache both sides answer differently: {mine}, {their}")
        found: dict[str, Any] = {
            "full_cache_logprob_difference": differ,
            "presses": {},
            "kept_by_one_side": {},
        }
        for press in PRESSES:
            told = self.peer.call("verify", press=press, keep=CHECKED_KEEP, questions=item.questions)
            # Ties of presses' scores, and sums of eager attention, may fall otherwise in a near tie.
            if told["moved"] > 1e-3 or told["logits"] > 1e-2:
                raise RuntimeError(f"{press} differs from a run under its context manager: {told}")
            if press not in MORE_THAN_SCORES:
                told["as_recipe_moved"] = self.peer.call("as_recipe", press=press, keep=CHECKED_KEEP)
                if told["as_recipe_moved"] > 1e-3:
                    raise RuntimeError(f"{press} as a recipe keeps something else: {told}")
            found["presses"][press] = told
        for name, counterpart in COUNTERPARTS.items():
            if counterpart is None:
                continue
            fork, planes = self.ours.reduced(self.ours.recipe(name, CHECKED_KEEP))
            fork.close()
            heads = [
                head
                for layer in self.peer.call("kept", press=counterpart, keep=CHECKED_KEEP)
                for head in layer
            ]
            missing = sum(len(set(own) - set(head)) for own, head in zip(planes, heads, strict=True))
            found["kept_by_one_side"][name] = missing / sum(map(len, planes))
        self.ours.forget()
        print("checked:", json.dumps(found, indent=2), flush=True)
        self.record({"name": "check", **found})

    def record(self, outcome: Outcome) -> None:
        outcome = json.loads(json.dumps(outcome))
        self.outcomes[outcome["name"]] = outcome
        if self.file is not None:
            with self.file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(outcome) + "\n")


def recorded(file: Path) -> dict[str, Outcome]:
    """What earlier runs found, by name."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        return {}
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    print(f"{len(lines)} outcomes of earlier runs in {file}", flush=True)
    return {outcome["name"]: outcome for outcome in lines}


# -- what it comes to ----------------------------------------------------------------------------


def report(outcomes: dict[str, Outcome]) -> dict[str, Any]:
    """Tables of what there is; what was not run is absent."""
    needles = [found for name, found in outcomes.items() if name.startswith(("needles", "quick"))]
    windows = [found for name, found in outcomes.items() if name.startswith("window")]
    results: dict[str, Any] = {"check": {k: v for k, v in outcomes.get("check", {}).items() if k != "name"}}
    if needles:
        results["needles"] = retrieval(needles)
    if windows:
        results["perplexity"] = perplexities(windows)
    return results


def retrieval(contexts: list[Outcome]) -> dict[str, Any]:
    """Shares of needles found, in percent, and paired differences in points."""
    keeps = list(contexts[0]["theirs"][PRESSES[0]])
    by_length: dict[str, list[Outcome]] = {}
    for context in sorted(contexts, key=lambda context: int(context["tokens"])):
        by_length.setdefault(str(context["tokens"]), []).append(context)
    table: dict[str, Any] = {}
    for name, press in COUNTERPARTS.items():
        table[name] = {"press": press}
        for keep in keeps:
            own = [hits(context["ours"][name][keep]) for context in contexts]
            row: dict[str, Any] = {"ours": percent(own), "logprob": logprob(contexts, "ours", name, keep)}
            if press is not None:
                their = [hits(context["theirs"][press][keep]) for context in contexts]
                pairs = [
                    [a - b for a, b in zip(*sides, strict=True)] for sides in zip(own, their, strict=True)
                ]
                row |= {
                    "kvpress": percent(their),
                    "kvpress_logprob": logprob(contexts, "theirs", press, keep),
                    "difference": percent(pairs),
                    "interval": [100 * x for x in drawn(pairs, mean_of)],
                }
            table[name][keep] = row
    full = [hits(context["ours"]["full"]) for context in contexts]
    their_full = [hits(context["theirs"]["full"]) for context in contexts]
    return {
        "needles": sum(map(len, full)),
        "contexts": len(contexts),
        "lengths": {length: len(own) for length, own in by_length.items()},
        "full_cache": {
            "ours": percent(full),
            "kvpress": percent(their_full),
            "differing": sum(
                a != b for pair in zip(full, their_full, strict=True) for a, b in zip(*pair, strict=True)
            ),
            "by_length": {
                length: percent([hits(context["ours"]["full"]) for context in own])
                for length, own in by_length.items()
            },
            "by_depth": by_depth(contexts),
        },
        "recipes": table,
    }


def by_depth(contexts: list[Outcome]) -> dict[str, float]:
    """Of the full cache."""
    found: dict[str, list[int]] = {}
    for context in contexts:
        for depth, hit in zip(context["depths"], hits(context["ours"]["full"]), strict=True):
            found.setdefault(f"{depth:g}", []).append(hit)
    return {depth: 100 * statistics.fmean(found[depth]) for depth in sorted(found, key=float)}


def perplexities(windows: list[Outcome]) -> dict[str, Any]:
    """Perplexity of all scored tokens, and its ratio to kvpress's."""
    scored = sum(window["scored"] for window in windows)
    [keep] = windows[0]["theirs"][PRESSES[0]]

    def losses(side: str, name: str) -> list[float]:
        rows = (window[side][name] for window in windows)
        return [-(row[keep] if name != "full" else row)[0][1] for row in rows]

    def perplexity(values: Iterable[float]) -> float:
        return math.exp(sum(values) / scored)

    table: dict[str, Any] = {}
    for name, press in COUNTERPARTS.items():
        own = losses("ours", name)
        row: dict[str, Any] = {"press": press, "ours": perplexity(own)}
        if press is not None:
            their = losses("theirs", press)
            pairs = [[(a - b) / window["scored"]] for a, b, window in zip(own, their, windows, strict=True)]
            row |= {
                "kvpress": perplexity(their),
                "ratio": perplexity(own) / perplexity(their),
                "interval": [math.exp(x) for x in drawn(pairs, mean_of)],
            }
        table[name] = row
    return {
        "windows": len(windows),
        "tokens_scored": scored,
        "context_tokens": windows[0]["tokens"],
        "keep": float(keep),
        "full_cache": {
            "ours": perplexity(losses("ours", "full")),
            "kvpress": perplexity(losses("theirs", "full")),
        },
        "recipes": table,
    }


def hits(answers: list[Any]) -> list[int]:
    return [int(found) for found, _ in answers]


def percent(groups: list[list[int]]) -> float:
    return 100 * mean_of(groups)


def mean_of(groups: Sequence[Sequence[float]]) -> float:
    return sum(map(sum, groups)) / sum(map(len, groups))


def logprob(contexts: list[Outcome], side: str, name: str, keep: str) -> float:
    """Mean log-probability of an answer: sees more than hits and misses do."""
    return mean_of([[value for _, value in context[side][name][keep]] for context in contexts])


def drawn(groups: Sequence[Sequence[float]], statistic: Any, confidence: float = 0.95) -> list[float]:
    """An interval for a statistic of groups: percentiles over groups drawn anew, with replacement."""
    draw = random.Random(0)
    found = sorted(statistic(draw.choices(groups, k=len(groups))) for _ in range(DRAWS))
    outside = (1 - confidence) / 2
    return [found[int(outside * DRAWS)], found[math.ceil((1 - outside) * DRAWS) - 1]]
