"""How much memory there is for this process: of the machine, or of the container that it runs in."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import torch

__all__ = ["available_bytes", "default_kv_bytes", "limit_bytes"]

#: The default limit of the page pool is no less, however full the machine is.
LEAST_KV_BYTES = 64 << 20

# Version 1 writes "no limit" as the largest multiple of a page below 2^63.
UNLIMITED = 1 << 60


def limit_bytes(root: str | Path = "/") -> int | None:
    """The memory of the machine, or the least limit of the control groups that this process is in.

    Reads ``/proc/meminfo`` and the limits of control groups (``memory.max`` and ``memory.high`` of version
    2, ``memory.limit_in_bytes`` of version 1) of the process's own group and those above it.

    Args:
        root: where ``proc`` and ``sys`` lie.

    Returns:
        Bytes; None where neither is known, as outside of Linux.
    """
    known = [_meminfo(Path(root)).get("MemTotal"), *(limit for limit, _ in _groups(Path(root)))]
    return min((size for size in known if size is not None), default=None)


def available_bytes(root: str | Path = "/") -> int | None:
    """What this process can have beside what is used already, as far as is known.

    The least of ``MemAvailable`` and of what the control groups leave: their limit less what they use, page
    cache that can be dropped not counted.

    Args:
        root: as for :func:`limit_bytes`.

    Returns:
        Bytes; None where neither is known.
    """
    known = [_meminfo(Path(root)).get("MemAvailable")]
    known += [max(limit - used, 0) for limit, used in _groups(Path(root))]
    return min((size for size in known if size is not None), default=None)


def _read(path: Path) -> str | None:
    """The text of a file; None where there is none that this process may read."""
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return None


def _meminfo(root: Path) -> dict[str, int]:
    """The lines of ``/proc/meminfo``, in bytes."""
    lines = re.findall(r"^(\w+):\s+(\d+) kB$", _read(root / "proc/meminfo") or "", re.MULTILINE)
    return {name: int(size) * 1024 for name, size in lines}


def _groups(root: Path) -> Iterator[tuple[int, int]]:
    """Limit and use, in bytes, of each group with a limit that this process is in."""
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            for folder in _folders(root / "sys/fs/cgroup", path):
                limits = [_number(folder / name) for name in ("memory.max", "memory.high")]
                limit = min((size for size in limits if size is not None), default=None)
                yield from _group(folder, limit, "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            for folder in _folders(root / "sys/fs/cgroup/memory", path):
                limit = _number(folder / "memory.limit_in_bytes")
                yield from _group(folder, limit, "memory.usage_in_bytes", "total_inactive_file")


def _folders(mount: Path, path: str) -> Iterator[Path]:
    """The folders of a group and of those above it. In a container the group's own is often the mount
    itself, whatever the path says, so that a folder may be missing."""
    group = PurePosixPath("/") / path
    for at in (group, *group.parents):
        # ".." is a group outside of the container's view.
        yield mount.joinpath(*(part for part in at.parts[1:] if part != ".."))


def _group(folder: Path, limit: int | None, use: str, cache: str) -> Iterator[tuple[int, int]]:
    if limit is None or limit >= UNLIMITED:
        return
    found = re.search(rf"^{cache} (\d+)$", _read(folder / "memory.stat") or "", re.MULTILINE)
    droppable = int(found.group(1)) if found else 0
    yield limit, max((_number(folder / use) or 0) - droppable, 0)


def _number(path: Path) -> int | None:
    """The number in a file; None where there is none, or ``max``."""
    text = (_read(path) or "").strip()
    return int(text) if text.isdigit() else None


def default_kv_bytes(device: torch.device) -> int:
    """The hard limit of the page pool where the caller gives none."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory) // 4
    limit, available = limit_bytes(), available_bytes()
    if limit is None:
        return _quarter_by_sysconf()
    return max(min(limit // 4, limit if available is None else available // 2), LEAST_KV_BYTES)


def _quarter_by_sysconf() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
    except (AttributeError, ValueError, OSError):  # not known on this system
        return 4 << 30
