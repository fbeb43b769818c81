"""iptables' programs: which there are, and running them."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from errno import EAGAIN
from signal import strsignal

from flanneld_py.errors import KernelError
from flanneld_py.model.ruleset import Engine

LOCK_WAIT_S = 5
"""How long to wait for the lock that all legacy iptables of a host share (/run/xtables.lock)."""
_LIMIT_S = 30.0
_TRIES = 3
_DIRECTORIES = ("/usr/sbin", "/sbin", "/usr/local/sbin")
_SUFFIX = {Engine.IPTABLES_NFT: "-nft", Engine.IPTABLES_LEGACY: "-legacy"}
_INSTALL = "install iptables, or use --packet-filter=nft, which needs no program"


@dataclass(frozen=True, slots=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def reason(self) -> str:
        """The first line that says something."""
        if self.code < 0:
            return f"ended by {strsignal(-self.code)}"
        lines = (line.strip() for line in self.err.splitlines() if not line.startswith("#"))
        return next(filter(None, lines), f"exit code {self.code}")


def search_path() -> str:
    """PATH, and the places where administrators' programs are, which a service's PATH may lack."""
    return os.pathsep.join((os.environ.get("PATH", ""), *_DIRECTORIES))


def find_engines() -> tuple[Engine, ...]:
    """Those for which there is an iptables-restore. The one that plain `iptables` is comes first."""
    plain = _plain_engine()
    others = (engine for engine, suffix in _SUFFIX.items() if _find(f"iptables{suffix}-restore"))
    return tuple(dict.fromkeys((*(() if plain is None else (plain,)), *others)))


class Programs:
    """Runs the programs of one engine; `netns`: a path, if it is not ours. KernelError: none is there, or it hangs."""

    def __init__(self, engine: Engine, *, netns: str | None = None) -> None:
        self.engine = engine
        self._prefix = () if netns is None else ("nsenter", f"--net={netns}")

    async def save(self, version: int, table: str) -> Outcome:
        return await self._run(version, "-save", ("-t", table))

    async def list(self, version: int, table: str, chain: str) -> Outcome:
        return await self._run(version, "", ("-w", str(LOCK_WAIT_S), "-t", table, "-S", chain))

    async def check(self, version: int, table: str, chain: str, rule: Iterable[str]) -> Outcome:
        """Exit code 0: the rule is in the chain; 1: it is not."""
        return await self._run(version, "", ("-w", str(LOCK_WAIT_S), "-t", table, "-C", chain, *rule))

    async def restore(self, version: int, text: str) -> Outcome:
        """All of `text`, table by table, each in one transaction; other rules stay."""
        return await self._run(version, "-restore", ("--noflush", "--wait", str(LOCK_WAIT_S)), text)

    async def _run(self, version: int, action: str, words: Iterable[str], text: str = "") -> Outcome:
        base = "iptables" if version == 4 else "ip6tables"
        named = f"{base}{_SUFFIX[self.engine]}{action}"
        program = _find(named) or (_find(f"{base}{action}") if _plain_engine() is self.engine else None)
        if program is None:
            raise KernelError(f"there is no {named}", hint=_INSTALL)
        # Not a pipe: uvloop fails where a child ends before it has read all of one.
        try:
            with os.fdopen(os.memfd_create(named), "w+") as stdin:
                stdin.write(text)
                stdin.seek(0)
                child = await asyncio.create_subprocess_exec(
                    *self._prefix,
                    program,
                    *words,
                    stdin=stdin,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    env={"PATH": search_path(), "LC_ALL": "C"},
                )
        except OSError as error:
            raise KernelError(f"cannot run {named}: {error.strerror}", errno=EAGAIN) from error
        try:
            async with asyncio.timeout(_LIMIT_S):
                out, err = await child.communicate()
        except TimeoutError:
            raise KernelError(f"{named} did not end in {_LIMIT_S:.0f} s", errno=EAGAIN) from None
        finally:
            if child.returncode is None:
                with suppress(ProcessLookupError):
                    child.kill()
                await child.wait()
        return Outcome(child.returncode or 0, out.decode(errors="replace"), err.decode(errors="replace"))


def _find(name: str) -> str | None:
    return shutil.which(name, path=search_path())


def _plain_engine() -> Engine | None:
    """What `iptables` without a suffix is; before 1.8 it did not say, and was the legacy one."""
    program = _find("iptables")
    if program is None or _find("iptables-restore") is None:
        return None
    for _ in range(_TRIES):
        try:
            done = subprocess.run([program, "-V"], capture_output=True, text=True, timeout=_LIMIT_S, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        if done.returncode >= 0:  # else a signal has ended it
            break
    return Engine.IPTABLES_NFT if "nf_tables" in done.stdout else Engine.IPTABLES_LEGACY
