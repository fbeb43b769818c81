"""`flanneld bench`: the benchmarks, which come with a checkout of the sources and not with the installed package."""

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from flanneld_py.errors import UsageError

ROOT = Path(__file__).parents[2]


def run(argv: Sequence[str], root: Path = ROOT) -> int:
    """Run `python -m bench` with these words; its exit code. `root`: where the package `flanneld_py` lies."""
    # Beside an installed package there may be a `bench` of somebody else.
    if not (root / "pyproject.toml").exists() or not (root / "bench" / "table.py").exists():
        raise UsageError(
            "bench: the benchmarks are not part of the installed package",
            hint="clone the sources, and run deploy/quickstart or python -m bench there",
        )
    if str(root) not in sys.path:
        sys.path.append(str(root))
    return int(import_module("bench.__main__").run(list(argv)))
