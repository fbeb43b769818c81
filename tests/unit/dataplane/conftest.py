"""Every test of the pump's decisions runs on both implementations, never only on the one that would be chosen."""

import pytest

from flanneld_py.dataplane import pump

MAKERS = {"native": pump.native, "portable": pump.portable}


@pytest.fixture(params=sorted(MAKERS))
def twin(request: pytest.FixtureRequest) -> pump.Implementation:
    return MAKERS[request.param]()
