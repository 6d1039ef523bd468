"""A server of one model: OpenAI's completions and chats, scores, and metrics, over one engine.

>>> from hornbeam.serve import Limits, create_app
>>> app = create_app(lm, name="smollm2", limits=Limits(open_requests=32))
>>> app.title
'Hornbeam'

``hornbeam serve`` runs it; see docs/serve.md.
"""

from hornbeam.errors import MissingExtra

try:
    from hornbeam.serve.app import create_app
    from hornbeam.serve.limits import Limits
    from hornbeam.serve.server import run
except ModuleNotFoundError as error:
    if error.name not in ("fastapi", "prometheus_client", "pydantic", "starlette", "uvicorn"):
        raise
    raise MissingExtra(f"hornbeam.serve needs {error.name}: pip install 'hornbeam[serve]'") from error

__all__ = ["Limits", "create_app", "run"]
