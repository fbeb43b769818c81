"""Another kernel on this machine's own files: a virtual machine without KVM, in which pytest runs.

Its root is this machine's root, read-only; only `results` is shared for writing. It has no network.
"""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

CHECKOUT = Path(__file__).resolve().parents[2]
GUEST = Path(__file__).with_name("guest.sh")
DEADLINE_S = 900.0
"""From boot to the end of the tests. The software CPU is an order of magnitude slower than this machine's."""


@dataclass(frozen=True)
class Kernel:
    """`release` as in uname -r; `folder` holds boot/ and lib/modules/."""

    release: str
    folder: Path

    @property
    def image(self) -> Path:
        return self.folder / "boot" / f"vmlinuz-{self.release}"


def find_kernel(folder: Path) -> Kernel | None:
    """The kernel that was unpacked into `folder`; None if there is none, or one without its list of modules."""
    for image in sorted(folder.glob("boot/vmlinuz-*")):
        kernel = Kernel(image.name.removeprefix("vmlinuz-"), folder)
        if (folder / "lib" / "modules" / kernel.release / "modules.dep").exists():
            return kernel
    return None


@dataclass(frozen=True)
class Case:
    """What became of one test in the machine. `outcome`: passed, skipped, failure or error."""

    file: str
    name: str
    outcome: str
    text: str = ""


def read_cases(report: Path) -> list[Case]:
    """The cases of a JUnit report of the kind that names files (xunit1)."""
    return [_case(element) for element in ElementTree.parse(report).iter("testcase")]


def _case(element: ElementTree.Element) -> Case:
    file, name = element.get("file", ""), element.get("name", "")
    for outcome in ("error", "failure", "skipped"):
        found = element.find(outcome)
        if found is not None:
            return Case(file, name, outcome, "\n".join(filter(None, (found.get("message"), found.text))))
    return Case(file, name, "passed")


class MachineFailed(Exception):
    """It did not come so far as to report on its tests."""


class Machine:
    """A kernel that is running `tests`; `end` it, whatever happens."""

    def __init__(self, kernel: Kernel, tests: Sequence[str], results: Path) -> None:
        self.kernel = kernel
        self._results = results
        self._until = time.monotonic() + DEADLINE_S
        program = shlex.join(["bash", str(GUEST), str(CHECKOUT), sys.executable, *tests])
        tools = Path(sys.executable).parent
        command = [
            str(tools / "vng"),
            # A processor without AVX: emulating wide vectors costs a quarter of the whole time.
            *("--run", str(kernel.image), "--force-9p", "--disable-kvm", "--qemu-opts=-cpu Nehalem"),
            # More than one processor makes it slower: each is a thread that waits for the others.
            *("--append", "mitigations=off", "--cpus", "1", "--memory", "1G", "--user", "root"),
            *(f"--rwdir=/run/results={results}", "--rodir=/run/host=/"),
            *("--", f"{program} >/run/results/log 2>&1"),
        ]
        with (results / "console").open("wb") as console:
            self._process = subprocess.Popen(
                command,
                cwd=CHECKOUT,
                env=os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"},
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def wait(self, seconds: float) -> None:
        """Until it ends, for so long at most. One that runs for too long is ended."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            if time.monotonic() > self._until:
                self.end()

    def cases(self) -> list[Case]:
        """What the tests said, once it has ended; MachineFailed, with the machine's last words, if they did not."""
        report = self._results / "junit.xml"
        if not report.exists():
            late = f", which it had to within {DEADLINE_S:.0f} s" if time.monotonic() > self._until else ""
            raise MachineFailed(f"{self.kernel.release} ended without a report on its tests{late}; {self._said()}")
        return read_cases(report)

    def _said(self) -> str:
        """The ends of what the tests and the kernel printed."""
        parts = []
        for name in ("console", "log"):
            path = self._results / name
            text = path.read_text(errors="replace") if path.exists() else ""
            parts.append(f"the end of its {name}:\n" + "\n".join(text.splitlines()[-25:]))
        return "\n".join(parts)

    def end(self) -> None:
        """No process of it is left: the emulator does not end by itself when the one that started it is killed."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
