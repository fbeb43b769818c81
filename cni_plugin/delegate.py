"""Finding and running the plugin that does the work."""

import posix

from cni_plugin import jsontext, result
from cni_plugin.jsontext import Object
from cni_plugin.request import Environment, printable
from cni_plugin.result import CniError
from cni_plugin.scratch import Record

MAX_OUTPUT_BYTES = 8 << 20
MAX_DIAGNOSTIC_BYTES = 256 << 10

_SIGPIPE = 13
_SIGXFSZ = 25
_LOCK_FD = 3
_REGULAR_FILE = 0o100000
_FILE_TYPE = 0o170000


def plugin_of(config: Object) -> str:
    return str(config["type"])


def find(plugin: str, path: str) -> str:
    """The first regular file with the plugin's name in the directories of CNI_PATH."""
    if "/" in plugin or "\0" in plugin:
        raise CniError(result.BAD_CONFIG, f"{printable(plugin)!a} is no name of a plugin")
    for directory in path.split(":"):
        candidate = f"{directory}/{plugin}"
        try:
            if directory and posix.stat(candidate).st_mode & _FILE_TYPE == _REGULAR_FILE:
                return candidate
        except (OSError, ValueError):
            continue
    raise CniError(
        result.DELEGATE,
        f"failed to find plugin {printable(plugin)!a} in path [{printable(path)}]",
        "install the CNI project's plugins (Debian: containernetworking-plugins, in /usr/lib/cni) into one of them",
    )


def run(
    verb: str, config: Object, environment: Environment, record: Record | None = None, **variables: str
) -> tuple[str, bytes]:
    """The delegate's name and what it printed. CniError with its own error if it failed.

    `variables` replace those of the environment. The delegate holds the lock of `record` as long as it lives.
    """
    plugin = plugin_of(config)
    program = find(plugin, environment.path)
    environ = dict(environment.environ)
    environ[b"CNI_COMMAND"] = verb.encode()
    for name, value in variables.items():
        environ[name.encode()] = value.encode(errors="surrogateescape")
    # Files in memory, not pipes: no size of input or output can make the two processes wait for each other.
    stdin, stdout, stderr = (posix.memfd_create(name, posix.MFD_CLOEXEC) for name in ("stdin", "stdout", "stderr"))
    try:
        _fill(stdin, jsontext.encode(config))
        status = _spawn(program, environ, (stdin, stdout, stderr), record)
        diagnostics = _content(stderr, MAX_DIAGNOSTIC_BYTES)
        if diagnostics:
            say(diagnostics)
        output = _content(stdout, MAX_OUTPUT_BYTES + 1)
    finally:
        for fd in (stdin, stdout, stderr):
            posix.close(fd)
    if len(output) > MAX_OUTPUT_BYTES:
        raise CniError(result.DELEGATE, f"plugin {plugin!a} printed more than {MAX_OUTPUT_BYTES} bytes")
    if status:
        raise result.parse_delegate_error(plugin, output, diagnostics, _ended(status))
    return plugin, output


def lacks_verb(error: CniError) -> bool:
    """Whether a delegate's answer to GC or STATUS means that it is older than these commands.

    The environment is as they want it, so that a complaint about it, or about a container, has no other meaning.
    """
    return error.code in (result.INCOMPATIBLE_VERSION, result.UNKNOWN_CONTAINER, result.BAD_ENVIRONMENT)


def say(text: bytes | str) -> None:
    """To standard error, for the runtime's log. Nobody may listen."""
    data = text if isinstance(text, bytes) else f"flannel: {text}\n".encode(errors="replace")
    try:
        posix.write(2, data)
    except OSError:
        return


def _spawn(program: str, environ: dict[bytes, bytes], fds: tuple[int, int, int], record: Record | None) -> int:
    actions = [(posix.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(fds)]
    if record is not None and record.fd >= 0:
        actions.append((posix.POSIX_SPAWN_DUP2, record.fd, _LOCK_FD))
    try:
        # The interpreter ignores these two signals; a child would inherit that.
        pid = posix.posix_spawn(program, [program], environ, file_actions=actions, setsigdef=[_SIGPIPE, _SIGXFSZ])
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise CniError(result.DELEGATE, f"cannot run {printable(program)}", why) from None
    return posix.waitstatus_to_exitcode(posix.waitpid(pid, 0)[1])


def _ended(status: int) -> str:
    return f"was ended by signal {-status}" if status < 0 else f"failed with exit status {status}"


def _fill(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[posix.write(fd, view) :]
    posix.lseek(fd, 0, 0)


def _content(fd: int, limit: int) -> bytes:
    return posix.pread(fd, min(posix.fstat(fd).st_size, limit), 0)
