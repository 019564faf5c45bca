"""Typed reading of config members: `pycni.wire.config`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from pycni.errors import CNIError
from pycni.wire.config import Members, shown
from pycni.wire.json import loads

if TYPE_CHECKING:
    from pycni.wire.json import JSON


def members(text: str, prefix: str = "") -> Members:
    data = loads(text)
    assert isinstance(data, dict)
    return Members(data, "", prefix)


@pytest.mark.row("contract", 23)
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"name":"n"}', "n"),
        ('{"Name":"n"}', "n"),
        ('{"NAME":"n","name":"m"}', "m"),
        ('{"name":"m","NAME":"n"}', "n"),
        ('{"name":"n","name":null}', "n"),
        ('{"name":"n","NAME":null}', "n"),
        ('{"name":null,"NAME":"n"}', "n"),
        ('{"name":"a","NAME":"b","name":"c"}', "c"),
        ("{}", ""),
        ('{"name":null}', ""),
        ('{"names":"x"}', ""),
    ],
)
def test_keys_match_in_any_case_and_the_last_one_counts(text: str, value: str) -> None:
    """As Go's decoder: any letter case, document order, null leaves what was there."""
    assert members(text).string("name") == value
    assert members(text).string("NAME") == value


def test_absent_members_have_defaults() -> None:
    """Absence and null are the same, and can be told from an empty list."""
    for empty in (members("{}"), members('{"a":null}')):
        assert "a" not in empty
        assert empty.string("a", "d") == "d"
        assert empty.boolean("a", True) is True
        assert empty.integer("a", None) is None
        assert empty.number("a", 5) == 5
        assert empty.object("a") is None
        assert empty.array("a") is None
        assert empty.strings("a") is None
        assert empty.objects("a") is None
    assert members('{"a":[]}').strings("a") == ()
    assert members('{"a":[]}').objects("a") == ()


def test_present_members_have_their_values() -> None:
    """A member of the right type is returned as it is; false and 0 are values."""
    some = members('{"s":"x","b":false,"i":0,"o":{"K":1},"l":["x",null],"os":[{"a":1}]}')
    assert some.string("s") == "x"
    assert some.boolean("b", True) is False
    assert some.number("i", 5) == 0
    inner = some.object("o")
    assert inner is not None
    assert inner.number("k") == 1
    assert some.strings("l") == ("x", "")
    objects = some.objects("os")
    assert objects is not None
    assert objects[0].number("a") == 1


READERS: dict[str, Callable[[Members], object]] = {
    "string": lambda m: m.string("k"),
    "bool": lambda m: m.boolean("k"),
    "int": lambda m: m.integer("k"),
    "object": lambda m: m.object("k"),
    "array": lambda m: m.array("k"),
}
VALUES: dict[str, tuple[str, str]] = {
    "string": ('"x"', "string"),
    "bool": ("true", "bool"),
    "int": ("1", "number"),
    "object": ("{}", "object"),
    "array": ("[]", "array"),
}


@pytest.mark.parametrize("wanted", READERS)
@pytest.mark.parametrize("given", VALUES)
def test_a_member_of_another_type_is_refused_with_key_and_value(wanted: str, given: str) -> None:
    """Every reader refuses every other type; the message names kind, key and type, the details the value."""
    value, kind = VALUES[given]
    reader = READERS[wanted]
    some = members(f'{{"K":{value}}}', "failed to load netconf: ")
    if wanted == given:
        reader(some)
        return
    with pytest.raises(CNIError) as caught:
        reader(some)
    assert caught.value.code == 999
    assert caught.value.msg == (
        f"failed to load netconf: json: cannot unmarshal {kind} into field k of type {wanted}"
    )
    assert f'key "k" is {value}' in caught.value.details


@pytest.mark.parametrize(
    "number", ["1.0", "1.5", "1e3", "9223372036854775808", "-9223372036854775809", "1e999"]
)
def test_only_integers_of_64_bits_are_integers(number: str) -> None:
    """A point, an exponent or a 65th bit is refused, as in Go."""
    with pytest.raises(CNIError, match="cannot unmarshal number into field k of type int"):
        members(f'{{"k":{number}}}').integer("k")


@pytest.mark.parametrize("number", [9223372036854775807, -9223372036854775808, 0, -7])
def test_integers_of_64_bits(number: int) -> None:
    """The whole range of Go's int is read exactly."""
    assert members(f'{{"k":{number}}}').integer("k") == number


@pytest.mark.parametrize(
    ("read", "path"),
    [
        (lambda m: m.objects("l"), "l[1]"),
        (lambda m: m.strings("l"), "l"),
        (lambda m: m.objects("o")[0].string("deep"), "o[0].deep"),
        (lambda m: m.object("p").object("q").boolean("r"), "p.q.r"),
    ],
)
def test_messages_name_the_whole_path(read: Callable[[Members], object], path: str) -> None:
    """A nested member is named from the top, list positions included."""
    some = members('{"l":[{},3],"o":[{"deep":1}],"p":{"q":{"r":"yes"}}}')
    with pytest.raises(CNIError, match="into field ") as caught:
        read(some)
    assert f"field {path} of" in caught.value.msg
    assert f'key "{path}"' in caught.value.details


def test_a_null_in_a_list_of_objects_is_refused() -> None:
    """`null` is no object: the reference crashes on some of these later."""
    with pytest.raises(CNIError, match=r"cannot unmarshal null into field l\[0\] of type object"):
        members('{"l":[null]}').objects("l")


def test_long_values_are_cut_in_messages() -> None:
    """A message shows 60 characters of a value at most, and no depth breaks it."""
    assert shown("x" * 100) == '"' + "x" * 58 + "…"
    assert shown({"a": [1, None]}) == '{"a":[1,null]}'
    deep: JSON = []
    for _ in range(5000):
        deep = [deep]
    assert shown(deep) == "array nested too deeply to be shown"
