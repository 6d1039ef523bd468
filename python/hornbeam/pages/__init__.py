"""Pages that need nothing but a browser: styles, scripts and data of each lie in its one file.

The parts of a page are files beside this one. Its HTML names them as it would without us, by ``href`` and
``src``; :func:`render` puts their text in place of that, and the data where the HTML says ``data``.
"""

from __future__ import annotations

import json
import re
from importlib import resources
from typing import Any

__all__ = ["render"]

_STYLE = re.compile(r'<link rel="stylesheet" href="([a-z]+\.css)">')
_SCRIPT = re.compile(r'<script src="([a-z]+\.js)"></script>')
_DATA = '<script type="application/json" id="data">'


def render(name: str, data: Any) -> str:
    """The page of this name with its data, as the text of one file.

    Args:
        name: ``"trace"``, ``"search"``, ``"keep"`` or ``"attend"``.
        data: what its scripts read: plain values, any text in them.

    Returns:
        HTML that asks for nothing beyond itself. Of the data it holds ASCII alone, so that text which has no
        encoding (half of a surrogate pair) can be written to a file too.
    """
    page = _STYLE.sub(lambda found: f"<style>\n{_read(found[1])}</style>", _read(f"{name}.html"))
    page = _SCRIPT.sub(lambda found: f"<script>\n{_read(found[1])}</script>", page)
    before, mark, after = page.partition(_DATA)
    # Within a script element only "</script" and "<!--" end it or change its meaning.
    return before + mark + json.dumps(data, allow_nan=False).replace("<", "\\u003c") + after


def _read(name: str) -> str:
    return resources.files(__name__).joinpath(name).read_text(encoding="utf-8")
