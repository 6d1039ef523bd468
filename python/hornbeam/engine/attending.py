"""What a step asks of sparse attention: which of its rows read by which recipe, and what that makes of their
keys.

A text chooses among pages, so that it depends on which tokens share one. Of what is cached it takes up so
much as lies as it would lie if it were alone, and a draft ends with the page that the text ends on: its rows
see the pages then that they would see without one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hornbeam.engine.request_state import UNLIMITED
from hornbeam.errors import ArgumentError

if TYPE_CHECKING:
    from hornbeam.cache.step import Step
    from hornbeam.cache.tree import PrefixTree
    from hornbeam.engine.options import Options
    from hornbeam.engine.request import Request
    from hornbeam.engine.scheduling import Chunk
    from hornbeam.model.runner import Output, Runner
    from hornbeam.model.sparse import RowRecipe

__all__ = ["aligned", "checked", "exactness", "limit_drafts", "note", "row_recipes"]


def checked(runner: Runner, options: Options) -> Options:
    """The options, of which the model can do what they ask of sparse attention.

    Raises:
        ArgumentError: ``attend`` or ``prefill`` is given for a model on a device, or for one all of whose
            layers have a window; ``prefill`` for a batch-invariant one.
    """
    shape = runner.shape
    if runner.batch_invariant and options.prefill is not None:
        raise ArgumentError(
            "prefill is given with batch_invariant=True, expected None: which keys a block of rows reads "
            "depends on how a prompt is cut into blocks"
        )
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
    if options.keep is not None and options.attend is not None and options.attend.group == "layer":
        raise ArgumentError(
            "attend has group='layer' beside keep, expected 'max' or 'union': heads have pages of their own, "
            "which they cannot choose together"
        )
    return options


def aligned(tree: PrefixTree, request: Request, most: int) -> int:
    """Of ``most`` tokens that a request may take up from the cache those that it does: with a recipe of
    sparse decoding whole pages, as many as lie as in a text that was computed at once."""
    if request.options.attend is None or not request.is_closed or most <= 0:
        return most
    tokens, page = request.committed, tree.page_tokens
    branch = tree.match(tokens, max_tokens=min(most, len(tokens) - 1))
    try:
        slots, positions = tree.slots(branch)
        wrong = np.flatnonzero(slots != positions % page)
        return int(wrong[0] if len(wrong) else branch.length) // page * page
    finally:
        branch.release(keep=False)


def limit_drafts(requests: Sequence[Request]) -> None:
    """Says how many tokens a draft may have of each, so that the text is that of decoding without drafts."""
    for request in requests:
        if request.keeper is not None and (room := request.keeper.room(request)) is not None:
            request.draft_room = room
        elif request.options.attend is not None:
            request.draft_room = UNLIMITED
        if request.options.attend is not None:
            slots, reductions = request.tail
            room = slots if reductions == request.stats.reductions else 0
            request.draft_room = min(request.draft_room, room)


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


def note(step: Step, requests: Sequence[Request], paths: Sequence[Any], output: Output) -> None:
    """Notes of those requests of a committed step that have a recipe what was read for them, and how many
    slots are left on the page that each ends on."""
    if not any(request.options.attend is not None for request in requests):
        return
    slots, page = step.plan.row_slots, step.page_tokens
    for request, rows, path in zip(requests, step.rows, paths, strict=True):
        if request.options.attend is not None:
            request.stats.attend_keys_read += output.keys_read
            request.stats.attend_keys += output.keys
            if len(path):
                # What is committed moves to the first of the request's slots.
                last = int(slots[int(rows.min()) + len(path) - 1][1])
                request.tail = page - 1 - last, request.stats.reductions
