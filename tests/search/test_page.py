"""The page of a search in a real browser."""

from __future__ import annotations

import json
import zlib
from types import SimpleNamespace
from typing import Any

import pytest

import hornbeam as hb
from hornbeam.search import Budget, StepEnd
from tests import models

SIZES = [(width, scheme) for width in (400, 800, 1600) for scheme in ("light", "dark")]


def score(paths: Any) -> list[float]:
    return [zlib.crc32(bytes(path.token_ids)) / 2**32 for path in paths]


def answer(path: Any) -> str | None:
    told = zlib.crc32(bytes(path.token_ids))
    return f"</script><b>{told % 3}" if told % 7 == 0 else None


@pytest.fixture(scope="module")
def found() -> dict[str, hb.search.SearchResult]:
    """Sixteen wide and six deep, and one of twenty-five steps; their texts are whatever bytes come."""
    lm = hb.LM(models.llama(), models.byte_tokenizer())
    options: dict[str, Any] = {"value": score, "draft": None, "seed": 3}
    wide = hb.recipes.step_beam(width=16, children=4, max_depth=6)
    deep = hb.recipes.step_beam(width=4, children=2, max_depth=25)
    budget = Budget(tokens=2000, kv_bytes="2MB", seconds=600)
    prompt = "</script><!-- where to?\n"
    return {
        "wide": lm.search(prompt, recipe=wide, finish=answer, step=StepEnd(None, 6), **options),
        "deep": lm.search(prompt, recipe=deep, step=StepEnd(None, 3), budget=budget, **options),
    }


def shown(browser: Any, result: Any, file: Any, width: int = 1600, scheme: str = "light") -> None:
    browser.errors.clear()
    browser.requests.clear()
    result.save_page(file)
    browser.prefer(scheme)
    browser.open(file, width)


def text_of(browser: Any, name: str) -> str:
    said: str = browser.run(f"document.getElementById('{name}').textContent")
    return said


def count_of(browser: Any, selector: str) -> int:
    count: int = browser.run(f"document.querySelectorAll({json.dumps(selector)}).length")
    return count


def test_the_data_lies_in_its_element(found: dict[str, Any]) -> None:
    page = found["wide"].to_html()
    assert page.isascii()
    begin = page.index('id="data">') + len('id="data">')
    data = page[begin : page.index("</script>", begin)]
    assert "<" not in data
    assert json.loads(data) == json.loads(json.dumps(found["wide"].to_dict()))
    frame = found["wide"]._repr_html_()
    assert frame.startswith('<iframe srcdoc="&lt;!doctype html&gt;')


@pytest.mark.parametrize("name", ["wide", "deep"])
@pytest.mark.parametrize(("width", "scheme"), SIZES)
def test_the_page_in_a_browser(
    found: dict[str, Any], browser: Any, tmp_path: Any, name: str, width: int, scheme: str
) -> None:
    result = found[name]
    told = result.to_dict()
    shown(browser, result, tmp_path / "out.html", width, scheme)
    assert browser.sticking_out() == []
    assert count_of(browser, "#tree .leaf") == len(told["nodes"]) + 1
    assert count_of(browser, "#tree .leaf.way") == len(told["path"]) + 1
    assert count_of(browser, "#tree .link.way") == len(told["path"])
    assert count_of(browser, "#tree rect.mark") == sum(node["is_finished"] for node in told["nodes"])
    assert count_of(browser, "#pages .held") == len(told["rounds"])
    assert count_of(browser, "#spent .curve") == 3
    assert count_of(browser, "#table tr") == len(told["nodes"]) + 1
    assert count_of(browser, "#answers button") == len(told["answers"])
    assert text_of(browser, "which").startswith(f"Node {told['best']}, ")
    assert browser.run("[...document.getElementById('text').textContent].length") == len(
        told["prompt"] + told["text"]
    )
    # Its marks do not touch, and all of them lie in the box or in what it scrolls to.
    apart = browser.run("""(() => {
      const boxes = [...document.querySelectorAll('#tree .mark')].map(mark => mark.getBoundingClientRect());
      return boxes.filter((a, i) => boxes.some((b, j) => i < j && a.left < b.right && b.left < a.right
        && a.top < b.bottom && b.top < a.bottom)).length; })()""")
    assert apart == 0
    assert browser.run("el('tree').scrollWidth - el('tree').clientWidth") <= 0
    browser.run("el('list').open = true")
    assert browser.sticking_out() == []
    assert browser.errors == []
    assert browser.requests == []


def test_nodes_are_picked_by_mouse_and_keys(found: dict[str, Any], browser: Any, tmp_path: Any) -> None:
    told = found["wide"].to_dict()
    shown(browser, found["wide"], tmp_path / "out.html")
    node = next(one for one in told["nodes"] if one["depth"] == 2 and one["node"] not in told["path"])
    browser.run(
        f"document.querySelector('#tree .leaf[data-node=\"{node['node']}\"]')"
        ".dispatchEvent(new MouseEvent('click'))"
    )
    assert text_of(browser, "which") == f"Node {node['node']}, step 2 of its path"
    assert f"round{node['round']}" in text_of(browser, "facts")
    browser.run("document.querySelector('#tree .leaf[tabindex=\"0\"]').focus()")
    browser.press("ArrowLeft")
    assert text_of(browser, "which") == f"Node {node['parent']}, step 1 of its path"
    browser.press("Home")
    assert text_of(browser, "which") == "The prompt"
    for depth, expected in enumerate(told["path"], 1):
        browser.press("ArrowRight")
        assert text_of(browser, "which") == f"Node {expected}, step {depth} of its path"
    browser.press("ArrowDown")
    assert text_of(browser, "which") != f"Node {told['best']}, step {len(told['path'])} of its path"
    assert count_of(browser, "#tree .leaf[tabindex='0']") == count_of(browser, "#tree .leaf.picked") == 1
    assert browser.errors == []


def test_the_tree_is_shown_as_it_was_after_a_round(
    found: dict[str, Any], browser: Any, tmp_path: Any
) -> None:
    told = found["wide"].to_dict()
    shown(browser, found["wide"], tmp_path / "out.html", 800)
    last = len(told["rounds"])
    for number in (last, last - 1, 2, 1):
        browser.run(f"showRound({number})")
        seen = [node for node in told["nodes"] if node["round"] <= number]
        assert count_of(browser, "#tree .leaf:not(.later)") == len(seen) + 1
        gone = [node for node in seen if node["released"] and node["released"] <= min(number, last - 1)]
        assert count_of(browser, "#tree .leaf.released:not(.later)") == len(gone)
        assert text_of(browser, "place").startswith(f"round {number} of {last}: ")
    browser.run("el('on').click()")
    assert text_of(browser, "place").startswith("round 2 of")
    # A node of a later round brings that round.
    browser.run(f"pick(tree.all.get({told['nodes'][-1]['node']}))")
    assert text_of(browser, "place").startswith(f"round {told['nodes'][-1]['round']} of")
    assert browser.errors == []


def test_limits_are_drawn_where_they_lie_on_the_scale(
    found: dict[str, Any], browser: Any, tmp_path: Any
) -> None:
    shown(browser, found["deep"], tmp_path / "out.html")
    spent = found["deep"].ledger
    assert f"{spent.tokens} of 2,000" in text_of(browser, "figures")
    assert "of 2 MB" in text_of(browser, "figures")
    assert count_of(browser, "#pages .limit") == int(4 * spent.kv_bytes >= 2_000_000)
    assert count_of(browser, "#spent .limit") == int(4 * spent.tokens >= 2000)


def test_an_error_and_a_search_without_finished_paths_are_said(browser: Any, tmp_path: Any) -> None:
    lm = hb.LM(models.llama())

    def fails(paths: Any) -> list[float]:
        if paths[0].depth == 2:
            raise RuntimeError("no <idea>")
        return score(paths)

    result = lm.search(
        [1, 2, 3], recipe=hb.recipes.rebase(width=3), value=fails, step=StepEnd(None, 3), draft=None
    )
    shown(browser, result, tmp_path / "out.html", 400)
    assert text_of(browser, "failure") == "RuntimeError: no <idea>"
    assert browser.run("el('voted').hidden") is True
    assert "by an error" in text_of(browser, "figures")
    assert browser.sticking_out() == []
    result.tree.paths.clear()
    shown(browser, SimpleNamespace(save_page=result.save_page), tmp_path / "none.html", 400)
    assert text_of(browser, "summary") == "nothing was searched"
    assert browser.errors == []
