"""Spec versions and their gates: `pycni.versions`."""

from __future__ import annotations

import pytest

from pycni.errors import CNIError
from pycni.versions import NEWEST, OLDEST, SUPPORTED, at_least, gate, parse_version, quoted_list

ALL = '["0.1.0" "0.2.0" "0.3.0" "0.3.1" "0.4.0" "1.0.0" "1.1.0"]'


def refusal(verb: str, version: str, supported: tuple[str, ...] = SUPPORTED) -> tuple[int, str]:
    try:
        gate(verb, version, supported)
    except CNIError as error:
        return error.code, error.msg
    return 0, ""


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("", (0, 1, 0)),
        ("1", (1, 0, 0)),
        ("1.1", (1, 1, 0)),
        ("0.4.0", (0, 4, 0)),
        ("01.00.2", (1, 0, 2)),
        ("+1.-2.0", (1, -2, 0)),
        ("10.20.30", (10, 20, 30)),
    ],
)
def test_versions_are_up_to_three_numbers(text: str, numbers: tuple[int, int, int]) -> None:
    """Missing parts are 0, signs and leading zeros are read, an empty text is 0.1.0."""
    assert parse_version(text) == numbers


@pytest.mark.row("contract", 36)
@pytest.mark.parametrize(
    ("text", "msg"),
    [
        ("abc", 'failed to convert major version part "abc"'),
        ("1.x", 'failed to convert minor version part "x"'),
        ("1.", 'failed to convert minor version part ""'),
        ("1.0.", 'failed to convert micro version part ""'),
        ("1_1.0.0", 'failed to convert major version part "1_1"'),
        (" 1.0.0", 'failed to convert major version part " 1"'),
        ("1.1.0 ", 'failed to convert micro version part "0 "'),
        ("１.0.0", 'failed to convert major version part "１"'),
        ("+.0.0", 'failed to convert major version part "+"'),
        ("9" * 5000, f'failed to convert major version part "{"9" * 5000}"'),
        ("1.2.3.4", 'invalid version "1.2.3.4": too many parts'),
    ],
)
def test_what_is_no_version_is_a_decoding_failure(text: str, msg: str) -> None:
    """Code 6 with the part's name and text; what Python's int() takes beyond digits is refused."""
    with pytest.raises(CNIError) as caught:
        parse_version(text)
    assert caught.value.code == 6
    assert caught.value.msg.startswith(msg)


def test_comparison_is_by_number_not_by_text() -> None:
    """0.10.0 is newer than 0.9.0."""
    assert at_least("0.10.0", "0.9.0")
    assert at_least("1.0.0", "1.0.0")
    assert not at_least("0.4.0", "1.0.0")


def test_the_list_is_complete_and_sorted() -> None:
    """Seven versions, the oldest first, printed as the reference prints lists."""
    assert list(SUPPORTED) == sorted(SUPPORTED, key=parse_version)
    assert (OLDEST, NEWEST) == ("0.1.0", "1.1.0")
    assert quoted_list(SUPPORTED) == ALL


@pytest.mark.parametrize("verb", ["ADD", "DEL"])
@pytest.mark.parametrize("version", SUPPORTED)
def test_add_and_del_exist_in_every_version(verb: str, version: str) -> None:
    """No supported version is gated for ADD and DEL."""
    assert refusal(verb, version) == (0, "")


@pytest.mark.row("contract", 32)
@pytest.mark.parametrize("verb", ["ADD", "DEL"])
@pytest.mark.parametrize(
    "version", ["1.0", "01.0.0", "v1.0.0", " 1.0.0", "0.4.1", "9.9.9", "abc", "", "1.2.3.4", "1.1.0\n"]
)
def test_support_is_equality_of_text(verb: str, version: str) -> None:
    """ADD and DEL do not read numbers: what is not in the list is incompatible, code 1."""
    with pytest.raises(CNIError) as caught:
        gate(verb, version)
    assert (caught.value.code, caught.value.msg) == (1, "incompatible CNI versions")
    assert caught.value.details == f'config is "{version}", plugin supports {ALL}'


@pytest.mark.row("contract", 33, 34)
@pytest.mark.parametrize(("verb", "floor"), [("CHECK", "0.4.0"), ("GC", "1.1.0"), ("STATUS", "1.1.0")])
@pytest.mark.parametrize("version", SUPPORTED)
def test_verbs_have_a_first_version(verb: str, floor: str, version: str) -> None:
    """CHECK exists from 0.4.0, GC and STATUS from 1.1.0."""
    allowed = SUPPORTED.index(version) >= SUPPORTED.index(floor)
    assert refusal(verb, version) == ((0, "") if allowed else (1, f"config version does not allow {verb}"))


@pytest.mark.row("contract", 35, 36)
@pytest.mark.parametrize(
    ("verb", "version", "code", "msg"),
    [
        ("CHECK", "2.0.0", 1, "plugin version does not allow CHECK"),
        ("CHECK", "1.0.1", 1, "incompatible CNI versions"),
        ("CHECK", "1.1", 1, "incompatible CNI versions"),
        ("CHECK", "0.4", 1, "incompatible CNI versions"),
        ("CHECK", "abc", 6, "failed to convert major version part"),
        ("GC", "1.2.0", 1, "plugin version does not allow GC"),
        ("GC", "1.", 6, "failed to convert minor version part"),
        ("STATUS", "1.0.9", 1, "config version does not allow STATUS"),
        ("STATUS", "1.2.3.4", 6, "invalid version"),
    ],
)
def test_gates_are_asked_in_the_reference_order(verb: str, version: str, code: int, msg: str) -> None:
    """Readable, then new enough, then not too new, then in the list."""
    found, text = refusal(verb, version)
    assert found == code
    assert text.startswith(msg)


def test_a_plugin_may_support_less() -> None:
    """A plugin's own list decides, and is the one that the details show."""
    with pytest.raises(CNIError) as caught:
        gate("ADD", "1.1.0", ("1.0.0",))
    assert caught.value.details == 'config is "1.1.0", plugin supports ["1.0.0"]'
    assert refusal("CHECK", "1.1.0", ("1.0.0",)) == (1, "plugin version does not allow CHECK")
