"""Requests with the daemons' token, as a client without a library would send them."""

import json
import ssl
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from tests.kubernetes.cluster import Cluster

TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Response:
    status: int
    text: str
    retry_after: str | None

    @property
    def json(self) -> Any:
        return json.loads(self.text)


def connect(cluster: Cluster, url: str | None = None) -> HTTPSConnection:
    """To the API server, or to the proxy at `url`."""
    parts = urlsplit(url or cluster.url)
    context = ssl.create_default_context(cafile=str(cluster.ca))
    return HTTPSConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_S, context=context)


def ask(
    cluster: Cluster,
    method: str,
    path: str,
    body: dict[str, object] | None = None,
    *,
    kind: str = "application/json",
    url: str | None = None,
) -> Response:
    headers = {"Authorization": f"Bearer {cluster.token}", "Content-Type": kind}
    with closing(connect(cluster, url)) as connection:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        return Response(response.status, response.read().decode(), response.getheader("Retry-After"))


@contextmanager
def watch(cluster: Cluster, path: str, url: str | None = None) -> Iterator[Iterator[dict[str, Any]]]:
    """The events of a watch, as they come."""
    with closing(connect(cluster, url)) as connection:
        connection.request("GET", path, headers={"Authorization": f"Bearer {cluster.token}"})
        response = connection.getresponse()
        assert response.status == 200, response.read()
        yield (json.loads(line) for line in response)
