"""Runs the tests that hold us to transformers with other versions of it.

``python scripts/try_transformers.py [VERSION ...] [-- PYTEST OPTION ...]``

Without a version these are the oldest that ``pyproject.toml`` allows, the one that ``requirements-dev.txt``
pins, and the newest on PyPI. Each but the pinned one lies with its own dependencies in
``.venv/transformers-VERSION``, which comes first on the path; torch and all else are those of the environment
of this interpreter. They are tried one after the other, each to its end; the last line says which failed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
TESTS = [
    "tests/integrations/test_every_field.py",
    "tests/integrations/test_asked_in_order.py",
    "tests/integrations/test_transformers.py",
    "tests/lm/test_checkpoint.py",
    "tests/lm/test_architectures.py",
]
PIP = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
#: Packages that go with a version of transformers; all others are those that are pinned.
ITS_OWN = {"transformers", "tokenizers", "safetensors"}


def oldest() -> str:
    """The lowest version that the extra ``hf`` allows."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'"transformers>=([\d.]+)', text)
    if found is None:
        raise SystemExit("pyproject.toml names no lowest version of transformers")
    return found[1] + ".0" * (2 - found[1].count("."))


def pins() -> dict[str, str]:
    """The packages of ``requirements-dev.txt`` with their versions."""
    lines = (ROOT / "requirements-dev.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


def newest() -> str:
    """The newest version on PyPI that is not a preview."""
    command = [*PIP, "--dry-run", "--ignore-installed", "--no-deps", "--report", "-", "transformers"]
    report = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return str(report["install"][0]["metadata"]["version"])


def installed(version: str, folder: Path) -> Path:
    """A folder with this version and its dependencies."""
    target = folder / f"transformers-{version}"
    ready = target / ".ready"
    if not ready.exists():
        target.mkdir(parents=True, exist_ok=True)
        constraints = target / "constraints.txt"
        kept = [f"{name}=={pin}\n" for name, pin in pins().items() if name not in ITS_OWN]
        constraints.write_text("".join(kept), encoding="utf-8")
        options = ["--upgrade", "--target", str(target), "--constraint", str(constraints)]
        subprocess.run([*PIP, *options, f"transformers=={version}"], check=True)
        ready.touch()
    return target


def passes(version: str, folder: Path, options: list[str]) -> bool:
    """Whether the tests pass with this version."""
    own = [] if version == pins()["transformers"] else [str(installed(version, folder))]
    path = os.pathsep.join([*own, str(ROOT / "python")])
    environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "HORNBEAM_ARCHITECTURES": "all"}
    code = "import transformers; print(transformers.__version__)"
    told = subprocess.run([sys.executable, "-c", code], env=environment, check=True, stdout=subprocess.PIPE)
    found = told.stdout.decode().strip()
    if found != version:
        raise SystemExit(f"python takes transformers {found}, expected {version}")
    print(f"== transformers {version}", flush=True)
    workers = ["--numprocesses", "logical", "--maxprocesses", "4"]
    command = [sys.executable, "-m", "pytest", "--quiet", *workers, *TESTS, *options]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("versions", nargs="*", metavar="VERSION")
    parser.add_argument("--folder", type=Path, default=ROOT / ".venv", help="where they are installed")
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    arguments, options = parser.parse_args(sys.argv[1:end]), sys.argv[end + 1 :]
    versions = arguments.versions or list(dict.fromkeys([oldest(), pins()["transformers"], newest()]))
    failed = [version for version in versions if not passes(version, arguments.folder.resolve(), options)]
    if failed:
        raise SystemExit(f"failed with transformers {', '.join(failed)} of {', '.join(versions)}")
    print(f"passed with transformers {', '.join(versions)}")


if __name__ == "__main__":
    main()
