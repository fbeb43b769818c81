"""Go's reading of a JSON object, and what is said about keys that nobody asked for."""

import pytest

from flanneld_py.errors import ConfigError
from flanneld_py.model.fields import ABSENT, MAX_TEXT, Fields, decode_object, show


def read(**raw: object) -> Fields:
    return Fields(raw, "here")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ("[]", "is not a JSON object"),
        ('"text"', "is not a JSON object"),
        ("3", "is not a JSON object"),
        ('{"a": 1} x', "line 1 column 10: not valid JSON: extra data"),
        ('{\n"a": }', "line 2 column 6: not valid JSON"),
        ('\ufeff{"a": 1}', "begins with a byte order mark"),
        ('{"a": 1, "a": 2}', 'the key "a" stands twice'),
        ('{"b": {"a": 1, "a": 1}}', 'the key "a" stands twice'),
        ('{"a": NaN}', "NaN is not a JSON value"),
        ('{"a": -Infinity}', "-Infinity is not a JSON value"),
        ("[" * 100_000, "is nested too deeply"),
        ('{"a":' * 60 + "1" + "}" * 60, "is nested more than 50 levels deep"),
        (" " * (MAX_TEXT + 1), "are too many"),
        ("\x00\x01\x02", "not valid JSON"),
        ('{"a": "\x01"}', "not valid JSON"),
    ],
)
def test_decode_object_refuses_in_one_line(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        decode_object(text, "net.json")
    assert str(caught.value).startswith("net.json: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_decode_object_reads_null_as_an_empty_object() -> None:
    assert decode_object("null", "x") == {}


def test_decode_object_takes_a_number_of_any_length() -> None:
    fields = Fields(decode_object('{"VNI": ' + "9" * 5000 + "}", "x"), "x")
    assert fields.integer("VNI", 1, low=0, high=10) == 1
    assert len(fields.errors) == 1


def test_keys_match_in_any_case_and_the_last_counts() -> None:
    fields = read(port=1, PORT=2, Port=3)
    assert fields.integer("Port", 0, low=0, high=9) == 3
    assert fields.warnings == ['here: "port", "PORT", "Port" are one key in several spellings; the last counts']


def test_null_leaves_plain_values_as_they_were() -> None:
    fields = read(port=5, PORT=None, GBP=None, Name=None)
    assert fields.integer("Port", 0, low=0, high=9) == 5
    assert fields.boolean("GBP", True) is True
    assert fields.text("Name", "x") == "x"
    assert fields.errors == []


@pytest.mark.parametrize("value", [1.0, 1e3, "24", True, [], {}, float("inf")])
def test_integer_refuses_all_but_whole_numbers(value: object) -> None:
    fields = read(Port=value)
    assert fields.integer("Port", 7, low=0, high=65535) == 7
    assert "here: Port = " in fields.errors[0].message
    assert "is not a whole number" in fields.errors[0].message


def test_integer_says_how_to_write_a_quoted_number() -> None:
    fields = read(Port="24")
    fields.integer("Port", None, low=0, high=65535)
    assert str(fields.errors[0]) == 'here: Port = "24": is not a whole number; write 24 without quotes'


@pytest.mark.parametrize(("value", "wrong"), [(-1, True), (0, False), (9, False), (10, True)])
def test_integer_holds_its_bounds(value: int, wrong: bool) -> None:
    fields = read(Port=value)
    assert fields.integer("Port", None, low=0, high=9) == (None if wrong else value)
    assert bool(fields.errors) is wrong


def test_boolean_takes_the_words_with_a_warning() -> None:
    fields = read(GBP="true", Learning="False")
    assert fields.boolean("GBP", False) is True
    assert fields.boolean("Learning", True) is False
    assert fields.errors == []
    assert fields.warnings[0] == 'here: GBP = "true": is a text; Go nodes refuse it: write true without quotes'
    assert len(fields.warnings) == 2


@pytest.mark.parametrize("value", [1, 0, "yes", "", [], 1.0])
def test_boolean_refuses_what_is_neither(value: object) -> None:
    fields = read(GBP=value)
    assert fields.boolean("GBP", False) is False
    assert "is not a boolean" in fields.errors[0].message


@pytest.mark.parametrize("value", [None, "", 3, {}, False])
def test_required_text_refuses_null_and_empty(value: object) -> None:
    fields = read(Network=value)
    assert fields.required_text("Network", "an IPv4 network") is None
    assert "is not an IPv4 network" in fields.errors[0].message


def test_take_tells_a_missing_key_from_null() -> None:
    fields = read(Backend=None)
    assert fields.take("backend") is None
    assert fields.take("Other") is ABSENT
    assert fields.given("BACKEND")
    assert not fields.given("Other")


def test_finish_makes_a_near_miss_of_an_absent_key_an_error() -> None:
    fields = read(Bacend={"Type": "vxlan"})
    fields.take("Backend")
    fields.finish()
    assert str(fields.errors[0]) == (
        'here: "Bacend" = {...}: unknown key, and Backend is missing; did you mean Backend?'
    )
    assert fields.mistaken("Backend")
    assert fields.warnings == []


def test_finish_only_warns_if_the_near_key_is_there_or_harmless() -> None:
    fields = read(Bacend=1, Backend=2, GPB=True, Other=3)
    fields.take("Backend")
    fields.take("GBP")
    fields.finish(harmless=("GBP",))
    assert fields.errors == []
    assert fields.warnings == [
        'here: unknown key "Bacend" has no effect: did you mean Backend?',
        'here: unknown key "GPB" has no effect: did you mean GBP?',
        'here: unknown key "Other" has no effect',
    ]


def test_finish_is_silent_about_known_keys() -> None:
    fields = read(macprefix="0E-2A")
    fields.finish(known=("MacPrefix",))
    assert (fields.errors, fields.warnings) == ([], [])


def test_no_message_shows_a_secret() -> None:
    fields = Fields({"PSK": 5, "PKS": "hunter2"}, "here", secret=("PSK",))
    fields.text("PSK", "")
    fields.finish()
    said = " ".join([*map(str, fields.errors), *fields.warnings])
    assert "(hidden)" in said
    assert "hunter2" not in said
    assert "5" not in said


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a\nb", '"a\\nb"'),
        ("\ud800", '"\\ud800"'),
        ("x" * 500, '"' + "x" * 57 + '..."'),
        (None, "null"),
        (True, "true"),
        ([], "[]"),
        ([1], "[...]"),
        ({}, "{}"),
        (10**200, "1" + "0" * 56 + "..."),
    ],
)
def test_show_is_one_short_line(value: object, text: str) -> None:
    assert show(value) == text


@pytest.mark.parametrize(
    ("raw", "value", "words"),
    [
        ({}, "auto", ""),
        ({"Mode": None}, "auto", ""),
        ({"mode": "OFF"}, "off", ""),
        ({"Mode": "maybe"}, "auto", 'here: Mode = "maybe": is unknown; write one of auto, on, off'),
        ({"Mode": ""}, "auto", "is unknown"),
        ({"Mode": True}, "auto", "is not a text"),
        ({"Mode": ["on"]}, "auto", "is not a text"),
    ],
)
def test_one_of_takes_a_choice_in_any_case(raw: dict[str, object], value: str, words: str) -> None:
    fields = read(**raw)
    assert fields.one_of("Mode", ("auto", "on", "off")) == value
    assert [words in str(error) for error in fields.errors] == ([True] if words else [])
