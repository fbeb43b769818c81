"""When a node is ready, and what it says when it is not."""

from dataclasses import replace

import pytest

from flanneld_py.observe.health import Readiness, readiness
from flanneld_py.observe.status import Stage, Status

NOON = 1_700_049_600.0
READY = Status(Stage.READY, NOON, 1, "0.1", "node1")


def test_ready() -> None:
    assert readiness(READY) == Readiness(True, "flanneld is ready")


@pytest.mark.parametrize("stage", [stage for stage in Stage if stage is not Stage.READY])
def test_every_stage_before_and_after_is_not(stage: Stage) -> None:
    found = readiness(replace(READY, stage=stage))
    assert not found.ready
    assert found.text.startswith("flanneld is not ready")
    assert f": {stage.value} since 2023-11-15T12:00:00Z" in found.text


def test_the_reason_and_what_mends_it_are_told() -> None:
    status = replace(READY, stage=Stage.CONFIG, error="no network config at /n/config", hint="etcdctl put /n/config")
    assert readiness(status).text == (
        "flanneld is not ready yet: waiting for the network configuration since 2023-11-15T12:00:00Z: "
        "no network config at /n/config; etcdctl put /n/config"
    )


def test_a_store_that_went_away_makes_nobody_unready() -> None:
    """Forwarding goes on from what is known: a DaemonSet that restarted its pods then would end that."""
    assert readiness(replace(READY, store_ok=False, error="etcd does not answer", hint="start it")).ready


def test_peers_in_trouble_make_nobody_unready() -> None:
    assert readiness(replace(READY, peers=3, peers_unreached=2, difference=2, warnings=("w",))).ready


@pytest.mark.parametrize("store_ok", [True, False])
def test_a_failed_part_of_the_node_s_own_does(store_ok: bool) -> None:
    trouble = replace(READY, blocked=True, error="cannot add link flannel.1: no memory", hint="free some")
    found = readiness(replace(trouble, store_ok=store_ok))
    assert found == Readiness(False, "flanneld is not ready: cannot add link flannel.1: no memory; free some")
