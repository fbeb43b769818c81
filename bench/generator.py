"""The generator of load (load/*.c): compiled once into the cache, run inside the pods."""

import hashlib
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.peers import cache_directory
from flanneld_py.errors import FlannelError
from flanneld_py.lab.namespaces import inside

SOURCES = Path(__file__).parent / "load"
FLAGS = ("-std=c11", "-O2", "-D_GNU_SOURCE", "-pthread")
GRACE_S = 15.0
"""What a measurement may take beyond its own length; the generator's sockets give up before."""
_CHECK_S = 0.1


class LoadError(FlannelError):
    """The generator could not measure. The message is its own last line."""


@dataclass(frozen=True, slots=True)
class Server:
    """The answering side in a pod, on all of its addresses. Ports: for measurements, and for bare connections."""

    orders: int
    bare: int


def compile_load() -> Path:
    """The generator's program. FlannelError if it cannot be had."""
    return compile_c("load", sorted(SOURCES.iterdir()))


def compile_c(name: str, files: Sequence[Path]) -> Path:
    """A program of these sources and headers, compiled unless these very ones were before."""
    digest = hashlib.sha256(" ".join(FLAGS).encode())
    for path in files:
        digest.update(path.read_bytes())
    program = cache_directory() / "bench" / f"{name}-{digest.hexdigest()[:16]}"
    if os.access(program, os.X_OK):
        return program
    compiler = next((found for option in ("cc", "gcc", "clang") if (found := shutil.which(option))), None)
    if compiler is None:
        raise FlannelError(f"no C compiler for {name}, a program of the bench", hint="apt install gcc libc6-dev")
    program.parent.mkdir(parents=True, exist_ok=True)
    fresh = program.with_name(f"{program.name}.{os.getpid()}")
    includes = [f"-I{folder}" for folder in sorted({str(path.parent) for path in files})]
    sources = [str(path) for path in files if path.suffix == ".c"]
    command = [compiler, *FLAGS, *includes, "-o", str(fresh), *sources]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        first = next((line for line in result.stderr.splitlines() if "error" in line), result.stderr.strip())
        raise FlannelError(f"{compiler} cannot compile {sources[0]}: {first}", hint="apt install libc6-dev")
    fresh.replace(program)
    return program


@dataclass(frozen=True, slots=True)
class Generator:
    """`check` is called while a measurement runs, and raises if the run shall end."""

    program: Path
    check: Callable[[], None]

    @contextmanager
    def serving(self, namespace: str) -> Iterator[Server]:
        """The answering side, in a namespace, while the context lasts."""
        child = self._start(namespace, ["serve", "0.0.0.0"])
        try:
            ports = self._result(child, GRACE_S)
            yield Server(int(ports["orders"]), int(ports["bare"]))
        finally:
            finish(child)

    @contextmanager
    def running(self, namespace: str, words: Sequence[str], seconds: float) -> Iterator[Callable[[], dict[str, Any]]]:
        """A measurement under way; calling what is given waits for its result. LoadError if it fails."""
        child = self._start(namespace, words)
        try:
            yield lambda: self._result(child, seconds + GRACE_S)
        finally:
            finish(child)

    def measure(self, namespace: str, words: Sequence[str], seconds: float) -> dict[str, Any]:
        with self.running(namespace, words, seconds) as result:
            return result()

    def _start(self, namespace: str, words: Sequence[str]) -> "subprocess.Popen[str]":
        pipe = subprocess.PIPE
        argv = [str(self.program), *words]
        return inside(
            namespace,
            lambda: subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True, start_new_session=True
            ),
        )

    def _result(self, child: "subprocess.Popen[str]", timeout_s: float) -> dict[str, Any]:
        """The line that it prints."""
        assert child.stdout is not None and child.stderr is not None
        deadline = time.monotonic() + timeout_s
        poll = select.poll()
        poll.register(child.stdout, select.POLLIN)
        while not poll.poll(int(_CHECK_S * 1000)):
            self.check()
            if time.monotonic() > deadline:
                raise LoadError(f"no result after {timeout_s:.0f} s")
        if line := child.stdout.readline():
            found: dict[str, Any] = json.loads(line)
            return found
        raise LoadError(child.stderr.read().strip() or "the generator of load ended without a word")


def finish(child: "subprocess.Popen[str]") -> None:
    """Ensure that it does not run, and that nothing of it is kept."""
    child.kill()
    child.wait()
    for pipe in (child.stdout, child.stderr):
        if pipe is not None:
            pipe.close()
