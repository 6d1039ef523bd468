"""What the kernels run on: their host emulation, which the host compiler builds, or this machine's device."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from hornbeam import _native, cuda

ROOT = Path(__file__).parent.parent.parent
SOURCES = ROOT / "cuda"
#: Contraction is off, as on the device: what decides is fused only where the source says so.
FLAGS = ["-std=c++20", "-O2", "-g1", "-ffp-contract=off", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-fPIC"]
SANITIZE = ["-fsanitize=address", "-fno-omit-frame-pointer"]
FMA = ["-mfma"]


def compiler() -> str:
    found = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    if found is None:
        raise RuntimeError("no host compiler: the emulation of the CUDA kernels is not tested")
    return found


def cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "hornbeam" / "simt"


def build(kernels: list[Path], sanitize: bool = False) -> Path:
    """The shared library that emulates `kernels`, compiled unless an identical one is kept."""
    runtime = sorted((SOURCES / "simt").glob("*.cpp"))
    headers = sorted((SOURCES / "simt").glob("*.h")) + sorted((SOURCES / "include").rglob("*.*h"))
    flags = FLAGS + (SANITIZE if sanitize else [])
    if os.uname().machine == "x86_64" and "fma" in _native.build_info()["cpu_features"]:
        flags = flags + FMA  # fmaf inline instead of a call
    digest = hashlib.sha256(repr((compiler(), flags)).encode())
    for path in [*runtime, *headers, *kernels]:
        digest.update(path.name.encode() + path.read_bytes())
    library = cache() / f"simt-{digest.hexdigest()[:24]}.so"
    if library.exists():
        return library
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        include = ["-I", str(SOURCES / "simt"), "-I", str(SOURCES / "include")]
        base = [compiler(), *flags, "-DHORNBEAM_SIMT", *include]
        objects, running = [], []
        for path in [*runtime, *kernels]:
            objects.append(str(Path(folder) / f"{path.stem}.o"))
            running.append(subprocess.Popen([*base, "-c", "-x", "c++", str(path), "-o", objects[-1]]))
        codes = [job.wait() for job in running]
        if any(codes):
            raise RuntimeError("the emulation does not compile")
        # -Bsymbolic: under a sanitizer several of these libraries may be loaded at once.
        linked = Path(folder) / "simt.so"
        subprocess.run([*base, "-shared", "-Wl,-Bsymbolic", *objects, "-o", str(linked)], check=True)
        os.replace(linked, library)
    return library


@functools.cache
def library(sanitize: bool = False) -> Path:
    """The emulation of all kernels that are shipped."""
    return build(sorted(SOURCES.glob("*.cu")), sanitize)


class Emulation:
    """One emulation, opened as hornbeam opens a driver."""

    #: Where torch keeps the tensors that its kernels take.
    place = "cpu"

    def __init__(self, path: Path) -> None:
        self.lane = _native.CudaLane(str(path))
        self._symbols = ctypes.CDLL(str(path))
        self._symbols.hornbeam_simt_report.restype = ctypes.c_char_p

    def seed(self, value: int) -> None:
        """The order of threads: 0 forward, 1 reverse, else permuted."""
        self._symbols.hornbeam_simt_seed(ctypes.c_uint64(value))

    def launch(
        self, kernel: str, grid: int, threads: int, parameters: ctypes.Structure, shared: int = 0
    ) -> str:
        """Launches by name through the driver's own entry points; the report, empty when all went well."""
        function = ctypes.c_void_p()
        found = self._symbols.cuModuleGetFunction(ctypes.byref(function), None, kernel.encode())
        assert found == 0, kernel
        pointers = (ctypes.c_void_p * 1)(ctypes.addressof(parameters))
        code = self._symbols.cuLaunchKernel(function, grid, 1, 1, threads, 1, 1, shared, None, pointers, None)
        report = self._symbols.hornbeam_simt_report().decode()
        assert (code == 0) == (report == "")
        return report


class Device:
    """This machine's device: it orders threads as it likes."""

    place = "cuda"

    def __init__(self) -> None:
        self.lane = _native.CudaLane()

    def seed(self, value: int) -> None:
        pass


@functools.cache
def emulation() -> Emulation:
    return Emulation(library(sanitize=bool(os.environ.get("HORNBEAM_SIMT_ASAN"))))


_chosen: Emulation | Device | None = None


@contextmanager
def choose(backend: Emulation | Device) -> Iterator[None]:
    """Until the end, ``backend`` is what :func:`current` gives: the fixture ``backend`` chooses it."""
    global _chosen
    before, _chosen = _chosen, backend
    try:
        yield
    finally:
        _chosen = before


def current() -> Emulation | Device:
    """What the kernels of this test run on."""
    if _chosen is None:
        raise RuntimeError("this test has not asked for the fixture `backend`")
    return _chosen


def place() -> str:
    """Where torch keeps the tensors that the kernels of this test take."""
    return current().place


def on_the_device() -> AbstractContextManager[None]:
    """hornbeam.ops where the kernels run: the emulation takes CPU tensors meanwhile."""
    chosen = current()
    return cuda.emulated(chosen.lane) if isinstance(chosen, Emulation) else nullcontext()
