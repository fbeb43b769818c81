"""A container runtime's part in CNI: the plugins of a configuration list, run for one container as libcni runs them.

Each plugin gets the result of the one before it as prevResult, and DEL goes backwards with the result of ADD (CNI
specification 1.0.0, section 4). What is to be connected is noted before the first plugin runs, so that whoever finds
the note, after a crash too, can ask for DEL.
"""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

from flanneld_py.errors import LabError
from flanneld_py.lab.namespaces import RUN_DIR, exists, inside
from flanneld_py.lab.topology import AddrOnLink

IFNAME = "eth0"
_TIMEOUT_S = 60.0
_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
"""Where iptables is, which portmap calls; not every user has it on PATH."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Attachment:
    """A container that is to be connected. `args`: by capability, such as portMappings."""

    container: str
    namespace: str
    args: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Chain:
    """The list in the file `conflist`, run in the network namespace of a node. `notes`: a directory for the notes."""

    conflist: Path
    bin_dir: Path
    notes: Path
    log: Path
    node: str

    def add(self, attachment: Attachment) -> tuple[AddrOnLink, ...]:
        """The container's addresses, IPv4 first. LabError, after DEL, with what the plugin said."""
        network = self._network()
        note = {"container": attachment.container, "namespace": attachment.namespace, "args": dict(attachment.args)}
        self._write(attachment.container, note)
        result: Json | None = None
        try:
            for plugin in network["plugins"]:
                result = self._run("ADD", network, plugin, attachment, result)
        except LabError:
            for problem in self._delete(network, attachment, None):
                self._say(problem)
            raise
        self._write(attachment.container, note | {"result": result})
        return _addresses(result)

    def delete_all(self) -> list[str]:
        """Ensure that nothing that was noted is connected; what a plugin had to say against it."""
        problems: list[str] = []
        for path in sorted(self.notes.glob("*.json")):
            try:
                note = json.loads(path.read_text())
                attachment = Attachment(note["container"], note["namespace"], note["args"])
                problems += self._delete(self._network(), attachment, note.get("result"))
            except (LabError, ValueError, KeyError, TypeError) as err:
                problems.append(f"{path}: {err}")
        return problems

    def _delete(self, network: Json, attachment: Attachment, result: Json | None) -> list[str]:
        problems = []
        for plugin in reversed(network["plugins"]):
            try:
                self._run("DEL", network, plugin, attachment, result)
            except LabError as err:
                problems.append(err.message)
        if not problems:
            (self.notes / f"{attachment.container}.json").unlink(missing_ok=True)
        return problems

    def _network(self) -> Json:
        try:
            network: Json = json.loads(self.conflist.read_text())
        except (OSError, ValueError) as err:
            raise LabError(f"{self.conflist}: {err}") from None
        return network

    def _run(self, verb: str, network: Json, plugin: Json, attachment: Attachment, previous: Json | None) -> Json:
        """The plugin's result; empty for DEL."""
        wanted = plugin.get("capabilities", {})
        args = {name: attachment.args[name] for name, on in wanted.items() if on and name in attachment.args}
        conf = {key: value for key, value in plugin.items() if key != "capabilities"}
        conf |= {"name": network["name"], "cniVersion": network["cniVersion"]}
        conf |= {"runtimeConfig": args} if args else {}
        conf |= {"prevResult": previous} if previous is not None else {}
        what = f"{plugin['type']} {verb} {attachment.container} on {self.node}"
        done = self._start(what, plugin["type"], json.dumps(conf), self._environment(verb, attachment))
        self._say(f"{what}: exit code {done.returncode}", done.stderr)
        try:
            answer = json.loads(done.stdout) if done.stdout.strip() else {}
        except ValueError:
            answer = {"msg": "its answer is not JSON", "details": done.stdout.strip()[:200]}
        if done.returncode != 0 or not isinstance(answer, dict):
            said = (answer.get(key) for key in ("msg", "details")) if isinstance(answer, dict) else ()
            last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            words = "; ".join(str(word) for word in said if word) or last
            raise LabError(f"{what}: {words}")
        return answer

    def _start(self, what: str, name: str, text: str, env: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
        def run() -> "subprocess.CompletedProcess[str]":
            return subprocess.run(
                [self.bin_dir / name],
                input=text,
                env=env,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_TIMEOUT_S,
                check=False,
            )

        try:
            # Plugins look up a bridge's ports in /sys.
            return inside(self.node, run, sysfs=True)
        except subprocess.TimeoutExpired:
            raise LabError(f"{what}: did not end in {_TIMEOUT_S:.0f} s") from None
        except OSError as err:
            raise LabError(f"{what}: {err.strerror}: {err.filename}") from None

    def _environment(self, verb: str, attachment: Attachment) -> dict[str, str]:
        there = verb == "ADD" or exists(attachment.namespace)
        return {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": attachment.container,
            "CNI_NETNS": str(RUN_DIR / attachment.namespace) if there else "",
            "CNI_IFNAME": IFNAME,
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAME={attachment.container}",
            "CNI_PATH": str(self.bin_dir),
            "PATH": search_path(),
        }

    def _write(self, container: str, note: Json) -> None:
        self.notes.mkdir(parents=True, exist_ok=True)
        fresh = self.notes / f".{container}"
        fresh.write_text(json.dumps(note))
        fresh.replace(self.notes / f"{container}.json")

    def _say(self, line: str, further: str = "") -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a") as file:
            file.write("\n".join(filter(None, (line, further.strip()))) + "\n")


def search_path() -> str:
    """Where the plugins find the programs that they call."""
    return f"{os.environ.get('PATH', os.defpath)}:{_SBIN}"


def _addresses(result: Json | None) -> tuple[AddrOnLink, ...]:
    found: Sequence[AddrOnLink] = [ip_interface(one["address"]) for one in (result or {}).get("ips", ())]
    return tuple(sorted(found, key=lambda one: one.version))
