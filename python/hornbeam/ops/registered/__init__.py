"""The operations as ``torch.ops.hornbeam``: known to ``torch.compile``, ``torch.export`` and ``opcheck``.

They are registered when :mod:`hornbeam.ops` is imported, which ``import hornbeam`` alone does not do. A name
is that of the function in :mod:`hornbeam.ops`; arguments are its arguments, but plans, warps and histories
are tensors (:func:`~hornbeam.ops.plan_words`, :func:`~hornbeam.ops.warp_words`). See docs/ops.md.
"""

from hornbeam.ops.registered import attention, choices, pages
from hornbeam.ops.registered.library import register
from hornbeam.ops.registered.words import plan_words, warp_words

__all__ = ["OPERATORS", "plan_words", "warp_words"]

#: All of them.
OPERATORS = [*attention.OPERATORS, *pages.OPERATORS, *choices.OPERATORS]

register(OPERATORS)
