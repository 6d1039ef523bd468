"""Modules of the core know what lies below them: the list in ``lib.rs`` is true, and there is no circle."""

from __future__ import annotations

import re
from graphlib import TopologicalSorter
from pathlib import Path

CORE = Path(__file__).parent.parent / "rust" / "core" / "src"
#: Modules whose files extend what the module itself declares: arrows from such a file up to it are left out.
DECLARING = {
    "keep",
    "keep::reduce",
    "keep::score",
    "keep::split",
    "search",
    "search::share",
    "ops::verify",
    "ops::warp",
    "tree",
}
#: One module in several files: vectors and the products of vectors are defined by each other.
WHOLE = ("simd",)


def name_of(file: Path) -> str:
    return "::".join(part for part in file.relative_to(CORE).with_suffix("").parts if part != "mod")


FILES = {name_of(file): file for file in sorted(CORE.rglob("*.rs")) if not file.stem.endswith("tests")}


def resolved(module: str, path: str) -> str:
    """The module that a path leads into; empty for what is not of the crate, and for the crate itself."""
    parts, base = path.split("::"), module.split("::")
    if parts[0] == "crate":
        parts, base = parts[1:], []
    elif parts[0] not in ("super", "self") and f"{module}::{parts[0]}" not in FILES:
        return ""
    while parts and parts[0] in ("super", "self"):
        base = base[:-1] if parts[0] == "super" else base
        parts = parts[1:]
    found = "::".join([*base, *parts])
    while found and found not in FILES:
        found = found.rpartition("::")[0]
    return next((whole for whole in WHOLE if found.startswith(f"{whole}::")), found)


def arrows(module: str) -> set[str]:
    """The modules that a file names in its code, tests left out."""
    text = re.sub(r"//.*", "", FILES[module].read_text(encoding="utf-8"))
    text = re.split(r"#\[cfg\(test\)\]\s*(?:#\[.*\]\s*)?(?:pub\(crate\) )?mod \w+ \{", text)[0]
    paths = set(re.findall(r"\b[a-z]\w*(?:::\w+)+", text))
    for prefix, group in re.findall(r"\buse ([\w:]+::)\{([^;]*)\};", text):
        paths |= {prefix + name.strip() for name in group.split(",")}
    return {resolved(module, path) for path in paths} - {resolved("", f"crate::{module}"), ""}


def test_arrows_run_down_and_in_no_circle() -> None:
    layers = re.findall(r"^//! (\d)\. (.*)$", (CORE / "lib.rs").read_text(encoding="utf-8"), re.M)
    level = {part: int(n) for n, line in layers for part in re.findall(r"\[`(?:mod@)?(\w+)`\]", line)}
    only = {n: set(re.findall(r"\d", line.partition("they know")[2])) for n, line in layers}
    graph: dict[str, set[str]] = {}
    for module in FILES.keys() - {"lib"}:
        part = module.partition("::")[0]
        for other in arrows(module):
            below = other.partition("::")[0]
            allowed = only[str(level[part])] or {str(n) for n in range(1, max(level[part], 2))}
            assert below == part or str(level[below]) in allowed, f"{module} uses {other}"
            if not (other in DECLARING and module.startswith(f"{other}::")):
                graph.setdefault(resolved("", f"crate::{module}"), set()).add(other)
    assert len(graph) > 60, "imports are not found any more"
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle
