"""Stop rules: how many drafted tokens are worth a row in the next forward pass."""

from hornbeam.methods import export, methods_in
from hornbeam.speculation.declarations import is_stop_rule
from hornbeam.speculation.stop.acceptance_head import AcceptanceHead
from hornbeam.speculation.stop.confidence import Confidence
from hornbeam.speculation.stop.entropy import Entropy
from hornbeam.speculation.stop.fixed import Fixed
from hornbeam.speculation.stop.measured_gain import MeasuredGain

__all__ = ["AcceptanceHead", "Confidence", "Entropy", "Fixed", "MeasuredGain"]

STOP_RULES = methods_in(__name__, __path__, is_stop_rule)
"""All stop rules of this folder, by name; those above are named for type checkers."""
export(globals(), STOP_RULES)
