"""The driver's parts, called one by one where a bench needs what lies between them."""

from __future__ import annotations

from typing import Any

import hornbeam as hb
from hornbeam.decode import Decoding, Options
from hornbeam.sequence import Sequence


def opened(
    lm: hb.LM, prompt: list[int], recipe: Any = None, *, keeper: Any = None
) -> tuple[Decoding, Sequence]:
    """A run whose prompt is read, and reduced where there is a recipe; ``keeper`` takes the place of the
    recipe's own."""
    decoding = Decoding(lm, [prompt], Options.greedy(lm.max_positions, recipe))
    decoding.keeper = decoding.keeper if keeper is None else keeper
    decoding._reusable = [0]
    decoding._prefill()
    return decoding, decoding.sequences[0]
