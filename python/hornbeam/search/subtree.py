"""The part of a tree that is worth what it costs."""

from __future__ import annotations

from collections.abc import Sequence

from hornbeam import _native

__all__ = ["best_subtree"]


def best_subtree(
    parents: Sequence[int],
    gains: Sequence[float],
    clusters: Sequence[int | None],
    bonuses: Sequence[float],
) -> tuple[float, list[bool]]:
    """The subtree of greatest worth among those with at least one leaf, exactly: the choice of ETS (Hooper et
    al. 2025, arXiv 2502.13575, section 4) for any costs.

    Args:
        parents: of each node, a lower number than its own: ``[nodes]``; node 0 is the root, its own parent,
            and always chosen.
        gains: what each node is worth by itself, 0 or less but for leaves: ``[nodes]``. Read as multiples of
            2^-44.
        clusters: of each leaf, and None elsewhere: ``[nodes]``.
        bonuses: what a cluster is worth of which a leaf is chosen, 0 or more: ``[clusters]``.

    Returns:
        The worth, and whether each node is chosen: ``[nodes]``.

    Raises:
        ShapeError: the lengths differ.
        ArgumentError: a parent is not before its node, or a worth is out of its range.
    """
    return _native.best_subtree(list(parents), list(gains), list(clusters), list(bonuses))
