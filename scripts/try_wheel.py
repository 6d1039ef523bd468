"""Installs the wheel of a folder into throwaway environments and imports the extension there.

``python scripts/try_wheel.py FOLDER [--to-publish]``

One wheel serves every Python from 3.10 on: it is tried with the oldest and the newest interpreter
that this machine has, without dependencies, so that the extension is seen to stand without torch. It
says why no kernel can run where none can; one that is to be published must hold kernels, and be built with
the profile ``dist``. Then a quick bench is run as a user would, from a folder of its own, with the packages
of the interpreter that runs this script.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

CHECK = """
import importlib.util, sys
found = importlib.util.find_spec("hornbeam")
[folder] = found.submodule_search_locations
import glob, os
[file] = glob.glob(os.path.join(folder, "_native*.so")) + glob.glob(os.path.join(folder, "_native*.pyd"))
spec = importlib.util.spec_from_file_location("_native", file)
native = importlib.util.module_from_spec(spec)
spec.loader.exec_module(native)
info = native.build_info()
if "--to-publish" in sys.argv:
    assert info["profile"] == "dist", info
    assert info["cuda"].startswith("CUDA "), info["cuda"]
status = native.cuda_status()
assert status["available"] or status["reason"], status
assert "torch" not in sys.modules
pages = [f"pages/{name}" for name in ("trace.html", "keep.html", "search.html", "base.css", "base.js")]
task = [f"tasks/countdown/{name}" for name in ("problems.json", "weights/small/model.safetensors")]
for part in ("py.typed", *pages, *task):
    assert os.path.isfile(os.path.join(folder, part)), part
python = sys.version.split()[0]
print(f"python {python}: hornbeam {info['version']}, {info['instruction_set']}, {info['cuda']}")
"""


def interpreters() -> list[str]:
    """Paths of the Python interpreters from 3.10 on, oldest first, one a minor version."""
    candidates = [shutil.which(f"python3.{minor}") for minor in range(10, 20)]
    pyenv = Path.home() / ".pyenv" / "versions"
    candidates += sorted(str(path) for path in pyenv.glob("3.*/bin/python3"))
    found: dict[tuple[int, int], str] = {}
    for path in [*candidates, sys.executable]:
        version = minor_version(path) if path else None
        if path and version and version >= (3, 10):
            found[version] = path
    return [found[version] for version in sorted(found)]


def minor_version(python: str) -> tuple[int, int] | None:
    """Of an interpreter that runs and can make environments; None for one that does not."""
    code = "import sys, venv, ensurepip; print(*sys.version_info[:2])"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return None
    major, minor = done.stdout.split()
    return int(major), int(minor)


def try_wheel(wheel: Path, python: str, options: list[str]) -> None:
    """Fails with the output of whatever failed."""
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run([python, "-m", "venv", scratch], check=True)
        local = str(Path(scratch, "bin", "python"))
        install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", str(wheel)]
        subprocess.run([local, *install], check=True)
        subprocess.run([local, "-I", "-c", CHECK, *options], check=True)


def try_bench(wheel: Path) -> None:
    """Runs ``hornbeam bench`` of the wheel, with no checkout on the path."""
    with tempfile.TemporaryDirectory() as scratch:
        packages, work = Path(scratch, "packages"), Path(scratch, "work")
        work.mkdir()
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--target", str(packages), str(wheel)], check=True)
        bench = ["bench", "step_overhead", "--quick", "--only", "batch_1", "--out", "results"]
        subprocess.run(
            [sys.executable, "-m", "hornbeam", *bench],
            cwd=work,
            env={**os.environ, "PYTHONPATH": str(packages)},
            check=True,
        )
        [file] = (work / "results").iterdir()
        report = json.loads(file.read_text(encoding="utf-8"))
        if not report["results"]["batch_1"]["step_seconds"] > 0:
            raise SystemExit(f"hornbeam bench wrote {report['results']}, expected seconds of a step")


def main() -> None:
    parser = argparse.ArgumentParser(description="Try a wheel in fresh environments.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--to-publish", action="store_true", help="it must hold kernels, fully optimised")
    arguments = parser.parse_args()
    options = ["--to-publish"] if arguments.to_publish else []
    [wheel] = arguments.folder.glob("hornbeam-*.whl")
    if not re.search(r"-cp310-abi3-", wheel.name):
        raise SystemExit(f"wheel is {wheel.name}, expected the tag cp310-abi3")
    found = interpreters()
    for python in dict.fromkeys([found[0], found[-1]]):
        try_wheel(wheel, python, options)
    if len(found) == 1:
        print("this machine has one Python only: the wheel was not tried in a second one")
    try_bench(wheel)
    print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
