"""Runs the tests of all operations, and of their registration with torch, with other versions of torch.

``python scripts/try_torch.py [VERSION ...] [-- PYTEST OPTION ...]``

``scripts/versions.py`` says which versions, and where they are installed. A version of torch from PyPI comes
with the CUDA libraries that it links to, several GB of them, also where there is no GPU.
"""

from __future__ import annotations

from versions import Trial

TRIAL = Trial("torch", tests=["tests/ops"])

if __name__ == "__main__":
    TRIAL.main("Runs the tests of all operations, and of their registration with torch, with other versions.")
