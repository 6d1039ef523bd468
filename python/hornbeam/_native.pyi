"""Signatures of the native module, by part; checked with stubtest."""

from typing import Any

# --- build ---

__version__: str

def build_info() -> dict[str, Any]: ...

# --- parallel ---

def thread_pool() -> tuple[str, int]: ...
