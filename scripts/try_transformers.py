"""Runs the tests that hold us to transformers with other versions of it.

``python scripts/try_transformers.py [VERSION ...] [-- PYTEST OPTION ...]``

``scripts/versions.py`` says which versions, and where they are installed. torch is that of this interpreter.
"""

from __future__ import annotations

from versions import Trial

TRIAL = Trial(
    "transformers",
    tests=[
        "tests/integrations/test_every_field.py",
        "tests/integrations/test_asked_in_order.py",
        "tests/integrations/test_transformers.py",
        "tests/lm/test_checkpoint.py",
        "tests/lm/test_architectures.py",
    ],
    own=["tokenizers", "safetensors"],
    environment={"HORNBEAM_ARCHITECTURES": "all"},
)

if __name__ == "__main__":
    TRIAL.main("Runs the tests that hold us to transformers with other versions of it.")
