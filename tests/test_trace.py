"""The trace: what it records, and the page in a real browser."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

import hornbeam as hb
from hornbeam.trace import _pieces
from tests import browser as browsers
from tests import models
from tests.drafts import Foresight

PROMPT = models.prompt(8, 1)[0].tolist()


class Words:
    """A tokenizer whose tokens hold what a page must escape."""

    texts = ("</script>", "<!--", "&amp;", "\n", " word", "\t", "'\"", "é", "漢字", "a" * 40, "\u2028", "")

    def decode(self, tokens, **_):
        return "".join(self.texts[token % len(self.texts)] for token in tokens)

    def __call__(self, text, **_):
        return {"input_ids": [4]}


@pytest.fixture(scope="module")
def trace():
    """A batch of two with a union of a chain and trees."""
    lm = hb.LM(models.llama(), Words())
    prompts = [PROMPT, models.prompt(5, 2)[0].tolist()]
    texts = [
        p + g.token_ids
        for p, g in zip(prompts, lm.generate(prompts, max_new_tokens=40, draft=None), strict=True)
    ]
    found = hb.Trace()
    union = hb.spec.Union(Foresight(texts, wrong=6), hb.spec.TokenRecycling(size=10))
    out = lm.generate(prompts, max_new_tokens=40, draft=union, length=hb.spec.Fixed(12), trace=found)
    return SimpleNamespace(trace=found, out=out, texts=texts, prompts=prompts)


def test_every_token_is_told_with_its_source(trace):
    told = trace.trace.to_dict()
    assert len(told["sequences"]) == 2
    for sequence, out, text, prompt in zip(
        told["sequences"], trace.out, trace.texts, trace.prompts, strict=True
    ):
        tokens, steps = sequence["tokens"], sequence["steps"]
        assert out.token_ids == text[len(prompt) :]
        assert "".join(token["text"] for token in tokens) == Words().decode(out.token_ids)
        assert len(tokens) == len(out.token_ids)
        assert len(steps) == out.stats.forward_passes
        kinds = [token["kind"] for token in tokens]
        assert sum(kind not in ("plain", "bonus") for kind in kinds) == out.stats.accepted
        assert {"Foresight", "TokenRecycling"} & set(kinds)
        assert kinds.count("bonus") == sum(0 < len(step["accepted"]) < step["emitted"] for step in steps)
        assert sum(len(step["draft"]) for step in steps) == out.stats.drafted
        assert 1 + sum(step["emitted"] for step in steps) == len(tokens)
        for step in steps:
            at = -1
            for index in step["accepted"]:
                assert step["draft"][index]["parent"] == at
                at = index
    assert told["curve"]
    assert all(seconds > 0 for _, seconds in told["curve"])


def test_a_trace_is_of_the_last_call(trace):
    lm, found = hb.LM(models.llama()), hb.Trace()
    assert found.to_dict() == {"sequences": [], "curve": []}
    for count in (6, 3):
        lm.generate(PROMPT, max_new_tokens=count, trace=found)
    (sequence,) = found.to_dict()["sequences"]
    assert len(sequence["tokens"]) == 3
    assert sequence["prompt"].startswith("⟨"), "without a tokenizer ids are shown"
    lm.generate(PROMPT, max_new_tokens=3, draft=None, trace=found)
    assert all(not step["draft"] for step in found.to_dict()["sequences"][0]["steps"])


def test_a_character_of_several_tokens_comes_with_its_last():
    data = "naïve 漢字 ok".encode()
    tokenizer = SimpleNamespace(decode=lambda tokens: bytes(tokens).decode(errors="replace"))
    pieces = _pieces(tokenizer, list(data))
    assert "".join(pieces) == "naïve 漢字 ok"
    assert pieces[2:4] == ["", "ï"]


def test_data_cannot_leave_its_element(trace):
    page = trace.trace.to_html()
    begin = page.index('id="data">') + len('id="data">')
    data = page[begin : page.index("</script>", begin)]
    assert "<" not in data
    assert json.loads(data) == json.loads(json.dumps(trace.trace.to_dict()))


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if browsers.found() is None:
        pytest.skip(f"no browser: none of {', '.join(browsers.NAMES)} is installed")
    opened = browsers.Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.mark.parametrize("width", [800, 1600])
def test_the_page_in_a_browser(trace, browser, tmp_path, width):
    page = tmp_path / "out.html"
    trace.trace.save(page)
    browser.open(page, width)
    assert browser.errors == []
    assert browser.requests == []
    told = trace.trace.to_dict()["sequences"]

    assert browser.run("document.getElementById('text').textContent") == "".join(
        t["text"] for t in told[0]["tokens"]
    )
    # Nothing sticks out of the window, nor a box out of its card but where it scrolls by itself.
    overflow = """(() => { const out = [];
      const wide = document.documentElement.scrollWidth;
      if (wide > innerWidth) out.push('page ' + wide);
      for (const node of document.querySelectorAll('main *')) {
        if (node.closest('.scroll') && !node.matches('.scroll')) continue;
        const box = node.getBoundingClientRect();
        const out_of_it = box.right > innerWidth + 0.5 || box.left < -0.5;
        if (out_of_it) out.push(node.tagName + ' ' + box.left + ' ' + box.right);
      } return out; })()"""
    assert browser.run(overflow) == []

    step = max(range(len(told[0]["steps"])), key=lambda i: len(told[0]["steps"][i]["accepted"]))
    browser.run(f"document.querySelector('#text span[data-step=\"{step}\"]').click()")
    assert browser.run("document.getElementById('place').textContent").startswith(f"step {step + 1} of")
    titles = browser.run(
        "[...document.querySelectorAll('#tree title')].map(t => t.textContent.split(':')[0])"
    )
    shown = told[0]["steps"][step]
    assert titles.count("accepted") == len(shown["accepted"])
    assert len(titles) == len(shown["draft"]) + 2
    assert browser.run("document.querySelectorAll('#text span.open').length") == shown["emitted"]
    assert browser.run("document.querySelectorAll('#time .bar').length") == 2 * len(told[0]["steps"])
    assert browser.run("document.querySelectorAll('#cost circle').length") == len(
        trace.trace.to_dict()["curve"]
    )
    assert browser.run(overflow) == []

    browser.run(
        "document.getElementById('which').value = '1';"
        "document.getElementById('which').dispatchEvent(new Event('change'))"
    )
    assert browser.run("document.getElementById('text').textContent") == "".join(
        t["text"] for t in told[1]["tokens"]
    )
    assert browser.run(overflow) == []
    assert browser.errors == []


def test_a_step_without_a_draft_and_an_empty_trace_are_shown(browser, tmp_path):
    lm, found = hb.LM(models.llama()), hb.Trace()
    found.save(tmp_path / "none.html")
    browser.open(tmp_path / "none.html", 800)
    assert browser.run("document.getElementById('summary').textContent") == "nothing was generated"
    lm.generate(torch.tensor(PROMPT).tolist(), max_new_tokens=1, trace=found)
    found.save(tmp_path / "one.html")
    browser.open(tmp_path / "one.html", 800)
    assert browser.run("document.getElementById('place').textContent") == "no steps"
    lm.generate(PROMPT, max_new_tokens=5, draft=None, trace=found)
    found.save(tmp_path / "plain.html")
    browser.open(tmp_path / "plain.html", 800)
    assert browser.run("document.querySelectorAll('#tree title').length") == 2
    assert browser.errors == []
