"""One part alone, in another stack: a prefix tree, and attention over its pages. No model."""

import torch

from hornbeam import PrefixTree, ops

tree = PrefixTree(num_layers=1, num_kv_heads=2, head_dim=64)
trunk = tree.branch()
for branch, tokens in [(trunk, [1, 2, 3])]:
    with tree.step([(branch, tokens, None)]) as step:
        keys, values = torch.randn(2, 3, 2, 64)
        ops.write_rows(keys, values, tree.chunks, step.plan, layer=0, num_kv_heads=2)
        step.commit([range(3)])

# Two continuations of the same prefix in one step: the prefix is read once for both.
left, right = trunk.fork(), trunk.fork()
with tree.step([(left, [4], None), (right, [5, 6], None)]) as step:
    queries = torch.randn(3, 8, 64)
    keys, values = torch.randn(2, 3, 2, 64)
    ops.write_rows(keys, values, tree.chunks, step.plan, layer=0, num_kv_heads=2)
    out = ops.tree_attention(queries, tree.chunks, step.plan, layer=0, num_kv_heads=2)
    step.commit([[0], [0, 1]])
print(out.shape, left.length, right.length)
