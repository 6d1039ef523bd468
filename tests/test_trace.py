"""The trace: what it records, and the page in a real browser."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from types import SimpleNamespace

import pytest

import hornbeam as hb
from hornbeam.text import pieces_of
from tests import models
from tests.drafts import Foresight

PROMPT = models.prompt(8, 1)[0].tolist()


def never(_prompt, _output):
    return False


class Unchanged:
    """A processor that changes nothing."""

    def __call__(self, _ids, logits):
        return logits


class Words:
    """A tokenizer whose tokens hold what a page must escape."""

    texts = (
        "</script>", "<!--", "&amp;", "\n", " word", "\t", "'\"", "é", "漢字", "a" * 40, "\u2028", "",
        "\0", "\u202eright to left", "שלום", "\ud83d", "\x1b[31m",
    )  # fmt: skip

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
    out = lm.generate(prompts, max_new_tokens=40, draft=union, length=hb.spec.Fixed(12), trace=found, seed=7)
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
    empty = found.to_dict()
    assert (empty["model"], empty["sequences"], empty["curve"]) == (None, [], [])
    for count in (6, 3):
        lm.generate(PROMPT, max_new_tokens=count, trace=found)
    (sequence,) = found.to_dict()["sequences"]
    assert len(sequence["tokens"]) == 3
    assert sequence["prompt"].startswith("⟨"), "without a tokenizer ids are shown"
    lm.generate(PROMPT, max_new_tokens=3, draft=None, trace=found)
    assert all(not step["draft"] for step in found.to_dict()["sequences"][0]["steps"])


def test_it_names_model_settings_seed_and_seconds(trace):
    told = trace.trace.to_dict()
    assert told["model"] == {
        "name": "LlamaForCausalLM",
        "class": "LlamaForCausalLM",
        "dtype": "float32",
        "device": "cpu",
    }
    assert told["version"] == hb.build_info()["version"]
    began = datetime.fromisoformat(told["began"])
    assert timedelta(0) <= datetime.now() - began < timedelta(hours=1)
    for sequence, out, prompt in zip(told["sequences"], trace.out, trace.prompts, strict=True):
        assert sequence["settings"] == {
            "seed": "7",
            "temperature": "0 (greedy)",
            "draft": (
                "Union(drafts=[Foresight(texts=[48 entries, 45 entries], wrong=6), TokenRecycling(size=10)])"
            ),
            "length": "Fixed(length=12)",
            "verify": "coupled",
            "keep": "everything",
            "max_new_tokens": "40",
        }
        assert sequence["prompt_tokens"] == len(prompt)
        assert sequence["seconds"] == out.stats.seconds
        assert sequence["tokens_per_second"] == out.stats.tokens_per_second > 0


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"temperature": 0.7, "top_k": 40, "seed": 3, "draft": None},
            {"seed": "3", "temperature": "0.7", "top_k": "40", "draft": "none"},
        ),
        ({"draft": hb.spec.Suffix(), "verify": "chain"}, {"draft": "Suffix", "verify": "chain"}),
        ({"keep": hb.recipes.knorm("50%")}, {"keep": "knorm, budget 50%"}),
        ({"stop": ["\n", "end"]}, {"stop": r"'\n', 'end'"}),
        (
            {"logits_processor": Unchanged(), "stopping_criterion": never},
            {"logits_processor": "Unchanged", "stopping_criterion": "never"},
        ),
        (
            {"warp": hb.Warp(temperature=0.0, repetition_penalty=1.2, bias={1: -1.0})},
            {"temperature": "0 (greedy)", "repetition_penalty": "1.2", "bias": "1 entries"},
        ),
    ],
    ids=["sampled", "verify", "keep", "stop", "functions", "warp"],
)
def test_settings_are_told_as_they_were_given(options, expected):
    found = hb.Trace()
    hb.LM(models.llama(), Words()).generate(PROMPT, max_new_tokens=3, trace=found, **options)
    settings = found.to_dict()["sequences"][0]["settings"]
    assert {name: settings.get(name) for name in expected} == expected
    assert ("length" in settings) == (settings["draft"] != "none")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/cache/models/smollm2-b179c9523d0e6a0f-v1", "smollm2"),
        ("folder/Qwen3-0.6B/", "Qwen3-0.6B"),
        ("", "LlamaForCausalLM"),
    ],
)
def test_a_model_is_named_by_the_end_of_its_path(path, name):
    model, found = models.llama(), hb.Trace()
    model.config.name_or_path = path
    hb.LM(model).generate(PROMPT, max_new_tokens=2, trace=found)
    assert found.to_dict()["model"]["name"] == name


def test_samples_of_one_prompt_are_told_apart():
    found = hb.Trace()
    hb.LM(models.llama()).generate(PROMPT, n=2, temperature=1.0, max_new_tokens=2, trace=found)
    first, second = (sequence["settings"] for sequence in found.to_dict()["sequences"])
    assert "sample" not in first
    assert second["sample"] == "2 of the same prompt"


def test_the_first_token_keeps_the_space_that_a_tokenizer_hides():
    class Spaced:
        def decode(self, tokens, **_):
            return "".join(f" w{token}" for token in tokens)[1:]

    found = hb.Trace()
    lm = hb.LM(models.llama(), Spaced())
    ids = lm.generate(PROMPT, max_new_tokens=3, trace=found).token_ids
    texts = [token["text"] for token in found.to_dict()["sequences"][0]["tokens"]]
    assert texts == [f" w{token}" for token in ids]


def test_a_character_of_several_tokens_comes_with_its_last():
    data = "naïve 漢字 ok".encode()
    tokenizer = SimpleNamespace(decode=lambda tokens: bytes(tokens).decode(errors="replace"))
    pieces = pieces_of(tokenizer, list(data))
    assert "".join(pieces) == "naïve 漢字 ok"
    assert pieces[2:4] == ["", "ï"]


@pytest.mark.parametrize("behind", [[], list(b"ab\xc3")], ids=["alone", "behind half a character"])
def test_pieces_add_up_to_the_text(behind):
    data = "naïve 漢字 ok" if not behind else "a"
    tokens = list(data.encode()) if not behind else [0xA9, *b" ok"]
    tokenizer = SimpleNamespace(decode=lambda tokens: bytes(tokens).decode(errors="replace"))
    expected = "naïve 漢字 ok" if not behind else "é ok"
    assert "".join(pieces_of(tokenizer, tokens, behind)) == expected


def test_data_cannot_leave_its_element(trace):
    page = trace.trace.to_html()
    assert page.isascii()
    begin = page.index('id="data">') + len('id="data">')
    data = page[begin : page.index("</script>", begin)]
    assert "<" not in data
    assert json.loads(data) == json.loads(json.dumps(trace.trace.to_dict()))


PAGES = [(width, scheme) for width in (400, 800, 1600) for scheme in ("light", "dark")]


def shown_in(browser, trace, file, width=1600, scheme="light"):
    """Opens the page of a trace; its errors and requests are those of this page alone."""
    browser.errors.clear()
    browser.requests.clear()
    trace.save(file)
    browser.prefer(scheme)
    browser.open(file, width)


def text_of(browser, name):
    return browser.run(f"document.getElementById('{name}').textContent")


@pytest.mark.parametrize(("width", "scheme"), PAGES)
def test_the_page_in_a_browser(trace, browser, tmp_path, width, scheme):
    shown_in(browser, trace.trace, tmp_path / "out.html", width, scheme)
    told = trace.trace.to_dict()["sequences"]
    # A half of a surrogate pair has no glyph, and a browser keeps it as it is.
    texts = ["".join(token["text"] for token in sequence["tokens"]) for sequence in told]
    inner = "[...document.getElementById('text').textContent].map(c => c.codePointAt(0))"
    assert browser.run(inner) == [ord(character) for character in texts[0]]
    assert browser.sticking_out() == []
    assert text_of(browser, "place") == f"step 1 of {len(told[0]['steps'])}"
    assert text_of(browser, "model") == "of LlamaForCausalLM"
    assert "0 (greedy)" in text_of(browser, "settings")
    assert "tokens/s" in text_of(browser, "figures")

    step = max(range(len(told[0]["steps"])), key=lambda i: len(told[0]["steps"][i]["accepted"]))
    browser.run(f"document.querySelector('#text span[data-step=\"{step}\"]').click()")
    assert text_of(browser, "place").startswith(f"step {step + 1} of")
    titles = browser.run(
        "[...document.querySelectorAll('#tree title')].map(t => t.textContent.split(':')[0])"
    )
    shown = told[0]["steps"][step]
    assert titles.count("accepted") == len(shown["accepted"])
    assert len(titles) == len(shown["draft"]) + 2
    assert browser.run("document.querySelectorAll('#text > span.open').length") == shown["emitted"]
    assert browser.run("document.querySelectorAll('#time .step').length") == len(told[0]["steps"])
    pieces = browser.run("document.querySelectorAll('#time .piece').length")
    assert pieces == sum(step["emitted"] for step in told[0]["steps"])
    assert browser.sticking_out() == []

    browser.run(
        "document.getElementById('which').value = '1';"
        "document.getElementById('which').dispatchEvent(new Event('change'))"
    )
    assert browser.run(inner) == [ord(character) for character in texts[1]]
    assert browser.sticking_out() == []
    assert browser.errors == []
    assert browser.requests == []


@pytest.fixture(scope="module")
def deep():
    """Steps that accept forty tokens each, after a prompt of many lines."""
    lm = hb.LM(models.llama(), Words())
    prompt = [3 if at % 6 == 5 else 4 for at in range(240)]
    text = prompt + lm.generate(prompt, max_new_tokens=120, draft=None).token_ids
    found, draft = hb.Trace(), Foresight([text], wrong=1000)
    lm.generate(prompt, max_new_tokens=120, draft=draft, length=hb.spec.Fixed(40), trace=found)
    assert any(len(step["accepted"]) == 40 for step in found.to_dict()["sequences"][0]["steps"])
    return found


@pytest.mark.parametrize("width", [400, 800, 1600])
def test_the_accepted_path_lies_within_its_panel(deep, browser, tmp_path, width):
    shown_in(browser, deep, tmp_path / "deep.html", width)
    steps = deep.to_dict()["sequences"][0]["steps"]
    number = next(i for i, step in enumerate(steps) if len(step["accepted"]) == 40)
    browser.run(f"openStep({number})")
    outside = browser.run("""(() => {
      const panel = document.getElementById('tree').getBoundingClientRect();
      const boxes = [...document.querySelectorAll('#tree .taken')].map(node => node.getBoundingClientRect());
      return [boxes.length, boxes.filter(box => box.left < panel.left || box.right > panel.right
        || box.top < panel.top || box.bottom > panel.bottom).length]; })()""")
    # The certain token, forty that were accepted, the target's own, and the 41 lines between them.
    assert outside == [42 + 41, 0]
    overlaps = browser.run("""(() => {
      const boxes = [...document.querySelectorAll('#tree rect')].map(node => node.getBoundingClientRect());
      return boxes.filter((a, i) => boxes.some((b, j) => i < j && a.left < b.right && b.left < a.right
        && a.top < b.bottom && b.top < a.bottom)).length; })()""")
    assert overlaps == 0
    assert browser.errors == []


@pytest.mark.parametrize("width", [400, 1600])
def test_charts_fill_their_panels_and_prompts_show_whole_lines(deep, browser, tmp_path, width):
    shown_in(browser, deep, tmp_path / "deep.html", width)
    for panel in ("time", "cost"):
        wide = f"document.querySelector('#{panel} svg').getBoundingClientRect().width"
        assert browser.run(f"{wide} / document.getElementById('{panel}').clientWidth") >= 0.99
    # A long prompt shows its end, in lines that are not cut, until all of it is wanted.
    lines = """(() => { const box = document.querySelector('#prompt > div');
      return [box.clientHeight / parseFloat(getComputedStyle(box).lineHeight),
        box.firstElementChild.scrollHeight - box.clientHeight, box.scrollWidth - box.clientWidth]; })()"""
    shown, hidden, beside = browser.run(lines)
    assert (shown, beside) == (pytest.approx(8, abs=0.05), 0)
    assert hidden > 0
    browser.run("document.querySelector('#prompt button').click()")
    assert browser.run(lines)[1:] == [0, 0]


def test_a_newline_has_a_sign_that_is_no_part_of_the_text(deep, browser, tmp_path):
    shown_in(browser, deep, tmp_path / "deep.html")
    signs = browser.run(
        "[...document.querySelectorAll('#prompt .sign')].map(s => s.dataset.sign + s.textContent)"
    )
    assert signs == ["↵"] * 40
    assert browser.run("document.querySelector('#prompt > div').textContent") == Words().decode(
        [4, 4, 4, 4, 4, 3] * 40
    )


def test_arrow_keys_walk_through_the_steps(trace, browser, tmp_path):
    shown_in(browser, trace.trace, tmp_path / "out.html")
    for key, place in (("ArrowLeft", 1), ("ArrowRight", 2), ("ArrowRight", 3), ("ArrowLeft", 2)):
        browser.press(key)
        assert text_of(browser, "place").startswith(f"step {place} of")


def test_a_source_has_one_colour_and_mixtures_lie_between(trace, browser, tmp_path):
    shown_in(browser, trace.trace, tmp_path / "out.html")
    assert browser.run("mixed('Suffix').hue") == pytest.approx(150)
    names = ["Suffix", "TokenRecycling", "FeatureHead"]
    alone = {name: browser.run(f"fill('{name}')") for name in names}
    together = {}
    for first, second in (names[:2], names[1:], names[::2]):
        kind = f"{first} + {second}"
        assert browser.run(f"fill('{kind}')") == browser.run(f"fill('{second} + {first}')")
        together[kind] = browser.run(f"fill('{kind}')")
        a, b, mixed = (browser.run(f"mixed('{name}').hue") for name in (first, second, kind))
        apart = [abs((one - mixed + 180) % 360 - 180) for one in (a, b)]
        assert sum(apart) == pytest.approx(abs((a - b + 180) % 360 - 180), abs=0.1)
        assert min(apart) > 30
    assert len({*alone.values(), *together.values()}) == 6
    # One that is not listed has a colour of its own, the same on each page.
    own = browser.run("COLOURS.Foresight")
    shown_in(browser, trace.trace, tmp_path / "again.html", 800)
    assert browser.run("COLOURS.Foresight") == own


def test_a_step_without_a_draft_and_an_empty_trace_are_shown(browser, tmp_path):
    lm, found = hb.LM(models.llama()), hb.Trace()
    shown_in(browser, found, tmp_path / "none.html", 800)
    assert text_of(browser, "summary") == "nothing was generated"
    lm.generate(PROMPT, max_new_tokens=1, trace=found)
    shown_in(browser, found, tmp_path / "one.html", 800)
    assert text_of(browser, "place") == "no steps"
    lm.generate(PROMPT, max_new_tokens=5, draft=None, trace=found)
    shown_in(browser, found, tmp_path / "plain.html", 800)
    assert browser.run("document.querySelectorAll('#tree title').length") == 2
    assert browser.errors == []


def test_a_repr_counts_and_a_notebook_shows_the_page() -> None:
    lm = hb.LM(models.llama(), models.byte_tokenizer())
    trace = hb.Trace()
    assert repr(trace) == "<Trace of 0 texts: 0 steps, 0 tokens>"
    lm.generate(['a "quoted" text', "another"], max_new_tokens=5, draft=None, trace=trace)
    assert repr(trace) == "<Trace of 2 texts: 8 steps, 10 tokens>"
    frame = trace._repr_html_()
    assert frame.startswith('<iframe srcdoc="&lt;!doctype html&gt;')
    assert frame.count('"') == 4
