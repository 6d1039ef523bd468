"""Shapes: which tree a model-based draft source grows; see :class:`hornbeam.spec.growth.Shape`."""

from hornbeam.spec.shape.best_first import BestFirst
from hornbeam.spec.shape.chain import Chain
from hornbeam.spec.shape.fixed import Fixed
from hornbeam.spec.shape.gumbel_tree import GumbelTree
from hornbeam.spec.shape.sequoia import Sequoia
from hornbeam.spec.shape.stochastic_beam import StochasticBeam

__all__ = ["BestFirst", "Chain", "Fixed", "GumbelTree", "Sequoia", "StochasticBeam"]
