"""What shapes with a constant number of children a level have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hornbeam.errors import ArgumentError
from hornbeam.speculation.tree_building import Child, Node, TreeBuilder

__all__ = ["check_widths", "constant_outline", "grow_levels"]

Draw = Callable[[Sequence[Node], int], list[list[Child]]]


def check_widths(widths: Sequence[int]) -> None:
    """Raises ArgumentError unless there is a level, and every width is positive."""
    if not widths or any(width < 1 for width in widths):
        raise ArgumentError(f"branching is {tuple(widths)}, expected one or more widths of at least 1")


def grow_levels(builder: TreeBuilder, draw: Draw, widths: Sequence[int]) -> None:
    """Gives every node of level ``i`` ``widths[i]`` children."""
    level = builder.roots()
    for width in widths:
        level = [node for node in level if builder.room(node) > 0]
        children = draw(level, width)
        level = [builder.add(node, child) for node, own in zip(level, children, strict=True) for child in own]


def constant_outline(widths: Sequence[int], max_tokens: int) -> list[int]:
    """The parents of that tree."""
    parents: list[int] = []
    level = [-1]
    for width in widths[: max(max_tokens, 0)]:
        first = len(parents)
        parents.extend(node for node in level for _ in range(width))
        level = list(range(first, len(parents)))
    return parents
