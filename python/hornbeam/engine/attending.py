"""What a step asks of sparse attention: which of its rows read by which recipe, and what that makes of their
keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hornbeam.errors import ArgumentError

if TYPE_CHECKING:
    from hornbeam.cache.step import Step
    from hornbeam.engine.options import Options
    from hornbeam.engine.request import Request
    from hornbeam.engine.scheduling import Chunk
    from hornbeam.model.runner import Output
    from hornbeam.model.shape import ModelShape
    from hornbeam.model.sparse import RowRecipe

__all__ = ["checked", "exactness", "note_keys", "row_recipes"]


def checked(shape: ModelShape, options: Options) -> Options:
    """The options, of which the model can do what they ask of sparse attention.

    Raises:
        ArgumentError: ``attend`` or ``prefill`` is given for a model on a device, or for one all of whose
            layers have a window.
    """
    for name in ("attend", "prefill"):
        if getattr(options, name) is None:
            continue
        if shape.device.type != "cpu":
            raise ArgumentError(
                f"{name} is given for a model on {shape.device}, expected one on the CPU: sparse attention "
                "runs there alone yet"
            )
        if not shape.full_layers:
            raise ArgumentError(
                f"{name} is given for a model all of whose layers have a window, expected one with layers "
                "that see the whole text"
            )
    return options


def exactness(decoding: Sequence[Request], chunks: Sequence[Chunk]) -> list[bool]:
    """Whether the keys of a step will be those of the whole model over all keys, request by request: of those
    that decode, then of the chunks of prompts."""
    return [
        *(request.ambient.is_exact and request.options.attend is None for request in decoding),
        *(chunk.request.ambient.is_exact and not is_sparse(chunk) for chunk in chunks),
    ]


def is_sparse(chunk: Chunk) -> bool:
    """Whether rows of it read a part of their keys."""
    return chunk.prefill is not None or (chunk.is_written and chunk.request.options.attend is not None)


def row_recipes(step: Step, decoding: Sequence[Request], chunks: Sequence[Chunk]) -> list[RowRecipe]:
    """The rows of an open step that read by a recipe: those of decoding, drafts included, and the last token
    of a text that another request has written and this one goes on from."""
    recipes: list[Any] = [request.options.attend for request in decoding]
    recipes += [chunk.request.options.attend if chunk.is_written else None for chunk in chunks]
    return [
        (int(rows.min()), int(rows.max()) + 1, recipe)
        for rows, recipe in zip(step.rows, recipes, strict=True)
        if recipe is not None
    ]


def note_keys(requests: Sequence[Request], output: Output) -> None:
    """Counts what a step has read for those of its requests that have a recipe."""
    for request in requests:
        if request.options.attend is not None:
            request.stats.attend_keys_read += output.keys_read
            request.stats.attend_keys += output.keys
