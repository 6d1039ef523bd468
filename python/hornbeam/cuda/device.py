"""The device: whether kernels can run, the open driver, and transfers that nobody waits for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hornbeam import _native
from hornbeam.errors import CudaError

if TYPE_CHECKING:
    from hornbeam._native import CudaLane

__all__ = ["emulated", "index_of", "is_on_device", "lane", "require", "runs_on", "status", "upload"]

#: A part of an upload begins on a multiple of so many bytes.
ALIGNMENT = 16

_lane: CudaLane | None = None
# Whether CPU tensors are taken for the device's: see `emulated`.
_takes_cpu = False


def status() -> dict[str, Any]:
    """Whether kernels can run here, and if not why.

    ``available``; ``reason``, empty when available; ``kernels``, what was built; ``devices``, their
    names and compute capabilities.
    """
    return dict(_native.cuda_status())


def lane() -> CudaLane:
    """The process's CUDA driver, opened once.

    Raises:
        CudaError: no driver, one that is too old, no device, or a build without kernels.
    """
    global _lane
    if _lane is None:
        _lane = _native.CudaLane()
    return _lane


@contextmanager
def emulated(emulation: CudaLane) -> Iterator[None]:
    """For the tests: until the end, ``emulation`` is the driver, and CPU tensors are the device's.

    Everything that would happen on a GPU happens then, transfers aside: kernels are launched through
    the driver's entry points, in the host emulation. That holds for :mod:`hornbeam.ops`;
    ``torch.ops.hornbeam`` goes by where the tensors are.

    Args:
        emulation: the emulation of a driver.
    """
    global _lane, _takes_cpu
    before = _lane, _takes_cpu
    _lane, _takes_cpu = emulation, True
    try:
        yield
    finally:
        _lane, _takes_cpu = before


def runs_on(device: torch.device) -> bool:
    """Whether operations on tensors of a device go to the kernels of this package.

    Args:
        device: of tensors.
    """
    return _takes_cpu or device.type == "cuda"


def is_on_device(tensor: Any) -> bool:
    """Whether the operations on a tensor go to the kernels of this package.

    Args:
        tensor: any tensor or array.
    """
    is_cuda: bool = getattr(tensor, "is_cuda", False)
    return _takes_cpu or is_cuda


def index_of(device: torch.device) -> int:
    """The number of a device; that of torch's current one where it names none."""
    if device.type == "cpu":  # the host emulation's only device
        return 0
    return torch.cuda.current_device() if device.index is None else device.index


def require(device: torch.device | str) -> None:
    """Does nothing for a device that needs no kernels of ours, or whose kernels can run.

    Args:
        device: the device, or its name.

    Raises:
        CudaError: the device is a GPU on which no kernel can run; the message has the reason.
    """
    device = torch.device(device)
    if device.type != "cuda":
        return
    driver = lane()
    if not torch.cuda.is_available():
        built = torch.version.cuda or "no CUDA"
        raise CudaError(f"torch {torch.__version__} (built for {built}) sees no CUDA device")
    driver.device(index_of(device))


def upload(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Copies of host tensors on a device, in one transfer that the host does not wait for.

    They share one buffer there, each from a multiple of 16 bytes on, contiguous.

    Args:
        tensors: on the CPU; any types and shapes.
        device: where the copies shall lie.
    """
    if device.type == "cpu":
        return [tensor.clone(memory_format=torch.contiguous_format) for tensor in tensors]
    ends, size = [], 0
    for tensor in tensors:
        begin = -(-size // ALIGNMENT) * ALIGNMENT
        size = begin + tensor.numel() * tensor.element_size()
        ends.append((begin, size))
    # Pinned memory of torch's own pool: it is reused once the stream has passed the copy.
    staging = torch.empty(size, dtype=torch.uint8, pin_memory=True)
    for tensor, (begin, end) in zip(tensors, ends, strict=True):
        staging[begin:end].view(tensor.dtype).copy_(tensor.reshape(-1))
    there = staging.to(device, non_blocking=True)
    return [
        there[begin:end].view(tensor.dtype).view(tensor.shape)
        for tensor, (begin, end) in zip(tensors, ends, strict=True)
    ]
