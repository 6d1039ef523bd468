"""The server as an application of Ray Serve: many replicas, on many machines, behind one address.

``ray.serve.run(hornbeam.serve.ray.application("smollm2", num_replicas=2))`` runs it. The extra ``ray-serve``
installs what it needs; see docs/serve.md.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hornbeam.engine.options import DEFAULT_DRAFT
from hornbeam.errors import ArgumentError, MissingExtra, StateError
from hornbeam.integers import whole_number
from hornbeam.integrations.ray.shipping import Shipment, shipment
from hornbeam.lm import LM
from hornbeam.serve.app import create_app
from hornbeam.serve.limits import Limits

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["application"]

#: What a replica takes beyond the requests that it answers: for what it refuses, its health and its metrics.
SPARE_REQUESTS = 16


def application(
    model: str | os.PathLike[str] | Callable[[], LM],
    *,
    name: str | None = None,
    load: Mapping[str, Any] | None = None,
    limits: Limits | None = None,
    keys: Sequence[str] = (),
    draft: Any = DEFAULT_DRAFT,
    num_cpus: int = 1,
    num_gpus: float = 0,
    **options: Any,
) -> Any:
    """The server of a model for ``ray.serve.run``: what :func:`hornbeam.serve.create_app` makes, one engine a
    replica.

    Args:
        model: the path or name of a model, which each replica loads; or a function without arguments that
            gives a :class:`hornbeam.LM` there.
        name: of the model in requests and answers; the last part of a path by default.
        load: keywords of :meth:`hornbeam.LM.from_pretrained`, for a path or name.
        limits: of each replica, as :func:`hornbeam.serve.create_app` has them.
        keys: API keys, likewise.
        draft: where guesses come from, likewise.
        num_cpus: of each replica; its engine computes with so many threads.
        num_gpus: of each replica; with one, give ``load={"device": "cuda"}``.
        options: of ``ray.serve.deployment``: ``num_replicas``, ``autoscaling_config`` and others. By default
            a replica is sent a few requests more than ``limits.open_requests``, which it refuses, and has
            ``limits.drain_seconds`` to end what is under way.

    Returns:
        The application, which ``ray.serve.run`` takes.

    Raises:
        ArgumentError: the model is none of these, or a number is out of range.
        MissingExtra: Ray Serve is not installed.
    """
    serve = _ray_serve()
    if isinstance(model, LM):
        raise ArgumentError(
            "model is a hornbeam.LM, expected a path or name, or a function that gives one: a replica is "
            "started anew without the process that has it"
        )
    limits = limits or Limits()
    shipped = shipment(model, load or {})
    given = {
        "name": name or (Path(model).name if isinstance(model, (str, os.PathLike)) else "hornbeam"),
        "limits": limits,
        "keys": tuple(keys),
        "draft": draft,
    }
    taken = {"num_cpus": whole_number(num_cpus, "num_cpus", 1), "num_gpus": num_gpus}
    settings = {
        "name": "Hornbeam",
        "max_ongoing_requests": limits.open_requests + SPARE_REQUESTS,
        "graceful_shutdown_timeout_s": limits.drain_seconds,
        "ray_actor_options": taken,
        **options,
    }
    return serve.deployment(serve.ingress()(Replica), **settings).bind(shipped, num_cpus, given)


class Replica:
    """One process of the application: a model, its engine, and the server over it.

    Args:
        shipped: gives the model.
        threads: that its engine computes with.
        given: keywords of :func:`hornbeam.serve.create_app`.
    """

    def __init__(self, shipped: Shipment, threads: int, given: Mapping[str, Any]) -> None:
        torch.set_num_threads(threads)
        self._server = create_app(shipped.open(), **given)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """What Ray Serve sends requests to, once it has begun."""
        return self._server

    def check_health(self) -> None:
        """Ray Serve asks now and then, and starts a replica anew that raises.

        Raises:
            StateError: the thread that steps the engine has ended.
        """
        if not self._server.state.service.driver.is_alive:
            raise StateError("the engine has stopped")


def _ray_serve() -> Any:
    """Ray Serve.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        from ray import serve
    except ModuleNotFoundError as error:
        raise MissingExtra(f"{error.name} is not installed: pip install 'hornbeam[ray-serve]'") from error
    return serve
