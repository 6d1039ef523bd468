"""What is refused: with a status of 4xx, and the name of the field."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from tests.serve.conftest import Server

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
TEXT: dict[str, Any] = {"prompt": "hi"}
LABELS: dict[str, Any] = {"query": "a", "items": ["b"], "label_token_ids": [1]}

CASES: list[tuple[str, dict[str, Any], str]] = [
    ("chat/completions", {"messages": []}, "messages"),
    ("chat/completions", {"messages": "hi"}, "messages"),
    ("chat/completions", {}, "messages"),
    ("chat/completions", {"messages": [{"role": "user"}]}, "messages.0.content"),
    ("chat/completions", {"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
    ("chat/completions", {"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
    (
        "chat/completions",
        {"messages": [{"role": "user", "content": "x", "name": "me"}]},
        "messages.0.name",
    ),
    ("chat/completions", {"messages": [{"role": "user", "content": "x" * 600}]}, "messages"),
    ("chat/completions", CHAT | {"tools": []}, "tools"),
    ("chat/completions", CHAT | {"tool_choice": "auto"}, "tool_choice"),
    ("chat/completions", CHAT | {"user": "me"}, "user"),
    ("chat/completions", CHAT | {"top_logprobs": 2}, "top_logprobs"),
    ("chat/completions", CHAT | {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ("chat/completions", CHAT | {"logprobs": 3}, "logprobs"),
    ("chat/completions", CHAT | {"max_tokens": 1, "max_completion_tokens": 1}, "max_tokens"),
    ("chat/completions", CHAT | {"max_completion_tokens": 10_000}, "max_completion_tokens"),
    ("chat/completions", CHAT | {"max_tokens": 500}, "max_tokens"),
    ("chat/completions", CHAT | {"max_tokens": 0}, "max_tokens"),
    ("chat/completions", CHAT | {"max_tokens": 1.5}, "max_tokens"),
    ("chat/completions", CHAT | {"max_tokens": "9"}, "max_tokens"),
    ("chat/completions", CHAT | {"n": 0}, "n"),
    ("chat/completions", CHAT | {"n": 65}, "n"),
    ("chat/completions", CHAT | {"n": True}, "n"),
    ("chat/completions", CHAT | {"temperature": -0.1}, "temperature"),
    ("chat/completions", CHAT | {"temperature": "hot"}, "temperature"),
    ("chat/completions", CHAT | {"top_p": 0}, "top_p"),
    ("chat/completions", CHAT | {"top_p": 1.1}, "top_p"),
    ("chat/completions", CHAT | {"top_k": -1}, "top_k"),
    ("chat/completions", CHAT | {"min_p": 2}, "min_p"),
    ("chat/completions", CHAT | {"repetition_penalty": 0}, "repetition_penalty"),
    ("chat/completions", CHAT | {"frequency_penalty": 3}, "frequency_penalty"),
    ("chat/completions", CHAT | {"presence_penalty": -3}, "presence_penalty"),
    ("chat/completions", CHAT | {"seed": -1}, "seed"),
    ("chat/completions", CHAT | {"seed": 1 << 64}, "seed"),
    ("chat/completions", CHAT | {"stop": ""}, "stop"),
    ("chat/completions", CHAT | {"stop": ["a", ""]}, "stop"),
    ("chat/completions", CHAT | {"stop": ["a"] * 17}, "stop"),
    ("chat/completions", CHAT | {"logit_bias": {"x": 1}}, "logit_bias"),
    ("chat/completions", CHAT | {"logit_bias": {"256": 1}}, "logit_bias"),
    ("chat/completions", CHAT | {"logit_bias": {"1": 101}}, "logit_bias"),
    ("chat/completions", CHAT | {"logit_bias": [1]}, "logit_bias"),
    ("chat/completions", CHAT | {"stream": "yes"}, "stream"),
    ("chat/completions", CHAT | {"stream_options": {"include_usage": True}}, "stream_options"),
    (
        "chat/completions",
        CHAT | {"stream": True, "stream_options": {"include_obfuscation": True}},
        "stream_options.include_obfuscation",
    ),
    ("chat/completions", CHAT | {"response_format": {"type": "xml"}}, "response_format"),
    ("chat/completions", CHAT | {"response_format": {"type": "regex", "regex": "(("}}, "response_format"),
    (
        "chat/completions",
        CHAT | {"response_format": {"type": "grammar", "grammar": "start: nothing"}},
        "response_format",
    ),
    (
        "chat/completions",
        CHAT
        | {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": 3}}}},
        "response_format",
    ),
    (
        "chat/completions",
        CHAT | {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
        "response_format.json_schema.json_schema.name",
    ),
    ("chat/completions", CHAT | {"prediction": {"type": "content"}}, "prediction.content"),
    ("chat/completions", CHAT | {"model": "gpt-4"}, "model"),
    ("chat/completions", CHAT | {"model": None}, "model"),
    ("completions", {"prompt": ""}, "prompt"),
    ("completions", {"prompt": []}, "prompt"),
    ("completions", {"prompt": [[1], []]}, "prompt"),
    ("completions", {"prompt": [1, "a"]}, "prompt"),
    ("completions", {"prompt": [256]}, "prompt"),
    ("completions", {"prompt": [-1]}, "prompt"),
    ("completions", {"prompt": "x" * 600}, "prompt"),
    ("completions", {"prompt": ["x"] * 65}, "n"),
    ("completions", TEXT | {"suffix": "a"}, "suffix"),
    ("completions", TEXT | {"best_of": 2}, "best_of"),
    ("completions", TEXT | {"logprobs": True}, "logprobs"),
    ("completions", TEXT | {"logprobs": 21}, "logprobs"),
    ("score", LABELS | {"label_token_ids": []}, "label_token_ids"),
    ("score", LABELS | {"label_token_ids": [256]}, "label_token_ids"),
    ("score", LABELS | {"items": []}, "items"),
    ("score", LABELS | {"items": [[1]]}, "items"),
    ("score", LABELS | {"items": ["x" * 600]}, "items"),
    ("score", LABELS | {"items": ["x"] * 65}, "items"),
    ("score", LABELS | {"softmax": True}, "softmax"),
]


@pytest.mark.parametrize(("path", "fields", "name"), CASES)
def test_a_field_is_refused_by_its_name(server: Server, path: str, fields: dict[str, Any], name: str) -> None:
    response = server.post(f"/v1/{path}", **fields)
    assert 400 <= response.status_code < 500, response.text
    error = response.json()["error"]
    assert error["param"] is not None, error
    assert error["param"].startswith(name), error
    assert name in error["message"], error


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"model": "tiny", "prompt": "\xff"}',
        b'{"model": "tiny", "prompt": "\\ud800"}',
        b'{"model": "tiny", "prompt": "a", "temperature": NaN}',
        b'{"model": "tiny", "prompt": "a", "temperature": 1e999}',
        b'{"model": "tiny", "prompt": "a", "seed": ' + b"9" * 5000 + b"}",
        b'{"model": "tiny", "prompt": ' + b"[" * 100_000,
    ],
)
def test_bodies_that_are_none(server: Server, body: bytes) -> None:
    response = server.client.post(
        "/v1/completions", content=body, headers={"Content-Type": "application/json"}
    )
    assert response.status_code == 400, response.text
    assert response.json()["error"]["message"]


def test_bodies_that_are_too_large(server: Server) -> None:
    most = server.service.limits.body_bytes
    headers = {"Content-Type": "application/json"}
    declared = server.client.post("/v1/completions", content=b" " * (most + 1), headers=headers)
    chunks = (b" " * 65536 for _ in range(most // 65536 + 1))
    streamed = server.client.post("/v1/completions", content=chunks, headers=headers)
    for response in (declared, streamed):
        assert response.status_code == 413
        assert response.json()["error"]["param"] == "body"


def test_other_types_paths_and_methods(server: Server) -> None:
    plain = server.client.post("/v1/completions", content=b"{}", headers={"Content-Type": "text/plain"})
    assert plain.status_code == 415
    assert plain.json()["error"]["param"] == "Content-Type"
    assert server.client.get("/v1/completions").status_code == 405
    assert server.client.get("/v1/embeddings").json()["error"]["type"] == "not_found_error"
    assert server.client.get("/v1/models/other").json()["error"]["code"] == "model_not_found"
    assert server.client.get("/v1/models/tiny").json()["id"] == "tiny"


def test_extremes_are_answered(server: Server) -> None:
    """What lies in range is never a fault of the server."""
    for fields in (
        {"temperature": 1e-300},
        {"temperature": 5e-324, "top_p": 5e-324},
        {"temperature": 2, "min_p": 1, "top_k": 2**31 - 1},
        {"repetition_penalty": 5e-324},
        {"logit_bias": {str(token): -100 for token in range(256)}},
        {"seed": 2**63 - 1, "stop": ["\x00" * 500] * 16},
    ):
        response = server.post("/v1/completions", prompt="a", max_tokens=3, **fields)
        assert response.status_code in (200, 400), (fields, response.text)


def test_a_body_that_never_comes(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n" + json.dumps({"model": "tiny"}).encode()
        )
        server.until(lambda: server.service.num_open == 1)
    server.until(lambda: server.service.num_open == 0)
