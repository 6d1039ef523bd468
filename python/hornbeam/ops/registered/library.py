"""Operations made known to torch: ``torch.ops.hornbeam``.

An operation is registered by ``torch.library.Library`` (``custom_op`` costs more a call), with a fake
implementation that says what comes out, so that ``torch.compile``, ``torch.export`` and
``torch.library.opcheck`` take it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hornbeam import _native

__all__ = ["Operator", "new_size", "nothing", "register", "side_by_side", "unit_last", "written"]

#: The library of the process hangs on the native module, of which a process has one: where the package is
#: imported anew, its operations take the place of those before.
_PLACE = "torch_library"


@dataclass(frozen=True)
class Operator:
    """One operation of ``torch.ops.hornbeam``.

    Args:
        schema: name, arguments and results as torch has them; written arguments are marked.
        run: does it, on the CPU and on a device.
        fake: makes what comes out of it, without elements.
        native: does it on the CPU in the place of ``run``: a function of the native module, so that no Python
            lies between torch and the operation.
    """

    schema: str
    run: Callable[..., Any]
    fake: Callable[..., Any]
    native: Callable[..., Any] | None = None

    @property
    def name(self) -> str:
        """Its name in ``torch.ops.hornbeam``."""
        return self.schema.partition("(")[0]


def register(operators: list[Operator]) -> None:
    """Makes them known, in the place of all that were."""
    # The library before it goes with its last reference, and its operations with it.
    setattr(_native, _PLACE, None)
    library = torch.library.Library("hornbeam", "FRAGMENT")
    for operator in operators:
        library.define(operator.schema, tags=(torch.Tag.pt2_compliant_tag,))
        library.impl(operator.name, operator.native or operator.run, "CPU")
        library.impl(operator.name, operator.run, "CUDA")
        torch.library.register_fake(f"hornbeam::{operator.name}", operator.fake, lib=library)
    setattr(_native, _PLACE, library)


def nothing(*arguments: Any, **options: Any) -> None:
    """The fake of an operation that only writes."""


def written(run: Callable[..., Any]) -> Callable[..., None]:
    """What writes to outputs of the caller's and returns nothing, as torch wants it.

    Args:
        run: returns what it has written.
    """

    def write(*arguments: Any, **options: Any) -> None:
        run(*arguments, **options)

    return write


def new_size() -> Any:
    """A size that depends on elements, for a fake."""
    return torch.library.get_ctx().new_dynamic_size()


def side_by_side(tensor: Tensor | None) -> Tensor | None:
    """The tensor, or a copy of it where its elements do not lie one after the other."""
    return None if tensor is None else tensor.contiguous()


def unit_last(tensor: Tensor) -> Tensor:
    """The tensor, or a copy of it where its last stride is not 1, which the operations do not read."""
    return tensor if tensor.is_contiguous() or tensor.stride(-1) == 1 else tensor.contiguous()
