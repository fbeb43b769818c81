"""The plugin's one entry: environment and standard input in, one JSON document out.

A runtime starts this twice for each pod, so nothing is imported that the command does not need, and of the standard
library only what is compiled into the interpreter: `os`, `json` and `subprocess` cost more than all of this.
"""

import posix
import sys

from cni_plugin import jsontext, request, result
from cni_plugin.jsontext import Object
from cni_plugin.request import Request
from cni_plugin.result import CniError

MAX_INPUT_BYTES = 8 << 20


def main() -> None:
    """Does the command and ends the process. With arguments it is the installer, which is for people."""
    if len(sys.argv) > 1:
        from cni_plugin.install import main as install

        sys.exit(install(sys.argv[1:]))
    _open_standard_descriptors()
    # Leaving at once saves the interpreter's tidying up.
    posix._exit(_serve(posix.environ))


def _serve(environ: dict[bytes, bytes]) -> int:
    """The exit code, after the answer is written."""
    if not environ.get(b"CNI_COMMAND"):
        _write(2, result.about().encode())
        return 0
    version = result.NEWEST
    try:
        environment = request.parse_environment(environ)
        data = _read_input()
        if environment.command == "VERSION":
            return _answer(result.version_answer(_asked_version(data)))
        parsed = request.parse_request(environment, data)
        version = parsed.version
        answer = _do(parsed)
    except CniError as error:
        return _answer(error.as_json(version), 1)
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
        return _answer(CniError(result.INTERNAL, "unexpected error", message[: result.MAX_DETAIL]).as_json(version), 1)
    return 0 if answer is None else _answer(answer)


def _do(asked: Request) -> Object | None:
    command = asked.environment.command
    if command == "ADD":
        from cni_plugin.attach import add

        _refuse_own_namespace(asked)
        return add(asked)
    if command == "DEL":
        from cni_plugin.detach import delete

        delete(asked)
    elif command == "CHECK":
        from cni_plugin.check import check

        _refuse_own_namespace(asked)
        check(asked)
    elif command == "GC":
        from cni_plugin.garbage import collect

        collect(asked)
    elif command == "STATUS":
        from cni_plugin.check import status

        status(asked)
    else:
        raise CniError(result.BAD_ENVIRONMENT, f"unknown CNI_COMMAND: {request.printable(command)}")
    return None


def _refuse_own_namespace(asked: Request) -> None:
    from cni_plugin.scratch import namespace_id

    netns = asked.environment.netns
    namespace, own = namespace_id(netns), namespace_id("/proc/self/ns/net")
    # All namespaces lie in one file system of the kernel's, nsfs.
    if namespace[:1] != own[:1]:
        raise CniError(result.BAD_ENVIRONMENT, f"CNI_NETNS: there is no namespace at {request.printable(netns)}")
    if namespace == own and not asked.environment.own_namespace_allowed:
        message = "plugin's netns and netns from CNI_NETNS should not be the same"
        raise CniError(result.OWN_NAMESPACE, message, request.printable(netns))


def _asked_version(data: bytes) -> object:
    try:
        return jsontext.decode_object(data).get("cniVersion")
    except ValueError:
        return None


def _read_input() -> bytes:
    data = bytearray()
    try:
        while chunk := posix.read(0, 1 << 16):
            data += chunk
            if len(data) > MAX_INPUT_BYTES:
                raise CniError(result.BAD_JSON, f"the network configuration is larger than {MAX_INPUT_BYTES} bytes")
    except OSError as error:
        raise CniError(result.IO_FAILURE, "cannot read standard input", error.strerror or str(error)) from None
    return bytes(data)


def _answer(document: Object, code: int = 0) -> int:
    return code if _write(1, jsontext.encode(document) + b"\n") else 1


def _write(fd: int, data: bytes) -> bool:
    view = memoryview(data)
    try:
        while view:
            view = view[posix.write(fd, view) :]
    except OSError:
        return False
    return True


def _open_standard_descriptors() -> None:
    """Descriptors 0 to 2 are open: a file of ours must not get one of these numbers."""
    for fd in range(3):
        try:
            posix.fstat(fd)
        except OSError:
            posix.open("/dev/null", posix.O_RDWR)
