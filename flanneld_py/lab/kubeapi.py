"""A lab's own way to its Kubernetes API server: one request, one answer, over a connection opened in a namespace."""

import json
import socket
import ssl
from collections.abc import Mapping
from http.client import HTTPException, HTTPSConnection, NotConnected
from pathlib import Path
from typing import Any

from flanneld_py.errors import LabError
from flanneld_py.lab.certificates import Identity
from flanneld_py.lab.namespaces import inside
from flanneld_py.model.net import Addr

_CALL_S = 30.0
JSON = "application/json"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"


class Refused(LabError):
    """The API server answered with an error; `status` is that of HTTP."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Api:
    """Requests with a client certificate. Not for more than one thread at a time.

    `namespace`: where connections are opened; None for that of the caller.
    """

    def __init__(self, address: Addr, port: int, ca: Path, identity: Identity, *, namespace: str | None) -> None:
        self._connection: HTTPSConnection | None = None
        self._host, self._port = str(address), port
        self._namespace = namespace
        self._context = ssl.create_default_context(cafile=str(ca))
        self._context.load_cert_chain(identity.certificate, identity.key)

    def __del__(self) -> None:
        # A kept connection is a matter of speed: who asks once or twice need not close it.
        self.close()

    def get(self, path: str) -> dict[str, Any]:
        return self.call("GET", path)

    def post(self, path: str, body: Mapping[str, object]) -> dict[str, Any]:
        return self.call("POST", path, body)

    def patch(self, path: str, body: Mapping[str, object], kind: str = MERGE) -> dict[str, Any]:
        return self.call("PATCH", path, body, kind)

    def delete(self, path: str) -> bool:
        """Whether there was such an object."""
        try:
            self.call("DELETE", path)
        except Refused as err:
            if err.status == 404:
                return False
            raise
        return True

    def ensure(self, path: str, body: Mapping[str, object]) -> None:
        """Ensure that the object of that name is in the collection at `path`; one that is there stays as it is."""
        try:
            self.post(path, body)
        except Refused as err:
            if err.status != 409:
                raise

    def ready(self) -> bool:
        """Whether the server says that it is."""
        try:
            return self._exchange("GET", "/readyz", None, JSON)[0] == 200
        except (OSError, HTTPException):
            return False

    def call(
        self, method: str, path: str, body: Mapping[str, object] | None = None, kind: str = JSON
    ) -> dict[str, Any]:
        """The answer's JSON. Refused if the server says no, LabError if it does not answer."""
        data = None if body is None else json.dumps(body).encode()
        try:
            status, text = self._exchange(method, path, data, kind)
            answer = json.loads(text) if text else {}
        except (OSError, HTTPException, ValueError) as err:
            raise LabError(
                f"the API server at {self._host}:{self._port} does not answer {method} {path}: {err}"
            ) from None
        if status >= 400 or not isinstance(answer, dict):
            why = answer.get("message") if isinstance(answer, dict) else text.decode(errors="replace")
            raise Refused(f"the API server refused {method} {path}: {status} {why}", status)
        return answer

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _exchange(self, method: str, path: str, data: bytes | None, kind: str) -> tuple[int, bytes]:
        """A kept connection that the server has meanwhile closed is replaced, once."""
        if self._connection is not None:
            try:
                return self._ask(self._connection, method, path, data, kind)
            except (ConnectionError, ssl.SSLEOFError, NotConnected):
                self.close()
            except (OSError, HTTPException):
                self.close()
                raise
        self._connection = self._connect()
        try:
            return self._ask(self._connection, method, path, data, kind)
        except (OSError, HTTPException):
            self.close()
            raise

    def _ask(
        self, connection: HTTPSConnection, method: str, path: str, data: bytes | None, kind: str
    ) -> tuple[int, bytes]:
        connection.request(method, path, data, {"Content-Type": kind, "Accept": JSON})
        response = connection.getresponse()
        return response.status, response.read()

    def _connect(self) -> HTTPSConnection:
        def opened() -> socket.socket:
            return socket.create_connection((self._host, self._port), timeout=_CALL_S)

        sock = opened() if self._namespace is None else inside(self._namespace, opened)
        # A request is written in two pieces: the second would wait for the acknowledgement of the first, 40 ms.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = HTTPSConnection(self._host, self._port, timeout=_CALL_S)
        # It would open the next one by itself, in the wrong namespace.
        connection.auto_open = 0
        try:
            connection.sock = self._context.wrap_socket(sock, server_hostname=self._host)
        except BaseException:
            sock.close()
            raise
        return connection
