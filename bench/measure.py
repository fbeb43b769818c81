"""What is measured on a data path, and one round of it."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from bench.cost import cpu_s, rss_mib
from bench.datapaths import DataPath
from bench.generator import Generator, LoadError, Server
from bench.machine import read_clocks

HEADERS_BYTES = 28
"""IPv4 and UDP."""
PROBE_BYTES = 512
"""Payload of the datagrams whose loss is counted."""
RATES = (10_000, 40_000)
"""Datagrams a second of those."""
UDP_BYTES = (64, 512, 1400)
_RAMP_S = 0.15
"""A TCP stream is at its full rate after that, and for as long after the last request."""


@dataclass(frozen=True, slots=True)
class Metric:
    """`gate`: where the generator of load may be the limit, the metric of the bare veth that says what it brings."""

    name: str
    title: str
    unit: str
    more_is_better: bool
    gate: str | None = None


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("tcp1", "TCP, 1 stream", "Gbit/s", True, gate="tcp4_free"),
        Metric("tcp1_retrans", "retransmits, 1 stream", "/GB", False),
        Metric("tcp4", "TCP, 4 streams", "Gbit/s", True, gate="tcp4_free"),
        Metric("tcp4_retrans", "retransmits, 4 streams", "/GB", False),
        *(Metric(f"udp{size}", f"UDP {size} B delivered", "kpps", True, gate=f"udp{size}") for size in UDP_BYTES),
        *(Metric(f"loss{rate // 1000}k", f"loss at {rate // 1000},000 x 512 B/s", "%", False) for rate in RATES),
        Metric("rtt_p50", "half-RTT p50, idle", "us", False),
        Metric("rtt_p99", "half-RTT p99, idle", "us", False),
        Metric("loaded_p50", "half-RTT p50, beside TCP", "us", False),
        Metric("loaded_p99", "half-RTT p99, beside TCP", "us", False),
        Metric("connect", "TCP connections", "/s", True),
        Metric("cpu_carrier", "CPU of carriers", "s/GB", False),
        Metric("cpu_daemon", "CPU of daemons", "s/GB", False),
        Metric("cpu_system", "CPU of the machine", "s/GB", False),
        Metric("rss", "RSS of the largest carrier", "MiB", False),
        Metric("tcp1_free", "the generator itself, 1 stream", "Gbit/s", True),
        Metric("tcp4_free", "the generator itself, 4 streams", "Gbit/s", True),
    )
}


@dataclass(frozen=True, slots=True)
class Bench:
    """A path and what sends on it. `seconds`: of one measurement."""

    path: DataPath
    server: Server
    generator: Generator
    seconds: float

    def ask(self, kind: str, *words: object, seconds: float | None = None) -> dict[str, Any]:
        """The result of one measurement of the generator."""
        chosen = self.seconds if seconds is None else seconds
        return self.generator.measure(self.path.source, self.words(kind, chosen, *words), chosen)

    def words(self, kind: str, seconds: float, *words: object) -> list[str]:
        port = self.server.bare if kind == "connect" else self.server.orders
        return [kind, self.path.address, str(port), f"{seconds:.3f}", *map(str, words)]


@dataclass(frozen=True, slots=True)
class Values:
    """One round on one path. `failures`: why, by measurement."""

    values: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def answers(bench: Bench) -> None:
    """Ensure that packets get through. LoadError if none does."""
    if not bench.ask("rr", 20, "free", seconds=2.0)["answered"]:
        raise LoadError(f"no answer from {bench.path.address}")


def measure_round(bench: Bench, on_step: Callable[[str], None]) -> Values:
    """Everything once. What fails is noted, and the rest still measured."""
    found = Values()
    for name, measurement in MEASUREMENTS.items():
        on_step(name)
        try:
            found.values.update(measurement(bench))
        except (LoadError, OSError) as error:
            # OSError: a process of the path has ended, say, and has no CPU time to tell.
            found.failures[name] = str(error)
    return found


def _stream(bench: Bench) -> dict[str, float]:
    before, clocks = _spent(bench.path), read_clocks()
    result = bench.ask("tcp", 1)
    after, busy = _spent(bench.path), read_clocks().since(clocks).busy_s
    speed, gigabytes = _gbit_s(result), result["bytes"] / 1e9
    carriers, daemons = (now - then for now, then in zip(after, before, strict=True))
    return {
        "tcp1": speed,
        "tcp1_retrans": result["retransmits"] / gigabytes,
        "cpu_carrier": carriers / gigabytes,
        "cpu_daemon": daemons / gigabytes,
        "cpu_system": busy / gigabytes,
    }


def _streams(bench: Bench) -> dict[str, float]:
    result = bench.ask("tcp", 4)
    return {
        "tcp4": _gbit_s(result),
        "tcp4_retrans": result["retransmits"] / (result["bytes"] / 1e9),
    }


def _datagrams(size: int) -> Callable[[Bench], dict[str, float]]:
    def measurement(bench: Bench) -> dict[str, float]:
        fitting = min(size, bench.path.mtu - HEADERS_BYTES)
        result = bench.ask("udp", fitting, 0)
        return {f"udp{size}": result["timely"] / result["seconds"] / 1e3}

    return measurement


def _loss(rate: int) -> Callable[[Bench], dict[str, float]]:
    def measurement(bench: Bench) -> dict[str, float]:
        result = bench.ask("udp", PROBE_BYTES, rate)
        if not result["sent"]:
            raise LoadError("not one datagram was taken")
        return {f"loss{rate // 1000}k": 100 * (1 - result["delivered"] / result["sent"])}

    return measurement


def _latency(bench: Bench) -> dict[str, float]:
    """The two ends on two cores, as they are on two machines; on one, half of the wake-ups would be saved."""
    return _percentiles("rtt", bench.ask("rr", 0, "apart"))


def _loaded_latency(bench: Bench) -> dict[str, float]:
    """Requests while a TCP stream goes the same way, through the same worker."""
    whole = bench.seconds + 4 * _RAMP_S
    words = bench.words("tcp", whole, 1)
    with bench.generator.running(bench.path.source, words, whole) as stream:
        time.sleep(_RAMP_S)
        found = _percentiles("loaded", bench.ask("rr", 0, "free"))
        stream()
    return found


def _percentiles(name: str, result: Mapping[str, Any]) -> dict[str, float]:
    if not result["answered"]:
        raise LoadError(f"none of {result['asked']} requests was answered")
    return {f"{name}_p50": result["p50_us"], f"{name}_p99": result["p99_us"]}


def _connections(bench: Bench) -> dict[str, float]:
    result = bench.ask("connect")
    if not result["connections"]:
        raise LoadError(f"none of {result['failed']} connections was made")
    return {"connect": result["connections"] / result["seconds"]}


def _memory(bench: Bench) -> dict[str, float]:
    return {"rss": max(map(rss_mib, bench.path.carriers))} if bench.path.carriers else {}


def _generator(bench: Bench) -> dict[str, float]:
    """What it brings where devices cost next to nothing, if the path has such an address.

    Four streams keep all cores busy with it, which is its full strength. One stream is bound by the wake-ups of its two
    ends, as it is on every path.
    """
    if bench.path.free is None:
        return {}
    way = replace(bench, path=replace(bench.path, address=bench.path.free))
    results = {streams: way.ask("tcp", streams) for streams in (1, 4)}
    return {f"tcp{n}_free": _gbit_s(result) for n, result in results.items()}


def _gbit_s(result: Mapping[str, Any]) -> float:
    """LoadError: nothing went through, of which there is no rate and no cost."""
    if not result["bytes"]:
        raise LoadError("not one byte went through")
    return float(result["bytes"] * 8 / result["seconds"] / 1e9)


def _spent(path: DataPath) -> tuple[float, float]:
    """CPU seconds so far of the path's carriers and of its daemons."""
    return _sum(path.carriers), _sum(path.daemons)


def _sum(pids: Iterable[int]) -> float:
    return sum(map(cpu_s, pids))


MEASUREMENTS: Mapping[str, Callable[[Bench], dict[str, float]]] = {
    "tcp1": _stream,
    "tcp4": _streams,
    **{f"udp{size}": _datagrams(size) for size in UDP_BYTES},
    **{f"loss{rate // 1000}k": _loss(rate) for rate in RATES},
    "rtt": _latency,
    "loaded": _loaded_latency,
    "connect": _connections,
    "rss": _memory,
    "generator": _generator,
}
"""In the order in which they run."""
