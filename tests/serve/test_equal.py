"""Each served answer is the one that LM.generate gives with the same settings, sixteen at a time.

``HORNBEAM_SERVE_REQUESTS=1000`` tries more of them.
"""

from __future__ import annotations

import json
import os
import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import hornbeam as hb
from hornbeam.integrations import llguidance
from hornbeam.serve.answers import FINISH
from tests.serve.conftest import Server, tiny_lm

REQUESTS = int(os.environ.get("HORNBEAM_SERVE_REQUESTS", "32"))
AT_A_TIME = 16

SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "boolean"}, "b": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
SYSTEM = {"role": "system", "content": "You are a clerk at the harbour office, and you answer in bytes."}


def settings(draw: random.Random, lm: hb.LM) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of a request, and the keywords of the call that gives the same."""
    fields: dict[str, Any] = {"seed": draw.randrange(1 << 40), "max_tokens": draw.randint(1, 24)}
    keywords: dict[str, Any] = {"seed": fields["seed"], "max_new_tokens": fields["max_tokens"]}

    def maybe(name: str, value: Any, chance: float = 0.3) -> None:
        if draw.random() < chance:
            fields[name] = keywords[name] = value

    fields["temperature"] = keywords["temperature"] = draw.choice([0, 0.7, 1.0, 1.6])
    maybe("top_p", draw.choice([0.5, 0.9, 1.0]))
    maybe("top_k", draw.choice([1, 5, 50]))
    maybe("min_p", draw.choice([0.0, 0.05, 0.3]))
    maybe("repetition_penalty", draw.choice([0.8, 1.3]))
    maybe("frequency_penalty", draw.choice([-0.5, 0.7]))
    maybe("presence_penalty", draw.choice([-1.0, 1.5]))
    maybe("stop", draw.choice(["e", ["T", "q1"], ["\x01", "j"]]))
    maybe("n", draw.randint(1, 3), 0.4)
    if draw.random() < 0.3:
        bias = {draw.randrange(256): draw.choice([-100.0, 4.5]) for _ in range(5)}
        fields["logit_bias"] = {str(token): value for token, value in bias.items()}
        keywords["logit_bias"] = bias
    if draw.random() < 0.3:
        text = "".join(chr(draw.randint(32, 126)) for _ in range(draw.randint(1, 30)))
        fields["prediction"] = {"type": "content", "content": text}
        keywords["prediction"] = text
    kind = draw.random()
    if kind < 0.15:
        fields["response_format"] = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
        keywords["logits_processor"] = llguidance.json_schema(lm, SCHEMA)
    elif kind < 0.3:
        fields["response_format"] = {"type": "regex", "regex": "[a-f]{3}|x+"}
        keywords["logits_processor"] = llguidance.regex(lm, "[a-f]{3}|x+")
    text = "".join(chr(draw.randint(32, 126)) for _ in range(draw.randint(1, 40)))
    if draw.random() < 0.5:
        fields["messages"] = [SYSTEM, {"role": "user", "content": text}]
        keywords["prompt"] = fields["messages"]
        if draw.random() < 0.4:
            keywords["logprobs"] = draw.randint(0, 3)
            fields |= {"logprobs": True, "top_logprobs": keywords["logprobs"]}
    else:
        fields["prompt"] = keywords["prompt"] = text
        if draw.random() < 0.4:
            keywords["logprobs"] = fields["logprobs"] = draw.randint(0, 3)
            if draw.random() < 0.5:
                fields["echo"] = keywords["echo"] = True
    if draw.random() < 0.4:
        fields |= {"stream": True, "stream_options": {"include_usage": True}}
    return fields, keywords


def expected(lm: hb.LM, keywords: dict[str, Any]) -> list[Any]:
    """What LM.generate gives."""
    return lm.generate(**{"n": 1, **keywords})


def served(server: Server, fields: dict[str, Any]) -> dict[str, Any]:
    """The answer to a request, put together if it came as a stream."""
    path = "/v1/chat/completions" if "messages" in fields else "/v1/completions"
    response = server.post(path, **fields)
    assert response.status_code == 200, (fields, response.text)
    if not fields.get("stream"):
        body: dict[str, Any] = response.json()
        for choice in body["choices"]:
            choice["text"] = choice["message"]["content"] if "message" in choice else choice["text"]
            choice["values"] = values(choice["logprobs"])
        return body
    events = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert events.pop() == "[DONE]"
    choices: dict[int, dict[str, Any]] = {}
    usage = None
    for event in map(json.loads, events):
        assert usage is None, "nothing comes after the usage"
        usage = event["usage"]
        for choice in event["choices"]:
            own = choices.setdefault(
                choice["index"], {"text": "", "values": [], "finish_reason": None, "index": choice["index"]}
            )
            assert own["finish_reason"] is None, "nothing comes after the end"
            own["text"] += choice["delta"].get("content", "") if "delta" in choice else choice["text"]
            own["values"] += values(choice["logprobs"])
            own["finish_reason"] = choice["finish_reason"]
    return {"choices": [choices[index] for index in sorted(choices)], "usage": usage}


def values(logprobs: dict[str, Any] | None) -> list[float | None]:
    """The log-probabilities of the tokens, in either form."""
    if logprobs is None:
        return []
    if "content" in logprobs:
        return [entry["logprob"] for entry in logprobs["content"]]
    return list(logprobs["token_logprobs"])


def check(answer: dict[str, Any], outs: list[Any], keywords: dict[str, Any], fields: dict[str, Any]) -> None:
    """Compares what was served with what the call gives."""
    assert len(answer["choices"]) == len(outs)
    for choice, out in zip(answer["choices"], outs, strict=True):
        before = fields["prompt"] if fields.get("echo") else ""
        assert choice["text"] == before + out.text, fields
        assert choice["finish_reason"] == FINISH[out.finish_reason], fields
        if "logprobs" in keywords:
            own = [entry.logprob for entry in out.logprobs]
            own = own[:-1] if out.finish_reason == "eos" else own
            if keywords.get("echo"):
                own = [None if entry is None else entry.logprob for entry in out.prompt_logprobs] + own
            assert choice["values"] == pytest.approx(own, abs=1e-4), fields
    assert answer["usage"]["prompt_tokens"] == outs[0].stats.prompt_tokens
    assert answer["usage"]["completion_tokens"] == sum(len(out.token_ids) for out in outs)


@pytest.fixture(scope="module")
def alone() -> hb.LM:
    """The same model on an engine of its own."""
    return tiny_lm()


def test_answers_are_those_of_generate(server: Server, alone: hb.LM) -> None:
    draw = random.Random(7)
    cases = [settings(draw, alone) for _ in range(REQUESTS)]
    outs = [expected(alone, keywords) for _, keywords in cases]
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        answers = list(pool.map(lambda case: served(server, case[0]), cases))
    for answer, out, (fields, keywords) in zip(answers, outs, cases, strict=True):
        check(answer, out, keywords, fields)


def test_several_prompts(server: Server, alone: hb.LM) -> None:
    prompts = ["first one", "the second", "first one"]
    answer = server.post("/v1/completions", prompt=prompts, n=2, temperature=1.2, seed=4, max_tokens=6).json()
    outs = alone.generate(prompts, n=2, temperature=1.2, seed=4, max_new_tokens=6)
    texts = [choice["text"] for choice in answer["choices"]]
    assert texts == [out.text for group in outs for out in group]
    assert answer["usage"]["prompt_tokens"] == sum(map(len, prompts))
    ids = [alone.tokenizer(prompt)["input_ids"] for prompt in prompts]
    again = server.post("/v1/completions", prompt=ids, n=2, temperature=1.2, seed=4, max_tokens=6).json()
    assert [choice["text"] for choice in again["choices"]] == texts


def test_defaults_are_those_of_openai(server: Server, alone: hb.LM) -> None:
    body = server.post("/v1/completions", prompt="abc", seed=3).json()
    [out] = alone.generate(["abc"], max_new_tokens=16, temperature=1.0, seed=3)
    assert body["choices"][0]["text"] == out.text
    # Without a seed each request is drawn anew.
    texts = {server.post("/v1/completions", prompt="abc").json()["choices"][0]["text"] for _ in range(4)}
    assert len(texts) > 1
    # A chat goes on to its end, or to that of the context.
    message = {"role": "user", "content": "x" * 440}
    body = server.post("/v1/chat/completions", messages=[message], logit_bias={"188": -100}).json()
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["total_tokens"] == 513  # the last token needs no position


def test_a_begun_answer_is_gone_on_with(server: Server, alone: hb.LM) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "well,"}]
    body = server.post("/v1/chat/completions", messages=messages, max_tokens=5, temperature=0).json()
    assert body["choices"][0]["message"]["content"] == alone.generate(messages, max_new_tokens=5).text


def test_developer_is_system_and_parts_are_one_text(server: Server) -> None:
    def text(role: str, content: Any) -> str:
        messages = [{"role": role, "content": content}, {"role": "user", "content": "hi"}]
        body = server.post("/v1/chat/completions", messages=messages, max_tokens=9, temperature=0).json()
        return str(body["choices"][0]["message"]["content"])

    parts = [{"type": "text", "text": "be "}, {"type": "text", "text": "short"}]
    assert text("system", "be short") == text("developer", "be short") == text("system", parts)
    assert text("system", "be short") != text("system", "be long")


@pytest.mark.parametrize("softmax", [False, True])
def test_scores(server: Server, alone: hb.LM, softmax: bool) -> None:
    labels, items = [5, 9, 5, 200], ["yes", "no", "no"]
    body = server.post(
        "/v1/score", query="is it? ", items=items, label_token_ids=labels, apply_softmax=softmax
    ).json()
    for item, scores in zip(items, body["scores"], strict=True):
        found = alone.score("is it? " + item, [[label] for label in labels])
        import torch

        own = torch.tensor([one.total for one in found]).exp()
        own = own / own.sum() if softmax else own
        assert scores == pytest.approx(own.tolist(), rel=1e-4)
    assert body["usage"]["prompt_tokens"] == sum(len("is it? " + item) for item in items)
    swapped = server.post(
        "/v1/score",
        query="yes",
        items="is it? ",
        label_token_ids=labels,
        item_first=True,
        apply_softmax=softmax,
    ).json()
    assert swapped["scores"][0] == pytest.approx(body["scores"][0], rel=1e-4)
    ids = server.post(
        "/v1/score", query=[40, 41], items=[[42], [43, 44]], label_token_ids=labels, apply_softmax=softmax
    ).json()
    own = [one.total for one in alone.score([40, 41, 43, 44], [[label] for label in labels])]
    found = torch.tensor(own).softmax(0) if softmax else torch.tensor(own).exp()
    assert ids["scores"][1] == pytest.approx(found.tolist(), rel=1e-4)
