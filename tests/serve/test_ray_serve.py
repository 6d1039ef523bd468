"""The server as an application of Ray Serve, on a cluster of processes: ``make test-ray``."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

import hornbeam as hb
from hornbeam.errors import ArgumentError
from hornbeam.serve import Limits
from tests.serve.conftest import tiny_lm

# Where the processors are busy, Ray's processes take longer to begin than Ray waits for them, the more since
# they stand back behind all others.
os.environ.setdefault("RAY_worker_niceness", "0")
for name in ("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S"):
    os.environ.setdefault(name, "120")
ray = pytest.importorskip("ray", reason="ray is not installed: make test-ray")
serve = pytest.importorskip("ray.serve", reason="ray.serve is not installed: make test-ray")

from hornbeam.serve.ray import application  # noqa: E402

ROOT = Path(__file__).parents[2]
SAMPLED: dict[str, Any] = {"temperature": 0.9, "seed": 5}
#: It ends when somebody says so; with ``LONG`` texts that takes seconds.
ENDLESS: dict[str, Any] = {"prompt": "abc", "max_tokens": 500, "logit_bias": {"188": -100}, "stream": True}
LONG = 64


def maker(folder: Path) -> Callable[[], hb.LM]:
    """Makes the model on a replica, which leaves the number of its process in ``folder``."""
    root = str(ROOT)

    def make() -> hb.LM:
        sys.path.insert(0, root)
        from tests.serve.conftest import tiny_lm

        (folder / str(os.getpid())).touch()
        return tiny_lm()

    return make


def until(holds: Callable[[], bool], seconds: float = 120.0) -> None:
    """Waits for something to hold."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it has taken too long"
        time.sleep(0.05)


def is_there(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def answers(client: httpx.Client) -> bool:
    """Whether a replica does, behind a proxy that listens."""
    try:
        return client.get("/health").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("replicas")


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[httpx.Client]:
    """A client of one replica, which takes at most three requests at a time."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False):
        with suppress(TimeoutError):  # of a minute, where its proxy takes longer to begin
            serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(application(maker(folder), name="tiny", limits=Limits(open_requests=3, drain_seconds=60)))
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300) as found:
            until(lambda: answers(found), 300)
            yield found
        serve.shutdown()


def events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        if line.startswith("data: {"):
            yield json.loads(line.removeprefix("data: "))


def metric(client: httpx.Client, name: str) -> float:
    found = re.search(rf"^hornbeam_{name} (\S+)", client.get("/metrics").text, re.MULTILINE)
    assert found is not None
    return float(found[1])


def test_answers_are_those_of_generate(client: httpx.Client) -> None:
    lm = tiny_lm()
    for prompt in ("hello", "a longer prompt than the one before"):
        fields = {"model": "tiny", "prompt": prompt, "max_tokens": 40, **SAMPLED}
        answer = client.post("/v1/completions", json=fields).json()
        expected = lm.generate(prompt, max_new_tokens=40, **SAMPLED)
        assert answer["choices"][0]["text"] == expected.text
        assert answer["usage"]["completion_tokens"] == len(expected.token_ids)
    messages = [{"role": "user", "content": "hello"}]
    fields = {"model": "tiny", "messages": messages, "max_tokens": 40, **SAMPLED}
    answer = client.post("/v1/chat/completions", json=fields).json()
    expected = lm.generate(messages, max_new_tokens=40, **SAMPLED)
    assert answer["choices"][0]["message"]["content"] == expected.text


def test_a_stream_comes_in_parts(client: httpx.Client) -> None:
    with client.stream("POST", "/v1/completions", json={"model": "tiny", "seed": 1, **ENDLESS}) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        parts = list(stream.iter_raw())
    assert len(parts) > 10, "the stream came all at once"
    found = list(events(iter(b"".join(parts).decode().splitlines())))
    text = "".join(event["choices"][0]["text"] for event in found if event["choices"])
    expected = tiny_lm().generate("abc", max_new_tokens=500, logit_bias={188: -100}, temperature=1.0, seed=1)
    assert text == expected.text
    assert parts[-1].decode().endswith("data: [DONE]\n\n")


def test_what_is_refused_is_named(client: httpx.Client) -> None:
    fields = {"model": "tiny", "prompt": "a", "top_p": 2}
    refused = client.post("/v1/completions", json=fields)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "top_p")
    assert client.get("/v1/nothing").status_code == 404
    assert client.get("/health").json() == {"status": "ok"}


def test_a_client_that_goes_ends_its_request(client: httpx.Client) -> None:
    written = metric(client, "generated_tokens_total")
    with client.stream("POST", "/v1/completions", json={"model": "tiny", "n": LONG, **ENDLESS}) as stream:
        parts = stream.iter_raw()  # which closes the connection when it goes
        next(parts)
        assert metric(client, "open_requests") == 1
    until(lambda: metric(client, "open_requests") == 0)
    assert metric(client, "generated_tokens_total") == written, "it went on to its end"
    assert metric(client, "branches") == 0


def test_a_full_replica_answers_429(client: httpx.Client) -> None:
    fields = {"model": "tiny", "n": LONG, **ENDLESS}
    held = [client.stream("POST", "/v1/completions", json=fields) for _ in range(3)]
    streams = [stream.__enter__() for stream in held]
    try:
        refused = client.post("/v1/completions", json={"model": "tiny", "prompt": "a"})
    finally:
        for stream in held:
            stream.__exit__(None, None, None)
    assert [stream.status_code for stream in streams] == [200, 200, 200]
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    until(lambda: metric(client, "open_requests") == 0)


def test_a_replica_that_dies_is_started_anew(client: httpx.Client, folder: Path) -> None:
    [process] = [int(file.name) for file in folder.iterdir()]
    os.kill(process, signal.SIGKILL)
    until(lambda: len(list(folder.iterdir())) == 2, 300)
    until(lambda: answers(client))
    fields = {"model": "tiny", "prompt": "hello", "max_tokens": 40, **SAMPLED}
    answer = client.post("/v1/completions", json=fields).json()
    assert answer["choices"][0]["text"] == tiny_lm().generate("hello", max_new_tokens=40, **SAMPLED).text
    (folder / str(process)).unlink()


def test_shutdown_lets_a_stream_end(client: httpx.Client, folder: Path) -> None:
    """The last test of the application."""
    [process] = [int(file.name) for file in folder.iterdir()]
    with client.stream("POST", "/v1/completions", json={"model": "tiny", "n": 2, **ENDLESS}) as stream:
        lines = stream.iter_lines()
        next(lines)
        ending = threading.Thread(target=serve.delete, args=("default",))
        ending.start()
        found = list(events(lines))
    ending.join(120)
    assert not ending.is_alive()
    ends = [event["choices"][0]["finish_reason"] for event in found if event["choices"]]
    assert sorted(filter(None, ends)) == ["length"] * 2
    until(lambda: not is_there(process))
    assert client.get("/health").status_code == 404


def test_models_that_no_replica_could_load_again() -> None:
    with pytest.raises(ArgumentError, match=r"model is a hornbeam\.LM"):
        application(tiny_lm())  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="load is"):
        application(tiny_lm, load={"dtype": "auto"})
    with pytest.raises(ArgumentError, match="num_cpus is 0"):
        application("smollm2", num_cpus=0)
