"""Pages: one file each, that asks for nothing and holds any text."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hornbeam.pages import render

NAMES = ("trace", "search", "keep", "attend")
HOSTILE = (
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "\"'`${x}\\",
    "\0\x1b\x7f",
    "\ud800",
    "\u202eabc",
)

TEXTS = st.text(st.characters(categories=None)) | st.sampled_from(HOSTILE)


@pytest.mark.parametrize("name", NAMES)
def test_a_page_refers_to_nothing_outside_of_it(name):
    page = render(name, {})
    # An address is in it as the name of SVG alone.
    assert set(re.findall(r"https?://[^\"]*", page)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<(link|img|iframe|script[^>]* src)|@import|url\(", page)
    assert "default-src 'none'" in page
    assert page.count("<style>") == page.count("</style>") == 2
    assert page.count("<script") == page.count("</script>") >= 3


@pytest.mark.parametrize("name", NAMES)
@given(values=st.lists(TEXTS, max_size=5))
def test_data_comes_back_whatever_the_text(name, values):
    page = render(name, values)
    [found] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert found.isascii()
    assert "<" not in found
    assert json.loads(found) == values
    begin, end = page.split(f'id="data">{found}<')
    assert f'{begin}id="data">0<{end}' == render(name, 0)
