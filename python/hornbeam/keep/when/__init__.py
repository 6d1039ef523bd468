"""When a cache is reduced: always at a commit, so that provisional rows are never looked at.

A moment of your own is a subclass of :class:`When` that overrides :meth:`When.due`.
"""

from hornbeam.keep.when.after_prefill import AfterPrefill
from hornbeam.keep.when.base import CacheState, When
from hornbeam.keep.when.every_tokens import EveryTokens
from hornbeam.keep.when.on_pressure import OnPressure
from hornbeam.methods import export, methods_in

__all__ = [
    "AfterPrefill",
    "CacheState",
    "EveryTokens",
    "OnPressure",
    "When",
]

MOMENTS = methods_in(__name__, __path__, lambda found: issubclass(found, When))
"""All moments of this folder, by name; those above are named for type checkers."""
export(globals(), MOMENTS)
