"""What the server costs, and sixteen chats beside transformers' own server, on the default model on the CPU.

Both servers are processes of their own, and the requests come over sockets.

    hornbeam bench serve [--quick] [--only ROW ...]

Rows:

``overhead``: milliseconds of a one-token completion over a kept connection that are not spent in the
    engine, by the server's own count: beginning the sequence (``submit``) and its step, which have figures of
    their own. The prompt is cached, so that a step has one row.
``chats``: sixteen streamed chats at a time that share a system prompt of about 1,000 tokens, at most 64
    tokens each, greedy, over ``transformers serve --continuous-batching``: tokens a second in all, and the
    95th percentile of the gaps between two chunks of a chat. Every round has another system prompt, so that
    neither side finds it in its cache. ``identical`` counts the equal answers. Needs what transformers calls
    its extra ``serving``; ``HORNBEAM_SERVE_CLIENTS`` may name a folder with the packages that are missing,
    such as that of ``make test-serve``.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from hornbeam.bench import harness
from hornbeam.bench.workload import CHATS, sources
from hornbeam.errors import MissingExtra, StateError
from hornbeam.model import loading

CLIENTS, TOKENS, SYSTEM_TOKENS = 16, 64, 1000
REQUESTS = 20
#: Rows of a step of the peer at most, of which the best is taken: parts of prompts, one prompt, or several.
PEER_ROWS = (256, 1280, 5120)
#: Its blocks of 256 slots, enough for 16 chats of 1,200 tokens that share nothing.
PEER_BLOCKS = 128
#: Seconds that a server may take until it answers.
STARTING = 600.0


class Server(NamedTuple):
    """A server that answers."""

    port: int
    model: str

    def post(self, connection: http.client.HTTPConnection, path: str, fields: dict[str, Any]) -> Any:
        """Sends a request."""
        body = json.dumps({"model": self.model, **fields})
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            raise StateError(f"the server answers {response.status}: {response.read().decode()}")
        return response

    def connect(self) -> http.client.HTTPConnection:
        """A connection of its own."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)


class Streamed(NamedTuple):
    """What came of a stream: its text, and the seconds between its chunks."""

    text: str
    gaps: list[float]


@contextmanager
def started(command: Sequence[str], model: str, port: int, packages: Sequence[str] = ()) -> Iterator[Server]:
    """A server as a process, until the block ends."""
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join([*packages, str(harness.PACKAGES)])
    environment["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, env=environment, stdout=said, stderr=said)
        try:
            end = time.monotonic() + STARTING
            while not _answers(port):
                if process.poll() is not None or time.monotonic() > end:
                    said.seek(0)
                    raise MissingExtra(f"{command[0]} does not serve: {said.read().decode()[-600:]}")
                time.sleep(0.2)
            yield Server(port, model)
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _free_port() -> int:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Bench:
    """The rows."""

    def __init__(self, quick: bool) -> None:
        self.quick = quick
        self.alternations = 2 if quick else harness.ALTERNATIONS
        self.folder = loading.resolve("smollm2")
        self.tokenizer = loading.load_tokenizer(self.folder)
        self.num_rounds = 0

    @contextmanager
    def ours(self) -> Iterator[Server]:
        """Our server, with its defaults."""
        port = _free_port()
        command = [
            sys.executable,
            "-m",
            "hornbeam",
            "serve",
            "--model",
            str(self.folder),
            "--name",
            "smollm2",
        ]
        with started([*command, "--port", str(port), "--dtype", "float32"], "smollm2", port) as server:
            yield server

    @contextmanager
    def theirs(self, rows: int) -> Iterator[Server]:
        """That of transformers, with continuous batching in steps of so many rows at most."""
        program = shutil.which("transformers", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        if program is None:
            raise MissingExtra("there is no program transformers")
        port = _free_port()
        command = [program, "serve", str(self.folder), "--continuous-batching", *_peer_options(rows)]
        options = ["--device", "cpu", "--dtype", "float32", "--host", "127.0.0.1", "--port", str(port)]
        own = os.environ.get("HORNBEAM_SERVE_CLIENTS")
        with started([*command, *options], str(self.folder), port, [own] if own else []) as server:
            yield server

    def overhead(self) -> dict[str, Any]:
        """A one-token completion."""
        means: dict[str, list[float]] = {"outside": [], "submit": [], "step": []}
        with self.ours() as server:
            connection = server.connect()
            fields = {"prompt": "The hornbeam is a tree", "max_tokens": 1, "temperature": 0}

            def ask() -> Any:
                response = server.post(connection, "/v1/completions", fields)
                return json.loads(response.read())["choices"]

            first = ask()
            for _ in range(1 + self.alternations):
                spent, before = 0.0, _engine_seconds(connection)
                for _ in range(REQUESTS):
                    begin = time.perf_counter()
                    answer = ask()
                    spent += time.perf_counter() - begin
                    if answer != first:
                        raise StateError(f"the answer is {answer}, and was {first}")
                within = [now - then for now, then in zip(_engine_seconds(connection), before, strict=True)]
                for name, seconds in zip(means, (spent - sum(within), *within), strict=True):
                    means[name].append(1e3 * seconds / REQUESTS)
            connection.close()
        return {
            "requests": REQUESTS * self.alternations,
            "milliseconds_outside_of_the_engine": statistics.median(means["outside"][1:]),
            "interval": harness.interval(sorted(means["outside"][1:])),
            "milliseconds_of_submit": statistics.median(means["submit"][1:]),
            "milliseconds_of_the_step": statistics.median(means["step"][1:]),
        }

    def chats(self) -> dict[str, Any]:
        """Sixteen chats that share a system prompt."""
        gaps: dict[str, list[float]] = {"ours": [], "theirs": []}
        rates: dict[str, list[float]] = {"ours": [], "theirs": []}
        texts: dict[str, list[str]] = {}

        def one(name: str, server: Server, system: str) -> float:
            begin = time.perf_counter()
            with ThreadPoolExecutor(CLIENTS) as pool:
                found = list(pool.map(lambda place: self._chat(server, system, place), range(CLIENTS)))
            spent = time.perf_counter() - begin
            texts[name] = [streamed.text for streamed in found]
            own = sorted(gap for streamed in found for gap in streamed.gaps)
            gaps[name].append(own[int(0.95 * (len(own) - 1))])
            rates[name].append(sum(map(self._count, texts[name])) / spent)
            return spent

        tuning: dict[int, float] = {}
        for rows in PEER_ROWS[1:2] if self.quick else PEER_ROWS:
            with self.theirs(rows) as theirs:
                seconds = [one("theirs", theirs, self._system(round_)) for round_ in range(2)]
            tuning[rows] = seconds[1]
        best = min(tuning, key=lambda rows: tuning[rows])
        gaps["theirs"].clear()
        rates["theirs"].clear()
        identical = 0
        with self.ours() as ours, self.theirs(best) as theirs:
            for round_ in range(1 + self.alternations):
                system = self._system(round_)
                for name, server in (("ours", ours), ("theirs", theirs)):
                    one(name, server, system)
                if round_ == 0:
                    identical = sum(a == b for a, b in zip(texts["ours"], texts["theirs"], strict=True))
        inverse = {name: [1 / rate for rate in own[1:]] for name, own in rates.items()}
        return {
            "chats": CLIENTS,
            "system_tokens": len(self.tokenizer(self._system(0))["input_ids"]),
            "identical": identical,
            "peer": " ".join(["transformers serve --continuous-batching", *_peer_options(best)]),
            "peer_seconds_by_rows": tuning,
            "tokens_per_second": statistics.median(rates["ours"][1:]),
            "their_tokens_per_second": statistics.median(rates["theirs"][1:]),
            "hornbeam": harness.ratio(inverse["ours"], inverse["theirs"]),
            "gap_95_milliseconds": 1e3 * statistics.median(gaps["ours"][1:]),
            "their_gap_95_milliseconds": 1e3 * statistics.median(gaps["theirs"][1:]),
        }

    def _system(self, round_: int) -> str:
        """A system prompt of about a thousand tokens, another one for each round."""
        text = "\n".join(sources())
        ids = self.tokenizer(text)["input_ids"][5000 * round_ :][:SYSTEM_TOKENS]
        return f"{round_}. You answer questions. This is a program.\n{self.tokenizer.decode(ids)}"

    def _chat(self, server: Server, system: str, place: int) -> Streamed:
        question = f"{CHATS[place % len(CHATS)]} (Question {place}.)"
        messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
        tokens = 16 if self.quick else TOKENS
        fields = {"messages": messages, "max_tokens": tokens, "temperature": 0, "stream": True}
        connection = server.connect()
        response = server.post(connection, "/v1/chat/completions", fields)
        parts, times = list[str](), list[float]()
        for line in response:
            data = line.decode().strip().removeprefix("data: ")
            if not data.startswith("{"):
                continue
            event = json.loads(data)
            if "error" in event:
                raise StateError(f"the server answers {event['error']}")
            content = "".join(choice["delta"].get("content") or "" for choice in event["choices"])
            if content:
                parts.append(content)
                times.append(time.perf_counter())
        connection.close()
        return Streamed("".join(parts), [b - a for a, b in itertools.pairwise(times)])

    def _count(self, text: str) -> int:
        return len(self.tokenizer(text)["input_ids"])


def _peer_options(rows: int) -> list[str]:
    return ["--cb-num-blocks", str(PEER_BLOCKS), "--cb-max-batch-tokens", str(rows)]


def _engine_seconds(connection: http.client.HTTPConnection) -> tuple[float, float]:
    """What sequences took to begin so far, and steps."""
    connection.request("GET", "/metrics")
    values = dict(line.rsplit(" ", 1) for line in connection.getresponse().read().decode().splitlines())
    return (
        float(values["hornbeam_engine_submit_seconds"]),
        float(values["hornbeam_engine_step_seconds"]),
    )


def run(quick: bool = False, only: Iterable[str] | None = None) -> dict[str, Any]:
    """All rows, or those that ``only`` names."""
    bench = Bench(quick)
    rows: dict[str, Callable[[], dict[str, Any]]] = {"overhead": bench.overhead, "chats": bench.chats}
    return harness.run_rows(rows, only)
