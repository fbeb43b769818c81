"""/healthz and /readyz of a real daemon, as a kubelet asks them: from its start to its end."""

import http.client
import json

import pytest

from flanneld_py.lab.namespaces import inside
from tests.daemon.conftest import Ground
from tests.daemon.field import VXLAN, Daemon
from tests.waiting import eventually

PORT = 8081


def probe(namespace: str, path: str, address: str = "127.0.0.1") -> tuple[int, str]:
    """Status and text; (0, reason) if nobody answers. The socket stays in the namespace in which it was made."""
    connection = http.client.HTTPConnection(address, PORT, timeout=10)
    try:
        inside(namespace, connection.connect)
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except (ConnectionError, TimeoutError) as error:
        return 0, str(error)
    finally:
        connection.close()


def test_not_ready_says_why_and_ready_comes_with_subnet_env(ground: Ground) -> None:
    node = ground.namespace()
    daemon = ground.daemon(f"--healthz-port={PORT}").start()
    missing = f"no network configuration in etcd at {ground.prefix}/config; create it: etcdctl"
    eventually("the reason is told", lambda: missing in probe(node, "/readyz")[1], daemon.log)
    code, text = probe(node, "/readyz")
    assert code == 503
    assert text.startswith("flanneld is not ready yet: waiting for the network configuration since 2")
    assert probe(node, "/healthz") == (200, "flanneld is running\n")

    ground.put("config", json.dumps({"Network": "10.81.0.0/16", "Backend": VXLAN}))
    eventually("it is ready", lambda: probe(node, "/readyz")[0] == 200, daemon.log)
    assert (daemon.folder / "subnet.env").exists()
    assert probe(node, "/readyz") == (200, "flanneld is ready\n")

    assert daemon.stop() == 0
    assert probe(node, "/healthz")[0] == 0


def test_healthz_ip_is_the_only_address_that_answers(ground: Ground) -> None:
    node, own = ground.namespace(), ground.field.public(1)
    daemon = ground.daemon(f"--healthz-port={PORT}", f"--healthz-ip={own}").start()
    eventually("it answers", lambda: probe(node, "/healthz", own)[0] == 200, daemon.log)
    assert probe(node, "/healthz")[0] == 0


@pytest.mark.parametrize("flags", [(), ("--healthz-port=0",)])
def test_without_a_port_nobody_answers(ground: Ground, flags: tuple[str, ...]) -> None:
    ground.daemon(*flags).start().wait_stage("waiting for the network configuration")
    assert probe(ground.namespace(), "/healthz")[0] == 0


def test_a_port_that_is_taken_ends_the_daemon_with_its_name(ground: Ground) -> None:
    first = ground.daemon(f"--healthz-port={PORT}").start()
    eventually("it answers", lambda: probe(ground.namespace(), "/healthz")[0] == 200, first.log)
    second = Daemon(ground.namespace(), ground.folder / "second", f"--healthz-port={PORT}")
    ground.daemons.append(second)
    assert second.start().wait_exit() == 1
    assert f"cannot answer probes on 0.0.0.0 port {PORT}: Address already in use" in second.log()
