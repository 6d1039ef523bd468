"""Pages of keys and values in codes of 2, 4 or 8 bits."""

from typing import TYPE_CHECKING

from torch import Tensor

from hornbeam import _native, cuda
from hornbeam.errors import ArgumentError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["condense_pages", "page_formats", "quantise_pages"]


def page_formats(chunk: Tensor) -> dict[str, tuple[int, int]]:
    """The formats of pages in codes: ``{name: (number, tokens of a page)}``.

    A page keeps its bytes; its format says how many tokens fit, 0 where none does. A plan's entry names the
    number in the bits of ``first`` above the twelfth, 0 for a plain page.

    - ``int8``, ``int4``, ``int2``: keys and values by token.
    - ``kivi4``, ``kivi2``: keys by channel and 32 tokens, values by token and 32 channels (Liu et al. 2024,
      arXiv 2402.02750).
    - ``zip_cache4``, ``zip_cache2``: keys by channel and page, values by token after their channels were
      brought to one size over the page (He et al. 2024, arXiv 2405.14256, whose groups are all tokens of a
      class).

    Args:
        chunk: a tensor of the pool, `[num_planes, slabs_per_chunk, 2, page_tokens, head_dim]`.
    """
    formats = _native.page_formats(chunk)
    return {name: (number, tokens) for number, (name, tokens) in enumerate(formats, 1)}


def quantise_pages(chunks: list[Tensor], moves: "NDArray", format: str, *, by_page: bool) -> None:
    """Encode plain slots into pages of a format, in place. Pages are written whole, with the same bytes on
    the CPU and on a device, where the host waits once.

    Decoding errs by half a step at most: offsets and steps are float16, rounded so that every element lies
    in the range of its codes.

    Args:
        chunks: the pool, as for :func:`hornbeam.ops.write_rows`.
        moves: int32 `[num_moves, 4]` of (from page, from slot, to page, to slot), page by page, with slots
            0, 1, ... of each page that is written.
        format: a name of :func:`page_formats`.
        by_page: ids are those of single pages; else of slabs, and every plane's page is written.

    Raises:
        ArgumentError: no such format, slots outside of the pool or more than fit, elements beyond 65504.
    """
    if len(moves) == 0:
        return
    formats = page_formats(chunks[0])
    if format not in formats:
        raise ArgumentError(f"format is {format}, expected one of {', '.join(formats)}")
    number, tokens = formats[format]
    if cuda.is_on_device(chunks[0]):
        cuda.quantise_pages(chunks, moves, number, tokens, by_page=by_page)
    else:
        _native.quantise_pages(chunks, moves, number, by_page)


def condense_pages(chunks: list[Tensor], moves: "NDArray", codes: "list[tuple[int, NDArray]]") -> None:
    """Copy plain slots and encode others into pages, in place and at once: all is read before any is written.
    The same bytes on the CPU and on a device, where the host waits once and what is written is staged.

    Args:
        chunks: the pool, as for :func:`hornbeam.ops.write_rows`.
        moves: int32 `[num_moves, 4]` of (from page, from slot, to page, to slot), ids of single pages.
        codes: (number of a format, moves as :func:`quantise_pages` takes them by page).

    Raises:
        ArgumentError: as :func:`quantise_pages`; nothing is written then.
    """
    if cuda.is_on_device(chunks[0]):
        tokens = dict(page_formats(chunks[0]).values())
        together = [(number, tokens[number], own) for number, own in codes if len(own)]
        cuda.condense_pages(chunks, moves, together)
    else:
        _native.condense_pages(chunks, moves, codes)
