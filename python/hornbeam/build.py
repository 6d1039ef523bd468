"""What this build of hornbeam is, and what it runs on."""

from __future__ import annotations

import os
import platform
from typing import Any

from hornbeam import _native

__all__ = ["build_info", "environment"]


def build_info() -> dict[str, Any]:
    """Facts of the native extension.

    ``version``, ``profile`` (the Cargo profile: ``fast`` and ``debug`` are not for measuring),
    ``rustc``, ``target``, ``instruction_set`` (what the kernels run on here; the environment
    variable ``HORNBEAM_ISA`` can name a lesser one), ``cpu_features``, and ``cuda``: which kernels are
    inside, or why there are none.
    """
    return dict(_native.build_info())


def environment() -> dict[str, Any]:
    """Facts of the machine and of the packages around hornbeam; needs nothing beyond torch."""
    import torch

    from hornbeam import cuda
    from hornbeam.machine import kept
    from hornbeam.machine.folder import cache_folder
    from hornbeam.machine.identity import processor_name

    pool, threads = _native.thread_pool()
    lane = cuda.status()
    prepared = cache_folder() / "models"
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "transformers": _version("transformers"),
        "threads": threads,
        "thread_pool": pool,
        "cuda_kernels": "ready" if lane["available"] else lane["reason"],
        "cuda_devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "prepared_models": sorted(str(path) for path in prepared.glob("[!.]*")),
        "profiles": sorted(str(path) for path in kept.profiles_folder().glob("[!.]*")),
    }


def _version(package: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
