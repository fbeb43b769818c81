from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path

import pytest

from cni_plugin import launcher, program
from tests.cni import resident
from tests.cni.node import Node, PodMaker, link_real_plugins, pod
from tests.netns.space import Namespace, netns, no_leftovers

__all__ = ["netns", "no_leftovers"]


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the plugin as the installer puts it there."""
    folder = tmp_path_factory.mktemp("installed")
    program.install(program.own_program(None), folder)
    return folder


@pytest.fixture(scope="session")
def installed_launcher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with the launcher as its entry."""
    folder = tmp_path_factory.mktemp("launcher")
    program.install(launcher.launched(None), folder)
    return folder


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A module names in WAYS the ways in which its tests run."""
    if "way" in metafunc.fixturenames:
        metafunc.parametrize("way", getattr(metafunc.module, "WAYS", ("plain",)), indirect=True)


@pytest.fixture
def way(request: pytest.FixtureRequest) -> str:
    """How pods are connected: "plain"; "resident", by the daemon; "launcher", which asks a daemon that is not there."""
    return str(request.param)


@pytest.fixture
def node(netns: Namespace, tmp_path: Path, way: str, request: pytest.FixtureRequest) -> Iterator[Node]:
    """A node whose CNI_PATH has our plugin, called through a symbolic link, and the real ones."""
    folder = tmp_path / "bin"
    folder.mkdir()
    link_real_plugins(folder)
    entry = request.getfixturevalue("installed" if way == "plain" else "installed_launcher")
    (folder / "flannel").symlink_to(entry / "flannel")
    node = Node(netns, tmp_path, folder)
    with resident.serving(netns, node.env_file) if way == "resident" else nullcontext():
        yield node


@pytest.fixture
def pods(no_leftovers: None) -> Iterator[PodMaker]:
    """Makes containers' namespaces, which go away with the test."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(pod())
