"""kvpress in an environment of its own, and a process there that answers.

kvpress bounds the version of transformers below the one that hornbeam is measured with, so that both do not
fit into one environment. The second is made on first use, in the cache folder, on top of this one: torch is
shared, and what kvpress wants otherwise is installed before it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from types import TracebackType
from typing import Any

from hornbeam.bench import harness
from hornbeam.errors import MissingExtra

VERSION = "0.5.5"
WORKER = Path(__file__).parent / "kvpress_worker.py"


def environment() -> Path:
    """The interpreter of the environment, which is made first if need be (from the package index)."""
    from hornbeam.model.loading import cache_folder

    here = f"python{sys.version_info.major}.{sys.version_info.minor}"
    folder = cache_folder() / "peers" / f"kvpress-{VERSION}-{here}"
    interpreter = folder / "bin" / "python"
    if (folder / "complete").exists():
        return interpreter
    print(f"installing kvpress {VERSION} into {folder}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    outer = sysconfig.get_paths()["purelib"]
    inner = subprocess.run(
        [interpreter, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    (Path(inner) / "outer.pth").write_text(outer + "\n", encoding="utf-8")
    done = subprocess.run(
        [interpreter, "-m", "pip", "install", "--quiet", f"kvpress=={VERSION}"], check=False
    )
    if done.returncode:
        raise MissingExtra(f"kvpress {VERSION}, the peer of this bench, could not be installed into {folder}")
    (folder / "complete").touch()
    return interpreter


class Peer:
    """The worker as a context manager."""

    def __init__(self, model: Path, threads: int) -> None:
        self.model, self.threads = model, threads

    def __enter__(self) -> Peer:
        paths = [str(harness.PACKAGES), os.environ.get("PYTHONPATH", "")]
        self.process = subprocess.Popen(
            [environment(), WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, paths)),
                "HF_HUB_OFFLINE": "1",
                "TRANSFORMERS_VERBOSITY": "error",
            },
            # Ctrl-C is ours to answer.
            start_new_session=True,
        )
        self.versions = self.call("load", model=str(self.model), threads=self.threads)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # It holds nothing that is worth waiting for, and may be at work when a run is stopped.
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()

    def call(self, name: str, **arguments: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"call": name, **arguments}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker of kvpress ended with {self.process.wait()}")
        reply = json.loads(line)
        if "error" in reply:
            raise RuntimeError(f"kvpress: {reply['error']}")
        return reply["result"]
