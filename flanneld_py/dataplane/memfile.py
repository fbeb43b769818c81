"""Bytes of any size that go to another process as a descriptor (memfd_create(2)). I/O."""

import os

MAX_BYTES = 64 << 20
"""Far more than the table of 100,000 peers takes."""


def write_memfile(name: str, data: bytes) -> int:
    """A descriptor of a memory file that holds `data`; the caller closes it."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
    except BaseException:
        os.close(fd)
        raise
    return fd


def read_memfile(fd: int) -> bytes:
    """All that is in it, wherever its offset is. ValueError: it is larger than any that we write."""
    size = os.fstat(fd).st_size
    if size > MAX_BYTES:
        raise ValueError(f"a memory file of {size} bytes")
    data = os.pread(fd, size, 0)
    if len(data) != size:
        raise ValueError(f"{len(data)} of {size} bytes of a memory file could be read")
    return data
