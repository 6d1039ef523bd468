"""Faults of the model and memory at its edge: an answer that says so, the others unharmed, nothing left."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import torch

from hornbeam.serve import Limits
from tests.serve.conftest import Server, tiny_lm
from tests.serve.test_leaving import ENDLESS, raw

#: Requests of the soak; HORNBEAM_SERVE_REQUESTS=1000 makes a long one.
REQUESTS = int(os.environ.get("HORNBEAM_SERVE_REQUESTS", "32"))


@pytest.fixture
def tight() -> Iterator[Server]:
    """A server whose pages hold a few texts."""
    lm = tiny_lm(max_kv_bytes=page_bytes() * 64)
    server = Server(lm, Limits(seconds=300, open_requests=64))
    yield server
    server.check_nothing_left()
    server.close()


def page_bytes() -> int:
    """Bytes that four tokens take."""
    tree = tiny_lm().engine.tree
    branch = tree.branch()
    try:
        with tree.step([(branch, [1], None)]):
            return int(tree.num_bytes) or 4096
    finally:
        branch.drop()


class Faults:
    """A model that fails in some passes."""

    def __init__(self, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.chance, self.count = 0.0, 0
        self._draw = random.Random(5)
        layer = model.model.layers[1].mlp
        forward = layer.forward

        def failing(*given: Any, **options: Any) -> Any:
            if self._draw.random() < self.chance:
                self.count += 1
                raise RuntimeError("the model has failed")
            return forward(*given, **options)

        monkeypatch.setattr(layer, "forward", failing)


def test_a_fault_is_a_500_and_no_more(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = Faults(server.lm.model, monkeypatch)
    before = server.post("/v1/completions", prompt="abc", max_tokens=9, temperature=0).json()["choices"]
    faults.chance = 1.0
    response = server.post("/v1/completions", prompt="xyz", max_tokens=9, temperature=0)
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "server_error"
    assert server.post("/v1/score", query="ab", items="c", label_token_ids=[1]).status_code == 500
    server.check_nothing_left()
    faults.chance = 0.0
    again = server.post("/v1/completions", prompt="abc", max_tokens=9, temperature=0).json()["choices"]
    assert again == before


def test_a_fault_in_the_midst_of_a_stream(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = Faults(server.lm.model, monkeypatch)
    fields = {"model": "tiny", **ENDLESS, "stream": True}
    with server.client.stream("POST", "/v1/completions", json=fields) as response:
        lines = response.iter_lines()
        next(lines)
        faults.chance = 1.0
        rest = [line for line in lines if line]
    assert "the model has failed" not in rest[-2]
    assert "RuntimeError" in rest[-2]
    assert rest[-1] == "data: [DONE]"


def test_a_request_that_never_fits(tight: Server) -> None:
    response = tight.post("/v1/completions", prompt="x" * 400, max_tokens=100)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "out_of_pages"


def test_soak(tight: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mixed requests, some of which are left, on a model that fails now and then and memory that holds a few:
    what is answered is what is answered alone."""
    faults = Faults(tight.lm.model, monkeypatch)
    draw = random.Random(11)
    cases = [case(draw) for _ in range(REQUESTS)]
    alone = [texts(tight.post("/v1/completions", **fields)) for fields, _ in cases]
    assert all(found is not None for found in alone)
    faults.chance = 0.004

    def ask(place: int) -> Any:
        fields, leaves = cases[place]
        if leaves:
            with raw(tight, "/v1/completions", **fields, stream=bool(place % 2)) as leaving:
                if place % 3:
                    leaving.recv(1 + place % 500)
            return None
        with httpx.Client(base_url=tight.url, timeout=300) as client:
            return client.post("/v1/completions", json={"model": "tiny", **fields})

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(ask, range(REQUESTS)))
    faults.chance = 0.0
    num_same = 0
    for answer, own in zip(answers, alone, strict=True):
        if answer is not None and answer.status_code == 200:
            assert texts(answer) == own
            num_same += 1
        elif answer is not None:
            assert answer.status_code == 500, answer.text
    assert num_same > REQUESTS // 3
    tight.check_nothing_left()
    held = tight.lm.engine.tree.num_bytes
    assert held <= tight.lm.engine.tree.max_bytes
    assert texts(tight.post("/v1/completions", **cases[0][0])) == alone[0]


def case(draw: random.Random) -> tuple[dict[str, Any], bool]:
    """The fields of a request, and whether its client leaves it."""
    prompt = "shared beginning " * draw.randint(0, 2) + "".join(chr(draw.randint(65, 90)) for _ in range(8))
    fields: dict[str, Any] = {"prompt": prompt, "max_tokens": draw.randint(1, 40)}
    fields |= {"seed": draw.randrange(1000), "temperature": draw.choice([0, 1]), "n": draw.choice([1, 1, 3])}
    if draw.random() < 0.2:
        fields["response_format"] = {"type": "regex", "regex": "[a-z]{4,9}"}
    return fields, draw.random() < 0.3


def texts(response: httpx.Response) -> list[str] | None:
    """Of all choices, if there are any."""
    if response.status_code != 200:
        return None
    return [choice["text"] for choice in response.json()["choices"]]


def test_the_thread_outlives_a_failing_step(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses() -> Any:
        raise torch.OutOfMemoryError("no memory for the step")

    with monkeypatch.context() as patched:
        patched.setattr(server.lm.engine, "_step", refuses)
        assert server.post("/v1/completions", prompt="abc", max_tokens=9).status_code == 500
    assert server.client.get("/health").status_code == 200
    assert server.post("/v1/completions", prompt="abc", max_tokens=9).status_code == 200
