"""Who holds the addresses that host-local gave out: its files, one for each address, named after it."""

import posix

from cni_plugin.request import ifname_problem, is_name

DIRECTORY = "/var/lib/cni/networks"
_MAX_BYTES = 4096


def holders(directory: object, network: str) -> list[tuple[str, str]]:
    """(container, interface) of each holder. Files of host-local before 0.8 do not name the interface: "" then."""
    base = f"{directory if isinstance(directory, str) and directory else DIRECTORY}/{network}"
    found = set()
    try:
        names = posix.listdir(base)
    except (OSError, ValueError):
        return []
    for name in names:
        # Beside addresses there are a lock and the last address of each range.
        if not name[:1].isalnum() or name.startswith(("last_reserved_ip", "lock")):
            continue
        container, _, ifname = _content(f"{base}/{name}").partition("\n")
        container, ifname = container.strip(), ifname.strip()
        if is_name(container) and not (ifname and ifname_problem(ifname)):
            found.add((container, ifname))
    return sorted(found)


def _content(path: str) -> str:
    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK)
    except OSError:
        return ""
    try:
        return posix.read(fd, _MAX_BYTES).decode(errors="replace")
    except OSError:
        return ""
    finally:
        posix.close(fd)
