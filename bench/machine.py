"""What the machine is, how busy it is, and how long it stays so."""

import os
import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_ROOT = Path(__file__).parent.parent
QUIET_SHARE = 0.10
"""Of all cores together; above that others would be measured as well."""
WINDOW_S = 0.25


@dataclass(frozen=True, slots=True)
class Clocks:
    """Seconds since boot that all cores together spent. `stolen`: by the hypervisor, for other machines."""

    busy_s: float
    idle_s: float
    stolen_s: float

    def since(self, earlier: "Clocks") -> "Clocks":
        return Clocks(
            self.busy_s - earlier.busy_s, self.idle_s - earlier.idle_s, max(0.0, self.stolen_s - earlier.stolen_s)
        )

    @property
    def busy_share(self) -> float:
        """Work, and time stolen, as a share of all time."""
        total = self.busy_s + self.idle_s + self.stolen_s
        return (self.busy_s + self.stolen_s) / total if total > 0 else 0.0


def parse_clocks(stat: str) -> Clocks:
    """The first line of /proc/stat (proc(5)): user nice system idle iowait irq softirq steal guest guest_nice."""
    user, nice, system, idle, iowait, irq, softirq, steal = (int(word) for word in stat.split()[1:9])
    busy = user + nice + system + irq + softirq
    return Clocks(busy * _TICK_S, (idle + iowait) * _TICK_S, steal * _TICK_S)


def read_clocks() -> Clocks:
    with Path("/proc/stat").open() as file:
        return parse_clocks(file.readline())


@dataclass(frozen=True, slots=True)
class Calm:
    """What others did just before a measurement. `waited_s`: until it was quiet, or patience was over."""

    quiet: bool
    busy_share: float
    waited_s: float


def wait_until_quiet(patience_s: float, check: Callable[[], None]) -> Calm:
    """Wait until the machine has next to nothing to do, at most that long; one look is always taken."""
    begin = time.monotonic()
    while True:
        check()
        before = read_clocks()
        time.sleep(WINDOW_S)
        share = read_clocks().since(before).busy_share
        waited = time.monotonic() - begin
        if share <= QUIET_SHARE or waited >= patience_s:
            return Calm(share <= QUIET_SHARE, share, waited)


def machine_facts() -> dict[str, Any]:
    """Processor, memory, kernel: what figures depend on."""
    memory = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal:"))
    return {
        "processor": _cpu_field("model name") or platform.machine(),
        "cores": os.cpu_count() or 1,
        "hypervisor": "hypervisor" in _cpu_field("flags").split(),
        "memory_mib": int(memory.split()[1]) // 1024,
        "kernel": f"{platform.system()} {platform.release()}",
        "system": _os_name(),
        "python": platform.python_version(),
        "congestion_control": Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip(),
    }


def commit() -> str | None:
    """The commit of this checkout, with "+changes" where files differ from it; None if git cannot tell."""
    head = _git("rev-parse", "--short=12", "HEAD")
    return None if head is None else head + ("+changes" if _git("status", "--porcelain") else "")


def _git(*words: str) -> str | None:
    try:
        result = subprocess.run(
            ["git", "-C", str(_ROOT), *words], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
    except OSError:
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def _cpu_field(name: str) -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        return ""
