"""Who gets how much of a budget. Every split of ours sums to it exactly.

A split of your own is a subclass of :class:`Split` that overrides :meth:`Split.budgets`; which tokens of a
plane stay is then found from the scores as for every split.
"""

from hornbeam.keep.split.across_heads import AcrossHeads
from hornbeam.keep.split.base import Split
from hornbeam.keep.split.global_prefix import GlobalPrefix
from hornbeam.keep.split.head_scores import HeadScores
from hornbeam.keep.split.layer_groups import LayerGroups
from hornbeam.keep.split.pyramid import Pyramid
from hornbeam.keep.split.uniform import Uniform
from hornbeam.methods import export, methods_in

__all__ = [
    "AcrossHeads",
    "GlobalPrefix",
    "HeadScores",
    "LayerGroups",
    "Pyramid",
    "Split",
    "Uniform",
]

SPLITS = methods_in(__name__, __path__, lambda found: issubclass(found, Split))
"""All splits of this folder, by name; those above are named for type checkers."""
export(globals(), SPLITS)
