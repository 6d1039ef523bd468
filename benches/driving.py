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
    [sequence] = decoding.sequences
    decoding._start()
    decoding._reusable[sequence.index] = 0
    while not sequence.is_read:
        decoding._prefill([sequence])
    return decoding, sequence
