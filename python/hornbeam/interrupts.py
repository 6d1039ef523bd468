"""What an interrupt leaves behind: frames that hold something, and torch's modes."""

from __future__ import annotations

import torch

__all__ = ["end_frames", "modes_of_torch", "restore_modes"]

#: Ends of inference mode that stay: their own end would switch it on again.
_kept: list[torch.inference_mode] = []


def end_frames(interrupt: BaseException) -> None:
    """Lets go of what the frames of an interrupt hold, the innermost first.

    An interrupt at the beginning or the end of a ``with`` leaves torch's inference mode to the end of the
    object that stands for it, which the traceback keeps. Ended in another order than begun, or after a
    later ``with``, it would switch the mode on for good.
    """
    frames = []
    trace = interrupt.__traceback__
    while trace is not None:
        frames.append(trace.tb_frame)
        trace = trace.tb_next
    while frames:
        try:
            frames.pop().clear()
        except RuntimeError:  # it is still running: it ends by itself
            continue


def modes_of_torch() -> tuple[bool, bool]:
    """Whether this thread is in inference mode, and whether it records gradients."""
    return torch.is_inference_mode_enabled(), torch.is_grad_enabled()


def restore_modes(modes: tuple[bool, bool]) -> None:
    """Puts this thread's modes back, where an interrupt divided the end of a ``with``."""
    inference, grad = modes
    if torch.is_inference_mode_enabled() != inference:
        mode = torch.inference_mode(inference)
        mode.__enter__()
        _kept.append(mode)
    if torch.is_grad_enabled() != grad:
        torch.set_grad_enabled(grad)
