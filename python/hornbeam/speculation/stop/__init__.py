"""Stop rules: how many drafted tokens are worth a row in the next forward pass."""

from hornbeam.speculation.stop.acceptance_head import AcceptanceHead
from hornbeam.speculation.stop.confidence import Confidence
from hornbeam.speculation.stop.entropy import Entropy
from hornbeam.speculation.stop.fixed import Fixed
from hornbeam.speculation.stop.measured_gain import MeasuredGain

__all__ = ["AcceptanceHead", "Confidence", "Entropy", "Fixed", "MeasuredGain"]
