"""What the native pump was built from: deploy/compiling.py takes the same sum of what it compiles into the module."""

import hashlib
from pathlib import Path


def sum_sources(folder: Path) -> str:
    """A sum over the C sources and headers, names included; "" where there are none: a wheel need not bring them."""
    paths = sorted(path for path in folder.iterdir() if path.suffix in {".c", ".h"})
    if not paths:
        return ""
    digest = hashlib.sha256()
    for path in paths:
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]
