"""What is in the image, as tables."""

from typing import Final

SUITE: Final = "trixie"
"""Debian 13."""
PYTHON: Final = "3.13"

PACKAGES: Final = (
    "base-files",
    "ca-certificates",
    "libc6",
    "libexpat1",
    "libffi8",
    "libgcc-s1",
    "libssl3t64",
    "libstdc++6",
    "libzstd1",
    "zlib1g",
    *(f"libpython{PYTHON}-minimal", f"libpython{PYTHON}-stdlib", f"python{PYTHON}-minimal"),
    *("iptables", "libip4tc2", "libip6tc2", "libxtables12", "libnetfilter-conntrack3", "libnfnetlink0"),
    *("libnftables1", "libnftnl11", "libmnl0", "libjansson4", "libgmp10"),
)
"""Debian's, each by name: what they would pull in beside is a shell, Perl and a package manager."""

PYTHON_PACKAGES: Final = (
    *("libc6", "libexpat1", "libffi8", "libssl3t64", "libzstd1", "zlib1g"),
    *(f"libpython{PYTHON}-minimal", f"libpython{PYTHON}-stdlib", f"python{PYTHON}-minimal"),
)
"""Those of them that a bare Python needs."""

PRUNED_WHEELS: Final = (
    "msgspec/*.[ch]",
    "*.dist-info/RECORD",
    "lightkube_models-*.data",
    "google/_upb/*.pyi",
    "uvloop/*.pyx",
    "uvloop/*.c",
)
"""Glob patterns."""
SOURCES_ONLY: Final = ("etcd3",)
"""Requirements that have no wheel but need none."""

BUILT: Final = {"msgspec": ("src/", "msgspec/_core")}
"""Where a requirement is compiled from its sources: the prefix of its modules there, and its one extension module."""

HEADERS: Final = (f"libpython{PYTHON}-dev",)
"""Only used to build the native pump."""

_STDLIB: Final = f"usr/lib/python{PYTHON}"
PRUNED: Final = (
    *(
        "usr/share/locale/*",
        "usr/share/man/*",
        "usr/share/lintian/*",
        "usr/share/bash-completion/*",
        "usr/share/info/*",
    ),
    *("usr/share/bug/*", "usr/share/common-licenses/*", "usr/share/base-files/*", "usr/share/perl5/*"),
    "usr/share/doc/*/[!c]*",
    "usr/share/doc/*/changelog*",
    *("usr/lib/*/gconv/*", "usr/lib/*/audit/*", "usr/lib/*/engines-3/*", "usr/lib/*/ossl-modules/*"),
    *("usr/lib/*/libthread_db*", "usr/lib/*/libnss_*", "usr/lib/*/libmemusage*", "usr/lib/*/libpcprofile*"),
    *("usr/bin/[!p]*", "usr/bin/pldd", "usr/sbin/update-*", "usr/sbin/iconvconfig", "usr/sbin/iptables-apply"),
    *("usr/sbin/ip6tables-apply", "usr/sbin/ld*", "usr/sbin/nfnl_osf", "etc/*", "var/*", "root/*"),
    *(f"{_STDLIB}/{name}/*" for name in ("curses", "dbm", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "sqlite3")),
    *(f"{_STDLIB}/{name}/*" for name in ("test", "tkinter", "turtledemo", "venv", "_pyrepl", "config-*")),
    *(f"{_STDLIB}/lib-dynload/{name}.*" for name in ("_bz2", "_curses*", "_dbm", "_gdbm", "_lzma", "_sqlite3")),
    *(f"{_STDLIB}/lib-dynload/{name}.*" for name in ("_test*", "_xxtestfuzz", "_tkinter", "_uuid", "readline", "xx*")),
)
"""Glob patterns of what the packages hold and nobody here uses; a * matches slashes too. Copyrights stay."""

PLUGIN: Final = "opt/cni/flannel"
"""The folder of the CNI plugin's bundle: `/opt/cni/flannel/flannel install` puts it on the node."""
COMMANDS: Final = {
    "flanneld": ("flanneld_py.cli.main", "main"),
    "mk-docker-opts.sh": ("flanneld_py.cli.mk_docker_opts", "main"),
}
"""Files in /opt/bin, which need no shell; by the names that manifests and units for Go flannel call."""

LINKS: Final = {
    "usr/sbin/iptables": "iptables-nft",
    "usr/sbin/iptables-save": "iptables-nft-save",
    "usr/sbin/iptables-restore": "iptables-nft-restore",
    "usr/sbin/ip6tables": "ip6tables-nft",
    "usr/sbin/ip6tables-save": "ip6tables-nft-save",
    "usr/sbin/ip6tables-restore": "ip6tables-nft-restore",
    "usr/lib/ssl/cert.pem": "/etc/ssl/certs/ca-certificates.crt",
    "etc/os-release": "../usr/lib/os-release",
    "usr/bin/python3": f"python{PYTHON}",
}
"""What maintainer scripts make on a whole Debian."""

FILES: Final = {
    "etc/passwd": "root:x:0:0:root:/:/nonexistent\n",
    "etc/group": "root:x:0:\n",
    "etc/nsswitch.conf": "hosts: files dns\n",
}
DIRECTORIES: Final = (
    *("dev", "proc", "sys", "run", "tmp", "etc/kube-flannel", "etc/cni/net.d", "opt/cni/bin", "run/flannel"),
)
"""Places to mount at, since the root file system is read-only."""
