"""What is known of the keys of a page without reading them, so that it can be told which pages matter."""

from hornbeam.attend.estimate.base import Estimate
from hornbeam.attend.estimate.bounds import Bounds
from hornbeam.attend.estimate.mean import Mean
from hornbeam.methods import export, methods_in

__all__ = ["Bounds", "Estimate", "Mean"]

ESTIMATES = methods_in(__name__, __path__, lambda found: issubclass(found, Estimate))
"""All estimates of this folder, by name; those above are named for type checkers."""
export(globals(), ESTIMATES)
