import pytest

from flanneld_py.model.node import parse_kernel


@pytest.mark.parametrize(
    ("release", "version"),
    [
        ("5.10.0-28-amd64", (5, 10)),
        ("6.18.5", (6, 18)),
        ("4.19-rc1", (4, 19)),
        ("5.6.0+", (5, 6)),
        ("6", None),
        ("", None),
        ("linux-6.1", None),
        ("٦.١", None),
        ("9" * 30 + ".1", None),
    ],
)
def test_kernel_version_is_read_from_the_release(release: str, version: tuple[int, int] | None) -> None:
    assert parse_kernel(release) == version
