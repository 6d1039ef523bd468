"""A tiny model behind a real socket, and what is left of requests once they are over."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import uvicorn

import hornbeam as hb
from hornbeam.serve import Limits, create_app
from tests import models

#: The byte 0 ends a text.
END = 188


class Server:
    """A server on a free port, in a thread."""

    def __init__(self, lm: hb.LM, limits: Limits, keys: tuple[str, ...] = ()) -> None:
        self.lm = lm
        self.app = create_app(lm, name="tiny", limits=limits, keys=keys)
        self.service = self.app.state.service
        config = uvicorn.Config(
            self.app, port=0, lifespan="on", ws="none", log_level="error", timeout_graceful_shutdown=60
        )
        self.uvicorn = uvicorn.Server(config)
        self._thread = threading.Thread(target=self.uvicorn.run)
        self._thread.start()
        self.until(lambda: self.uvicorn.started)
        self.port = self.uvicorn.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = httpx.Client(base_url=self.url, timeout=300)

    def until(self, holds: Callable[[], bool], seconds: float = 120.0) -> None:
        """Waits for something to hold."""
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, "it has taken too long"
            time.sleep(0.005)

    def post(self, path: str, **fields: Any) -> httpx.Response:
        """A request with these fields, and the model's name."""
        return self.client.post(path, json={"model": "tiny", **fields})

    def check_nothing_left(self) -> None:
        """No request is under way, and no branch of the tree is held."""
        engine = self.lm.engine
        self.until(lambda: self.service.num_open == 0)
        self.until(lambda: not engine.requests and engine.tree.stats()["branches"] == 0)
        engine.tree.debug_check()

    def close(self) -> None:
        """Stops it."""
        self.client.close()
        self.uvicorn.should_exit = True
        self._thread.join(120)
        assert not self._thread.is_alive()


def tiny_lm(**options: Any) -> hb.LM:
    """A model of one token a byte, whose texts end."""
    model = models.llama()
    model.generation_config.eos_token_id = END
    tokenizer = models.byte_tokenizer()
    tokenizer.add_special_tokens({"eos_token": tokenizer.convert_ids_to_tokens(END)})
    return hb.LM(model, tokenizer, page_tokens=4, **options)


@pytest.fixture(scope="module")
def served() -> Iterator[Server]:
    server = Server(tiny_lm(), Limits(seconds=300))
    yield server
    server.close()


@pytest.fixture
def server(served: Server) -> Iterator[Server]:
    """The server of the module; nothing may be left of a test's requests."""
    yield served
    served.check_nothing_left()
