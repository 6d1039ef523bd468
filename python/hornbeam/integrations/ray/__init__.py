"""Many prompts on many machines: :func:`generate_many`, :func:`score_many` and :func:`search_many`.

They take a list of prompts or a Ray data set, and spread it over the workers of a Ray cluster, one engine a
worker. The extras ``hf`` and ``ray`` install what they need.

Without a connection to a cluster they start one on this machine for the call; behind ``ray.init(address)``
the same call runs on that cluster. See docs/ray.md.
"""

from hornbeam.integrations.ray.calls import generate_many, score_many, search_many
from hornbeam.integrations.ray.coordinator import Progress
from hornbeam.integrations.ray.given import Answers
from hornbeam.integrations.ray.pool import Pool

__all__ = ["Answers", "Pool", "Progress", "generate_many", "score_many", "search_many"]
