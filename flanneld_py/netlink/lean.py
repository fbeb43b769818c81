"""What we use of pyroute2, without the rest of it.

The package imports all of its 160 modules (a database, conntrack, wireless, ...), which costs a daemon 6 MiB and
a fifth of its CPU time until it is ready. So the package is first put in place without its `__init__`, and gets it when
somebody asks for a name that is none of its modules.
"""

import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any


class _Lean(ModuleType):
    """A package whose `__init__` runs as late as possible: `from pyroute2 import IPRoute` works as ever."""

    def __getattr__(self, name: str) -> Any:
        spec = self.__spec__
        if name == "__path__" or spec is None or spec.loader is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        if find_spec(f"{self.__name__}.{name}") is not None:
            # `from pyroute2 import netns`, as pyroute2's own modules do; the interpreter asks here first.
            return import_module(f"{self.__name__}.{name}")
        object.__setattr__(self, "__class__", ModuleType)
        spec.loader.exec_module(self)
        return getattr(self, name)


def _put_in_place(name: str) -> None:
    """Ensure that modules of the package can be imported; one that is imported already stays as it is."""
    spec = None if name in sys.modules else find_spec(name)
    if spec is not None:
        package = module_from_spec(spec)
        object.__setattr__(package, "__class__", _Lean)
        sys.modules[name] = package


_put_in_place("pyroute2")

from pyroute2.iproute.linux import AsyncIPRoute  # noqa: E402 - the package must be in place
from pyroute2.netlink.core import CoreDatagramProtocol  # noqa: E402
from pyroute2.netlink.exceptions import NetlinkError  # noqa: E402

__all__ = ["AsyncIPRoute", "CoreDatagramProtocol", "NetlinkError"]
