"""`flannel install`: what is put where, what is refused, what is reported, and how it is taken away."""

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cni_plugin import conflist, install, place, program
from tests.cni.inotify import Inotify
from tests.cni.node import REAL_PLUGINS, link_real_plugins

DEPLOYED = Path(__file__).parents[2] / "deploy" / "cni" / conflist.FILE_NAME


class Host:
    """Directories as a runtime has them."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.bin = base / "opt" / "cni" / "bin"
        self.net_d = base / "etc" / "cni" / "net.d"
        self.conflist = self.net_d / conflist.FILE_NAME
        self.bin.mkdir(parents=True)
        link_real_plugins(self.bin)

    def run(self, *arguments: str | Path) -> int:
        given = ["--conf-dir", self.net_d, *arguments]
        if "--bin-dir" not in arguments:
            given += ["--bin-dir", self.bin]
        return install.main(["install", *map(str, given)])

    def conf(self, **changes: Any) -> Path:
        path = self.base / "conf.json"
        path.write_text(json.dumps(json.loads(conflist.DEFAULT) | changes))
        return path

    def state(self) -> dict[str, tuple[int, int]]:
        """What a watcher of the files would notice: inode and time of each."""
        found = [path for path in self.base.rglob("*") if path.is_file() and path.name != "conf.json"]
        return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_default_is_the_deployed_file() -> None:
    assert DEPLOYED.read_text() == conflist.DEFAULT
    content = json.loads(conflist.DEFAULT)
    flannel, portmap = content["plugins"]
    assert content["name"] == "cbr0" and flannel["delegate"] == {"hairpinMode": True, "isDefaultGateway": True}
    assert portmap == {"type": "portmap", "capabilities": {"portMappings": True}}


@pytest.mark.parametrize("path", sorted(DEPLOYED.parent.glob("*.conflist")), ids=lambda path: path.name)
def test_deployed_conflists_are_accepted(host: Host, path: Path) -> None:
    (host.bin / "bandwidth").symlink_to(REAL_PLUGINS / "bandwidth")
    assert host.run("--conf", path) == 0
    assert host.conflist.read_bytes() == path.read_bytes()


def test_installs_a_program_that_runs_and_the_conflist(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    assert host.run() == 0
    assert host.conflist.read_text() == conflist.DEFAULT
    assert host.conflist.stat().st_mode & 0o777 == 0o644
    assert (host.bin / "flannel").stat().st_mode & 0o777 == 0o755
    assert "1.1.0" in program.supported_versions(host.bin / "flannel")
    assert "warning" not in capsys.readouterr().err
    assert [path.name for path in host.net_d.iterdir()] == [conflist.FILE_NAME]


def test_modules_are_compiled_and_the_compiled_ones_are_used(host: Host) -> None:
    host.run()
    folder = next(host.bin.glob(".flannel-*")) / "cni_plugin"
    assert len(list((folder / "__pycache__").glob("*.pyc"))) == len(list(folder.glob("*.py")))
    for path in folder.glob("*.py"):
        path.write_text("raise SystemExit('the source was compiled')")
    assert "1.1.0" in program.supported_versions(host.bin / "flannel")


def test_second_time_changes_no_file(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """A rewritten conflist makes the runtime reload, and pages whoever watches files."""
    host.run()
    before = host.state()
    assert host.run() == 0
    assert host.state() == before
    assert capsys.readouterr().out.count("unchanged") == 2


def test_damaged_installation_is_mended(host: Host) -> None:
    host.run()
    folder = next(host.bin.glob(".flannel-*")) / "cni_plugin"
    (folder / "main.py").write_text("")
    shutil.rmtree(folder / "__pycache__")
    (host.bin / "flannel").chmod(0o600)
    host.conflist.write_text("")
    assert host.run() == 0
    assert "1.1.0" in program.supported_versions(host.bin / "flannel")
    assert host.conflist.read_text() == conflist.DEFAULT


def test_several_directories(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    other = host.base / "usr" / "lib" / "cni"
    assert host.run("--bin-dir", host.bin, "--bin-dir", other) == 0
    assert (other / "flannel").exists() and (host.bin / "flannel").exists()
    assert f"bridge is not in {other}" in capsys.readouterr().err


def test_go_plugin_that_runs_is_replaced_but_not_overwritten(host: Host) -> None:
    """Writing to a running program fails (ETXTBSY); renaming over it does not."""
    shutil.copy(shutil.which("sleep") or "", host.bin / "flannel")
    with subprocess.Popen([host.bin / "flannel", "1000"]) as running:
        try:
            assert host.run() == 0
            assert running.poll() is None
        finally:
            running.kill()
    assert program.is_ours(host.bin / "flannel")


def test_symbolic_link_is_replaced_not_followed(host: Host) -> None:
    target = host.base / "precious"
    target.write_text("x")
    (host.bin / "flannel").symlink_to(target)
    assert host.run() == 0
    assert target.read_text() == "x" and not (host.bin / "flannel").is_symlink()


def test_update_keeps_the_version_before_and_no_older_one(host: Host) -> None:
    """A plugin that is just running still imports from there."""
    own = program.own_program(None)
    folders = []
    for number in range(3):
        changed = program.script_program(
            own.python, program.own_sources() | {"extra.py": f"NUMBER = {number}".encode()}
        )
        assert program.install(changed, host.bin)
        folders.append(changed.folder)
    assert sorted(path.name for path in host.bin.glob(".flannel-*")) == sorted(folders[1:])


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"name": None}, "name must be"),
    ({"name": "a/b"}, "name must be"),
    ({"plugins": []}, "plugins must be"),
    ({"plugins": {}}, "plugins must be"),
    ({"plugins": [1]}, "plugins[0] must be a JSON object"),
    ({"plugins": [{"type": "portmap"}]}, "no plugin of the type flannel"),
    ({"plugins": [{"type": "portmap"}, {"type": "flannel"}]}, "must be the first"),
    ({"plugins": [{"type": "flannel"}, {}]}, "plugins[1].type"),
    ({"plugins": [{"type": "flannel", "delegate": {"name": "x"}}]}, "delegate must not have"),
    ({"plugins": [{"type": "flannel", "delegate": {"type": "absent"}}]}, "'absent' is not in"),
    ({"plugins": [{"type": "flannel", "ipam": {"type": "absent"}}]}, "'absent' is not in"),
    ({"plugins": [{"type": "flannel"}, {"type": "bandwidth"}]}, "'bandwidth' is not in"),
    ({"cniVersion": "9.9.9"}, "is not one of"),
    ({"cniVersion": 1}, "is not one of"),
    ({"cniVersion": "1.1.0"}, "does not support cniVersion 1.1.0"),
    ({"cniVersions": ["0.4.0", "1.1.0"]}, "does not support cniVersion 1.1.0"),
    ({"cniVersions": "1.0.0"}, "cniVersions must be a list"),
]


@pytest.mark.parametrize(("changes", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_unusable_conflist_is_refused_before_anything_is_placed(
    host: Host, changes: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = host.state()
    assert host.run("--conf", host.conf(**changes)) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert said in error and host.state() == before


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"[]", b"[" * 100_000])
def test_conflist_that_is_no_json(host: Host, text: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    path = host.base / "conf.json"
    path.write_bytes(text)
    assert host.run("--conf", path) == 1
    assert "JSON" in capsys.readouterr().err and not host.net_d.exists()


@pytest.mark.parametrize("python", ["python3", "/nowhere/python3", "/bin/true", "/bin/sh", "/" + "x" * 300])
def test_unusable_interpreter_is_refused(host: Host, python: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert host.run("--python", python) == 1
    assert python[:20] in capsys.readouterr().err and not host.net_d.exists()


def test_named_interpreter_runs_the_plugin(host: Host) -> None:
    python = os.path.realpath(sys.executable)
    assert host.run("--python", python) == 0
    assert (host.bin / "flannel").read_text().startswith(f"#!{python} ")
    assert "1.1.0" in program.supported_versions(host.bin / "flannel")


def test_resident_entry_is_the_launcher_and_goes_back_to_a_script(host: Host) -> None:
    before = set(host.bin.iterdir())
    for arguments, begin in ((["--resident"], b"\x7fELF"), ([], b"#!"), (["--resident"], b"\x7fELF")):
        assert host.run(*arguments) == 0 and (host.bin / "flannel").read_bytes().startswith(begin)
        assert (host.bin / "flannel.d").is_symlink() == bool(arguments)
    assert host.run("--uninstall") == 0 and set(host.bin.iterdir()) == before


def test_program_that_does_not_run_does_not_replace_the_one_before(host: Host) -> None:
    host.run()
    before = (host.bin / "flannel").read_bytes()
    own = program.own_program(None)
    sources = program.own_sources() | {"main.py": b"raise RuntimeError('broken')"}
    broken = program.script_program(own.python, sources)
    with pytest.raises(program.ProgramError, match="broken"):
        program.install(broken, host.bin)
    assert (host.bin / "flannel").read_bytes() == before and "1.1.0" in program.supported_versions(host.bin / "flannel")
    assert not list(host.bin.glob(".*trial*"))


def test_rivals_are_reported(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.net_d.mkdir(parents=True)
    bridge = {"cniVersion": "1.0.0", "name": "bridge", "type": "bridge"}
    files = {"05-bridge.conf": json.dumps(bridge), "00-bad.conf": "{", "07-empty.conflist": '{"name": "x"}'}
    files |= {"99-late.conf": "{", "99-same.conf": json.dumps(bridge | {"name": "cbr0"}), "00-readme.txt": "x"}
    for name, text in files.items():
        (host.net_d / name).write_text(text)
    (host.net_d / "01-dangling.json").symlink_to("nowhere")
    (host.net_d / "cbr0").mkdir()
    assert host.run() == 0
    lines = [line.partition(": ")[2] for line in capsys.readouterr().err.splitlines()]
    named = [next(word for word in line.split() if word[0] in "09c"[:3]) for line in lines]
    assert len(lines) == 6, lines
    text = "\n".join(lines)
    for name in ("00-bad.conf", "01-dangling.json", "07-empty.conflist"):
        assert f"{name} comes before {conflist.FILE_NAME} and cannot be used" in text
    assert "05-bridge.conf (network 'bridge') comes before" in text
    assert "99-same.conf is for the network 'cbr0' too" in text and "the directory cbr0/" in text
    assert "99-late" not in text and "readme" not in text and named


def test_names_are_compared_by_bytes() -> None:
    """As runtimes sort: capitals before small letters, digits before both."""
    good = b'{"name": "a", "type": "bridge"}'
    assert conflist.rivals({"2.conf": good}, set(), conflist.FILE_NAME, "cbr0") == []
    assert len(conflist.rivals({"10-a.conf": good, "10-Flannel.conf": good}, set(), conflist.FILE_NAME, "cbr0")) == 2


def test_uninstall_leaves_only_what_was_there(host: Host) -> None:
    host.net_d.mkdir(parents=True)
    before = {path.name for path in host.bin.iterdir()}
    host.run()
    conf = host.conf(plugins=[{"type": "flannel", "dataDir": str(host.base / "data")}])
    assert host.run("--conf", conf) == 0
    assert host.run("--uninstall") == 0
    assert {path.name for path in host.bin.iterdir()} == before
    # Older releases of containerd never look again at a directory that was made anew.
    assert host.net_d.is_dir() and list(host.net_d.iterdir()) == []


def test_uninstall_keeps_the_program_while_pods_need_it(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    data = host.base / "data"
    host.run("--conf", host.conf(plugins=[{"type": "flannel", "dataDir": str(data)}]))
    data.mkdir()
    (data / "cbr0@pod1@eth0").write_text("{}")
    assert host.run("--uninstall") == 1
    assert "1 attachments of pods" in capsys.readouterr().err
    assert not host.conflist.exists() and (host.bin / "flannel").exists()


def test_uninstall_leaves_the_go_plugin(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(REAL_PLUGINS / "loopback", host.bin / "flannel")
    host.run("--uninstall")
    assert (host.bin / "flannel").exists()


def test_installed_program_is_the_installer_too(host: Host) -> None:
    """The entry of an init container, which has nothing of ours but this."""
    host.run()
    target = host.base / "elsewhere"
    target.mkdir()
    link_real_plugins(target)
    command: list[str | Path] = [
        host.bin / "flannel",
        "install",
        "--bin-dir",
        target,
        "--conf-dir",
        host.base / "net.d",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (target / "flannel").read_bytes() == (host.bin / "flannel").read_bytes()
    assert (host.base / "net.d" / conflist.FILE_NAME).exists()


def test_what_is_no_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert install.main([]) == 2
    with pytest.raises(SystemExit, match="2"):
        install.main(["frobnicate"])
    assert capsys.readouterr().err.count("install") >= 2


def test_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def full(fd: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        place.write_file(path, b"new", 0o644)
    assert path.read_bytes() == b"old" and [one.name for one in tmp_path.iterdir()] == ["file"]


def test_installers_at_the_same_time(host: Host) -> None:
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "cni_plugin",
        "install",
        "--bin-dir",
        host.bin,
        "--conf-dir",
        host.net_d,
    ]
    root = Path(__file__).parents[2]
    running = [subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) for _ in range(4)]
    ended = [(process.communicate(timeout=60)[1], process.returncode) for process in running]
    assert [code for _, code in ended] == [0] * 4, ended
    assert "1.1.0" in program.supported_versions(host.bin / "flannel")
    assert [path.name for path in host.net_d.iterdir()] == [conflist.FILE_NAME]


def test_conflist_never_comes_without_the_program(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """A runtime that loads it calls what it names; CRI-O then never looks again."""
    (host.bin / "flannel").mkdir()
    assert host.run() == 1
    assert str(host.bin / "flannel") in capsys.readouterr().err and not host.conflist.exists()


def test_runtimes_that_watch_are_told_at_the_right_moment(host: Host) -> None:
    """containerd loads the list again at a write or a move away in its directory, and reads what has one of three
    endings then; CRI-O asks the plugins for their versions at that moment, and not again."""
    host.net_d.mkdir(parents=True)
    watch = Inotify(host.net_d, host.bin)
    try:
        host.run()
        events = watch.read()
        assert host.run("--uninstall") == 0
        gone = watch.read()
    finally:
        os.close(watch.fd)
    place_of = {event: index for index, event in enumerate(events)}
    conf = [(event, path) for event, path in events if path.parent == host.net_d]
    assert {event for event, path in conf if path != host.conflist} == {"MODIFY", "MOVED_FROM"}
    assert not any(path.name.endswith(conflist.LOADED_SUFFIXES) for _, path in conf if path != host.conflist)
    assert [event for event, path in conf if path == host.conflist] == ["MOVED_TO"]
    # The plugin is whole before anything happens beside the conflist.
    assert place_of["MOVED_TO", host.bin / "flannel"] < min(place_of[event] for event in conf)
    removed = [path for event, path in gone if event == "DELETE" and not path.name.startswith(".")]
    assert removed == [host.conflist, host.bin / "flannel"]


def test_files_are_on_disk_before_their_names_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a power failure an empty conflist would keep the node from ever being ready."""
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def note_sync(fd: int) -> None:
        # Open for writing only, so that it is read by another way.
        folder = stat.S_ISDIR(os.fstat(fd).st_mode)
        done.append("sync folder" if folder else f"sync {Path(f'/proc/self/fd/{fd}').read_text()}")
        fsync(fd)

    def note_replace(path: Path, target: Path) -> Path:
        done.append("rename")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "replace", note_replace)
    place.write_file(tmp_path / "file", b"content", 0o644)
    assert done == ["sync content", "rename", "sync folder"]
