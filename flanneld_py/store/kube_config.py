"""The network configuration in a file, which a ConfigMap fills: net-conf.json."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Final

from flanneld_py.model.config import EXAMPLE
from flanneld_py.store.base import Condition
from flanneld_py.store.conditions import Conditions

MOST_BYTES: Final = 1 << 20
"""What a ConfigMap may hold."""
_MISSING_S = 1.0
_LOOK_S = 5.0
"""The kubelet itself takes up to a minute to bring a changed ConfigMap."""


class ConfigFile:
    """Read by content: the kubelet swaps a link, and neither time nor inode of the file then tell of a change."""

    def __init__(self, path: Path, conditions: Conditions) -> None:
        self.path = path
        self._conditions = conditions
        self._text: str | None = None

    async def read(self) -> str:
        """Waits until there is one that can be read."""
        while (text := self._read()) is None:  # noqa: ASYNC110 - a file tells nobody that it is there
            await asyncio.sleep(_MISSING_S)
        self._text = text
        return text

    async def watch(self) -> AsyncGenerator[str, None]:
        """Each text that differs from the one before."""
        while True:
            await asyncio.sleep(_LOOK_S)
            text = self._read()
            if text is not None and text != self._text:
                self._text = text
                yield text

    def _read(self) -> str | None:
        try:
            with self.path.open("rb") as file:
                text = file.read(MOST_BYTES).decode(errors="replace")
        except OSError as error:
            if self._text is None:
                self._conditions.missing(
                    "config",
                    Condition(
                        False,
                        f"cannot read the network configuration {self.path}: {error.strerror}",
                        f"mount the ConfigMap there, or give another --net-config-path; such as {EXAMPLE}",
                    ),
                )
            return None
        self._conditions.missing("config", None)
        return text
