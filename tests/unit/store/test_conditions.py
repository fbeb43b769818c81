from flanneld_py.errors import AccessDenied
from flanneld_py.etcd.verdict import Trouble
from flanneld_py.store.base import Condition
from flanneld_py.store.conditions import Conditions

MISSING = Condition(False, "no configuration", "put one")


def test_gravest_condition_is_told_when_it_changes() -> None:
    told: list[Condition] = []
    conditions = Conditions(told.append)
    conditions.missing("config", MISSING)
    conditions.missing("config", MISSING)
    conditions.trouble(Trouble("away", "start it"))
    conditions.missing("config", None)
    conditions.missing("config", MISSING)
    conditions.trouble(None)
    conditions.denied("watch", AccessDenied("no", hint="grant"))
    conditions.denied("watch", None)
    conditions.missing("config", None)
    assert told == [
        MISSING,
        Condition(False, "away", "start it"),
        MISSING,
        Condition(False, "no", "grant"),
        MISSING,
        Condition(True, "etcd answers"),
    ]


def test_of_two_refused_calls_each_takes_back_its_own() -> None:
    seen: list[Condition] = []
    conditions = Conditions(seen.append)
    conditions.denied("watch", AccessDenied("no leases"))
    conditions.denied("watch_config", AccessDenied("no config"))
    conditions.denied("renew", None)
    conditions.denied("watch", None)
    conditions.denied("watch_config", None)
    assert [condition.message for condition in seen] == ["no leases", "no config", "etcd answers"]
