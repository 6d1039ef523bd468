"""Operations on flat arrays, usable without a tree and without a model."""

from hornbeam.ops.attention import tree_attention
from hornbeam.ops.mass import MASS_ONE, attention_mass, mass_columns
from hornbeam.ops.pages import page_formats, quantise_pages
from hornbeam.ops.rows import move_page_rows, move_rows, write_rows
from hornbeam.ops.verify import Verified, sample, verify

__all__ = [
    "MASS_ONE",
    "Verified",
    "attention_mass",
    "mass_columns",
    "move_page_rows",
    "move_rows",
    "page_formats",
    "quantise_pages",
    "sample",
    "tree_attention",
    "verify",
    "write_rows",
]
