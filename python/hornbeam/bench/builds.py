"""The same work with the package of several checkouts, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from hornbeam.bench import harness

__all__ = ["AGAINST", "Worker", "packages"]

AGAINST = "HORNBEAM_BENCH_AGAINST"
"""The variable that names the other checkout's folder."""


def packages() -> dict[str, Path]:
    """Where ``ours`` lies, and ``theirs`` if :data:`AGAINST` names another checkout."""
    against = os.environ.get(AGAINST)
    return {"ours": harness.PACKAGES} | ({"theirs": Path(against, "python")} if against else {})


class Worker:
    """A process that runs a script with the package in a folder; each line that it reads asks for one more
    answer, a line of JSON."""

    def __init__(self, script: Path, folder: Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, script, *arguments],
            env={**os.environ, "PYTHONPATH": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self) -> Any:
        """The next answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process that measures ended with {self.process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
