"""Runs a bench of this checkout: ``hornbeam bench`` without an installation.

    python benches/run.py NAME [--quick] [--out FOLDER] [--json FILE] [--only ROW ...]

Results go to ``benches/results`` unless told otherwise.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
if not any((ROOT / "python" / "hornbeam").glob("_native*.so")):
    sys.exit("this checkout is not built: run make dev, or install hornbeam and use hornbeam bench")
sys.path.insert(0, str(ROOT / "python"))

from hornbeam.bench.run import main

main(program="python benches/run.py")
