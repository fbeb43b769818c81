"""Every configuration that we show is one that we accept, without a warning."""

from pathlib import Path

import pytest

from flanneld_py.backend.table import read_backend
from flanneld_py.model.config import parse_config

EXAMPLES = Path(__file__).parents[2] / "deploy" / "examples"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.json")), ids=lambda path: path.name)
def test_example_is_accepted(path: Path) -> None:
    config, warnings = parse_config(path.read_text(), str(path))
    assert warnings == ()
    versions = tuple(family.network.version for family in config.families)
    backend, errors, notes = read_backend(config.backend, versions, path.name)
    assert backend is not None
    assert (errors, notes) == ([], [])


def test_every_example_is_in_the_readme() -> None:
    readme = (EXAMPLES / "README.md").read_text()
    assert [path.name for path in EXAMPLES.glob("*.json") if f"`{path.name}`" not in readme] == []
