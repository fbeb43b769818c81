"""The bundle: installed and at work where there is no Python, no shell and no libc."""

import json
import os
import shutil
import subprocess
import sys
import tracemalloc
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from cni_plugin import bundle, closure, conflist, install, launcher, place, program
from tests.cni.bare import BIN, CONF, BareNode, add_plugin
from tests.cni.node import NOTHING, PodMaker, link_real_plugins
from tests.netns.space import Namespace

MAX_BYTES = 25 << 20
PLUGINS = ("bridge", "host-local", "portmap")


def pythons() -> list[str]:
    """The interpreter that runs, and the distribution's, which is linked in another way, if that is new enough."""
    running = program.running_python()
    host = str(Path(program.HOST_PYTHON).resolve())
    try:
        program.own_program(host)
    except program.ProgramError:
        return [running]
    return list(dict.fromkeys([running, host]))


@pytest.fixture(scope="session", params=pythons())
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("built") / "bundle"
    assert install.main(["bundle", str(target), "--python", request.param]) == 0
    return target


@pytest.fixture
def bare(netns: Namespace, tmp_path: Path, built: Path) -> BareNode:
    """A root directory with the bundle and the real plugins, in which nothing is installed yet."""
    root = tmp_path / "root"
    shutil.copytree(built, root / "bundle", symlinks=True)
    for name in PLUGINS:
        add_plugin(root, name, built / "flannel")
    base = tmp_path / "base"
    base.mkdir()
    return BareNode(netns, base, BIN, root=root)


@pytest.fixture
def installed_bare(bare: BareNode) -> BareNode:
    done = bare.run("/bundle/flannel", "install")
    assert done.returncode == 0, done
    shutil.rmtree(bare.root / "bundle")
    return bare


def folder_with_plugins(path: Path) -> Path:
    path.mkdir()
    link_real_plugins(path)
    return path


def size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*"))


def test_is_small(built: Path) -> None:
    assert size(built) <= MAX_BYTES


def test_root_directory_has_nothing_to_run_a_script_or_a_dynamic_program_with(bare: BareNode) -> None:
    assert {path.name for path in bare.root.iterdir()} == {"bundle", "opt", "plugins"}
    script = bare.root / "script"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    shutil.copy("/bin/true", bare.root / "dynamic")
    for command in ("/script", "/dynamic"):
        assert "No such file" in bare.run(command).stderr


def test_installs_itself(bare: BareNode) -> None:
    done = bare.run("/bundle/flannel", "install")
    assert done.returncode == 0 and done.stdout.count("installed") == 2 and done.stderr == "", done
    assert (bare.root / "etc/cni/net.d" / conflist.FILE_NAME).read_text() == conflist.DEFAULT
    done = bare.run(str(BIN / "flannel"), "install")
    assert done.returncode == 0 and done.stdout.count("unchanged") == 2, done


def test_uninstalls_itself(installed_bare: BareNode) -> None:
    done = installed_bare.run(str(BIN / "flannel"), "install", "--uninstall")
    assert done.returncode == 0, done
    bin_dir = installed_bare.root / BIN.relative_to("/")
    assert {path.name for path in bin_dir.iterdir()} == set(PLUGINS)
    assert list((installed_bare.root / CONF.relative_to("/")).iterdir()) == []


def test_installer_says_what_is_wrong(bare: BareNode) -> None:
    (bare.base / "bad.conf").write_text("{")
    for arguments, said in (
        (["--help"], "--bundle"),
        (["--frobnicate"], "unrecognized arguments"),
        (["--conf", str(bare.base / "bad.conf")], "not JSON"),
        (["--conf", str(bare.base / "none.conf")], "No such file"),
        (["--python", "/usr/bin/python3"], "/usr/bin/python3 cannot be run"),
        (["--bin-dir", "/nowhere"], "'bridge' is not in /nowhere"),
    ):
        done = bare.run("/bundle/flannel", "install", *arguments)
        assert said in done.stdout + done.stderr and "Traceback" not in done.stderr, done


def test_pod_comes_and_goes(installed_bare: BareNode, pods: PodMaker) -> None:
    node, one, two = installed_bare, pods(), pods()
    result = node.add(node.conf(), one.path, container="one")
    assert [one["address"] for one in result["ips"]] == ["10.77.9.2/24"]
    node.add(node.conf(), two.path, container="two")
    assert one.ip_json("link", "show", "eth0")[0]["mtu"] == 1400
    checked = node.call("CHECK", node.conf(prevResult=result), netns=one.path, container="one")
    assert (checked.code, checked.document) == (0, None), checked
    node.delete(node.conf(), one.path, container="one")
    node.delete(node.conf(), two.path, container="two")
    node.delete(node.conf(), two.path, container="two")
    assert node.left() == NOTHING


def test_other_verbs(installed_bare: BareNode, pods: PodMaker) -> None:
    node = installed_bare
    version = node.call("VERSION", {"cniVersion": "1.0.0"})
    assert version.document is not None and "1.1.0" in version.document["supportedVersions"]
    node.add(node.conf(), pods().path)
    assert node.call("GC", node.conf(version="1.1.0") | {"cni.dev/valid-attachments": []}).code == 0
    assert node.left() == NOTHING
    node.env_file.unlink()
    status = node.call("STATUS", node.conf(version="1.1.0"), container="", ifname="")
    assert status.document is not None and status.document["code"] == 50
    assert "no such file or directory" in status.text
    assert node.call("", node.conf()).log.startswith("CNI plugin flannel")


def test_bad_input_gets_an_answer(installed_bare: BareNode) -> None:
    """What only the standard library's slow half can say is part of the bundle too."""
    for conf in (b"", b"{", b"\xff", b"[" * 100_000, b'{"name": 1}', b'{"name": "a", "x": NaN}'):
        answer = installed_bare.call("ADD", conf, netns="/run/netns/x")
        assert answer.code == 1 and answer.document is not None and answer.document["code"] == 6


HOSTILE = {
    "PYTHONHOME": "/nowhere",
    "PYTHONPATH": "/nowhere",
    "PYTHONSTARTUP": "/nowhere",
    "LD_LIBRARY_PATH": "/etc",
    "LC_ALL": "tr_TR.ISO-8859-9",
    "LANG": "none",
}


@pytest.mark.parametrize("environ", [{}, HOSTILE])
def test_environment_does_not_matter(built: Path, environ: dict[str, str]) -> None:
    done = subprocess.run(
        [built / "flannel"], env=environ | {"CNI_COMMAND": "VERSION"}, capture_output=True, check=True
    )
    assert "1.1.0" in json.loads(done.stdout)["supportedVersions"] and done.stderr == b""


def test_every_module_that_is_named_in_ours_is_there(built: Path) -> None:
    """Also those that a function imports late."""
    ask = (
        "import sys, importlib, pathlib, ast\n"
        "folder = pathlib.Path(sys.argv[1]); sys.path.insert(0, str(folder)); names = set()\n"
        "for path in folder.glob('cni_plugin/*.py'):\n"
        "    for node in ast.walk(ast.parse(path.read_text())):\n"
        "        if isinstance(node, ast.Import): names |= {alias.name for alias in node.names}\n"
        "        elif isinstance(node, ast.ImportFrom): names.add(node.module)\n"
        "names -= {'cni_plugin.__main__', 'setuptools'}\n"
        "for name in sorted(names): importlib.import_module(name)\n"
        "print(len(names))\n"
        "print(*sorted(module.__file__ for module in sys.modules.values() if getattr(module, '__file__', None)))\n"
    )
    folder = (built / "flannel.d").resolve()
    words = (folder / "start").read_text().split()[:-1]
    command = [word.replace("./", f"{folder}/", 1) if word.startswith("./") else word for word in words]
    done = subprocess.run([*command, "-c", ask, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    count, files = done.stdout.splitlines()
    assert int(count) > 20
    assert [file for file in files.split() if not file.startswith(str(folder))] == []


def test_module_that_puts_another_into_its_place_is_part_of_the_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """collections.abc is one since Python 3.13."""
    package = tmp_path / "alias_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "alias.py").write_text("import sys, math\nsys.modules[__name__] = math\n")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert import_module("alias_package.alias") is import_module("math")
        names = {spec.name: spec.origin for spec in closure.loaded()}
    finally:
        for name in ("alias_package", "alias_package.alias"):
            sys.modules.pop(name, None)
    assert names["alias_package.alias"] == str(package / "alias.py")
    assert "os.path" not in names  # the name of a module that is there under another


def test_runs_from_where_it_is_moved_to_and_through_a_link(built: Path, tmp_path: Path) -> None:
    shutil.copytree(built, tmp_path / "a b", symlinks=True)
    (tmp_path / "link").symlink_to(tmp_path / "a b" / "flannel")
    assert "1.1.0" in program.supported_versions(tmp_path / "link")


@pytest.mark.parametrize("damage", ["folder", "start", "empty start", "long start", "loader"])
def test_damaged_bundle_answers_with_json(built: Path, tmp_path: Path, damage: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(built, copy, symlinks=True)
    start = copy / "flannel.d" / "start"
    said = "flannel.d"
    if damage == "folder":
        shutil.rmtree(copy / "flannel.d")
    elif damage == "start":
        start.unlink()
    elif damage == "loader":
        loader = copy / "flannel.d" / start.read_text().split()[0]
        loader.unlink()
        said = loader.name
    else:
        start.write_text("" if damage == "empty start" else "x" * 5000)
    done = subprocess.run([copy / "flannel"], env={"CNI_COMMAND": "ADD"}, capture_output=True, check=False)
    document = json.loads(done.stdout)
    assert done.returncode == 1 and document["code"] == 999 and said in document["details"]


def test_script_and_bundle_replace_each_other(built: Path, tmp_path: Path) -> None:
    folder, conf = folder_with_plugins(tmp_path / "bin"), tmp_path / "net.d"
    before = {path.name for path in folder.iterdir()}

    def run(*arguments: str | Path) -> set[str]:
        given = ["install", "--bin-dir", folder, "--conf-dir", conf, *arguments]
        assert install.main(list(map(str, given))) == 0
        assert "1.1.0" in program.supported_versions(folder / "flannel")
        return {path.name for path in folder.iterdir() if not path.name.startswith(".")} - before

    for _ in range(2):
        assert run("--bundle", built) == {"flannel", "flannel.d"}
        assert (folder / "flannel").read_bytes() == (built / "flannel").read_bytes()
        assert run() == {"flannel"}
        assert (folder / "flannel").read_text().startswith("#!")
    # The present one, and the one before.
    assert len(list(folder.glob(".flannel-*"))) == 2
    run("--bundle", built)
    assert install.main(["install", "--bin-dir", str(folder), "--conf-dir", str(conf), "--uninstall"]) == 0
    assert {path.name for path in folder.iterdir()} == before


def test_call_that_an_update_comes_upon_goes_on_with_its_own_version(built: Path, tmp_path: Path) -> None:
    """The launcher follows the link once; what is imported after that is of the same version."""
    folder, hold = folder_with_plugins(tmp_path / "bin"), tmp_path / "hold"
    own, versions = bundle.read_bundle(built), []
    for number in range(2):
        head = "import posix\nhold = posix.environ.get(b'HOLD')\nhold and open(hold).read()\n"
        check = f"from cni_plugin.number import NUMBER\nassert NUMBER == {number}\nmain()"
        script = head.encode() + b"".join(place.pieces(own.files["flannel.py"][0])).replace(b"main()", check.encode())
        module = f"NUMBER = {number}".encode()
        files = {**own.files, "flannel.py": (script, 0o644), "cni_plugin/number.py": (module, 0o644)}
        versions.append(program.Program(own.entry, files))
    program.install(versions[0], folder)
    os.mkfifo(hold)
    environ = {"CNI_COMMAND": "VERSION", "HOLD": str(hold)}
    with subprocess.Popen([folder / "flannel"], stdout=subprocess.PIPE, env=environ, text=True) as call:
        with hold.open("w"):  # it is at work
            program.install(versions[1], folder)
        output, _ = call.communicate(timeout=60)
    assert call.returncode == 0 and "1.1.0" in output
    assert "1.1.0" in program.supported_versions(folder / "flannel")


def test_install_takes_the_files_of_a_bundle_piece_by_piece(built: Path, tmp_path: Path) -> None:
    """All of them together are more than the published init container may have, 50 MiB with the interpreter."""
    folder = folder_with_plugins(tmp_path / "bin")
    tracemalloc.start()
    try:
        for _ in range(2):  # the second time compares
            run = ["install", "--bundle", str(built), "--bin-dir", str(folder), "--conf-dir", str(tmp_path / "net.d")]
            assert install.main(run) == 0
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20
    assert sum(path.stat().st_size for path in built.rglob("*") if path.is_file()) > 8 << 20


def test_install_makes_a_bundle_of_the_running_interpreter(tmp_path: Path) -> None:
    folder = folder_with_plugins(tmp_path / "bin")
    assert install.main(["install", "--bundle", "--bin-dir", str(folder), "--conf-dir", str(tmp_path / "net.d")]) == 0
    assert not (folder / "flannel").read_bytes().startswith(b"#!")
    assert "1.1.0" in program.supported_versions(folder / "flannel")


def test_what_is_no_bundle_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert install.main(["install", "--bundle", str(tmp_path), "--bin-dir", "/usr/lib/cni"]) == 1
    assert f"{tmp_path} holds no bundle" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"CC": "/nowhere/cc"}, "/nowhere/cc cannot be run: No such file"),
        ({"CC": "false"}, "cannot make a static program"),
        ({"CC": None, "PATH": "/nowhere"}, "there is no C compiler"),
    ],
)
def test_compiler_is_missing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    environ: dict[str, Any],
    said: str,
) -> None:
    for name, value in environ.items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    assert install.main(["bundle", str(tmp_path / "bundle")]) == 1
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_folder_with_something_in_it_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "precious").write_text("x")
    assert install.main(["bundle", str(tmp_path)]) == 1
    assert "is not empty" in capsys.readouterr().err and [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_launcher_compiles_without_a_warning(tmp_path: Path) -> None:
    warnings = ["-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror"]
    sanitized = ["-fsanitize=address,undefined", "-g", "-O1", "-std=c11", "-D_GNU_SOURCE"]
    command: list[str | Path] = [
        os.environ.get("CC", "cc"),
        *sanitized,
        *warnings,
        "-o",
        tmp_path / "flannel",
        *launcher.SOURCES,
    ]
    subprocess.run(command, check=True)
    folder = tmp_path / "flannel.d"
    folder.mkdir()
    (folder / "start").write_text(f"{sys.executable}\n-c\nimport sys; print(sys.argv[1:])\n./x\n")
    for arguments in ([], ["a", "b c"], ["x"] * 300):
        done = subprocess.run([tmp_path / "flannel", *arguments], capture_output=True, text=True, check=False)
        assert "ERROR" not in done.stderr
        wanted = f"{[f'{folder}/x', *arguments]}\n" if len(arguments) < 250 else None
        assert done.stdout == wanted if wanted else "Argument list too long" in done.stdout
