"""The official client of OpenAI, and schemathesis against the server's own description.

Where these packages are installed: ``make test-serve``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from hornbeam.serve import Limits
from tests.serve.conftest import Server, tiny_lm

HELP = "make test-serve"
MESSAGES: list[Any] = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server(tiny_lm(), Limits(seconds=300, new_tokens=64), keys=("key",))
    yield server
    server.check_nothing_left()
    server.close()


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    openai = pytest.importorskip("openai", reason=HELP)
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="key", max_retries=0) as client:
        yield client


def test_models(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "hornbeam"


def test_chat(client: Any) -> None:
    options: dict[str, Any] = {"model": "tiny", "messages": MESSAGES, "seed": 3, "max_tokens": 12}
    whole = client.chat.completions.create(**options, n=2, logprobs=True, top_logprobs=2)
    assert len(whole.choices) == 2
    assert len(whole.choices[0].logprobs.content) == whole.usage.completion_tokens // 2
    stream = client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == 12


def test_completions(client: Any) -> None:
    options: dict[str, Any] = {
        "model": "tiny",
        "prompt": "hello",
        "seed": 3,
        "max_tokens": 12,
        "temperature": 0,
    }
    whole = client.completions.create(**options, logprobs=2, echo=True)
    assert whole.choices[0].text.startswith("hello")
    assert len(whole.choices[0].logprobs.tokens) == 5 + 12
    parts = [chunk.choices[0].text for chunk in client.completions.create(**options, stream=True)]
    assert "hello" + "".join(parts) == whole.choices[0].text


def test_schemas_and_predictions(client: Any) -> None:
    import pydantic

    class Answer(pydantic.BaseModel):
        yes: bool

    answer = client.chat.completions.parse(
        model="tiny",
        messages=MESSAGES,
        response_format=Answer,
        max_tokens=40,
        temperature=0,
        prediction={"type": "content", "content": '{"yes": true}'},
        logit_bias={"188": -1},
    )
    assert isinstance(answer.choices[0].message.parsed, Answer)


def test_errors(client: Any, server: Server) -> None:
    import openai

    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="tiny", messages=MESSAGES, tools=[])
    assert refused.value.param == "tools"
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="other", messages=MESSAGES)
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="none").models.list()


def test_description(server: Server) -> None:
    schemathesis = pytest.importorskip("schemathesis", reason=HELP)
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis import GenerationMode, checks

    headers = {"Authorization": "Bearer key"}
    schema = schemathesis.openapi.from_dict(server.client.get("/openapi.json", headers=headers).json())
    schema.config.update(base_url=server.url)
    # A body may be as its schema says and ask for what cannot be: a grammar that is none, a text too long.
    left_out = {"positive_data_acceptance", "ignored_auth"}
    wanted = [check for check in checks.CHECKS.get_all() if check.__name__ not in left_out]
    count = int(os.environ.get("HORNBEAM_SERVE_REQUESTS", "200"))
    chosen = settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    found = [operation.ok() for operation in schema.get_all_operations()]
    assert {operation.path for operation in found} > {"/v1/completions", "/v1/chat/completions", "/v1/score"}
    for operation in found:
        modes = [GenerationMode.POSITIVE, *([GenerationMode.NEGATIVE] if operation.method == "post" else [])]
        for mode in modes:

            @chosen
            @given(case=operation.as_strategy(generation_mode=mode))
            def holds(case: Any) -> None:
                case.call_and_validate(headers=headers, checks=wanted)

            holds()
