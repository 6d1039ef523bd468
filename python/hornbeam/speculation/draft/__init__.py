"""Draft sources: where guesses come from, one a file: a file that is added here is found."""

from __future__ import annotations

from hornbeam.methods import methods_in
from hornbeam.speculation.declarations import is_draft

__all__ = ["DRAFTS"]

DRAFTS = methods_in(__name__, __path__, is_draft)
"""All draft sources of this folder, by name."""
