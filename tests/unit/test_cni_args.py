"""CNI_ARGS: pairs, unknown keys, and the reference's texts."""

from __future__ import annotations

import pytest

from pycni.cni_args import bad_value, parse_args, quote
from pycni.errors import CNIError

KNOWN = ("IP", "MAC")


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", {}),
        ("IP=10.0.0.1", {"IP": "10.0.0.1"}),
        ("IP=1;MAC=2", {"IP": "1", "MAC": "2"}),
        ("IP=", {"IP": ""}),
        ("IP=1;IP=2", {"IP": "2"}),
        ("IgnoreUnknown=1;X=1;=y;IP=3", {"IP": "3"}),
        ("X=1;IgnoreUnknown=TRUE", {}),
        ("IgnoreUnknown=0;MAC=m", {"MAC": "m"}),
    ],
)
def test_known_keys_are_returned(text: str, values: dict[str, str]) -> None:
    """The known keys that occur come back, the last of equal ones, whatever may be ignored is."""
    assert parse_args(text, KNOWN) == values


@pytest.mark.parametrize(
    ("text", "msg"),
    [
        ("foo", 'ARGS: invalid pair "foo"'),
        ("IP=1;", 'ARGS: invalid pair ""'),
        (";", 'ARGS: invalid pair ""'),
        ("IP=1=2", 'ARGS: invalid pair "IP=1=2"'),
        ("X=1;IP=2;Y=2", 'ARGS: unknown args ["X=1" "Y=2"]'),
        ("ip=1", 'ARGS: unknown args ["ip=1"]'),
        ("X=1;IgnoreUnknown=false", 'ARGS: unknown args ["X=1"]'),
        ("ignoreunknown=1", 'ARGS: unknown args ["ignoreunknown=1"]'),
        (
            "IgnoreUnknown=yes",
            'ARGS: error parsing value of pair "IgnoreUnknown=yes": '
            "boolean unmarshal error: invalid input yes",
        ),
    ],
)
def test_bad_arguments_are_refused(text: str, msg: str) -> None:
    """A piece that is no pair, a bad boolean and an unknown key are errors of code 999 with known texts."""
    with pytest.raises(CNIError) as caught:
        parse_args(text, KNOWN)
    assert (caught.value.code, caught.value.msg) == (999, msg)
    assert caught.value.details


def test_quoting_is_gos() -> None:
    """Quotes, backslashes, control characters and bytes that are no UTF-8 are escaped as `%q` does."""
    assert quote('a"b\\c\n\té\x01\udcff\u2028') == '"a\\"b\\\\c\\n\\té\\x01\\xff\\u2028"'


def test_a_bad_value_names_its_pair() -> None:
    """The error of a value shows the whole pair."""
    error = bad_value("IP=banana", "invalid IP address banana")
    assert error.msg == 'ARGS: error parsing value of pair "IP=banana": invalid IP address banana'
