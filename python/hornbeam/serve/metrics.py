"""What Prometheus reads: requests, tokens, seconds, memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from hornbeam.results import Generation

if TYPE_CHECKING:
    from hornbeam.engine.engine import Engine
    from hornbeam.serve.driver import Driver

__all__ = ["Metrics"]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250)


class Metrics:
    """The metrics of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self.registry, "namespace": "hornbeam"}
        self.requests = Counter("requests", "Answered requests.", ["route", "status"], **own)
        self.open_requests = Gauge("open_requests", "Requests under way.", **own)
        self.seconds = Histogram(
            "request_seconds",
            "From the first byte of a request to the last of its answer.",
            ["route"],
            buckets=_SECONDS,
            **own,
        )
        self.first_token = Histogram(
            "first_token_seconds", "From a streamed request to its first token.", buckets=_SECONDS, **own
        )
        self.prompt_tokens = Counter("prompt_tokens", "Tokens of prompts.", **own)
        self.cached_tokens = Counter("cached_prompt_tokens", "Those that the cache held.", **own)
        self.emitted = Counter("generated_tokens", "Tokens of answers.", **own)
        self.drafted = Counter("drafted_tokens", "Guessed tokens that were verified.", **own)
        self.accepted = Counter("accepted_tokens", "Those that stayed.", **own)
        self._steps = Gauge("engine_steps", "Forward passes so far.", **own)
        self._step_seconds = Gauge("engine_step_seconds", "What they took.", **own)
        self._submit_seconds = Gauge("engine_submit_seconds", "What it took to begin sequences.", **own)
        self._sequences = Gauge("sequences", "Sequences under way.", **own)
        self._branches = Gauge("branches", "Branches of the prefix tree that are held.", **own)
        self._kv_bytes = Gauge("kv_bytes", "Bytes of pages.", **own)
        self._kv_limit = Gauge("kv_bytes_limit", "Bytes of pages at most.", **own)

    def answered(self, generations: Sequence[Generation], n: int) -> None:
        """Counts the tokens of an answer, in which each prompt has ``n`` sequences."""
        for place, generation in enumerate(generations):
            stats = generation.stats
            if place % n == 0:
                self.prompt_tokens.inc(stats.prompt_tokens)
                self.cached_tokens.inc(stats.reused_tokens)
            self.emitted.inc(stats.emitted)
            self.drafted.inc(stats.drafted)
            self.accepted.inc(stats.accepted)

    async def page(self, driver: Driver) -> bytes:
        """All of them in Prometheus' text format, as they are between two steps."""

        def look(engine: Engine) -> None:
            self._sequences.set(len(engine.requests))
            self._branches.set(engine.tree.stats()["branches"])
            self._kv_bytes.set(engine.tree.num_bytes)
            self._kv_limit.set(engine.tree.max_bytes or 0)

        await driver.call(look)
        self._steps.set(driver.num_steps)
        self._step_seconds.set(driver.step_seconds)
        self._submit_seconds.set(driver.submit_seconds)
        return generate_latest(self.registry)
