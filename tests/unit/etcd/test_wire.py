import sys

from hypothesis import given
from hypothesis import strategies as st

from flanneld_py.etcd.wire import RANGE, TXN, WATCH, Delete, Find, Guard, Put, encode_txn, prefix_end, watch_request
from flanneld_py.model.backoff import Backoff


def test_no_code_of_etcd3_runs() -> None:
    assert not [name for name in sys.modules if name.partition(".")[0] == "etcd3"]


def test_messages_go_over_the_wire_and_back() -> None:
    sent = encode_txn([Guard(b"k", 7)], [Put(b"k", b"v", 9), Delete(b"d")], [Find(b"k", b"l", 5, True)])
    got = TXN.request.FromString(sent.SerializeToString())
    compare, put, delete, find = got.compare[0], got.success[0], got.success[1], got.failure[0].request_range
    # etcdserverpb/rpc.proto: Compare.MOD = 2, Compare.EQUAL = 0
    assert (compare.key, compare.target, compare.result, compare.mod_revision) == (b"k", 2, 0, 7)
    assert (put.request_put.key, put.request_put.value, put.request_put.lease) == (b"k", b"v", 9)
    assert delete.request_delete_range.key == b"d"
    assert (find.key, find.range_end, find.min_create_revision, find.keys_only) == (b"k", b"l", 5, True)


def test_paths() -> None:
    assert (RANGE.path, WATCH.path) == ("/etcdserverpb.KV/Range", "/etcdserverpb.Watch/Watch")
    create = watch_request(b"a", end=b"b", start_revision=3).create_request
    assert (create.key, create.range_end, create.start_revision, create.progress_notify) == (b"a", b"b", 3, True)


@given(st.binary(max_size=4), st.binary(max_size=4))
def test_prefix_end_bounds_the_keys_with_that_prefix(prefix: bytes, key: bytes) -> None:
    end = prefix_end(prefix)
    within = prefix <= key and (end == b"\0" or key < end)
    assert within == key.startswith(prefix)


def test_prefix_end_of_the_last_prefixes() -> None:
    assert (prefix_end(b"a\xff"), prefix_end(b"\xff\xff"), prefix_end(b"")) == (b"b", b"\0", b"\0")


@given(st.randoms(use_true_random=False))
def test_backoff_doubles_up_to_its_limit_and_begins_again(rng: object) -> None:
    backoff = Backoff(0.1, 2.0, rng)  # type: ignore[arg-type]
    for longest in (0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0):
        assert longest / 2 <= backoff.next_s() <= longest
    backoff.reset()
    assert backoff.next_s() <= 0.1
