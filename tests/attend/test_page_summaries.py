"""Summaries of pages stay those of the keys that are there, whatever a tree goes through."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

import hornbeam as hb
import hornbeam.ops as ops
from tests.ops.test_attention import Case
from tests.ops.test_selected_attention import masks, select
from tests.reference import attend as reference
from tests.reference.attend import Rule

LAYERS, KV_HEADS, GROUP, DIM, PAGE = 2, 2, 2, 8, 4
SCALE = 0.125
SEEDS = st.integers(0, 2**31 - 1)
RULES = [
    Rule(k=2),
    Rule(share=0.5, group="union"),
    Rule(k=2, slack=0.5),
    Rule(k=3, estimate="mean", sinks=2),
    Rule(share=0.34, estimate="mean", group="union", window=5),
]


class Summaries(RuleBasedStateMachine):
    """A tree whose steps read by summaries. Each step compares what is selected with a reference that looks
    at the keys alone. Queries and keys are whole numbers, so that scores are exact; they differ much, so that
    those of decoded keys are not equal by chance."""

    def __init__(self) -> None:
        super().__init__()
        self.tree = hb.PrefixTree(
            num_layers=LAYERS,
            num_kv_heads=KV_HEADS,
            head_dim=DIM,
            dtype=torch.float32,
            page_tokens=PAGE,
            slabs_per_chunk=8,
            max_bytes=400 * LAYERS * KV_HEADS * 2 * PAGE * DIM * 4,
        )
        self.branches = [self.tree.branch()]
        self.digest = 0

    def pick(self, random: np.random.Generator) -> Any:
        return self.branches[random.integers(len(self.branches))]

    @rule(seed=SEEDS)
    def step(self, seed: int) -> None:
        """Rows of some branches, chains and trees; a path of each is committed, or nothing is."""
        random = np.random.default_rng(seed)
        count = min(int(random.integers(1, 4)), len(self.branches))
        picked = [self.branches[i] for i in random.permutation(len(self.branches))[:count]]
        requests: list[Any] = []
        for branch in picked:
            tokens = random.integers(0, 3, random.integers(1, 8)).tolist()
            parents = [int(random.integers(-1, i)) for i in range(len(tokens))]
            requests.append((branch, tokens, parents if random.random() < 0.5 else None))
        with self.tree.step(requests) as step:
            self.look(step, random)
            if random.random() < 0.2:
                return
            paths = []
            for _, tokens, parents in requests:
                path: list[int] = []
                while random.random() < 0.85:
                    above = path[-1] if path else -1
                    last = [i - 1 for i in range(len(tokens))] if parents is None else parents
                    children = [i for i in range(len(tokens)) if last[i] == above]
                    if not children:
                        break
                    path.append(int(random.choice(children)))
                paths.append(path)
            step.commit(paths)

    def look(self, step: Any, random: np.random.Generator) -> None:
        rows = step.num_rows
        by_head = len(step.plan.head_ranges) > 0
        known = [*RULES, *([] if by_head else [Rule(k=2, group="layer")])]
        for layer in range(LAYERS):
            k, v = (
                torch.from_numpy(random.integers(-99, 100, (rows, KV_HEADS, DIM)).astype(np.float32))
                for _ in range(2)
            )
            ops.write_rows(k, v, self.tree.chunks, step.plan, layer=layer, num_kv_heads=KV_HEADS)
            shape = (rows, KV_HEADS * GROUP, DIM)
            q = torch.from_numpy(random.integers(-9, 10, shape).astype(np.float32))
            case = Case(q, self.tree.chunks, step.plan, layer, KV_HEADS, {"scale": SCALE})
            middle = int(random.integers(0, rows + 1))
            parts = [(0, middle), (middle, rows)]
            rules = [(*part, known[random.integers(len(known))]) for part in parts if part[0] < part[1]]
            options = {"layer": layer, "num_kv_heads": KV_HEADS, "scale": SCALE}
            want = reference.selected(q, self.tree.chunks, step.plan, rules, **options)
            got = masks(select(case, rules, self.tree._native), case)
            assert torch.equal(got, want.read)

    @rule(seed=SEEDS)
    def fork(self, seed: int) -> None:
        if len(self.branches) < 8:
            self.branches.append(self.pick(np.random.default_rng(seed)).fork())

    @rule(seed=SEEDS)
    def match(self, seed: int) -> None:
        """A branch at a prefix of another's tokens, which may end within a page."""
        random = np.random.default_rng(seed)
        tokens = self.pick(random).token_ids.tolist()
        if len(self.branches) < 8:
            self.branches.append(self.tree.match(tokens[: random.integers(0, len(tokens) + 1)]))

    @precondition(lambda self: len(self.branches) > 1)
    @rule(seed=SEEDS)
    def release(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.branches.pop(random.integers(len(self.branches))).release(keep=bool(random.integers(2)))

    @rule(seed=SEEDS)
    def compact(self, seed: int) -> None:
        """Some keys of a node of exact keys, the same of all planes or other ones of each."""
        random = np.random.default_rng(seed)
        branch = self.pick(random)
        nodes = [node for node in self.tree.nodes(branch) if node[4] == 0 and node[3] > 0]
        if nodes:
            node, _, _, keys, _ = nodes[random.integers(len(nodes))]
            by_head = bool(random.integers(2))
            kept = [self.some(keys, random) for _ in range(LAYERS * KV_HEADS)]
            self.digest += 1
            self.tree.compact(branch, node, kept if by_head else kept[0], digest=self.digest, by_head=by_head)

    @rule(seed=SEEDS)
    def quantise(self, seed: int) -> None:
        """A node of exact keys in codes, its end perhaps plain."""
        random = np.random.default_rng(seed)
        branch = self.pick(random)
        nodes = [node for node in self.tree.nodes(branch) if node[4] == 0 and node[3] > 0]
        if nodes:
            node, _, _, keys, _ = nodes[random.integers(len(nodes))]
            by_head = bool(random.integers(2))
            formats: Any = ["int8"] * keys
            formats = [formats] * (LAYERS * KV_HEADS) if by_head else formats
            self.digest += 1
            partial = bool(random.integers(2))
            self.tree.quantise(branch, node, formats, digest=self.digest, by_head=by_head, partial=partial)

    @rule(seed=SEEDS)
    def condense(self, seed: int) -> None:
        """Some keys of all that a branch shows; few go, so that holes are filled, or many."""
        random = np.random.default_rng(seed)
        branch = self.pick(random)
        table = self.tree.key_table(branch)
        slabs = [entry for entry in self.tree._native.keys(branch._id, 0).tolist() if entry[0] == 0]
        if len(table) and not (slabs and table.formats.any()):
            share = random.choice([0.1, 0.6])
            keep = [self.some(int(count), random, share) for count in table.counts]
            self.digest += 1
            self.tree.condense(branch, keep, digest=self.digest, table=table)

    def some(self, count: int, random: np.random.Generator, share: float = 0.4) -> list[int]:
        kept = np.nonzero(random.random(count) > share)[0].tolist()
        return kept or list(range(count))[:1]

    @rule()
    def clear(self) -> None:
        self.tree.clear()


TestSummaries = Summaries.TestCase
TestSummaries.settings = settings(deadline=None, max_examples=60, stateful_step_count=30)
