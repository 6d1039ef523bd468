"""Clients that go, times that are over, servers that are full or told to stop: nothing is left behind."""

from __future__ import annotations

import json
import socket
import threading
import time
from typing import Any

import httpx
import pytest

import hornbeam as hb
from hornbeam.serve import Limits
from tests.serve.conftest import Server, tiny_lm

#: It ends when somebody says so.
ENDLESS: dict[str, Any] = {"prompt": "abc", "max_tokens": 500, "logit_bias": {"188": -100}, "seed": 1}


def raw(server: Server, path: str, **fields: Any) -> socket.socket:
    """A connection on which a request was sent."""
    body = json.dumps({"model": "tiny", **fields}).encode()
    client = socket.create_connection(("127.0.0.1", server.port), timeout=300)
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    client.sendall(f"{head}\r\n\r\n".encode() + body)
    return client


@pytest.mark.parametrize("num_bytes", [0, 1, 16, 17, 150, 301, 700, 1501, 4000])
def test_a_client_that_goes_at_any_byte_of_a_stream(server: Server, num_bytes: int) -> None:
    with raw(server, "/v1/completions", **ENDLESS, stream=True, n=2) as client:
        got = 0
        while got < num_bytes:
            got += len(client.recv(num_bytes - got))
    server.check_nothing_left()


def test_a_client_that_goes_before_the_answer(server: Server) -> None:
    with raw(server, "/v1/completions", **ENDLESS):
        server.until(lambda: bool(server.lm.engine.requests))
    server.check_nothing_left()
    raw(server, "/v1/score", query="x" * 400, items=["a", "b"] * 20, label_token_ids=[1]).close()
    server.check_nothing_left()


def test_a_client_that_goes_leaves_the_others_alone(server: Server) -> None:
    fields = {"prompt": "hello", "max_tokens": 60, "temperature": 0}
    alone = server.post("/v1/completions", **fields).json()["choices"]
    answers: list[Any] = []

    def ask() -> None:
        with httpx.Client(base_url=server.url, timeout=300) as client:
            answers.append(client.post("/v1/completions", json={"model": "tiny", **fields}).json()["choices"])

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
        raw(server, "/v1/completions", **ENDLESS, stream=True).close()
    for thread in threads:
        thread.join()
    assert answers == [alone] * 4


@pytest.fixture
def slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """After its first tokens a text takes its time."""
    step = hb.Engine.step

    def rested(engine: hb.Engine) -> Any:
        if any(len(request.output) > 3 for request in engine.requests):
            time.sleep(0.1)
        return step(engine)

    monkeypatch.setattr(hb.Engine, "step", rested)


@pytest.mark.usefixtures("slowly")
def test_time_is_over() -> None:
    server = Server(tiny_lm(), Limits(seconds=3))
    try:
        response = server.post("/v1/completions", **ENDLESS)
        assert response.status_code == 408
        assert "3 s" in response.json()["error"]["message"]
        response = server.post("/v1/completions", **ENDLESS, stream=True)
        *events, last = [line for line in response.text.split("\n\n") if line]
        assert events
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "timeout"
        # A body that does not come takes no longer either.
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
            client.sendall(
                b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
                b"Content-Length: 9\r\n\r\n{"
            )
            assert b" 408 " in client.recv(100)
        server.check_nothing_left()
    finally:
        server.close()


@pytest.mark.usefixtures("slowly")
def test_a_full_server_says_when_to_come_again() -> None:
    server = Server(tiny_lm(), Limits(open_requests=2))
    try:
        streams = {**ENDLESS, "stream": True}
        with raw(server, "/v1/completions", **streams), raw(server, "/v1/completions", **streams):
            server.until(lambda: server.service.num_open == 2)
            for path, fields in (("completions", {"prompt": "a"}), ("score", {})):
                response = server.post(f"/v1/{path}", **fields)
                assert response.status_code == 429
                assert int(response.headers["Retry-After"]) >= 1
                assert response.json()["error"]["type"] == "rate_limit_error"
        server.until(lambda: server.service.num_open == 0)
        assert server.post("/v1/completions", prompt="a", max_tokens=1).status_code == 200
    finally:
        server.close()


def test_a_server_that_stops_drains() -> None:
    server = Server(tiny_lm(), Limits())
    fields = {"model": "tiny", **ENDLESS, "max_tokens": 30, "stream": True}
    with server.client.stream("POST", "/v1/completions", json=fields) as response:
        lines = response.iter_lines()
        next(lines)
        server.uvicorn.should_exit = True
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    server.close()
    assert not server.service.driver.is_alive
    assert server.lm.engine.requests == []


def test_keys() -> None:
    server = Server(tiny_lm(), Limits(), keys=("first", "second"))
    try:
        assert server.client.get("/health").status_code == 200
        for headers in ({}, {"Authorization": "Bearer third"}, {"Authorization": "Basic first"}):
            response = server.client.get("/v1/models", headers=headers)
            assert response.status_code == 401
            assert response.headers["WWW-Authenticate"] == "Bearer"
            assert response.json()["error"]["code"] == "invalid_api_key"
        for key in ("first", "second"):
            headers = {"Authorization": f"Bearer {key}"}
            assert server.client.get("/v1/models", headers=headers).status_code == 200
    finally:
        server.close()


def test_metrics(server: Server) -> None:
    def value(name: str) -> float:
        lines = server.client.get("/metrics").text.splitlines()
        return next(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))

    before = value("hornbeam_generated_tokens_total"), value("hornbeam_prompt_tokens_total")
    server.post("/v1/completions", prompt="abcdef", max_tokens=5, n=2, logit_bias={"188": -100})
    assert value("hornbeam_generated_tokens_total") - before[0] == 10
    assert value("hornbeam_prompt_tokens_total") - before[1] == 6
    assert value("hornbeam_open_requests") == value("hornbeam_sequences") == value("hornbeam_branches") == 0
    assert 0 < value("hornbeam_kv_bytes") <= value("hornbeam_kv_bytes_limit")
