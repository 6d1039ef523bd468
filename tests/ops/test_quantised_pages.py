"""Pages in codes: their bytes, the attention that reads them, and the versions of nodes that hold them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hornbeam as hb
import hornbeam.ops as ops
from hornbeam.errors import ArgumentError, ShapeError, StateError
from tests.ops import test_attention, test_attention_mass
from tests.ops.test_attention import DTYPES, Case
from tests.reference import pages as reference

FORMATS = ["int8", "int4", "int2", "kivi4", "kivi2", "zip_cache4", "zip_cache2"]


def grown(
    tokens: int,
    *,
    heads: int = 2,
    head_dim: int = 64,
    dtype: torch.dtype = torch.bfloat16,
    page_tokens: int = 16,
    seed: int = 0,
    layers: int = 1,
) -> tuple[hb.PrefixTree, "hb.cache.branch.Branch", torch.Tensor, torch.Tensor]:
    """A tree with one branch of random keys `[layers, tokens, heads, head_dim]`, and values."""
    tree = hb.PrefixTree(
        num_layers=layers,
        num_kv_heads=heads,
        head_dim=head_dim,
        dtype=dtype,
        page_tokens=page_tokens,
        slabs_per_chunk=8,
    )
    branch = tree.branch()
    generator = torch.Generator().manual_seed(seed)
    k, v = torch.randn(2, layers, tokens, heads, head_dim, generator=generator)
    k[..., 3] *= 20
    k[..., 5] += 100
    v[..., 7] *= 8
    k, v = k.to(dtype), v.to(dtype)
    with tree.step([(branch, list(range(tokens)), None)]) as step:
        for layer in range(layers):
            ops.write_rows(k[layer], v[layer], tree.chunks, step.plan, layer=layer, num_kv_heads=heads)
        step.commit([range(tokens)])
    return tree, branch, k, v


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("head_dim", "dtype"),
    [
        (64, torch.bfloat16),
        (80, torch.float16),
        (128, torch.bfloat16),
        (32, torch.float32),
        (8, torch.float32),
        (20, torch.float16),
        (320, torch.bfloat16),
        (512, torch.float16),
    ],
)
def test_the_error_is_half_a_step(name: str, head_dim: int, dtype: torch.dtype) -> None:
    """Of every element, by the step that its token and channel have on the page."""
    tree, branch, k, v = grown(150, head_dim=head_dim, dtype=dtype)
    number, tokens = ops.page_formats(tree.chunks[0])[name]
    assert tokens == tree.page_tokens_of(name)
    assert tokens == reference.capacity(number, head_dim, tree.slab_bytes // tree.num_planes)
    tree.quantise(branch, tree.nodes(branch)[0][0], [name] * 150, digest=1, by_head=False, partial=True)
    tree.debug_check()
    size = tree.slabs_per_chunk
    for plane in range(2):
        shown = tree._native.keys(branch._id, plane)
        pages: dict[int, reference.Decoded] = {}
        for _, slab, slot, position in shown.tolist():
            if slab not in pages:
                pages[slab] = reference.decode(tree.chunks[slab // size][plane, slab % size], number)
            page = pages[slab]
            for got, step, want in (
                (page.keys, page.key_steps, k),
                (page.values, page.value_steps, v),
            ):
                error = np.abs(got[slot] - want[0, position, plane].double().numpy())
                assert (error <= 0.5001 * step[slot] + 1e-6).all()
        assert sorted(shown[:, 3].tolist()) == list(range(150))


@settings(deadline=None, max_examples=12)
@given(
    seed=st.integers(0, 2**32 - 1),
    tokens=st.integers(1, 260),
    rows=st.sampled_from([1, 2, 5, 40]),
    group=st.integers(1, 6),
    head_dim=st.sampled_from([8, 12, 32, 64, 80, 128, 320]),
    dtype=st.sampled_from(DTYPES),
    window=st.none() | st.integers(1, 200),
    by_head=st.booleans(),
    partial=st.booleans(),
)
def test_attention_reads_mixed_pages(
    seed: int,
    tokens: int,
    rows: int,
    group: int,
    head_dim: int,
    dtype: torch.dtype,
    window: int | None,
    by_head: bool,
    partial: bool,
) -> None:
    """All formats and plain pages in one branch, few and many queries, attention and mass."""
    tree, branch, _, _ = grown(tokens, head_dim=head_dim, dtype=dtype, seed=seed % 1000, layers=2)
    random = np.random.default_rng(seed)

    def formats() -> list[str | None]:
        few = [None, *random.choice(FORMATS, 2)]
        return [few[i] for i in random.integers(0, 3, tokens)]

    asked = [formats() for _ in range(tree.num_planes)] if by_head else formats()
    tree.quantise(branch, tree.nodes(branch)[0][0], asked, digest=5, by_head=by_head, partial=partial)
    tree.debug_check()
    assert tree.nodes(branch)[0][3:] == (tokens, 5)
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(rows, 2 * group, head_dim, generator=generator)
    k, v = torch.randn(2, rows, 2, head_dim, generator=generator).to(dtype)
    with tree.step([(branch, [0] * rows, None)]) as step:
        ops.write_rows(k, v, tree.chunks, step.plan, layer=1, num_kv_heads=2)
        case = Case(q, tree.chunks, step.plan, 1, 2, {"window": window, "scale": 0.05})
        test_attention.check(case)
        test_attention_mass.check(case, list(range(0, rows, 2)))


@pytest.mark.parametrize("part", [0, 1], ids=["keys", "values"])
@pytest.mark.parametrize("name", FORMATS)
def test_one_wrong_code_is_beyond_the_bounds(name: str, part: int) -> None:
    """Attention over a page with one code off by a step, held to the page as it was."""
    tree, branch, _, _ = grown(40)
    tree.quantise(branch, tree.nodes(branch)[0][0], [name] * 40, digest=1, by_head=False, partial=True)
    number, capacity = ops.page_formats(tree.chunks[0])[name]
    generator = torch.Generator().manual_seed(number)
    q = torch.randn(3, 4, 64, generator=generator)
    k, v = torch.randn(2, 3, 2, 64, generator=generator).to(torch.bfloat16)
    with tree.step([(branch, [0] * 3, None)]) as step:
        ops.write_rows(k, v, tree.chunks, step.plan, layer=0, num_kv_heads=2)
        case = Case(q, tree.chunks, step.plan, 0, 2, {})
        test_attention.check(case)
        want = case.expected()
        _, slab, slot, _ = tree._native.keys(branch._id, 0)[17].tolist()
        codes = tree.chunks[0][0, slab].contiguous().view(torch.uint8).flatten()
        row_bytes = 64 * reference.FORMATS[number][0] // 8
        codes[part * capacity * row_bytes + slot * row_bytes + 9] ^= 1
        tree.chunks[0][0, slab] = codes.view(torch.bfloat16).view(tree.chunks[0][0, slab].shape)
        out, _ = case.run()
        with pytest.raises(AssertionError, match="are off by up to"):
            test_attention.assert_within(out, want[0], want[2])


def test_only_whole_pages_are_written_and_history_stays() -> None:
    """What is in codes keeps its page; what fills none stays plain; other branches see exact keys."""
    tree, branch, _, _ = grown(130)
    other = branch.fork()
    before = tree._native.keys(other._id, 0)
    chunks = [chunk.clone() for chunk in tree.chunks]
    node = tree.nodes(branch)[0][0]
    tree.quantise(branch, node, ["zip_cache4"] * 130, digest=1, by_head=False)
    assert tree.page_tokens_of("zip_cache4") == 54
    first = tree._native.keys(branch._id, 0)
    # Two pages in codes, and 22 tokens on two plain pages.
    assert [len(np.unique(first[:108, 1])), len(np.unique(first[108:, 1]))] == [2, 2]
    tree.quantise(branch, tree.nodes(branch)[0][0], ["int8"] * 130, digest=2, by_head=False, partial=True)
    second = tree._native.keys(branch._id, 0)
    assert np.array_equal(first[:108], second[:108])
    assert len(np.unique(second[108:, 1])) == 1
    assert np.array_equal(tree._native.keys(other._id, 0), before)
    for slab in np.unique(before[:, 1]).tolist():
        at = (slab // tree.slabs_per_chunk, slab % tree.slabs_per_chunk)
        assert torch.equal(tree.chunks[at[0]][:, at[1]], chunks[at[0]][:, at[1]])
    tree.debug_check()
    matched = tree.match(list(range(130)))
    assert matched.length == 130
    matched.release(keep=False)
    other.release(keep=False)
    assert tree.match(list(range(130))).length == 0
    # Three pages in codes are all that is held: bytes reported are bytes allocated.
    stats = tree.stats()
    assert stats["slabs"] - stats["free_slabs"] == 3
    with pytest.raises(StateError, match="has keys in codes, which do not move"):
        tree.compact(branch, tree.nodes(branch)[0][0], [0, 1], digest=3, by_head=False)


def test_what_cannot_be_quantised_is_refused() -> None:
    tree, branch, _, _ = grown(20)
    node = tree.nodes(branch)[0][0]
    before = tree._native.keys(branch._id, 0)
    with pytest.raises(ArgumentError, match="format is int3, expected one of int8, int4"):
        tree.quantise(branch, node, ["int3"] * 20, digest=1, by_head=False)
    with pytest.raises(ArgumentError, match="digest is 0"):
        tree.quantise(branch, node, ["int8"] * 20, digest=0, by_head=False)
    with pytest.raises(ShapeError, match="codes is 19, expected 20, one number a key"):
        tree.quantise(branch, node, ["int8"] * 19, digest=1, by_head=False)
    with pytest.raises(ShapeError, match="codes is 1, expected 2, one list a plane"):
        tree.quantise(branch, node, [["int8"] * 20], digest=1, by_head=True)
    assert np.array_equal(tree._native.keys(branch._id, 0), before)
    moves = np.array([[0, 0, 5, 1]], np.int32)
    with pytest.raises(ArgumentError, match="expected plain slots"):
        ops.quantise_pages(tree.chunks, moves, "int8", by_page=False)
    tree.chunks[0][0, 0, 0, 0, 0] = 1e6
    with pytest.raises(ArgumentError, match="expected a number of at most 65504"):
        ops.quantise_pages(tree.chunks, np.array([[0, 0, 5, 0]], np.int32), "int8", by_page=False)


@pytest.mark.parametrize("name", FORMATS)
def test_constant_keys_and_one_token(name: str) -> None:
    """Elements that float16 holds come back exactly from blocks without a range."""
    tree, branch, _, _ = grown(1, heads=1)
    tree.chunks[0].fill_(1.5)
    tree.quantise(branch, tree.nodes(branch)[0][0], [name], digest=1, by_head=False, partial=True)
    ((_, slab, slot, _),) = tree._native.keys(branch._id, 0).tolist()
    number = ops.page_formats(tree.chunks[0])[name][0]
    page = reference.decode(tree.chunks[0][0, slab], number)
    assert (page.keys[slot] == 1.5).all()
    np.testing.assert_allclose(page.values[slot], 1.5, rtol=1e-3)


def test_reductions_name_the_formats_of_their_tokens() -> None:
    """The same classes as on arrays, and pages that the tree takes."""
    scores = torch.tensor([3.0, 1.0, 2.0, 1.0, 5.0])
    names = hb.keep.MixedBits().page_formats(scores)
    assert names == ["zip_cache4", "zip_cache2", "zip_cache4", "zip_cache2", "zip_cache4"]
    assert hb.keep.TokenBits().page_formats(scores) == ["int8"] * 5
    rule = hb.keep.KeyChannelValueToken()
    assert rule.page_formats(torch.zeros(100)) == ["kivi2"] * 64 + [None] * 36
    assert rule.page_formats(torch.zeros(20)) == [None] * 20
    with pytest.raises(ArgumentError, match="group is 16, expected 32"):
        hb.keep.KeyChannelValueToken(group=16).page_formats(scores)
    tree, branch, _, _ = grown(100)
    names = rule.page_formats(torch.zeros(100))
    tree.quantise(branch, tree.nodes(branch)[0][0], names, digest=1, by_head=False, partial=True)
    assert len(np.unique(tree._native.keys(branch._id, 0)[:64, 1])) == 1
