"""Values lie below, faces on top: no import runs up, those for type checkers included."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import pytest

ROOT = Path(__file__).parent.parent / "python" / "hornbeam"
#: From the lowest to the highest; parts of one line know nothing of each other.
LAYERS = (
    ("errors", "_native", "whole_file"),
    (
        "integers",
        "interrupts",
        "methods",
        "tensor_file",
        "text",
        "text_file",
        "warp",
        "memory",
        "pages",
        "results",
    ),
    ("prompt", "trace", "machine"),
    ("cuda",),
    ("ops",),
    ("cache",),
    ("model",),
    ("attend", "keep", "search", "speculation"),
    ("engine",),
    ("lm", "build"),
    ("recipes", "integrations", "tasks", "training"),
    ("serve",),
    ("bench",),
    ("cli",),
    ("__main__",),
)
#: What people write by hand; stubs, which list what another file has, are not among it.
WRITTEN = ("*.py", "*.rs", "*.cu", "*.cuh", "*.h", "*.c")
LEVELS = {part: level for level, parts in enumerate(LAYERS) for part in parts}


def imports(file: Path) -> Iterator[str]:
    """The parts of hornbeam that a file imports."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "hornbeam":
            yield from (alias.name for alias in node.names if alias.name in LEVELS)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hornbeam."):
            yield str(node.module).split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (
                alias.name.split(".")[1] for alias in node.names if alias.name.startswith("hornbeam.")
            )


@pytest.mark.parametrize("file", sorted(ROOT.rglob("*.py")), ids=lambda file: str(file.relative_to(ROOT)))
def test_no_import_runs_up(file: Path) -> None:
    part = file.relative_to(ROOT).parts[0].removesuffix(".py")
    if part == "__init__":
        return
    for other in imports(file):
        assert other == part or LEVELS[other] < LEVELS[part], f"{part} imports {other}"


def test_files_are_small() -> None:
    """A file that one reads at a sitting has one subject: more than 400 lines are two."""
    checkout = ROOT.parent.parent
    made = {".venv", "target"}
    files = [file for name in WRITTEN for file in checkout.rglob(name)]
    written = [file for file in files if not made & set(file.relative_to(checkout).parts)]
    sizes = {file: file.read_bytes().count(b"\n") for file in written}
    assert len(sizes) > 600, "files are not found any more"
    assert {str(file): size for file, size in sizes.items() if size >= 400} == {}
    assert fmean(sizes.values()) <= 180
