"""The exceptions of hornbeam. All derive from :class:`HornbeamError`."""

__all__ = [
    "ArgumentError",
    "BudgetExhausted",
    "CudaError",
    "HornbeamError",
    "InternalError",
    "LogitsError",
    "MissingExtra",
    "OutOfPages",
    "ShapeError",
    "StateError",
    "UnsupportedModel",
]


class HornbeamError(Exception):
    """Base of every error that hornbeam raises on purpose."""


class ArgumentError(HornbeamError, ValueError):
    """A value lies outside of its range."""


class ShapeError(HornbeamError, ValueError):
    """A tensor has the wrong shape, stride, dtype or device."""


class StateError(HornbeamError, RuntimeError):
    """A handle was used after it was released, or in a state that forbids the call."""


class LogitsError(HornbeamError, ValueError):
    """A row of logits holds NaN, +inf, or nothing finite."""


class OutOfPages(HornbeamError, MemoryError):
    """The byte budget of the page pool does not hold what was asked for; nothing was changed."""


class BudgetExhausted(HornbeamError, RuntimeError):
    """A budget was spent before any answer was there."""


class UnsupportedModel(HornbeamError, TypeError):
    """The model's architecture cannot be driven over pages; the message names the reason."""


class CudaError(HornbeamError, RuntimeError):
    """No usable GPU, driver or kernel; the message names which."""


class InternalError(HornbeamError, RuntimeError):
    """A fault of hornbeam's own, in the calling thread or in one of a pool: please report the message. The
    call that raised it did nothing that can be relied on; others go on working."""


class MissingExtra(HornbeamError, ImportError):
    """An optional dependency is not installed; the message names the pip command."""
