"""The daemon's way to pyroute2 imports a part of it, and nobody else notices."""

import subprocess
import sys

import pytest


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_what_the_daemon_does_not_use_is_not_imported() -> None:
    loaded = (
        "import sys, flanneld_py.netlink.applier; print('pyroute2.ndb.main' in sys.modules, 'pyroute2' in sys.modules)"
    )
    assert python(loaded) == "False True"


@pytest.mark.parametrize("name", ["IPRoute", "NetNS", "netns", "NetlinkError", "__version__"])
def test_a_name_of_the_package_is_there_for_who_asks(name: str) -> None:
    code = f"import flanneld_py.netlink.applier; from pyroute2 import {name}; import pyroute2; print(pyroute2.{name})"
    assert python(code) == python(f"import pyroute2; print(pyroute2.{name})")


def test_a_name_that_is_not_there_is_an_import_error() -> None:
    code = "import flanneld_py.netlink.applier\ntry:\n from pyroute2 import nothing\nexcept ImportError: print('no')"
    assert python(code) == "no"


def test_a_package_that_is_imported_already_stays() -> None:
    code = "import pyroute2; before = pyroute2.IPRoute; import flanneld_py.netlink.applier; import pyroute2 as p"
    assert python(code + "; print(p.IPRoute is before, p is pyroute2)") == "True True"


def test_errors_are_those_of_the_package() -> None:
    code = "from flanneld_py.netlink.lean import NetlinkError as ours; from pyroute2 import NetlinkError as theirs"
    assert python(code + "; print(ours is theirs)") == "True"
