"""What a measurement is true for: the processor, what runs on it, and how.

Each is a fact that changes which kernel is faster. Two machines that share a home folder differ in one of
them, or are alike in all, and then what one has measured serves the other.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch

from hornbeam import _native

__all__ = ["digest", "machine_facts", "processor_name"]


def machine_facts(device: torch.device, threads: int | None = None, root: str | Path = "/") -> dict[str, str]:
    """The facts by name.

    Args:
        device: that the model is on; of a GPU its name counts too.
        threads: of torch's pool; those that it has now by default.
        root: where ``proc`` and ``sys`` lie.

    Returns:
        ``processor`` (maker, family, model, stepping), ``features`` (a digest of all that it says it can do),
        ``cores``, ``caches``, ``huge_pages``, ``torch`` (with the instruction set that it chose), ``build``
        (a digest of the extension), ``instruction_set`` (which ``HORNBEAM_ISA`` may have lowered),
        ``threads`` and ``device``. What a system does not tell is ``unknown``.
    """
    facts = dict(_constant_facts(str(root)))
    facts["threads"] = str(torch.get_num_threads() if threads is None else threads)
    facts["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return facts


@cache
def _constant_facts(root: str) -> dict[str, str]:
    """Those that stay what they are while the process lives."""
    folder = Path(root)
    info = _first_processor(_text(folder / "proc/cpuinfo"))
    named = [info.get(name, "") for name in ("vendor_id", "cpu family", "model", "model name", "stepping")]
    arm = [info.get(f"CPU {name}", "") for name in ("implementer", "variant", "part", "revision")]
    features = info.get("flags") or info.get("Features") or ""
    return {
        "processor": " ".join(filter(None, named + arm)) or processor_name(),
        "features": digest({"features": " ".join(sorted(features.split()))}) if features else "unknown",
        "cores": str(os.cpu_count()),
        "caches": _caches(folder / "sys/devices/system/cpu/cpu0/cache"),
        "huge_pages": _chosen(_text(folder / "sys/kernel/mm/transparent_hugepage/enabled")),
        "torch": f"{torch.__version__} {torch.backends.cpu.get_cpu_capability()}",
        "build": f"{_native.__version__} {_build_digest()}",
        "instruction_set": str(_native.build_info()["instruction_set"]),
    }


def digest(facts: Mapping[str, str]) -> str:
    """Twelve digits that differ where facts do."""
    text = json.dumps(dict(sorted(facts.items())), separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def processor_name() -> str:
    """The processor's name as its maker prints it, or the architecture where that is not told."""
    if sys.platform == "linux":
        name = _first_processor(_text(Path("/proc/cpuinfo"))).get("model name")
        if name:
            return name
    return platform.processor() or platform.machine()


def _build_digest() -> str:
    """Of the extension itself: a kernel that was compiled anew has not been measured."""
    data = Path(_native.__file__).read_bytes()
    return hashlib.blake2b(data, digest_size=6).hexdigest()


def _first_processor(text: str) -> dict[str, str]:
    lines = text.partition("\n\n")[0].splitlines()
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _caches(folder: Path) -> str:
    """Level, type and size of each cache of a core."""
    found = [
        " ".join(_text(index / name).strip() for name in ("level", "type", "size"))
        for index in sorted(folder.glob("index*"))
    ]
    return ", ".join(found) or "unknown"


def _chosen(text: str) -> str:
    """The word in brackets, as the kernel marks a choice."""
    found = re.search(r"\[(\w+)\]", text)
    return found.group(1) if found else "unknown"


def _text(path: Path) -> str:
    """A file's text; nothing where there is none, as on other systems."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
