"""What a recipe of :mod:`hornbeam.keep` does to the branches of one run, always at a commit.

The state of a sequence (queries of its last rows, probability mass of its keys) changes when a step
was committed and at no other time, from accepted rows alone: a step that is rolled back leaves it as
it was, and a draft that is rejected adds nothing. It belongs to the sequence and not to the pages,
since the rows of two sequences that share a prefix give its keys different mass.

``keeper`` is what the decoding loop calls; ``state`` what is known of a sequence; ``observer`` sees queries
while attention runs; ``scoring`` makes them scores, and ``reduction`` makes scores pages.
"""

from hornbeam.engine.eviction.keeper import Keeper
from hornbeam.engine.eviction.observer import QueryObserver

__all__ = ["Keeper", "QueryObserver"]
