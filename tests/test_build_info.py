"""What the extension says of itself, and that it stands without torch."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hornbeam
from hornbeam import _native, build

ROOT = Path(__file__).parent.parent


def test_build_info_names_the_build() -> None:
    info = hornbeam.build_info()
    declared = re.search(r'^version = "(.+)"$', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)
    assert declared is not None
    assert info["version"] == declared[1] == _native.__version__
    assert info["profile"] in {"debug", "fast", "release", "dist"}
    assert info["rustc"].startswith("rustc 1.")
    assert info["target"].count("-") >= 2
    assert info["instruction_set"] in {"portable", "neon", "avx2", "avx512"}
    if info["instruction_set"] == "avx2":
        assert {"avx2", "fma", "f16c"} <= set(info["cpu_features"])


def test_build_info_gives_a_copy() -> None:
    hornbeam.build_info()["version"] = "changed"
    assert hornbeam.build_info()["version"] != "changed"


@pytest.mark.parametrize("name", ["python", "processor", "torch", "threads", "prepared_models"])
def test_environment_tells(name: str) -> None:
    assert build.environment()[name] is not None


@pytest.mark.parametrize("wrong", ["avx1024", "", "AVX2"])
@pytest.mark.parametrize(
    "command",
    [
        ["-m", "hornbeam", "info"],
        ["-m", "hornbeam", "generate", "hello"],
        ["-c", "import hornbeam; hornbeam.build_info()"],
        ["-c", "from hornbeam.ops import tree_attention"],
    ],
    ids=" ".join,
)
def test_a_wrong_instruction_set_is_told_by_the_import(command: list[str], wrong: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "python"), "HORNBEAM_ISA": wrong}
    done = subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    *_, last = done.stderr.splitlines()
    assert f'HORNBEAM_ISA is "{wrong}", expected one of portable' in last
    assert "panicked" not in done.stderr
    assert command[0] == "-c" or done.stderr.count("\n") == 1


def test_an_instruction_set_can_be_chosen() -> None:
    code = "import hornbeam; print(hornbeam.build_info()['instruction_set'])"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "python"), "HORNBEAM_ISA": "portable"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "portable\n"


def test_the_extension_imports_without_torch() -> None:
    """Loaded from its file, past the package, where torch cannot be imported."""
    code = (
        "import sys, importlib.util\n"
        "sys.modules['torch'] = None\n"
        f"spec = importlib.util.spec_from_file_location('_native', {_native.__file__!r})\n"
        "native = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(native)\n"
        "assert native.build_info()['version'] == native.__version__\n"
        "assert native.thread_pool()[0] == 'rayon'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
