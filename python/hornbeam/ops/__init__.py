"""Operations on flat arrays, usable without a tree and without a model; as ``torch.ops.hornbeam`` too."""

from hornbeam.ops.attention import tree_attention
from hornbeam.ops.block_sparse import block_sparse_attention
from hornbeam.ops.linear import linear
from hornbeam.ops.mass import MASS_ONE, attention_mass, mass_columns
from hornbeam.ops.pages import condense_pages, page_formats, quantise_pages
from hornbeam.ops.registered import plan_words, warp_words
from hornbeam.ops.rows import (
    gather_rows,
    move_page_rows,
    move_page_rows_at_once,
    move_rows,
    put_rows,
    write_rows,
)
from hornbeam.ops.topk import block_topk, product_key_topk, topk, topp
from hornbeam.ops.verify import Reads, Verified, probabilities, sample, sample_ids, verify

__all__ = [
    "MASS_ONE",
    "Reads",
    "Verified",
    "attention_mass",
    "block_sparse_attention",
    "block_topk",
    "condense_pages",
    "gather_rows",
    "linear",
    "mass_columns",
    "move_page_rows",
    "move_page_rows_at_once",
    "move_rows",
    "page_formats",
    "plan_words",
    "probabilities",
    "product_key_topk",
    "put_rows",
    "quantise_pages",
    "sample",
    "sample_ids",
    "topk",
    "topp",
    "tree_attention",
    "verify",
    "warp_words",
    "write_rows",
]
