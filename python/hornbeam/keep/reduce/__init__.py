"""What happens to keys and values that are not kept, and how those that are kept are stored.

A reduction of your own is a subclass of :class:`Reduce` that overrides :meth:`Reduce.reduce`.
"""

from hornbeam.cuda.merge import Merge
from hornbeam.keep.reduce.base import Reduce, Reduced
from hornbeam.keep.reduce.drop import Drop
from hornbeam.keep.reduce.evict_then_merge import EvictThenMerge
from hornbeam.keep.reduce.key_channel_value_token import KeyChannelValueToken
from hornbeam.keep.reduce.mixed_bits import MixedBits
from hornbeam.keep.reduce.page_codes import PageCodes
from hornbeam.keep.reduce.similarity_merge import SimilarityMerge
from hornbeam.keep.reduce.token_bits import TokenBits
from hornbeam.keep.reduce.value_merge import ValueMerge
from hornbeam.methods import export, methods_in

__all__ = [
    "Drop",
    "EvictThenMerge",
    "KeyChannelValueToken",
    "Merge",
    "MixedBits",
    "PageCodes",
    "Reduce",
    "Reduced",
    "SimilarityMerge",
    "TokenBits",
    "ValueMerge",
]

REDUCTIONS = methods_in(__name__, __path__, lambda found: issubclass(found, Reduce))
"""All reductions of this folder, by name; those above are named for type checkers."""
export(globals(), REDUCTIONS)
