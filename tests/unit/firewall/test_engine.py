import pytest

from flanneld_py.firewall.engine import Survey, choose_engine
from flanneld_py.model.ruleset import Engine

NFT, IPT, LEGACY = Engine.NFT, Engine.IPTABLES_NFT, Engine.IPTABLES_LEGACY
BOTH = (IPT, LEGACY)


@pytest.mark.parametrize(
    ("wish", "enabled", "survey", "engine"),
    [
        ("auto", True, Survey(programs=BOTH), NFT),
        ("auto", False, Survey(programs=BOTH), IPT),
        ("auto", False, Survey(programs=(LEGACY, IPT)), LEGACY),
        ("auto", False, Survey(), NFT),
        ("auto", False, Survey(kube_proxy=NFT, programs=BOTH), NFT),
        ("auto", False, Survey(kube_proxy=LEGACY, programs=BOTH), LEGACY),
        ("auto", False, Survey(kube_proxy=LEGACY, programs=(IPT,)), IPT),
        ("auto", False, Survey(kube_proxy=IPT), NFT),
        ("auto", False, Survey(kubelet=LEGACY, programs=BOTH), LEGACY),
        ("auto", False, Survey(kubelet=LEGACY, programs=(IPT,)), IPT),
        ("auto", False, Survey(kube_proxy=NFT, kubelet=LEGACY, programs=BOTH), NFT),
        ("auto", False, Survey(kube_proxy=IPT, kubelet=LEGACY, programs=(LEGACY, IPT)), IPT),
        ("auto", False, Survey(nft=False, programs=(LEGACY,)), LEGACY),
        ("auto", False, Survey(nft=False, programs=BOTH), LEGACY),
        ("iptables", False, Survey(kubelet=LEGACY, programs=BOTH), LEGACY),
        ("nft", False, Survey(programs=BOTH), NFT),
        ("iptables", True, Survey(programs=BOTH), IPT),
        ("iptables", False, Survey(kube_proxy=LEGACY, programs=BOTH), LEGACY),
        ("iptables", False, Survey(kube_proxy=NFT, programs=BOTH), IPT),
    ],
)
def test_choice(wish: str, enabled: bool, survey: Survey, engine: Engine) -> None:
    choice = choose_engine(wish, survey, enable_nftables=enabled)
    assert (choice.engine, choice.missing) == (engine, None)
    assert choice.reason


@pytest.mark.parametrize(
    ("wish", "enabled", "survey", "missing"),
    [
        ("iptables", False, Survey(), "there is no iptables-restore"),
        ("nft", False, Survey(nft=False, programs=BOTH), "the kernel has no nf_tables"),
        ("auto", True, Survey(nft=False, programs=BOTH), "the kernel has no nf_tables"),
        ("auto", False, Survey(nft=False), "there is no iptables-restore"),
    ],
)
def test_what_was_asked_for_and_cannot_be_had(wish: str, enabled: bool, survey: Survey, missing: str) -> None:
    assert choose_engine(wish, survey, enable_nftables=enabled).missing == missing
