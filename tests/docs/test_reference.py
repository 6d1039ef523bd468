"""docs/reference.md is what the package says of itself, and the package says something of everything."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pytest

import hornbeam as hb
from tests.docs.blocks import ROOT


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("reference")


@pytest.fixture
def docstrings(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("docstrings")


def test_every_public_name_and_argument_has_a_word(reference: ModuleType) -> None:
    missing = reference.problems()
    assert not missing, "\n".join(missing)


def test_the_page_is_of_now(reference: ModuleType) -> None:
    text = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    assert reference.page() == text, "docs/reference.md is of before: run python scripts/reference.py"


def test_the_page_names_everything(reference: ModuleType) -> None:
    text = reference.page()
    for module in (
        hb,
        hb.spec,
        hb.spec.shape,
        hb.keep,
        hb.recipes,
        hb.ops,
        importlib.import_module("hornbeam.cuda"),
    ):
        for name in module.__all__:
            if not isinstance(getattr(module, name), ModuleType) and not name.startswith("__"):
                assert f"\n### {name}\n" in text, f"{module.__name__}.{name}"


def bare(first: int, second: int = 2) -> None:
    pass


def half(first: int, second: int = 2) -> None:
    """Does something.

    Args:
        first: a number.
    """


def like(first: int, second: int = 2, *, third: float = 0.5, **more: Any) -> None:
    """As :func:`tests.docs.test_reference.whole`, faster.

    Args:
        third, more: ``taken``, over
            two lines.
    """


def whole(first: int, second: int = 2) -> None:
    """Does something. And more.

    Args:
        first: a number.
        second: another.

    Returns:
        nothing: whatever
    """


def keywords(first: int, **options: Any) -> None:
    """Takes more than its signature says.

    Args:
        first: a number.
        second: another.
    """


def unsaid(first: int, **options: Any) -> None:
    """Says nothing of what else it takes.

    Args:
        first: a number.
    """


@dataclass(frozen=True)
class Fields:
    """Holds numbers.

    Args:
        by_section: one.
    """

    by_section: int
    #: Two, over
    #: two lines.
    by_comment: int = 2
    by_string: list[int] = field(default_factory=list)
    """Three."""
    bare: int = 4

    def method(self, said: int, unsaid: int) -> None:
        """Takes ``said``."""


def words(reference: ModuleType, value: Any) -> dict[str, tuple[str, str]]:
    return {argument.name: (argument.default, argument.text) for argument in reference.arguments(value)}


def test_what_is_said_of_arguments(reference: ModuleType) -> None:
    assert words(reference, bare) == {"first": ("", ""), "second": ("2", "")}
    assert words(reference, half) == {"first": ("", "a number."), "second": ("2", "")}
    assert words(reference, whole) == {"first": ("", "a number."), "second": ("2", "another.")}
    assert words(reference, like) == {
        "first": ("", "a number."),
        "second": ("2", "another."),
        "third": ("0.5", "`taken`, over two lines."),
        "**more": ("", "`taken`, over two lines."),
    }
    assert words(reference, keywords) == {"first": ("", "a number."), "second": ("", "another.")}
    assert words(reference, unsaid) == {"first": ("", "a number."), "**options": ("", "")}
    assert words(reference, Fields) == {
        "by_section": ("", "one."),
        "by_comment": ("2", "Two, over two lines."),
        "by_string": ("[]", "Three."),
        "bare": ("4", ""),
    }
    assert reference.signature("like", like) == "like(first, second=2, *, third=0.5, **more)"


def test_what_is_missing_is_found(reference: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "sections", lambda: {"here": [("bare", bare), ("Fields", Fields)]})
    assert reference.problems() == [
        "here.bare has no docstring",
        "here.bare does not say what first is",
        "here.bare does not say what second is",
        "here.Fields does not say what bare is",
        "here.Fields.method does not say what unsaid is",
    ]


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("One. Two.", "One."),
        ("Over\n two lines (Li et al. 2024, x).\n\nMore.", "Over two lines (Li et al. 2024, x)."),
        ("See :class:`hornbeam.speculation.Suffix` and ``x``: more", "See `hb.spec.Suffix` and `x`: more"),
        ("An example::\n\n    x = 1", "An example"),
    ],
)
def test_the_first_sentence(docstrings: ModuleType, text: str, first: str) -> None:
    assert docstrings.summary(text) == first
