"""Our rules in the text form of iptables-save and iptables-restore. Sans-I/O."""

import shlex
from collections.abc import Container, Iterable, Sequence
from ipaddress import ip_network

from flanneld_py.model.ruleset import (
    Admission,
    Chain,
    Destination,
    Engine,
    Hook,
    Mark,
    Masquerade,
    Match,
    Rule,
    Source,
    Table,
    Unknown,
    Verdict,
)
from flanneld_py.netfilter.names import COMMENTS, IPTABLES_BASE, admission_comment, iptables_chain
from flanneld_py.netfilter.nft import admission_rules, admitted
from flanneld_py.netfilter.walk import ACCEPT, DROP, GOTO, JUMP, RETURN, Judged, Packet

Saved = dict[str, list[str]]
"""What iptables-save says, by table: lines that begin with `-A` or `:`."""


def parse_saved(text: str) -> Saved:
    """Also takes what `iptables -S` prints of one table, under the name "" (`-N NAME` counts as `:NAME`)."""
    saved: Saved = {}
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:].strip()
            saved.setdefault(table, [])
        elif line.startswith((":", "-A ")):
            saved.setdefault(table, []).append(line)
        elif line.startswith("-N "):
            saved.setdefault(table, []).append(f":{line[3:]} - [0:0]")
    return saved


def read_table(saved: Saved, wanted: Table) -> Table | None:
    """Our rules as they are; None: there are none."""
    chains = []
    for hook, (table, base) in IPTABLES_BASE.items():
        lines, name = saved.get(table, []), iptables_chain(hook, wanted.instance)
        if not has_chain(lines, name):
            continue
        jumps = jump_lines(lines, name)
        plain = [line for line in jumps if parse_rule(line, name) == Rule((), Verdict.RETURN)]
        called = len(jumps) == len(plain) == 1 and jumps[0].startswith(f"-A {base} ")
        rules = tuple(parse_rule(line) for line in lines if line.startswith(f"-A {name} "))
        chains.append(Chain(hook if called else None, rules))
    return Table(wanted.engine, wanted.version, wanted.instance, tuple(chains)) if chains else None


def has_chain(lines: Iterable[str], name: str) -> bool:
    return any(line.startswith(f":{name} ") for line in lines)


def jump_lines(lines: Iterable[str], name: str) -> list[str]:
    """The rules that jump to the chain `name`."""
    return [line for line in lines if line.startswith("-A ") and line.split()[-2:] in (["-j", name], ["-g", name])]


def parse_rule(line: str, jump: str = "") -> Rule:
    """The rule of an `-A` line; a jump to the chain `jump` counts as RETURN. What we never write becomes Unknown."""
    words = shlex.split(line)[2:]
    matches: list[Match] = []
    verdict: Verdict | Masquerade | Unknown = Unknown("no target")
    negated = False
    while words:
        word = words.pop(0)
        if word == "!":
            negated = True
            continue
        if word in ("-s", "-d") and words:
            net = ip_network(words.pop(0))
            matches.append(Source(net, negated) if word == "-s" else Destination(net, negated))
        elif word == "-m" and words[1:2] == ["--comment"]:
            del words[:3]
        elif word == "-m" and words[1:2] == ["--mark"] and not negated:
            value, _, mask = words[2].partition("/")
            matches.append(Mark(int(value, 16), int(mask or "0xffffffff", 16)))
            del words[:3]
        elif word == "-j":
            verdict, words = _parse_target(words, jump), []
        else:
            matches.append(Unknown(f"{'! ' if negated else ''}{word}"))
        negated = False
    return Rule(tuple(matches), verdict)


def _parse_target(words: Sequence[str], jump: str) -> Verdict | Masquerade | Unknown:
    match list(words):
        case ["MASQUERADE"]:
            return Masquerade(fully_random=False)
        case ["MASQUERADE", "--random-fully"]:
            return Masquerade(fully_random=True)
        case ["ACCEPT"]:
            return Verdict.ACCEPT
        case ["RETURN"]:
            return Verdict.RETURN
        case [name] if jump and name == jump:
            return Verdict.RETURN
    return Unknown(" ".join(words))


def judge_line(line: str, packet: Packet, chains: Container[str]) -> Judged:
    """What the rule of an `-A` line does with the packet."""
    words = shlex.split(line)[2:]
    matches: bool | None = True
    while words:
        negated = words[0] == "!"
        word, *words = words[negated:]
        held: bool | None = None
        if word in ("-s", "-d"):
            held = (packet.source if word == "-s" else packet.destination) in ip_network(words.pop(0))
        elif word in ("-i", "-o"):
            held = _is_named(packet.iif if word == "-i" else packet.oif, words.pop(0))
        elif word == "-m" and words[:1] == ["comment"]:
            held = True
            del words[:3]
        elif word == "-m" and words[1:2] in (["--ctstate"], ["--state"]):
            held = "NEW" in words[2].split(",")
            del words[:3]
        elif word in ("-j", "-g"):
            return matches, _line_verdict(word, words[0], chains)
        if held is not None and held is negated:
            return False, None
        matches = None if held is None else matches
    return matches, None


def _is_named(name: str, pattern: str) -> bool:
    """A `+` at the end stands for the rest of any name."""
    return name.startswith(pattern[:-1]) if pattern.endswith("+") else name == pattern


def _line_verdict(word: str, target: str, chains: Container[str]) -> tuple[str, str] | None:
    if target in chains:
        return (GOTO if word == "-g" else JUMP), target
    return {"ACCEPT": (ACCEPT, ""), "RETURN": (RETURN, ""), "DROP": (DROP, ""), "REJECT": (DROP, "")}.get(target)


def format_rule(chain: str, rule: Rule, comment: str) -> str:
    """One `-A` line. ValueError: the rule holds what was read from elsewhere."""
    words = ["-A", chain]
    for match in rule.matches:
        match match:
            case Mark(value, mask):
                words += ["-m", "mark", "--mark", f"{value:#x}/{mask:#x}"]
            case Source(net, negated) | Destination(net, negated):
                words += ["!"] * negated + ["-s" if isinstance(match, Source) else "-d", str(net)]
            case Unknown():
                raise ValueError(f"cannot write {rule}")
    words += ["-m", "comment", "--comment", f'"{comment}"', "-j"]
    match rule.verdict:
        case Masquerade(fully_random):
            words += ["MASQUERADE"] + ["--random-fully"] * fully_random
        case Verdict() as verdict:
            words.append(verdict.name)
        case Unknown():
            raise ValueError(f"cannot write {rule}")
    return " ".join(words)


def format_table(table: Table, saved: Saved) -> str:
    """Input of `iptables-restore --noflush` that turns what `saved` says into `table`.

    A chain declared there is made or emptied. The jump to it goes to the end, behind the chains of those who enforce
    policies, and an existing one stays where it is.
    """
    wanted = {chain.hook: chain for chain in table.chains if chain.hook is not None}
    text = ""
    for hook, (name, _) in IPTABLES_BASE.items():
        chain, lines = iptables_chain(hook, table.instance), saved.get(name, [])
        jumps = jump_lines(lines, chain)
        body: list[str] = []
        if hook in wanted:
            keep = len(jumps) == 1 and jumps[0] == _jump(hook, chain)
            body = [
                f":{chain} - [0:0]",
                *(() if keep else map(_delete, jumps)),
                *(() if keep else [_jump(hook, chain)]),
            ]
            body += [format_rule(chain, rule, COMMENTS[hook]) for rule in wanted[hook].rules]
        elif has_chain(lines, chain):
            body = [f":{chain} - [0:0]", *map(_delete, jumps), f"-X {chain}"]
        text += _section(name, body)
    return text


def format_admission(entry: Admission, saved: Saved, *, delete: bool = False) -> str:
    """Input of `iptables-restore --noflush` that puts the entry first in its chain, or takes it out."""
    comment = admission_comment(entry.instance)
    body = [_delete(line) for line in admission_lines(saved.get(entry.table, []), entry.chain, entry.instance)]
    rules = [] if delete else reversed(admission_rules(entry.networks))
    body += [format_rule(entry.chain, rule, comment).replace("-A", "-I", 1) for rule in rules]
    return _section(entry.table, body)


def admission_lines(lines: Iterable[str], chain: str, instance: str) -> list[str]:
    comment = f'--comment "{admission_comment(instance)}"'
    return [line for line in lines if line.startswith(f"-A {chain} ") and comment in line]


def read_admissions(saved: Saved, engine: Engine, version: int, instance: str) -> list[Admission]:
    """Those in the table filter, one for each chain."""
    mark = f'--comment "{admission_comment(instance)}"'
    lines = [line for line in saved.get("filter", []) if line.startswith("-A ") and mark in line]
    return [
        Admission(engine, version, "filter", chain, admitted(list(map(parse_rule, ours))), instance)
        for chain in dict.fromkeys(line.split()[1] for line in lines)
        if (ours := admission_lines(lines, chain, instance))
    ]


def _section(table: str, body: Sequence[str]) -> str:
    return "\n".join((f"*{table}", *body, "COMMIT", "")) if body else ""


def _jump(hook: Hook, chain: str) -> str:
    _, base = IPTABLES_BASE[hook]
    return format_jump(base, COMMENTS[hook], chain)


def format_jump(base: str, comment: str, chain: str) -> str:
    """The `-A` line of a rule in `base` that does nothing but jump to `chain`."""
    return f'-A {base} -m comment --comment "{comment}" -j {chain}'


def _delete(line: str) -> str:
    return line.replace("-A", "-D", 1)
