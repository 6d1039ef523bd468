"""The attend_quality bench: how texts are read, and what it makes of the outcomes."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import hornbeam as hb
from benches import attend_quality_table
from hornbeam.bench import bench_attend_quality as bench
from hornbeam.bench.attend_quality_ours import Reader, Recorded
from hornbeam.bench.needles import Item
from tests import models

EVERYTHING = hb.recipes.quest("100%", dense_layers=0)


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader(models.llama(), None)


def expected(reader: Reader, tokens: list[int], first: int) -> torch.Tensor:
    with torch.inference_mode():
        logits = reader.lm.model(torch.tensor([tokens])).logits[0].log_softmax(-1)
    return torch.stack([logits[at - 1, tokens[at]] for at in range(first + 1, len(tokens))]).double()


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_each_token_is_given_its_true_prefix(reader: Reader, rows: int) -> None:
    tokens = models.prompt(150, 4)[0].tolist()
    true = expected(reader, tokens, 100)
    torch.testing.assert_close(reader.dense(tokens, 100), true, atol=1e-4, rtol=1e-4)
    found = reader.decoded(tokens, 100, EVERYTHING, rows)
    torch.testing.assert_close(found, true, atol=1e-4, rtol=1e-4)
    few = reader.decoded(tokens, 100, hb.recipes.quest(1, dense_layers=0), rows)
    assert float((few - true).abs().max()) > 1e-2
    assert reader.lm.tree.stats()["branches"] == 0


def test_the_share_of_a_prompt_that_was_read_is_noted(reader: Reader) -> None:
    tokens = models.prompt(300, 4)[0].tolist()
    recipe = hb.attend.prefill.FlexPrefill(0.5, min_budget=32, block=32, block_keys=16, cost=None)
    seen = Recorded(recipe)
    found = reader.dense(tokens, 200, prefill=seen)
    assert len(seen.shares) == 2 * 6
    assert 0.05 < sum(seen.shares) / 12 < 1
    assert float((found - expected(reader, tokens, 200)).abs().max()) > 1e-3
    whole = Recorded(hb.recipes.flex_prefill())
    torch.testing.assert_close(
        reader.dense(tokens, 200, prefill=whole), expected(reader, tokens, 200), atol=1e-4, rtol=1e-4
    )
    assert whole.shares == [1.0] * 12


def test_questions_are_answered_over_what_is_read(reader: Reader) -> None:
    context, question = models.prompt(120, 6)[0].tolist(), [5, 6, 7]
    branch = reader.read(context)
    answer = [reader.lm.generate(context + question, max_new_tokens=1, draft=None).token_ids[0], 9]
    item = Item("one", context, [question, question], [answer, [3, 9]])
    full = reader.answers(branch, item, None)
    everything = reader.answers(branch, item, EVERYTHING)
    assert [logprob for _, logprob in everything] == pytest.approx([p for _, p in full], abs=1e-4)
    true = expected(reader, context + question + answer, len(context + question) - 1)
    assert full[0][1] == pytest.approx(float(true.sum()), abs=1e-3)
    few = reader.answers(branch, item, hb.recipes.quest(1, dense_layers=0))
    assert abs(few[0][1] - full[0][1]) > 1e-3
    # All of it and its bounds; or one layer of two, and of the other the fork's own page of two keys, another
    # page and the bounds of all.
    assert reader.bytes_read(branch, question, EVERYTHING) == 1.0
    read = reader.bytes_read(branch, question, hb.recipes.quest(2, dense_layers=1))
    assert read == pytest.approx(0.5 + 0.5 * (18 / 122 + 1 / 16))
    branch.release(keep=False)


def test_runs_are_paired_with_dense_reads() -> None:
    dense = [[1.0] * 250, [2.0] * 100]
    own = [[loss + 0.1 for loss in text] for text in dense]
    row = bench.against(own, dense)
    assert row["ratio"] == pytest.approx(1.10517, abs=1e-4)
    assert row["interval"] == pytest.approx([1.10517, 1.10517], abs=1e-4)
    assert bench.against(dense, dense) == {"ratio": 1.0, "interval": [1.0, 1.0]}


def test_a_report_tells_what_there_is(reader: Reader) -> None:
    items: Any = SimpleNamespace(
        windows=lambda *_: [Item(f"window-{i}", [5] * 40, [[6]], [[7, 8, 9]]) for i in range(3)]
    )
    one = bench.Bench(reader, items, quick=True)
    assert one.windows()["windows"] == 1
    one.is_report = True
    items.windows = lambda *_: [Item(f"window-{i}", [5] * 40, [[6]], [[7, 8, 9]]) for i in (1, 0)][1:]
    assert one.windows()["recipes"]["quest 25%"]["perplexity"] > 1
    one.outcomes.clear()
    assert one.windows() == {}


def results() -> dict[str, Any]:
    variants = ["quest 25%", "quest 12%", "quest paper 25%", "quest paper 12%"]
    beside = {"interval": [-3.0, 1.0], "bytes": 0.3}
    return {
        "perplexity": {
            "positions": [4000, 7900],
            "texts": ["code", "prose"],
            "rows_a_step": 8,
            "tokens_scored": 7800,
            "methods": {
                name: {
                    "perplexity": 5.0,
                    "by_text": {"code": 4.0, "prose": 6.0},
                    "keys_read": 0.25,
                    "ratio": 1.002,
                    "interval": [1.001, 1.003],
                }
                for name in ("dense", "quest 25%")
            },
        },
        "needles": {
            "needles": 200,
            "contexts": 40,
            "full": 67.0,
            "recipes": {name: {"found": 66.5, "difference": -0.5, **beside} for name in variants},
        },
        "windows": {
            "windows": 11,
            "tokens_scored": 2805,
            "context_tokens": 1792,
            "full": 7.255,
            "recipes": {name: {"perplexity": 7.3, "ratio": 1.01, **beside} for name in variants},
        },
    }


def test_tables_and_plot(tmp_path: Path) -> None:
    keep = json.loads(attend_quality_table.the_one("keep_quality").read_text(encoding="utf-8"))["results"]
    machine = {"revision": "abc", "torch": "2", "processor": "x"}
    report = {"command": "hornbeam bench attend_quality", "machine": machine, "results": results()}
    text = attend_quality_table.render(report, keep)
    assert "| quest 25% | 25 % | 5.000 | 1.0020 [1.0010, 1.0030] | 4.000 | 6.000 |" in text
    assert "| quest 12% | 30 % | 66.5 % | -0.5 [-3.0, +1.0] |" in text
    assert "| the best of keep, `sparse_mm` | 50 % | 48.5 % | -18.5 |" in text
    assert "| quest paper 12% | 30 % | 7.300 | 1.0100 [-3.0000, 1.0000] |" in text
    page = f"before\n<!-- attend_quality -->old<!-- /attend_quality -->\nafter {text[:0]}"
    assert attend_quality_table.replaced(page, "new").split("\n") == [
        "before",
        "<!-- attend_quality -->",
        "new",
        "<!-- /attend_quality -->",
        "after ",
    ]
    attend_quality_table.plot(results(), keep, tmp_path / "plot.svg")
    assert (tmp_path / "plot.svg").read_text(encoding="utf-8").startswith("<?xml")
