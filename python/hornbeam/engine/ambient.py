"""What torch is told to do from outside of a call: autocast and the default dtype, as they are at submit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch

__all__ = ["Ambient", "is_default_device_cpu", "tensors_on_the_cpu"]


def is_default_device_cpu() -> bool:
    """Whether what is made without a word of the device lies on the CPU."""
    return torch.empty(0).device.type == "cpu"


@contextmanager
def tensors_on_the_cpu() -> Iterator[None]:
    """While it lasts, what the calling thread makes without a word of the device lies on the CPU, whatever
    torch's default device is."""
    with torch.device("cpu"):
        yield


@dataclass(frozen=True)
class Ambient:
    """Settings that change what a forward pass computes without being of the model.

    Only requests with equal ones share a step. Inference mode needs no place here: every pass runs in it.

    Attributes:
        device_type: of the model.
        autocast: the dtype of torch's autocast for that device, or None where it is off.
        default_dtype: of new tensors.
    """

    device_type: str
    autocast: torch.dtype | None
    default_dtype: torch.dtype

    @classmethod
    def now(cls, device_type: str) -> Ambient:
        """As the calling thread has them."""
        dtype = None
        if torch.is_autocast_enabled(device_type):
            dtype = torch.get_autocast_dtype(device_type)
        return cls(device_type, dtype, torch.get_default_dtype())

    @property
    def is_exact(self) -> bool:
        """Whether keys are those of the model itself, so that later requests may use them."""
        return self.autocast is None

    @contextmanager
    def applied(self) -> Iterator[None]:
        """While it lasts, the calling thread has these settings.

        torch has one default dtype for all threads: it is set only where it has changed since.
        """
        before = torch.get_default_dtype()
        with ExitStack() as stack:
            is_on = self.autocast is not None
            stack.enter_context(torch.autocast(self.device_type, dtype=self.autocast, enabled=is_on))
            if before != self.default_dtype:
                stack.callback(torch.set_default_dtype, before)
                torch.set_default_dtype(self.default_dtype)
            yield
