import pytest

from flanneld_py.etcd.verdict import CallError, Verdict, cancelled_watch, explain, judge


@pytest.mark.parametrize(
    ("code", "details", "verdict"),
    [
        ("UNAVAILABLE", "failed to connect to all addresses", Verdict.RETRY),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", Verdict.RETRY),
        ("UNKNOWN", "Stream removed", Verdict.RETRY),
        ("UNIMPLEMENTED", "unknown service etcdserverpb.KV", Verdict.RETRY),
        ("RESOURCE_EXHAUSTED", "etcdserver: mvcc: database space exceeded", Verdict.RETRY),
        ("UNAUTHENTICATED", "etcdserver: invalid auth token", Verdict.LOGIN),
        ("INVALID_ARGUMENT", "etcdserver: revision of auth store is old", Verdict.LOGIN),
        ("PERMISSION_DENIED", "etcdserver: permission denied", Verdict.DENIED),
        ("INVALID_ARGUMENT", "etcdserver: authentication failed, invalid user ID or password", Verdict.DENIED),
        ("INVALID_ARGUMENT", "etcdserver: user name is empty", Verdict.DENIED),
        ("NOT_FOUND", "etcdserver: requested lease not found", Verdict.ANSWER),
        ("OUT_OF_RANGE", "etcdserver: mvcc: required revision has been compacted", Verdict.ANSWER),
    ],
)
def test_verdict(code: str, details: str, verdict: Verdict) -> None:
    assert judge(CallError(code, details)) is verdict


@pytest.mark.parametrize(
    ("reason", "verdict"),
    [
        ("etcdserver: permission denied", Verdict.DENIED),
        ("rpc error: code = PermissionDenied desc = etcdserver: permission denied", Verdict.DENIED),
        ("rpc error: code = Unauthenticated desc = etcdserver: invalid auth token", Verdict.LOGIN),
        ("etcdserver: no leader", Verdict.RETRY),
        ("", Verdict.RETRY),
    ],
)
def test_verdict_on_a_cancelled_watch(reason: str, verdict: Verdict) -> None:
    assert judge(cancelled_watch(reason)) is verdict


@pytest.mark.parametrize(
    ("code", "details", "message", "hint"),
    [
        ("UNAVAILABLE", "etcdserver: request timed out", "answers: request timed out", "members must be up"),
        ("RESOURCE_EXHAUSTED", "etcdserver: mvcc: database space exceeded", "database space exceeded", "alarm disarm"),
        ("UNIMPLEMENTED", "", "does not speak etcd's v3 API", "3.3"),
    ],
)
def test_explanation(code: str, details: str, message: str, hint: str) -> None:
    trouble = explain(CallError(code, details))
    assert trouble is not None and message in trouble.message and hint in (trouble.hint or "")


def test_failed_transport_needs_a_look() -> None:
    assert explain(CallError("UNAVAILABLE", "failed to connect to all addresses; last error: Socket closed")) is None
