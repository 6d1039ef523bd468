"""SGLang's published cases for its trees, told anew, and the forms of buffers that it hands over."""

from __future__ import annotations

import pytest
import torch

from hornbeam.errors import ArgumentError, ShapeError
from hornbeam.integrations import sglang

#: Two trees of six nodes whose links run otherwise than the nodes' numbers.
CANDIDATES = [[0, 1, 2, 3, 4, 5], [7, 8, 9, 10, 11, 12]]
CHILD = [[1, 2, -1, 4, 5, -1], [4, 2, 3, -1, 5, -1]]
SIBLING = [[-1, 3, -1, -1, -1, -1], [-1, -1, -1, -1, 1, -1]]
#: Tree, node and the token that the target is sure of there; 18 everywhere else.
SURE = [(0, 0, 3), (0, 3, 4), (0, 4, 5), (1, 0, 11), (1, 4, 12)]


def trees():
    inputs = [
        torch.tensor(CANDIDATES),
        torch.arange(12).view(2, 6),
        torch.tensor(CHILD),
        torch.tensor(SIBLING),
    ]
    outputs = [
        torch.full((12,), -1, dtype=torch.int32),
        torch.full((2, 4), -1, dtype=torch.int32),
        torch.zeros(2, dtype=torch.int32),
    ]
    return inputs, outputs


def target_logits():
    logits = torch.ones(2, 6, 20)
    for tree, node, token in SURE:
        logits[tree, node, token] = 10
    logits[..., 18] = torch.where(logits.amax(-1) < 10, 10.0, logits[..., 18])
    return logits


def told(outputs):
    return [tensor.tolist() for tensor in outputs]


def test_greedy_verification():
    inputs, outputs = trees()
    sglang.verify_tree_greedy(*outputs, *inputs, target_logits().argmax(-1))
    assert told(outputs) == [
        [3, -1, -1, 4, 5, 18, 11, -1, -1, -1, 12, 18],
        [[0, 3, 4, 5], [6, 10, 11, -1]],
        [3, 2],
    ]


def test_greedy_verification_of_chains_with_a_longer_buffer():
    outputs = [
        torch.full((7,), -1, dtype=torch.int32),
        torch.full((2, 3), -1, dtype=torch.int32),
        torch.full((2,), -1, dtype=torch.int32),
    ]
    links = torch.tensor([[1, 2, -1]] * 2), torch.full((2, 3), -1)
    candidates = torch.tensor([[7, 11, 12], [9, 21, 22]])
    best = torch.tensor([[11, 99, 0], [21, 22, 23]])
    sglang.verify_tree_greedy(*outputs, candidates, torch.arange(6).view(2, 3), *links, best)
    assert told(outputs) == [[11, 99, -1, 21, 22, 23, -1], [[0, 1, -1], [3, 4, 5]], [1, 2]]


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [
        (1, ([3, -1, -1, 4, 5, 18, 11, -1, -1, -1, 12, 18], [[0, 3, 4, 5], [6, 10, 11, -1]], [3, 2])),
        (0, ([1, 2, 18, -1, -1, -1, 11, -1, -1, -1, 12, 18], [[0, 1, 2, -1], [6, 10, 11, -1]], [2, 2])),
    ],
)
def test_sampling_verification(threshold, expected):
    """At thresholds of 0 the first child is taken, though it has no mass at all in float32."""
    inputs, outputs = trees()
    probs = (target_logits() / 0.01).softmax(-1)
    assert probs[0, 0, 1] == 0
    coins = torch.rand(2, 6), torch.rand(2)
    sglang.tree_speculative_sampling_target_only(
        *outputs, *inputs, *coins, probs, torch.zeros_like(probs), threshold, threshold, True
    )
    assert told(outputs) == list(expected)


@pytest.mark.parametrize("thresholds", [(1.0, 1.0), (1.0, 0.5), (1e-6, 1.0)])
def test_a_token_without_mass_is_rejected_at_a_coin_of_zero(thresholds):
    inputs, outputs = trees()
    probs = torch.zeros(2, 6, 20)
    probs[..., 19] = 1
    sglang.tree_speculative_sampling_target_only(
        *outputs, *inputs, torch.zeros(2, 6), torch.zeros(2), probs, None, *thresholds
    )
    assert told(outputs)[1:] == [[[0, -1, -1, -1], [6, -1, -1, -1]], [0, 0]]
    assert outputs[0][[0, 6]].tolist() == [19, 19]


#: A beam of four over four steps; the second part is what the selected candidates hang below.
PARENTS = [
    [-1, 0, 1, 2, 3, 4, 8, 9, 10, 20, 24, 21, 28],
    [-1, 0, 1, 2, 3, 4, 5, 6, 7, 24, 28, 20, 21],
]
SELECTED = [[0, 1, 4, 8, 20, 24, 36], [0, 4, 5, 6, 7, 24, 36]]
ABOVE = [[-1, 0, 0, 1, 2, 3, 4, 5], [-1, 0, 1, 1, 1, 1, 3, 6]]


def build(
    mask, parents, selected, *, mode=sglang.FULL_MASK, topk=4, depth=4, lengths=(5, 10), positions=None
):
    """Builds trees into fresh links; positions and links."""
    nodes = len(selected[0]) + 1
    positions = torch.empty(2 * nodes, dtype=torch.int64) if positions is None else positions
    links = [torch.full((2, nodes), -1) for _ in range(3)]
    parent_list = parents if isinstance(parents, torch.Tensor) else torch.tensor(parents)
    given = parent_list, torch.tensor(selected), torch.tensor(lengths)
    sglang.build_tree_kernel_efficient(*given, mask, positions, *links, topk, depth, nodes, mode)
    return positions.tolist(), *(link.tolist() for link in links)


def visible(above: list[int]) -> list[list[bool]]:
    """Who sees whom: a node its ancestors and itself."""
    rows = []
    for node in range(len(above)):
        seen, at = {node}, node
        while at > 0:
            at = above[at]
            seen.add(at)
        rows.append([other in seen for other in range(len(above))])
    return rows


def test_building_the_trees_of_a_beam():
    mask = torch.ones((5 + 8) * 8 + (10 + 8) * 8, dtype=torch.bool)
    positions, rows, child, sibling = build(mask, PARENTS, SELECTED)
    assert positions == [5, 6, 6, 7, 7, 8, 8, 9, 10, 11, 12, 12, 12, 12, 13, 14]
    assert rows == torch.arange(16).view(2, 8).tolist()
    assert child == [[1, 3, 4, 5, 6, 7, -1, -1], [1, 2, -1, 6, -1, -1, 7, -1]]
    assert sibling == [[-1, 2, -1, -1, -1, -1, -1, -1], [-1, -1, 3, 4, 5, -1, -1, -1]]
    first, second = mask[: 13 * 8].view(8, 13), mask[13 * 8 :].view(8, 18)
    assert first[:, 5:].tolist() == visible(ABOVE[0])
    assert second[:, 10:].tolist() == visible(ABOVE[1])


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8])
@pytest.mark.parametrize("mode", [sglang.FULL_MASK, sglang.QLEN_ONLY])
def test_flags_of_either_type_in_a_larger_buffer(mode, dtype):
    """As buffers for CUDA graphs are: uint8, and of the largest batch. What is beyond stays."""
    need = 31 * 8 if mode == sglang.FULL_MASK else 2 * 64
    mask, exact = torch.ones(need + 50, dtype=dtype), torch.ones(need, dtype=torch.bool)
    positions = torch.full((20,), -5)
    build(mask, PARENTS, SELECTED, mode=mode, positions=positions)
    expected = build(exact, PARENTS, SELECTED, mode=mode)[0]
    assert mask[:need].tolist() == exact.to(dtype).tolist()
    assert mask[need:].all()
    assert positions.tolist() == [*expected, *[-5] * 4]
    if mode == sglang.QLEN_ONLY:
        assert exact.view(2, 8, 8).tolist() == [visible(above) for above in ABOVE]


@pytest.mark.parametrize(("nodes", "word"), [(8, torch.uint8), (12, torch.uint16), (30, torch.uint32)])
@pytest.mark.parametrize("spare", [0, 3])
def test_packed_masks_in_words_are_those_in_bytes(nodes, word, spare):
    """Chains: with one candidate a step, node n hangs below node n - 1."""
    selected = [list(range(nodes - 1))] * 2
    parents = [list(range(-1, nodes - 2))] * 2
    size = torch.empty((), dtype=word).element_size()
    in_bytes = torch.full((2 * nodes * size + spare,), 9, dtype=torch.uint8)
    in_words = torch.zeros(2 * nodes + spare, dtype=word)
    options = dict(mode=sglang.QLEN_ONLY_BITPACKING, topk=1, depth=nodes - 1)
    build(in_bytes, parents, selected, **options)
    build(in_words, parents, selected, **options)
    assert in_words[: 2 * nodes].tolist() == [(1 << (node + 1)) - 1 for node in range(nodes)] * 2
    assert in_words[: 2 * nodes].view(torch.uint8).tolist() == in_bytes[: 2 * nodes * size].tolist()
    assert in_bytes[2 * nodes * size :].tolist() == [9] * spare


@pytest.mark.parametrize("parents", [torch.empty(2, 0, dtype=torch.int64), torch.full((2, 1), -1)])
def test_one_step_needs_no_parents(parents):
    mask = torch.zeros(2, 4, 4, dtype=torch.bool)
    built = build(mask, parents, [[0, 1, 3], [1, 2, 3]], mode=sglang.QLEN_ONLY, depth=1)
    assert built[0] == [5, 6, 6, 6, 10, 11, 11, 11]
    assert built[2:] == ([[1, -1, -1, -1]] * 2, [[-1, 2, 3, -1]] * 2)
    assert mask.tolist() == [visible([-1, 0, 0, 0])] * 2
    with pytest.raises(ArgumentError, match="selected_index holds 4, expected 0 to 3"):
        build(mask, parents, [[0, 1, 4], [1, 2, 3]], mode=sglang.QLEN_ONLY, depth=1)


def test_buffers_that_do_not_fit_are_refused():
    with pytest.raises(
        ShapeError, match="tree_mask has 247 elements, expected a contiguous one of at least 248"
    ):
        build(torch.ones(247, dtype=torch.bool), PARENTS, SELECTED)
    with pytest.raises(ShapeError, match=r"tree_mask is torch.int32, expected torch.bool or torch.uint8"):
        build(torch.ones(248, dtype=torch.int32), PARENTS, SELECTED)
    with pytest.raises(ShapeError, match="tree_mask has strides, expected a contiguous one"):
        build(torch.ones(500, dtype=torch.bool)[::2], PARENTS, SELECTED)
    packed = sglang.QLEN_ONLY_BITPACKING
    with pytest.raises(ShapeError, match=r"tree_mask is torch.uint16, expected torch.uint8$"):
        build(torch.zeros(16, dtype=torch.uint16), PARENTS, SELECTED, mode=packed)
    positions = torch.zeros(15, dtype=torch.int64)
    with pytest.raises(ShapeError, match="positions has 15 elements"):
        build(torch.zeros(16, dtype=torch.uint8), PARENTS, SELECTED, mode=packed, positions=positions)
