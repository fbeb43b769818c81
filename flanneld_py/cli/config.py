"""`flanneld config`: check a network configuration, and write a checked one to etcd."""

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flanneld_py.errors import ConfigError, FlannelError, StoreError, UsageError
from flanneld_py.model.config import BackendConfig, CheckBackend, Checked, NetworkConfig, check_config, format_config
from flanneld_py.model.fields import MAX_TEXT

if TYPE_CHECKING:
    from flanneld_py.etcd.client import EtcdAccess
    from flanneld_py.etcd.verdict import Trouble

USAGE = """\
flanneld config check FILE|-
    Every error and warning about a network configuration, one a line on stderr. Ends with 2 if there is an error.
flanneld config set FILE|- [--etcd-endpoints=URL,...] [--etcd-prefix=KEY] [--etcd-...]
    The same, and if there is no error, writes it to etcd in canonical form. Nodes apply it at their next start.
"""
INVALID = 2
GIVE_UP_S = 10.0


def run(argv: Sequence[str]) -> int:
    """The exit code: 0, or 2 if the configuration has errors."""
    verb, rest = (argv[0], argv[1:]) if argv else ("", ())
    if verb in ("-h", "--help", "-help", "help"):
        print(USAGE, end="")
        return 0
    if verb == "check":
        return _check(rest)
    if verb == "set":
        return _set(rest)
    what = f"config {verb[:60]!a}: there is no such command" if verb else "config: needs a command"
    raise UsageError(what, hint="write flanneld config check FILE, or flanneld config set FILE")


def _check(argv: Sequence[str]) -> int:
    for word in argv:
        if word.startswith("-") and word != "-":
            raise UsageError(
                f"config check {word[:60]!a}: there is no such flag", hint="config check takes a file or -"
            )
    name = _operand("check", argv)
    checked = _judge(name)
    if checked.config is None:
        return INVALID
    print(f"{_source(name)}: OK")
    print("\n".join(f"  {line}" for line in _summary(checked.config)))
    return 0


def _set(argv: Sequence[str]) -> int:
    from flanneld_py.daemon.options import parse_etcd_options

    options, operands = parse_etcd_options(argv, os.environ)
    if options.help:
        print(USAGE, end="")
        return 0
    checked = _judge(_operand("set", operands))
    if checked.config is None:
        return INVALID
    from flanneld_py.daemon.access import etcd_access

    access = etcd_access(options)
    key, text = f"{access.prefix.rstrip('/')}/config", format_config(checked.config)
    written = asyncio.run(write(access, key, text))
    print(f"{key} {'=' if written else 'is already'} {text}")
    return 0


async def write(access: "EtcdAccess", key: str, text: str) -> bool:
    """False: etcd holds that text already. StoreError: etcd refuses, or did not answer for `GIVE_UP_S` seconds."""
    from flanneld_py.etcd.client import EtcdClient

    troubles: list[Trouble] = []
    client = EtcdClient(access, lambda trouble: troubles.append(trouble) if trouble is not None else None)
    try:
        async with asyncio.timeout(GIVE_UP_S):
            held, _ = await client.get(key.encode())
            if held is not None and held.value == text.encode():
                return False
            await client.put(key.encode(), text.encode())
            return True
    except TimeoutError:
        trouble = troubles[-1] if troubles else None
        why = trouble.message if trouble is not None else f"{client.describe()} does not answer"
        raise StoreError(f"cannot write {key}: {why}", hint=trouble.hint if trouble is not None else None) from None
    finally:
        await client.close()


def _operand(verb: str, words: Sequence[str]) -> str:
    if len(words) != 1:
        reason = "needs a file, or - for standard input" if not words else f"unexpected argument {words[1][:60]!a}"
        raise UsageError(f"config {verb}: {reason}", hint=f"write flanneld config {verb} FILE")
    return words[0]


def _source(name: str) -> str:
    return "standard input" if name == "-" else name


def _judge(name: str) -> Checked:
    """The verdict on a file, its errors and warnings printed."""
    try:
        checked = check_config(_read(name), _source(name), _check_backend(_source(name)))
    except ConfigError as err:
        checked = Checked(None, (err,), ())
    for warning in checked.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    for error in checked.errors:
        print(f"error: {error}", file=sys.stderr)
    return checked


def _check_backend(source: str) -> CheckBackend:
    from flanneld_py.backend.table import read_backend

    def check(backend: BackendConfig, versions: tuple[int, ...]) -> tuple[list[ConfigError], list[str]]:
        _, errors, warnings = read_backend(backend, versions, source)
        return errors, warnings

    return check


def _read(name: str) -> str:
    """The text. Raises FlannelError: it cannot be read; ConfigError: it is no text."""
    limit = 4 * MAX_TEXT
    try:
        if name == "-":
            data = sys.stdin.buffer.read(limit)
        else:
            with Path(name).open("rb") as file:
                data = file.read(limit)
    except OSError as err:
        raise FlannelError(f"cannot read {_source(name)}: {err.strerror}") from None
    try:
        return data.decode()
    except UnicodeDecodeError as err:
        reason = f"byte {err.start} is not UTF-8"
        raise ConfigError(f"{_source(name)}: {reason}", hint="save it as UTF-8 text") from None


def _summary(config: NetworkConfig) -> list[str]:
    lines = [
        f"network {family.network}: {family.subnet_count} subnets of /{family.subnet_len}, "
        f"{family.subnet_min} to {family.subnet_max}"
        for family in config.families
    ]
    return [*lines, f"backend {config.backend.type}"]
