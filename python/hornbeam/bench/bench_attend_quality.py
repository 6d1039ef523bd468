"""What sparse reads lose of what a model knows: perplexity of long texts, needles found, beside keep.

    hornbeam bench attend_quality [--quick] [--only perplexity|needles|windows|report --json FILE]

``perplexity``: positions 4,000 to 7,900 of two texts, a source file and prose, each token given its true
prefix. Under ``quest`` what lies before 4,000 is read densely as a prompt is, and the rest is decoded, eight
rows a step as drafts are verified; ``quest paper`` is the paper's law by query head, which reads more of a kv
head's keys. ``pages of 8`` and ``of 4`` say how many tokens a page has, where it does not have 16. Under
``flex_prefill`` the whole text is one prompt; ``parts`` of it choose for themselves. Differences to dense
reads are paired; their intervals (95 %) are found by drawing runs of 100 tokens anew.

``needles`` and ``windows`` ask what the keep_quality bench asks, on the same contexts: 200 needles, of
which the question comes after the context was read, and 11 windows of 1,792 tokens of which the next 255 are
scored. There ``keep`` had to forget all but a share of the keys; here all of them stay, and each row reads a
share. ``bytes`` is what the row before an answer reads of keys and values, with the bounds of pages and the
dense layers, over all of them: at equal bytes both can be compared.

Outcomes of single texts and contexts are appended to a file in the cache folder as they come, so that a run
may be stopped and goes on where it was; ``--only report`` measures nothing and tells what there is. Nothing
is timed.
"""

from __future__ import annotations

import argparse
import inspect
import json
import math
import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

import hornbeam as hb
from hornbeam.bench import harness
from hornbeam.bench.attend_quality_ours import Reader, Recorded
from hornbeam.bench.bench_keep_quality import drawn, hits, mean_of, percent, recorded
from hornbeam.bench.needles import Item, Items
from hornbeam.model import loading

FIRST, LAST = 4000, 7900
ROWS = 8
SHARES = ("25%", "12.5%")
GAMMA = 0.95
PARTS = 8
#: Quest as it was published.
PAPER: dict[str, Any] = {"group": "union", "slack": 1, "sinks": 0}
#: Pages that are read, in the rows that stand beside keep.
NEEDLE_SHARES = ("50%", "25%", "12%", "6%")
#: Tokens of a run that is drawn as one: what follows each other shares its fate.
RUN = 100
#: Raise it when no outcome of an older state of the code is one of this state.
EDITION = 2


def run(quick: bool, only: Sequence[str] | None = None) -> dict[str, Any]:
    model, tokenizer = loading.load(loading.resolve("smollm2"), dtype=torch.float32)
    bench = Bench(Reader(model, tokenizer), Items(tokenizer), quick, is_report="report" in (only or ()))
    rows = {"perplexity": bench.perplexity, "needles": bench.needles, "windows": bench.windows}
    chosen = [name for name in only or rows if name != "report"] or list(rows)
    with torch.inference_mode():
        found = harness.run_rows(rows, chosen)
    return {name: row for name, row in found.items() if row}


class Reads(NamedTuple):
    """How a long text is read: densely, or by a recipe, over pages of so many tokens."""

    attend: Any = None
    prefill: Any = None
    page_tokens: int | None = None


class Bench:
    def __init__(self, reader: Reader, items: Items, quick: bool, is_report: bool = False) -> None:
        self.reader, self.items, self.quick, self.is_report = reader, items, quick, is_report
        self.file: Path | None = None
        self.outcomes: dict[str, Any] = {}
        if not quick:
            name = f"attend_quality-{items.digest}-{EDITION}.jsonl"
            self.file = loading.cache_folder() / "benches" / name
            self.outcomes = recorded(self.file)

    # -- long texts --------------------------------------------------------------------------------------

    def perplexity(self) -> dict[str, Any]:
        first, last = (320, 480) if self.quick else (FIRST, LAST)
        methods = self.methods()
        losses: dict[str, dict[str, list[float]]] = {name: {} for name in methods}
        shares: dict[str, list[float]] = {name: [] for name in methods}
        for text, tokens in self.texts().items():
            for name, method in methods.items():
                key = f"perplexity {text} {first} {last} {name}"
                if key not in self.outcomes and not self.is_report:
                    found, read = self.read(tokens[: last + 1], first, method)
                    self.record({"name": key, "losses": (-found).tolist(), "read": read})
                if key in self.outcomes:
                    losses[name][text] = self.outcomes[key]["losses"]
                    shares[name].append(self.outcomes[key]["read"])
        if not losses["dense"]:
            return {}
        # Of a report a method may lack texts: it is held to dense reads of those that it has. A text that was
        # read densely alone says nothing.
        compared = {text for name, own in losses.items() if name != "dense" for text in own}
        losses["dense"] = {text: own for text, own in losses["dense"].items() if text in compared}
        table = {
            name: {
                "perplexity": math.exp(mean_of(list(own.values()))),
                "by_text": {text: math.exp(statistics.fmean(found)) for text, found in own.items()},
                "keys_read": statistics.fmean(shares[name]),
                **against(list(own.values()), [losses["dense"][text] for text in own]),
            }
            for name, own in losses.items()
            if own
        }
        return {
            "positions": [first, last],
            "texts": list(losses["dense"]),
            "rows_a_step": ROWS,
            "tokens_scored": len(losses["dense"]) * (last - first),
            "methods": table,
        }

    def methods(self) -> dict[str, Reads]:
        """What reads the texts, by name."""
        quest = hb.recipes.quest
        found = {"dense": Reads()}
        found |= {f"quest {share}": Reads(attend=quest(share)) for share in SHARES}
        for size in (8, 4):
            found[f"quest {SHARES[0]}, pages of {size}"] = Reads(attend=quest(SHARES[0]), page_tokens=size)
        found |= {f"quest paper {share}": Reads(attend=quest(share, **PAPER)) for share in SHARES}
        flex = partial(hb.recipes.flex_prefill, GAMMA, always=True)
        found[f"flex_prefill {GAMMA:g}"] = Reads(prefill=flex())
        found[f"flex_prefill {GAMMA:g}, {PARTS} parts"] = Reads(prefill=flex(parts=PARTS))
        return found

    def read(self, tokens: list[int], first: int, method: Reads) -> tuple[torch.Tensor, float]:
        """Log-probabilities, and the share of the keys that a row reads in layers that choose."""
        self.reader.lm.clear_cache()
        if method.attend is not None:
            share = float(method.attend.select.pages.rstrip("%")) / 100
            reader = self.reader if method.page_tokens is None else self.reader.of_pages(method.page_tokens)
            return reader.decoded(tokens, first, method.attend, ROWS), share
        if method.prefill is None:
            return self.reader.dense(tokens, first), 1.0
        seen = Recorded(method.prefill)
        return self.reader.dense(tokens, first, prefill=seen), statistics.fmean(seen.shares)

    def texts(self) -> dict[str, list[int]]:
        """A source file of Python's standard library, and prose: the straw of the needles."""
        source = inspect.getsource(argparse)
        return {
            "argparse": self.items.tokenizer(source, verbose=False)["input_ids"],
            "topics": self.items.straw,
        }

    # -- beside keep -------------------------------------------------------------------------------------

    def needles(self) -> dict[str, Any]:
        grid = [[self.items.needles("quick", 640, 0, count=2)]] if self.quick else self.items.grid()
        found = self.asked([item for round_ in grid for item in round_])
        if not found:
            return {}
        full = [hits(outcome["full"]) for outcome in found]
        table = {}
        for name in self.variants():
            own = [hits(outcome[name]) for outcome in found]
            pairs = [[a - b for a, b in zip(*sides, strict=True)] for sides in zip(own, full, strict=True)]
            table[name] = {
                "found": percent(own),
                "difference": percent(pairs),
                "interval": [100 * x for x in drawn(pairs, mean_of)],
                "bytes": statistics.fmean(outcome["bytes"][name] for outcome in found),
            }
        return {
            "needles": sum(map(len, full)),
            "contexts": len(found),
            "full": percent(full),
            "recipes": table,
        }

    def windows(self) -> dict[str, Any]:
        windows = self.items.windows(448, 32)[:1] if self.quick else self.items.windows()
        found = self.asked(windows)
        if not found:
            return {}
        # All windows score equally many tokens.
        scored = [len(windows[0].answers[0])] * len(found)

        def losses(name: str) -> list[float]:
            return [-outcome[name][0][1] for outcome in found]

        full, table = losses("full"), {}
        for name in self.variants():
            own = losses(name)
            pairs = [[(a - b) / count] for a, b, count in zip(own, full, scored, strict=True)]
            table[name] = {
                "perplexity": math.exp(sum(own) / sum(scored)),
                "ratio": math.exp(mean_of(pairs)),
                "interval": [math.exp(x) for x in drawn(pairs, mean_of)],
                "bytes": statistics.fmean(outcome["bytes"][name] for outcome in found),
            }
        return {
            "windows": len(found),
            "tokens_scored": sum(scored),
            "context_tokens": len(windows[0].context),
            "full": math.exp(sum(full) / sum(scored)),
            "recipes": table,
        }

    def variants(self) -> dict[str, Any]:
        """The recipes beside keep, by name: the default, and the paper's law by query head."""
        shares = NEEDLE_SHARES[1:2] if self.quick else NEEDLE_SHARES
        found = {f"quest {share}": hb.recipes.quest(share) for share in shares}
        return found | {f"quest paper {share}": hb.recipes.quest(share, **PAPER) for share in shares}

    def asked(self, items: Sequence[Item]) -> list[dict[str, Any]]:
        """The answers to items, of the full cache and of each recipe; of a report those that there are."""
        found = []
        for item in items:
            known = self.outcomes.get(item.name, {"name": item.name})
            recipes = {"full": None, **self.variants()}
            missing = {name: recipe for name, recipe in recipes.items() if name not in known}
            if missing and not self.is_report:
                self.record(known | self.answered(item, missing, known.get("bytes", {})))
                print(item.name, flush=True)
            if self.is_report and missing:
                continue
            found.append(self.outcomes[item.name])
        return found

    def answered(self, item: Item, recipes: dict[str, Any], read: dict[str, float]) -> dict[str, Any]:
        """What recipes answer to an item, and the bytes that they read, with those known already."""
        self.reader.lm.clear_cache()
        branch = self.reader.read(item.context)
        answers = {name: self.reader.answers(branch, item, recipe) for name, recipe in recipes.items()}
        # The first question stands for all; of a window there is none, but its end.
        question = item.questions[0] if len(item.questions[0]) > 1 else item.answers[0][:ROWS]
        own = {
            name: self.reader.bytes_read(branch, question, recipe)
            for name, recipe in recipes.items()
            if recipe is not None
        }
        branch.release(keep=False)
        return {**answers, "bytes": read | own}

    def record(self, outcome: dict[str, Any]) -> None:
        outcome = json.loads(json.dumps(outcome))
        self.outcomes[outcome["name"]] = outcome
        if self.file is not None:
            with self.file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(outcome) + "\n")


def against(own: list[list[float]], dense: list[list[float]]) -> dict[str, Any]:
    """The ratio of the perplexities and its interval, from the losses of the same tokens by text."""
    pairs = [[a - b for a, b in zip(*texts, strict=True)] for texts in zip(own, dense, strict=True)]
    runs = [text[begin : begin + RUN] for text in pairs for begin in range(0, len(text), RUN)]
    return {
        "ratio": math.exp(mean_of(pairs)),
        "interval": [math.exp(x) for x in drawn(runs, mean_of)],
    }
