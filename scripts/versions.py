"""Runs tests with other versions of one package, for ``try_transformers.py`` and ``try_torch.py``.

Without a version on the command line these are the oldest that ``pyproject.toml`` allows, the one that
``requirements-dev.txt`` pins, and the newest on PyPI. Each but the pinned one lies with its own dependencies
in ``.venv/PACKAGE-VERSION``, which comes first on the path; all else is that of the environment of this
interpreter. They are tried one after the other, each to its end; the last line says which failed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent
PIP = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]


@dataclass(frozen=True)
class Trial:
    """A package of which several versions are tried.

    Attributes:
        package: its name.
        tests: files or folders of tests.
        own: packages that go with a version of it; all others are those that are pinned.
        environment: what the tests are run with.
    """

    package: str
    tests: Sequence[str]
    own: Iterable[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def oldest(self) -> str:
        """The lowest version that ``pyproject.toml`` allows."""
        text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        found = re.search(rf'"{self.package}>=([\d.]+)', text)
        if found is None:
            raise SystemExit(f"pyproject.toml names no lowest version of {self.package}")
        return found[1] + ".0" * (2 - found[1].count("."))

    def pins(self) -> dict[str, str]:
        """The packages of ``requirements-dev.txt`` with their versions."""
        lines = (ROOT / "requirements-dev.txt").read_text(encoding="utf-8").splitlines()
        return dict(line.split("==") for line in lines if "==" in line)

    def newest(self) -> str:
        """The newest version on PyPI that is not a preview."""
        options = ["--dry-run", "--ignore-installed", "--no-deps", "--report", "-", self.package]
        report = json.loads(subprocess.run([*PIP, *options], check=True, stdout=subprocess.PIPE).stdout)
        return str(report["install"][0]["metadata"]["version"])

    def installed(self, version: str, folder: Path) -> Path:
        """A folder with this version and its dependencies."""
        target = folder / f"{self.package}-{version}"
        ready = target / ".ready"
        if not ready.exists():
            target.mkdir(parents=True, exist_ok=True)
            constraints = target / "constraints.txt"
            own = {self.package, *self.own}
            kept = [f"{name}=={pin}\n" for name, pin in self.pins().items() if name not in own]
            constraints.write_text("".join(kept), encoding="utf-8")
            options = ["--upgrade", "--target", str(target), "--constraint", str(constraints)]
            subprocess.run([*PIP, *options, f"{self.package}=={version}"], check=True)
            ready.touch()
        return target

    def passes(self, version: str, folder: Path, options: list[str]) -> bool:
        """Whether the tests pass with this version."""
        own = [] if version == self.pins()[self.package] else [str(self.installed(version, folder))]
        path = os.pathsep.join([*own, str(ROOT / "python")])
        environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", **self.environment}
        code = f"import {self.package}; print({self.package}.__version__)"
        asked = [sys.executable, "-c", code]
        told = subprocess.run(asked, env=environment, check=True, stdout=subprocess.PIPE).stdout.decode()
        if told.strip().partition("+")[0] != version:
            raise SystemExit(f"python takes {self.package} {told.strip()}, expected {version}")
        print(f"== {self.package} {version}", flush=True)
        workers = ["--numprocesses", "logical", "--maxprocesses", "4"]
        command = [sys.executable, "-m", "pytest", "--quiet", *workers, *self.tests, *options]
        return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode == 0

    def main(self, description: str) -> None:
        """Tries the versions that the command line names."""
        parser = argparse.ArgumentParser(description=description)
        parser.add_argument("versions", nargs="*", metavar="VERSION")
        parser.add_argument("--folder", type=Path, default=ROOT / ".venv", help="where they are installed")
        end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
        arguments, options = parser.parse_args(sys.argv[1:end]), sys.argv[end + 1 :]
        found = arguments.versions or [self.oldest(), self.pins()[self.package], self.newest()]
        versions = list(dict.fromkeys(found))
        folder = arguments.folder.resolve()
        failed = [version for version in versions if not self.passes(version, folder, options)]
        if failed:
            raise SystemExit(f"failed with {self.package} {', '.join(failed)} of {', '.join(versions)}")
        print(f"passed with {self.package} {', '.join(versions)}")
