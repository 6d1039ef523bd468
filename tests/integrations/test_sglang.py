"""SGLang's signatures, against references written from the documented semantics.

The references walk one tree at a time with parents instead of links; the sampler's law is enumerated.
"""

from __future__ import annotations

import random

import pytest
import torch

from hornbeam.errors import ArgumentError, ShapeError
from hornbeam.integrations import sglang
from tests.integrations.laws import laws, outlying

BATCH, NODES, STEPS, VOCAB = 3, 7, 4, 5


def random_tree(random_: random.Random, nodes: int, distinct: bool = True):
    """Parents and tokens; siblings hold different tokens."""
    while True:
        parents = [-1, *(random_.randrange(node) for node in range(1, nodes))]
        tokens = [random_.randrange(VOCAB) for _ in range(nodes)]
        pairs = list(zip(parents[1:], tokens[1:], strict=True))
        if not distinct or len(set(pairs)) == len(pairs):
            return parents, tokens


def linked(parents: list[int]):
    """First child and next sibling of every node, -1 where there is none."""
    first, sibling = [-1] * len(parents), [-1] * len(parents)
    for node, parent in enumerate(parents):
        below = [child for child, of in enumerate(parents) if of == node]
        first[node] = below[0] if below else -1
        after = [other for other, of in enumerate(parents) if of == parent and other > node and node > 0]
        sibling[node] = after[0] if after else -1
    return first, sibling


def batch(seed: int, nodes: int = NODES):
    random_ = random.Random(seed)
    trees = [random_tree(random_, nodes) for _ in range(BATCH)]
    links = [linked(parents) for parents, _ in trees]
    # Rows are dealt out anew, so that a row is not a node's number by chance.
    rows = torch.tensor(random_.sample(range(BATCH * nodes), BATCH * nodes)).view(BATCH, nodes)
    inputs = (
        torch.tensor([tokens for _, tokens in trees]),
        rows,
        torch.tensor([first for first, _ in links]),
        torch.tensor([sibling for _, sibling in links]),
    )
    outputs = (
        torch.full((BATCH * nodes,), -7, dtype=torch.int32),
        torch.full((BATCH, STEPS), -1, dtype=torch.int32),
        torch.full((BATCH,), -7, dtype=torch.int32),
    )
    return trees, inputs, outputs


def follow(parents, tokens, best, rows):
    """Nodes on the argmax's path, at most STEPS of them with the root."""
    path = [0]
    while len(path) < STEPS:
        wanted = best[rows[path[-1]]]
        below = [n for n, parent in enumerate(parents) if parent == path[-1] and tokens[n] == wanted]
        if not below:
            break
        path.append(below[0])
    return path


@pytest.mark.parametrize("seed", range(40))
def test_greedy_follows_the_argmax(seed):
    trees, inputs, outputs = batch(seed)
    generator = torch.Generator().manual_seed(seed)
    best = torch.randint(VOCAB, (BATCH, NODES), generator=generator)
    sglang.verify_tree_greedy(*outputs, *inputs, best)
    predicts, accept_index, counts = outputs
    written = {}
    for b, (parents, tokens) in enumerate(trees):
        rows = inputs[1][b].tolist()
        path = follow(parents, tokens, best.flatten().tolist(), rows)
        assert counts[b] == len(path) - 1
        assert accept_index[b].tolist() == [rows[n] for n in path] + [-1] * (STEPS - len(path))
        written |= {rows[n]: int(best.flatten()[rows[n]]) for n in path}
    assert predicts.tolist() == [written.get(row, -7) for row in range(len(predicts))]


def test_either_spelling_and_either_list_of_arguments():
    _, inputs, outputs = batch(3)
    names = ("candidates", "retrieve_index", "retrieve_next_token", "retrieve_next_sibling")
    best = torch.zeros(BATCH, NODES, dtype=torch.int64)
    sglang.verify_tree_greedy(*outputs, **dict(zip(names, inputs, strict=True)), target_predict=best)
    probs, coins = laws(BATCH, NODES, VOCAB), torch.rand(BATCH, NODES)
    final = torch.rand(BATCH)
    calls = []
    for extra in (
        (),
        (torch.zeros_like(probs),),
        (torch.zeros_like(probs), 1.0, 1.0, True),
        (1.0, 1.0, True),
    ):
        fresh = batch(3)[2]
        sglang.tree_speculative_sampling_target_only(*fresh, *inputs, coins, final, probs, *extra)
        calls.append([x.tolist() for x in fresh])
    fresh = batch(3)[2]
    sglang.tree_speculative_sampling_target_only(
        *fresh, *inputs, coins, final, probs, draft_probs=None, threshold_single=1.0, deterministic=False
    )
    calls.append([x.tolist() for x in fresh])
    assert all(call == calls[0] for call in calls)


@pytest.mark.parametrize("seed", range(4))
def test_sampling_keeps_the_law_of_the_target(seed):
    """The first two tokens of the text, over many coins, against the target's own law."""
    trials = 6000
    parents, tokens = random_tree(random.Random(seed), NODES)
    first, sibling = linked(parents)
    p = laws(NODES, VOCAB, seed=seed)
    torch.manual_seed(seed)
    rows = torch.arange(trials * NODES).view(trials, NODES)
    outputs = (
        torch.zeros(trials * NODES, dtype=torch.int32),
        torch.full((trials, STEPS), -1, dtype=torch.int32),
        torch.zeros(trials, dtype=torch.int32),
    )
    sglang.tree_speculative_sampling_target_only(
        *outputs,
        torch.tensor(tokens).repeat(trials, 1),
        rows,
        torch.tensor(first).repeat(trials, 1),
        torch.tensor(sibling).repeat(trials, 1),
        torch.rand(trials, NODES),
        torch.rand(trials),
        p.expand(trials, -1, -1),
    )
    predicts, accept_index, counts = outputs
    node_of = {token: n for n, (parent, token) in enumerate(zip(parents, tokens, strict=True)) if parent == 0}

    def law_after(token):
        # Below a token that is no child of the root the text is not verified: any law will do.
        return p[node_of[token]] if token in node_of else p[0]

    texts = []
    for b in range(trials):
        path = accept_index[b][: int(counts[b]) + 1].tolist()
        text = [int(predicts[row]) for row in path]
        if len(text) < 2:
            text.append(int(torch.multinomial(law_after(text[0]), 1)))
        texts.append(tuple(text[:2]))
    expected = {(a, b): float(p[0, a] * law_after(a)[b]) for a in range(VOCAB) for b in range(VOCAB)}
    assert outlying(texts, expected) < 5
    held = sum(float(p[0, token]) for token in node_of)
    assert float((counts > 0).float().mean()) == pytest.approx(held, abs=0.03)


def test_thresholds_accept_more():
    _, inputs, _ = batch(5)
    probs = laws(BATCH, NODES, VOCAB, seed=4)
    torch.manual_seed(0)
    kept = []
    for thresholds in ((1.0, 1.0), (1.0, 0.5), (0.0, 1.0)):
        total = 0
        for _ in range(200):
            outputs = batch(5)[2]
            coins = torch.rand(BATCH, NODES), torch.rand(BATCH)
            sglang.tree_speculative_sampling_target_only(*outputs, *inputs, *coins, probs, None, *thresholds)
            total += int(outputs[2].sum())
        kept.append(total)
    assert kept[0] < kept[1] <= kept[2]


def eagle(random_: random.Random, topk: int, depth: int, nodes: int):
    """Groups of ``topk`` candidates as EAGLE scores them, and a selection with every ancestor."""
    parent_list = [-1]
    for level in range(1, depth):
        begin = 0 if level == 1 else topk + (level - 2) * topk * topk
        size = topk if level == 1 else topk * topk
        parent_list += sorted(random_.sample(range(begin, begin + size), topk))
    above = {}
    for candidate in range(topk * len(parent_list)):
        group = candidate // topk
        above[candidate] = None if group == 0 else parent_list[group]
    selected: set[int] = set()
    while len(selected) < nodes - 1:
        allowed = [c for c in above if c not in selected and (above[c] is None or above[c] in selected)]
        selected.add(random_.choice(allowed))
    return parent_list, sorted(selected), above


@pytest.mark.parametrize("mode", [sglang.FULL_MASK, sglang.QLEN_ONLY, sglang.QLEN_ONLY_BITPACKING])
@pytest.mark.parametrize("nodes", [2, 8, 12, 30])
def test_build_tree(mode, nodes):
    topk, depth, lengths = 4, 4, [3, 0, 11]
    random_ = random.Random(nodes)
    trees = [eagle(random_, topk, depth, nodes) for _ in lengths]
    size = nodes if nodes <= 8 else 2 * nodes if nodes <= 16 else 4 * nodes
    mask = {
        sglang.FULL_MASK: torch.ones(sum(n + nodes for n in lengths) * nodes, dtype=torch.bool),
        sglang.QLEN_ONLY: torch.ones(3, nodes, nodes, dtype=torch.bool),
        sglang.QLEN_ONLY_BITPACKING: torch.zeros(3 * size, dtype=torch.uint8),
    }[mode]
    positions = torch.zeros(3 * nodes, dtype=torch.int64)
    rows, first, sibling = (torch.full((3, nodes), -1) for _ in range(3))
    sglang.build_tree_kernel_efficient(
        torch.tensor([tree[0] for tree in trees]),
        torch.tensor([tree[1] for tree in trees]),
        torch.tensor(lengths),
        mask,
        positions,
        rows,
        retrieve_next_token=first,
        retrieve_next_sibling=sibling,
        topk=topk,
        depth=depth,
        draft_token_num=nodes,
        tree_mask_mode=mode,
    )
    assert torch.equal(rows.flatten(), torch.arange(3 * nodes))
    begin = 0
    for b, (_, selected, above) in enumerate(trees):
        node_of = {None: 0, **{c: n for n, c in enumerate(selected, 1)}}
        parents = [-1, *(node_of[above[c]] for c in selected)]
        assert (first[b].tolist(), sibling[b].tolist()) == linked(parents)
        for node in range(nodes):
            ancestors, at = {node}, node
            while at > 0:
                at = parents[at]
                ancestors.add(at)
            assert positions[b * nodes + node] == lengths[b] + len(ancestors) - 1
            if mode == sglang.FULL_MASK:
                row = mask[begin : begin + lengths[b] + nodes].tolist()
                begin += lengths[b] + nodes
                assert all(row[: lengths[b]]), "the text's part keeps what the caller wrote"
                seen = {i for i, bit in enumerate(row[lengths[b] :]) if bit}
            elif mode == sglang.QLEN_ONLY:
                seen = set(mask[b, node].nonzero()[:, 0].tolist())
            else:
                width = size // nodes
                at = (b * nodes + node) * width
                number = int.from_bytes(bytes(mask[at : at + width].tolist()), "little")
                seen = {i for i in range(32) if number >> i & 1}
            assert seen == ancestors


def test_bad_input_is_refused():
    _, inputs, outputs = batch(1)
    best = torch.zeros(BATCH, NODES, dtype=torch.int64)
    with pytest.raises(ShapeError, match=r"predicts is torch.int64, expected torch.int32"):
        sglang.verify_tree_greedy(outputs[0].long(), *outputs[1:], *inputs, best)
    loop = inputs[3].clone()
    loop[:] = 1
    with pytest.raises(ArgumentError, match="a link of node 0 leads to"):
        sglang.verify_tree_greedy(*outputs, *inputs[:2], torch.ones_like(loop), loop, best)
    with pytest.raises(ArgumentError, match="retrive_index holds"):
        sglang.verify_tree_greedy(*outputs, inputs[0], inputs[1] + 100, *inputs[2:], best)
    probs = laws(BATCH, NODES, 3)
    with pytest.raises(ArgumentError, match="expected 0 to 2"):
        sglang.tree_speculative_sampling_target_only(
            *outputs, inputs[0] + 3, *inputs[1:], torch.rand(BATCH, NODES), torch.rand(BATCH), probs
        )
    links = [torch.full((1, 3), -1) for _ in range(3)]
    arguments = [torch.tensor([[-1, 1, 2]]), torch.tensor([[0, 7]]), torch.tensor([4])]
    mask, positions = torch.ones(3 * 7, dtype=torch.bool), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ArgumentError, match="candidate 7 was selected without its parent"):
        sglang.build_tree_kernel_efficient(*arguments, mask, positions, *links, 3, 2, 3, 0)
    with pytest.raises(ArgumentError, match="tree_mask_mode is 5"):
        sglang.build_tree_kernel_efficient(*arguments, mask, positions, *links, 3, 2, 3, 5)
