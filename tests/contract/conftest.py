from tests.etcd.conftest import etcd, prefix, reports, stores

__all__ = ["etcd", "prefix", "reports", "stores"]
