"""Flags as Go flannel's users write them, and an error in one line for everything else."""

from ipaddress import ip_address
from pathlib import Path

import pytest

from flanneld_py.daemon.flags import Flag, parse_flags
from flanneld_py.daemon.flagtable import FLAGS, LATER
from flanneld_py.daemon.options import Options, describe, parse_etcd_options, parse_options, usage
from flanneld_py.errors import UsageError

LOGIN = ["--etcd-username=root", "--etcd-password=hunter2"]


def parse(*argv: str, **environ: str) -> Options:
    return parse_options(argv, environ)


def error(*argv: str, **environ: str) -> str:
    with pytest.raises(UsageError) as caught:
        parse_options(argv, environ)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_defaults_are_upstream_s() -> None:
    options = parse()
    assert options.etcd_endpoints == ("http://127.0.0.1:4001", "http://127.0.0.1:2379")
    assert options.etcd_prefix == "/coreos.com/network"
    assert options.subnet_file == Path("/run/flannel/subnet.env")
    assert options.subnet_lease_renew_margin == 60
    assert (options.iface, options.iface_regex, options.iface_can_reach) == ((), (), None)
    assert (options.ip_masq, options.reacquire, options.v, options.log_format) == (False, False, 0, "text")
    assert (options.etcd_keyfile, options.etcd_username, options.etcd_password_file) == (None, None, None)
    assert (options.public_ip, options.public_ipv6) == (None, None)


def test_where_probes_are_answered() -> None:
    assert (parse().healthz_port, str(parse().healthz_ip)) == (0, "0.0.0.0")
    options = parse("--healthz-port=8081", "--healthz-ip=::1")
    assert (options.healthz_port, options.healthz_ip) == (8081, ip_address("::1"))
    assert error("--healthz-port=65536") == "--healthz-port=65536: is not from 0 to 65535"
    assert error("--healthz-ip=localhost").startswith("--healthz-ip='localhost': is not an IP address; ")


@pytest.mark.parametrize("argv", [["-iface", "eth1"], ["--iface", "eth1"], ["-iface=eth1"], ["--iface=eth1"]])
def test_every_spelling_of_a_flag(argv: list[str]) -> None:
    assert parse(*argv).iface == ("eth1",)


def test_single_dash_flags_as_guides_have_them() -> None:
    options = parse(
        "-iface=eth1", "-etcd-prefix=/kube-centos/network", "-etcd-endpoints", "http://a:1,https://b", "-v", "4"
    )
    assert (options.iface, options.etcd_prefix, options.v) == (("eth1",), "/kube-centos/network", 4)
    assert options.etcd_endpoints == ("http://a:1", "https://b:2379")


def test_repeated_flags_keep_their_order_and_empty_ones_ask_for_nothing() -> None:
    assert parse("--iface=eth1", "--iface", "", "-iface", "10.0.0.1").iface == ("eth1", "10.0.0.1")


def test_of_other_flags_the_last_counts() -> None:
    assert parse("--v=1", "--v=2").v == 2


def test_a_value_may_look_like_a_flag() -> None:
    assert parse("--iface", "--v").iface == ("--v",)


@pytest.mark.parametrize("text", ["1", "t", "T", "true", "TRUE", "True"])
def test_true_values(text: str) -> None:
    assert parse(f"--reacquire={text}").reacquire is True


@pytest.mark.parametrize("text", ["0", "f", "F", "false", "FALSE", "False"])
def test_false_values(text: str) -> None:
    assert parse("--reacquire", f"--reacquire={text}").reacquire is False


@pytest.mark.parametrize("text", ["yes", "", "2", "tRUE", " true"])
def test_other_values_are_no_booleans(text: str) -> None:
    assert "is not a boolean" in error(f"--reacquire={text}")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *(("60", 60), ("0x3c", 60), ("0X3C", 60), ("0b1111", 15), ("0o74", 60), ("074", 60), ("+60", 60)),
        *(("1_000", 1000), ("0x_3c", 60), ("0_74", 60)),
    ],
)
def test_integers_as_go_reads_them(text: str, number: int) -> None:
    assert parse(f"--subnet-lease-renew-margin={text}").subnet_lease_renew_margin == number


@pytest.mark.parametrize("text", ["", "x", "1.0", "1e3", " 1", "1_", "_1", "1__0", "08", "0x", "٣", "9" * 30, "--1"])
def test_what_go_does_not_read_as_an_integer(text: str) -> None:
    assert "is not a whole number" in error(f"--subnet-lease-renew-margin={text}")


@pytest.mark.parametrize(("text", "fine"), [("0", False), ("1", True), ("1439", True), ("1440", False), ("-1", False)])
def test_bounds_of_the_renew_margin(text: str, fine: bool) -> None:
    if fine:
        assert parse(f"--subnet-lease-renew-margin={text}").subnet_lease_renew_margin == int(text)
    else:
        assert "is not from 1 to 1439" in error(f"--subnet-lease-renew-margin={text}")


def test_the_environment_stands_for_flags() -> None:
    options = parse(
        FLANNELD_IFACE="eth1",
        FLANNELD_ETCD_PREFIX="/x",
        FLANNELD_SUBNET_LEASE_RENEW_MARGIN="0x10",
        FLANNELD_REACQUIRE="true",
        FLANNELD_LOG_FORMAT="json",
        FLANNELD_V="",
        OTHER="1",
    )
    assert (options.iface, options.etcd_prefix, options.subnet_lease_renew_margin) == (("eth1",), "/x", 16)
    assert (options.reacquire, options.log_format, options.v) == (True, "json", 0)


def test_the_command_line_wins_over_the_environment() -> None:
    options = parse("--iface=eth0", "--reacquire=false", FLANNELD_IFACE="eth1", FLANNELD_REACQUIRE="true")
    assert (options.iface, options.reacquire) == (("eth0",), False)


def test_a_bad_variable_is_named() -> None:
    assert error(FLANNELD_V="x") == "FLANNELD_V='x': is not a whole number; such as 60"
    assert (
        error(FLANNELD_SUBNET_LEASE_RENEW_MARGIN="0") == "FLANNELD_SUBNET_LEASE_RENEW_MARGIN=0: is not from 1 to 1439"
    )
    assert error(FLANNELD_PUBLIC_IP="x").startswith("FLANNELD_PUBLIC_IP='x': ")


def test_version_has_no_variable() -> None:
    assert parse(FLANNELD_VERSION="true").version is False


@pytest.mark.parametrize("flag", ["-version", "--version", "--version=true"])
def test_version(flag: str) -> None:
    options = parse(flag, "--etcd-keyfile=x", FLANNELD_V="3")
    assert (options.version, options.help) == (True, False)


@pytest.mark.parametrize("flag", ["-h", "--help", "-help"])
def test_help_reads_nothing_after_it(flag: str) -> None:
    assert parse("--v=3", flag, "--nonsense").help is True


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["-etcd-endpoint=x"], "--etcd-endpoint: there is no such flag; did you mean --etcd-endpoints?"),
        (["--ifcae=eth0"], "--ifcae: there is no such flag; did you mean --iface?"),
        (["--zzz"], "--zzz: there is no such flag; --help lists the flags"),
        (["--=x"], "a flag without a name; --help lists the flags"),
        (["--iface"], "--iface: needs a value; write --iface=NAME|IP"),
        (["foo"], "unexpected argument 'foo'; flags begin with - and --help lists them"),
        (["--v=1", "-", "--v=2"], "unexpected argument '-'; flags begin with - and --help lists them"),
        (["--", "--v=1"], "unexpected argument '--v=1'; flags begin with - and --help lists them"),
        (
            ["--reacquire", "true"],
            "--reacquire true: unexpected argument true; a boolean takes its value with =: write --reacquire=true",
        ),
        (
            ["--ip-masq", "false", "--iface=eth1"],
            "--ip-masq false: unexpected argument false; a boolean takes its value with =: write --ip-masq=false",
        ),
    ],
)
def test_usage_errors(argv: list[str], message: str) -> None:
    assert error(*argv) == message


def test_a_lone_double_dash_ends_the_flags() -> None:
    assert parse("--v=1", "--").v == 1


@pytest.mark.parametrize(
    "argv",
    [
        ["--etcd-username=root", "--etcd-password=", "hunter2"],
        ["--etcd-pasword=hunter2"],
        ["--etcd-password:hunter2"],
        ["--etcd-endpoints=http://admin:hunter2@store:2379"],
        ["--etcd-endpoints=admin:hunter2@store:2379"],
        ["--etcd-password=hunter2"],
        [*LOGIN, "--etcd-password-file=f"],
    ],
)
def test_no_error_repeats_a_secret(argv: list[str]) -> None:
    assert "hunter2" not in error(*argv)


GIVEN_LATER = [
    *("--vmodule=a=1", "--log_backtrace_at=a:1"),
]


def test_every_row_of_later_is_tried() -> None:
    assert {word.lstrip("-").partition("=")[0] for word in GIVEN_LATER} == set(LATER)
    assert set(LATER) <= {flag.name for flag in FLAGS}


@pytest.mark.parametrize("word", GIVEN_LATER)
def test_a_flag_without_effect_is_refused(word: str) -> None:
    message = error(word)
    assert message.startswith(word.partition("=")[0] + "=")
    assert ": this version " in message
    assert message.endswith("; leave the flag out")


@pytest.mark.parametrize(
    "word",
    [
        *("--kube-subnet-mgr=false", "--kube-api-url=", "--healthz-port=0"),
        *("--vmodule=", "--log_backtrace_at=", "--kubeconfig-file=", "--set-node-network-unavailable=true"),
    ],
)
def test_a_value_that_describes_what_happens_anyway_is_fine(word: str) -> None:
    assert parse(word) == parse()


KUBE = ("--kube-api-url=http://x", "--kubeconfig-file=x", "--kube-annotation-prefix=a.b", "--net-config-path=x",
        "--set-node-network-unavailable=false")  # fmt: skip


@pytest.mark.parametrize("word", KUBE)
def test_a_flag_for_kubernetes_needs_kubernetes(word: str) -> None:
    assert error(word) == f"{word.partition('=')[0]}: leases are kept in etcd; give --kube-subnet-mgr too"
    assert parse(word, "--kube-subnet-mgr") != parse("--kube-subnet-mgr")


@pytest.mark.parametrize(
    "url", ["10.0.0.1:6443", "ftp://x", "https://", "https://x:port", "https://x:99999", "https://[::1", "https://x:0"]
)
def test_an_api_address_that_is_none(url: str) -> None:
    assert error("--kube-subnet-mgr", f"--kube-api-url={url}") == (
        f"--kube-api-url: {url!r} is no address; such as https://10.0.0.1:6443"
    )


def test_an_api_address_with_a_password_is_not_repeated() -> None:
    said = error("--kube-subnet-mgr", "--kube-api-url=https://me:hunter2@10.0.0.1")
    assert said == "--kube-api-url: holds a user or a password; put them into a --kubeconfig-file"


def test_a_variable_without_effect_is_refused_by_its_name() -> None:
    assert error(FLANNELD_VMODULE="a=1") == (
        "FLANNELD_VMODULE=a=1: this version has one log level for all; unset the variable"
    )


@pytest.mark.parametrize(
    ("text", "endpoints"),
    [
        ("http://a", ("http://a:2379",)),
        ("http://a:1/", ("http://a:1",)),
        ("https://etcd.example:2379,http://10.0.0.1:4001", ("https://etcd.example:2379", "http://10.0.0.1:4001")),
        (" http://a:1 , http://b:2 ,", ("http://a:1", "http://b:2")),
        ("http://[fd00::1]:2379", ("http://[fd00::1]:2379",)),
        ("a:2379", ("http://a:2379",)),
    ],
)
def test_etcd_endpoints(text: str, endpoints: tuple[str, ...]) -> None:
    assert parse(f"--etcd-endpoints={text}").etcd_endpoints == endpoints


@pytest.mark.parametrize(
    "text", ["", ",", "ftp://a:1", "http://", "http://a:x", "http://a:1/v3", "http://u@a:1", "http://a b"]
)
def test_etcd_endpoints_that_cannot_be_used(text: str) -> None:
    assert error(f"--etcd-endpoints={text}").startswith("--etcd-endpoints: ")


@pytest.mark.parametrize(
    ("text", "prefix"),
    [("/a/b/", "/a/b"), ("//a//b", "/a/b"), ("a/b", "a/b"), ("/atomic.io/network", "/atomic.io/network")],
)
def test_etcd_prefix_is_joined_as_go_does(text: str, prefix: str) -> None:
    assert parse(f"--etcd-prefix={text}").etcd_prefix == prefix


@pytest.mark.parametrize("text", ["", "/", "//"])
def test_an_empty_prefix_is_refused(text: str) -> None:
    assert "is empty" in error(f"--etcd-prefix={text}")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--etcd-keyfile=k"], "--etcd-keyfile: needs --etcd-certfile"),
        (["--etcd-certfile=c"], "--etcd-certfile: needs --etcd-keyfile"),
        (["--etcd-password=x"], "--etcd-password: whose password is it?; give --etcd-username"),
        (["--etcd-password-file=x"], "--etcd-password-file: whose password is it?"),
        (["--etcd-username=x"], "--etcd-username: needs a password"),
        ([*LOGIN, "--etcd-password-file=f"], "--etcd-password and --etcd-password-file: both are given"),
        (["--public-ip=fd00::1"], "is of the other address family; give it to --public-ipv6"),
        (["--public-ipv6=10.0.0.1"], "is of the other address family; give it to --public-ip"),
        (["--public-ip=10.0.0.1/24"], "is not an IP address"),
        (["--public-ip=010.0.0.1"], "is not an IP address"),
        (["--public-ip=0.0.0.0"], "is not the address of one node"),
        (["--public-ipv6=fe80::1%eth0"], "has a zone"),
        (["--iface-can-reach=host"], "is not an IP address"),
        (["--iface-regex=("], "is not a regular expression"),
        (["--subnet-file="], "is not a file"),
        (["--subnet-file=/run/flannel/"], "is not a file"),
        (["--v=11"], "--v=11: is not from 0 to 10"),
        (["--v=-1"], "--v=-1: is not from 0 to 10"),
        (["--log-format=xml"], "--log-format='xml': is not known; write text or json"),
        (["--packet-filter=ipfw"], "--packet-filter='ipfw': is not known; write auto, nft or iptables"),
        (["--packet-filter="], "--packet-filter='': is not known"),
        (["--iptables-resync=0"], "--iptables-resync=0: is not from 1 to 86400"),
        (["--ip-masq=yes"], "--ip-masq='yes': is not a boolean"),
    ],
)
def test_values_that_cannot_be_used(argv: list[str], words: str) -> None:
    assert words in error(*argv)


def test_usable_values() -> None:
    options = parse(
        *("--public-ip=203.0.113.5", "--public-ipv6=2001:db8::5", "--iface-can-reach=192.168.1.1"),
        *("--iface-regex=^(eth|en).*$", "--etcd-username=root", "--etcd-password-file=/etc/flanneld/password"),
        *("--etcd-keyfile=k", "--etcd-certfile=c", "--etcd-cafile=a", "--subnet-file=/tmp/x.env"),
    )
    assert options.public_ip == ip_address("203.0.113.5")
    assert options.public_ipv6 == ip_address("2001:db8::5")
    assert options.iface_can_reach == ip_address("192.168.1.1")
    assert options.iface_regex == ("^(eth|en).*$",)
    assert options.etcd_password_file == Path("/etc/flanneld/password")
    assert (options.etcd_keyfile, options.etcd_certfile, options.etcd_cafile) == ("k", "c", "a")


def test_arguments_for_the_installer_are_words_of_a_shell() -> None:
    assert parse().install_cni is False
    options = parse("--install-cni", "--install-cni-args=--bin-dir '/opt/cni bin'")
    assert options.install_cni and options.install_cni_args == "--bin-dir '/opt/cni bin'"
    with pytest.raises(UsageError, match=r"no closing quotation; write quotes as in a shell"):
        parse("--install-cni", "--install-cni-args='")
    with pytest.raises(UsageError, match=r"nothing is installed; give --install-cni"):
        parse("--install-cni-args=--bundle")


def test_packet_filter_flags_have_flannels_defaults() -> None:
    options = parse()
    assert (options.ip_masq, options.iptables_forward_rules, options.iptables_resync) == (False, True, 5)
    assert (options.ip_masq_fully_random_disable, options.ip_blackhole_route) == (False, False)
    assert (options.packet_filter, options.fix_foreign_forward) == ("auto", False)
    given = parse("--ip-masq", "-iptables-forward-rules=false", FLANNELD_IPTABLES_RESYNC="0x1e")
    assert (given.ip_masq, given.iptables_forward_rules, given.iptables_resync) == (True, False, 30)


def test_describe_shows_what_was_asked_for_without_secrets() -> None:
    options = parse(
        "--iface=eth1", "--iface=eth2", "--reacquire", "--v=2", "--etcd-endpoints=http://a:1,http://b:2", *LOGIN
    )
    assert describe(options) == (
        "--etcd-endpoints=http://a:1,http://b:2 --etcd-username=root --etcd-password=*** "
        "--iface=eth1,eth2 --reacquire=true --v=2"
    )
    assert "hunter2" not in repr(options)
    assert describe(parse()) == "with default options"


def test_usage_lists_every_flag() -> None:
    text = usage()
    for flag in FLAGS:
        assert f"\n  --{flag.name}" in text
    assert text.count("[refused: this version") == len(LATER)
    assert "(default /run/flannel/subnet.env)" in text


def test_parse_etcd_options_leaves_other_words_to_the_caller() -> None:
    options, operands = parse_etcd_options(["net.json", "--etcd-prefix=/x", "-"], {"FLANNELD_V": "nonsense"})
    assert operands == ("net.json", "-")
    assert options.etcd_prefix == "/x"
    with pytest.raises(UsageError, match="--iface: there is no such flag"):
        parse_etcd_options(["--iface=eth0"], {})


def test_parse_flags_ends_operands_at_a_double_dash() -> None:
    given = parse_flags((Flag("v", 0, "level"),), ["a", "--v=3", "--", "--v=4"], {}, operands=True)
    assert given.operands == ("a", "--v=4")
    assert given.settings["v"].value == 3
