"""The resident way of the CNI plugin, as a part of the daemon."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path

from flanneld_py.errors import FlannelError
from flanneld_py.pods.server import PodServer

log = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def serving_pods(subnet_file: Path, *, wanted: bool) -> AsyncIterator[None]:
    """The plugin's launcher is answered while the context lasts, if that is `wanted`.

    Pods do not depend on it: where it cannot be had, the plugin does the work itself.
    """
    server = PodServer(subnet_file)
    try:
        if wanted:
            server.start()
        else:
            server.remove_socket()
    except FlannelError as error:
        log.warning("%s; the CNI plugin does without it", error)
    try:
        yield
    finally:
        await asyncio.to_thread(server.close)
