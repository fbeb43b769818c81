"""/healthz and /readyz, from what the board says."""

import contextlib
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus

from flanneld_py.daemon.options import Options
from flanneld_py.observe.health import ALIVE, readiness
from flanneld_py.observe.http import Answer, serving
from flanneld_py.observe.status import Status


@contextlib.asynccontextmanager
async def answering_probes(options: Options, status: Callable[[], Status]) -> AsyncIterator[None]:
    """Probes are answered while the context lasts, from the first moment on; none if no port is given.

    FlannelError: the port cannot be had.
    """

    def healthz() -> Answer:
        return Answer(HTTPStatus.OK, ALIVE)

    def readyz() -> Answer:
        found = readiness(status())
        return Answer(HTTPStatus.OK if found.ready else HTTPStatus.SERVICE_UNAVAILABLE, found.text)

    if options.healthz_port == 0:
        yield
        return
    async with serving(options.healthz_ip, options.healthz_port, {"/healthz": healthz, "/readyz": readyz}):
        yield
