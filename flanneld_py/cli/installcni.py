"""`flanneld install-cni`: the CNI plugin's own installer, `flannel install`, with the same words."""

import subprocess
from collections.abc import Sequence

from flanneld_py.daemon.cniinstall import command


def run(argv: Sequence[str]) -> int:
    """The installer's exit code: 0 done, 1 refused, 2 called wrongly."""
    return subprocess.run(command(argv), check=False).returncode
