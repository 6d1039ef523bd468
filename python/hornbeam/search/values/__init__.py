"""Values, one a file."""

from hornbeam.methods import export, methods_in
from hornbeam.search.values.base import OpenValue, SearchFacts, Value
from hornbeam.search.values.likelihood import Likelihood
from hornbeam.search.values.reward_model import RewardModel
from hornbeam.search.values.value_head import ValueHead

__all__ = ["Likelihood", "OpenValue", "RewardModel", "SearchFacts", "Value", "ValueHead"]

VALUES = methods_in(__name__, __path__, lambda found: issubclass(found, Value))
"""All values of this folder, by name; those above are named for type checkers."""
export(globals(), VALUES)
