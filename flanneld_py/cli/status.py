"""`flanneld status`: what the daemon of this node does, and how far the kernel is from what it wants."""

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flanneld_py.daemon.board import FILE
from flanneld_py.daemon.control import ask, is_own
from flanneld_py.daemon.rundir import is_held, subnet_file
from flanneld_py.observe.status import Stage

READY, NOT_WELL, NOT_RUNNING = 0, 1, 3
MANY = 20
"""Differences shown before the rest is only counted."""


def run(argv: Sequence[str]) -> int:
    """Print the report. 0: ready and all as wanted; 1: running, but not so; 3: no daemon runs. --own: 0 or 3."""
    parser = argparse.ArgumentParser(prog="flanneld status", description=__doc__)
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")
    parser.add_argument(
        "--subnet-file", type=Path, default=subnet_file(os.environ), metavar="FILE", help="the daemon's"
    )
    parser.add_argument(
        "--own", action="store_true", help="only whether the daemon at work is this container's own, well or not"
    )
    args = parser.parse_args(argv)
    directory: Path = args.subnet_file.parent
    if args.own:
        own = is_own(directory)
        print(f"the flanneld at work in {directory} is {'' if own else 'not '}of this container")
        return READY if own else NOT_RUNNING
    answer = ask(directory, "status")
    running = answer is not None
    report = answer if answer is not None and "stage" in answer else _last_word(directory) | (answer or {})
    if args.output == "json":
        print(json.dumps(report | {"running": running}, indent=1))
    else:
        print("\n".join(_text(report, running, directory)))
    if not running:
        return NOT_RUNNING
    return READY if _is_well(report) else NOT_WELL


def _last_word(directory: Path) -> dict[str, Any]:
    """What a daemon that does not answer wrote last; {} if it left nothing that can be read."""
    try:
        last = json.loads((directory / FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    return last if isinstance(last, dict) else {}


def _is_well(report: dict[str, Any]) -> bool:
    if "peer_list" not in report:
        return False
    trouble = report["ops"] or report["failures"] or report["error"] or any(p["problems"] for p in report["peer_list"])
    return report["stage"] == Stage.READY.value and not trouble


def _text(report: dict[str, Any], running: bool, directory: Path) -> list[str]:
    if "stage" not in report:
        return [f"no flanneld answers at {directory}, and none has left a {FILE} there"]
    head = f"flanneld {report['version']} on {report['host']}: "
    if not running:
        pid = report["pid"]
        state = f"pid {pid} does not answer" if is_held(directory) else f"not running (pid {pid} has gone)"
        head += f"{state}; its last word, {_ago(report['since'])} ago: "
    lines = [head + report["stage"] + (f" for {_ago(report['since'])}" if running else "")]
    if report["error"]:
        lines.append("  trouble    " + "; ".join(filter(None, (report["error"], report["hint"]))))
    lines += _facts(report)
    if report.get("worker"):
        lines += _worker(report["worker"])
    if "peer_list" in report:
        lines += _kernel(report)
        lines += _peers(report["peer_list"])
    return lines


def _facts(report: dict[str, Any]) -> list[str]:
    lines = []
    if report["store"]:
        trouble = " (in trouble too: see the log)" if report.get("blocked") else " (see trouble)"
        lines.append(f"  store      {report['store']}{'' if report['store_ok'] else trouble}")
    if report["subnets"]:
        expiry = f", expires {_clock(report['expires'])}" if report["expires"] else ""
        kind = ", a reservation" if report["reserved"] else expiry
        lines.append(f"  lease      {' '.join(report['subnets'])}{kind}")
    if report["interface"]:
        public = f", public {' '.join(report['public'])}" if report["public"] else ""
        lines.append(f"  interface  {report['interface']} ({report['interface_reason']}){public}")
    if report["backend"]:
        mtu = f", pods' MTU {report['mtu']}" if report["mtu"] else ""
        lines.append(f"  backend    {report['backend']}, network {' '.join(report['networks'])}{mtu}")
    lines += [f"  offload    {line}" for line in report.get("offload", ())]
    if report.get("rules"):
        lines.append(_rules(report["rules"]))
    lines += [f"  warning    {warning}" for warning in report["warnings"]]
    if report["config_pending"]:
        lines.append(f"  config     {report['config_pending']}")
    return lines


def _rules(rules: dict[str, Any]) -> str:
    wanted = [name for name in ("masquerade", "forward", "blackhole") if rules[name]]
    return f"  rules      {', '.join(wanted) or 'none'}; kept by {rules['engine']} ({rules['reason']})"


def _worker(worker: dict[str, Any]) -> list[str]:
    """Of the process that carries the udp backend's packets. Trains are what makes it fast."""
    slow = f" ({worker['why']})" if worker["why"] else ""
    filtered = ", strangers sorted out by the kernel" if worker["filtered"] else ""
    chosen = " by sender" if worker["by_sender"] and worker["lanes"] > 1 else ""
    lines = [
        f"  worker     pid {worker['pid']}, {worker['pump']} pump{slow}, lanes: {worker['lanes']}{chosen}, "
        f"offload {'+'.join(worker['offload']) or 'none'}{filtered}"
    ]
    for name in ("outbound", "inbound"):
        flow = worker[name]
        drops = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in sorted(flow["drops"].items()))
        lines.append(
            f"             {name:<8} {flow['packets']} packets, {flow['bytes']} bytes, "
            f"{flow['trains']} trains of {flow['mean_train']} on average, dropped: {drops or 'none'}"
        )
    lines.append(
        f"             kernel   no room for {worker['socket_drops']} at the socket, "
        f"{worker['queue_drops']} at the device; dropped {worker['strangers']} of strangers"
    )
    return lines


def _kernel(report: dict[str, Any]) -> list[str]:
    ops, failures = report["ops"], report["failures"]
    state = f"{report['entries']} entries, {'all as wanted' if not ops else f'{len(ops)} differ'}"
    lines = [f"  kernel     {state}"]
    lines += [f"             {op}" for op in ops[:MANY]]
    if len(ops) > MANY:
        lines.append(f"             and {len(ops) - MANY} more")
    return lines + [f"  failed     {failure}" for failure in failures]


def _peers(peers: list[dict[str, Any]]) -> list[str]:
    if not peers:
        return ["  peers      none"]
    rows = [("PEER", "PUBLIC ADDRESS", "PATH", "STATE")]
    for peer in peers:
        state = "; ".join(peer["problems"]) or (f"{peer['missing']} entries differ" if peer["missing"] else "ok")
        rows.append((" ".join(peer["subnets"]), " ".join(peer["public"]), " ".join(peer["path"]) or "none", state))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) for row in rows]
    return [f"  peers      {len(peers)}", "", *(f"{line}  {row[3]}" for line, row in zip(table, rows, strict=True))]


def _ago(since: float) -> str:
    seconds = max(0, int(time.time() - since))
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def _clock(unix_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(unix_s))
