"""Shapes: which tree a model-based draft source grows.

See :class:`hornbeam.speculation.tree_building.Shape`.
"""

from hornbeam.methods import export, methods_in
from hornbeam.speculation.declarations import is_shape
from hornbeam.speculation.shape.best_first import BestFirst
from hornbeam.speculation.shape.chain import Chain
from hornbeam.speculation.shape.fixed import Fixed
from hornbeam.speculation.shape.gumbel_tree import GumbelTree
from hornbeam.speculation.shape.sequoia import Sequoia
from hornbeam.speculation.shape.stochastic_beam import StochasticBeam

__all__ = ["BestFirst", "Chain", "Fixed", "GumbelTree", "Sequoia", "StochasticBeam"]

SHAPES = methods_in(__name__, __path__, is_shape)
"""All shapes of this folder, by name; those above are named for type checkers."""
export(globals(), SHAPES)
