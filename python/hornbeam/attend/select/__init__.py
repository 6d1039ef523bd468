"""Which pages a row reads, from their estimated scores."""

from hornbeam.attend.select.always import Always
from hornbeam.attend.select.base import Select
from hornbeam.attend.select.elbow import Elbow
from hornbeam.attend.select.threshold import Threshold
from hornbeam.attend.select.top_k import TopK
from hornbeam.attend.select.top_p import TopP
from hornbeam.methods import export, methods_in

__all__ = ["Always", "Elbow", "Select", "Threshold", "TopK", "TopP"]

SELECTIONS = methods_in(__name__, __path__, lambda found: issubclass(found, Select))
"""All selections of this folder, by name; those above are named for type checkers."""
export(globals(), SELECTIONS)
