"""What a search records of its rounds, and who watches it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

import hornbeam as hb
from hornbeam.engine import searching
from hornbeam.search import Budget, NodeRecord, Path, SearchProgress, StepEnd
from tests import models
from tests.search.test_search import PROMPT, STEP, ends, score

RECIPES: dict[str, Any] = {
    "best_of_n": hb.recipes.best_of_n(n=4, max_depth=3),
    "step_beam": hb.recipes.step_beam(width=6, children=3, max_depth=4),
    "rebase": hb.recipes.rebase(width=6, max_depth=4),
    "a_star": hb.recipes.a_star(children=3, max_depth=3),
}


@pytest.fixture(scope="module")
def lm() -> hb.LM:
    return hb.LM(models.llama(), models.byte_tokenizer())


@pytest.mark.parametrize("name", RECIPES)
def test_rounds_add_up(lm: hb.LM, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against what the ledger says, and what the policy says when it is driven anew."""
    held: list[tuple[int, int]] = []
    take = searching.Searching._take

    def watched(self: Any, done: Any) -> None:
        before = self.ledger.kv_bytes_held
        take(self, done)
        held.append((before, self.ledger.kv_bytes_held))

    monkeypatch.setattr(searching.Searching, "_take", watched)
    result = lm.search(PROMPT, recipe=RECIPES[name], value=score, finish=ends, step=STEP, draft=None)
    history, ledger = result.history, result.ledger
    assert [record.number for record in history.rounds] == list(range(1, len(held) + 1))
    assert sorted(history.nodes) == sorted(result.tree.paths)[1:]
    assert [node for record in history.rounds for node in record.nodes] == sorted(history.nodes)
    last = history.rounds[-1]
    assert (last.tokens, last.forwards, last.verifier_calls) == (
        ledger.tokens,
        ledger.forwards,
        ledger.verifier_calls,
    )
    assert [(record.kv_bytes, record.kv_bytes_held) for record in history.rounds] == held
    assert max(record.kv_bytes for record in history.rounds) == ledger.kv_bytes
    for before, after in zip(history.rounds, history.rounds[1:], strict=False):
        assert before.tokens < after.tokens
        assert before.seconds <= after.seconds
    policy, live = RECIPES[name].open(0), []
    while asked := policy.ask():
        for one in asked:
            paths = [result.tree.paths[one.first_child + index] for index in range(one.children)]
            policy.tell(one.trial, [path.value for path in paths], [path.is_finished for path in paths])
        live.append([node for node, is_live in enumerate(policy.live()) if is_live])
    assert [record.live for record in history.rounds] == live


def test_a_node_knows_what_it_shares_and_when_it_goes(lm: hb.LM) -> None:
    """In a beam of one the first child of each round goes on, which is decided when the next is asked for."""

    def first(paths: Sequence[Path]) -> list[float]:
        return [float(-place) for place, _ in enumerate(paths)]

    recipe = hb.recipes.step_beam(width=3, children=3, max_depth=3)
    step = StepEnd(delimiter=None, max_tokens=20)
    result = lm.search(PROMPT, recipe=recipe, value=first, step=step, draft=None)
    rounds, nodes = result.history.rounds, result.history.nodes
    assert [record.nodes for record in rounds] == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert [record.live for record in rounds] == [[1, 2, 3], [4, 5, 6], []]
    assert {node: record.released for node, record in nodes.items()} == {
        1: 2, 2: 2, 3: 2, 4: 3, 5: 3, 6: 3, 7: 3, 8: 3, 9: 3,
    }  # fmt: skip
    length = len(result.tree.paths[0].prompt_ids)
    for node, record in nodes.items():
        # The last token before a step is read again: its row is the step's first.
        shared = length + result.tree.paths[node].step - 1
        assert record.reused_tokens in ((0, shared) if record.round == 1 else (shared,))
        assert record.kv_bytes % lm.tree.slab_bytes == 0
        assert record.kv_bytes > 0
    told = {node["node"]: node["released"] for node in result.to_dict()["nodes"]}
    # A node is released with the last of those below it, which share its pages.
    assert told == {1: 3, 2: 2, 3: 2, 4: 3, 5: 3, 6: 3, 7: 3, 8: 3, 9: 3}


def test_a_result_as_plain_values(lm: hb.LM) -> None:
    budget = Budget(tokens=60, kv_bytes="4MB")
    result = lm.search(
        PROMPT,
        recipe=RECIPES["rebase"],
        value=score,
        finish=ends,
        step=STEP,
        budget=budget,
        draft=None,
        seed=5,
    )
    told = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert told["settings"] == {
        "recipe": "Rebase",
        "temperature": "1",
        "top_p": "none",
        "max_depth": "4",
        "width": "6",
        "balance": "0.2",
        "value": "score",
        "finish": "ends",
        "delimiter": "none",
        "max_step_tokens": "6",
        "select": "best",
        "draft": "none",
        "seed": "5",
    }
    assert told["model"]["name"] == "LlamaForCausalLM"
    assert (told["prompt"], told["prompt_tokens"]) == (PROMPT, len(PROMPT))
    assert told["budget"] == {
        "tokens": 60, "forwards": None, "kv_bytes": 4_000_000, "verifier_calls": None, "seconds": None,
    }  # fmt: skip
    assert told["stop"] == result.stop == "tokens"
    assert (told["text"], told["value"], told["best"]) == (
        result.best.text,
        result.best.value,
        result.best.node,
    )
    assert told["path"][-1] == result.best.node
    parents = {node["node"]: node["parent"] for node in told["nodes"]}
    assert [parents[node] for node in told["path"]] == [0, *told["path"][:-1]]
    texts = {node["node"]: node["text"] for node in told["nodes"]}
    assert "".join(texts[node] for node in told["path"]) == told["text"]
    assert sum(node["tokens"] for node in told["nodes"]) == told["ledger"]["tokens"]


def test_who_watches_is_told_after_each_round(lm: hb.LM) -> None:
    seen: list[tuple[int, int, list[int], int]] = []

    def watch(progress: SearchProgress) -> None:
        seen.append((progress.round, len(progress.tree.paths), list(progress.live), progress.ledger.tokens))

    options: dict[str, Any] = {"value": score, "finish": ends, "step": STEP, "draft": None}
    result = lm.search(PROMPT, recipe=RECIPES["rebase"], watch=watch, **options)
    written = 1
    for (number, count, live, tokens), record in zip(seen, result.history.rounds, strict=False):
        written += len(record.nodes)
        assert (number, count, live, tokens) == (record.number, written, record.live, record.tokens)
    # Once more at the end.
    assert seen[-1] == seen[-2]
    assert len(seen) == len(result.history.rounds) + 1
    plain = lm.search(PROMPT, recipe=RECIPES["rebase"], **options)
    assert [path.token_ids for path in plain.tree.paths.values()] == [
        path.token_ids for path in result.tree.paths.values()
    ]


def test_who_watches_may_fail_or_stop_the_search(lm: hb.LM) -> None:
    def second(error: BaseException) -> Any:
        def watch(progress: SearchProgress) -> None:
            if progress.round == 2 and len(progress.tree.paths) > 1 and not raised:
                raised.append(error)
                raise error

        raised: list[BaseException] = []
        return watch

    options: dict[str, Any] = {"recipe": RECIPES["rebase"], "value": score, "step": STEP, "draft": None}
    failed = lm.search(PROMPT, watch=second(RuntimeError("enough")), **options)
    assert (failed.stop, str(failed.error)) == ("error", "enough")
    assert len(failed.history.rounds) == 2
    assert failed.best is not None
    stopped = lm.search(PROMPT, watch=second(KeyboardInterrupt()), **options)
    assert stopped.stop == "interrupted"
    assert stopped.best.node == failed.best.node
    assert lm.tree.stats()["branches"] == 0
    # Held to the end: what the search might have gone on from.
    for node in stopped.history.rounds[-1].live:
        assert stopped.history.nodes[node].released is None
    with pytest.raises(hb.errors.ArgumentError, match="watch is 3, expected a callable"):
        lm.search(PROMPT, watch=3, **options)  # type: ignore[arg-type]


def test_a_round_that_is_broken_off_is_in_the_ledger_alone(lm: hb.LM) -> None:
    result = lm.search(
        PROMPT, recipe=RECIPES["rebase"], value=score, step=STEP, budget=Budget(forwards=15), draft=None
    )
    assert result.stop == "forwards"
    assert result.ledger.tokens > result.history.rounds[-1].tokens
    assert len(result.tree.paths) == 1 + sum(len(record.nodes) for record in result.history.rounds)


def test_paths_without_a_record_are_told_too(lm: hb.LM) -> None:
    result = lm.search(PROMPT, recipe=RECIPES["best_of_n"], value=score, step=STEP, draft=None)
    result.history.nodes.clear()
    node = result.to_dict()["nodes"][0]
    assert {name: node[name] for name in NodeRecord.__dataclass_fields__} == dict.fromkeys(
        NodeRecord.__dataclass_fields__
    )
