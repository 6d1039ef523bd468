"""What a key is worth. Higher is kept longer.

A score of your own is a subclass of :class:`Score` that overrides :meth:`Score.scores`::

    class LargestValue(hb.keep.Score):
        def scores(self, keys, values, queries, scale):
            return values.abs().amax(-1).transpose(0, 1)  # [L, B, Hk, N] to [B, L, Hk, N]

    lm.generate(prompt, keep=hb.keep.Recipe(LargestValue(), "50%"), max_new_tokens=8)

Where it reads the queries of the last rows it says how many in :attr:`Score.num_rows`; where it protects
tokens or keeps them by units it overrides :attr:`Score.protected` and :attr:`Score.unit`.
"""

from hornbeam.keep.score.accumulated_mass import AccumulatedMass
from hornbeam.keep.score.base import MomentsOfQueries, Score
from hornbeam.keep.score.expected_attention import ExpectedAttention
from hornbeam.keep.score.global_local import GlobalLocal
from hornbeam.keep.score.key_difference import KeyDifference
from hornbeam.keep.score.key_norm import KeyNorm
from hornbeam.keep.score.last_query import LastQuery
from hornbeam.keep.score.normalised_mass import NormalisedMass
from hornbeam.keep.score.position import Position
from hornbeam.keep.score.value_weighted import ValueWeighted
from hornbeam.keep.score.window_mass import WindowMass
from hornbeam.keep.score.window_tokens import WindowTokens
from hornbeam.methods import export, methods_in

__all__ = [
    "AccumulatedMass",
    "ExpectedAttention",
    "GlobalLocal",
    "KeyDifference",
    "KeyNorm",
    "LastQuery",
    "MomentsOfQueries",
    "NormalisedMass",
    "Position",
    "Score",
    "ValueWeighted",
    "WindowMass",
    "WindowTokens",
]

SCORES = methods_in(__name__, __path__, lambda found: issubclass(found, Score))
"""All scores of this folder, by name; those above are named for type checkers."""
export(globals(), SCORES)
