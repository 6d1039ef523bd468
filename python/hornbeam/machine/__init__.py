"""What was measured on this machine: which kernel is the fastest, and what a forward pass costs."""

from hornbeam.machine.profile import Profile

__all__ = ["Profile"]
