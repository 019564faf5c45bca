"""JSON as the contract reads and prints it: `pycni.wire.json`, with the standard library as the oracle."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycni.wire.json import dumps, kind, loads

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
)
DOCUMENTS = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
)


@given(DOCUMENTS)
def test_reads_what_the_standard_library_prints(value: object) -> None:
    """Both spellings of every document, escaped and raw, are read as `json` reads them."""
    for ascii_only in (True, False):
        text = json.dumps(value, ensure_ascii=ascii_only)
        assert loads(text) == json.loads(text)
        assert loads(b" \n" + text.encode() + b"\t\r\n") == json.loads(text)


@given(DOCUMENTS, st.sampled_from(["", "    "]), st.booleans())
def test_printing_and_reading_are_inverse(value: object, indent: str, sort_keys: bool) -> None:
    """What is printed, compact or indented, is JSON for the standard library and means the same."""
    printed = dumps(value, indent=indent, sort_keys=sort_keys)
    assert json.loads(printed) == value
    assert loads(printed) == value


@given(DOCUMENTS.filter(lambda value: not any(char in repr(value) for char in "<>&")), st.booleans())
def test_layout_is_that_of_four_blanks(value: object, sort_keys: bool) -> None:
    """Line breaks, blanks and the order of keys are those of `json.dumps(indent=4)`."""
    printed = dumps(value, indent="    ", sort_keys=sort_keys)
    oracle = json.dumps(json.loads(printed), indent=4, sort_keys=sort_keys)
    assert [line.split('"')[0] for line in printed.decode().split("\n")] == [
        line.split('"')[0] for line in oracle.split("\n")
    ]


@pytest.mark.row("contract", 39)
def test_escapes_are_those_of_go() -> None:
    """HTML characters, the two line separators and control characters are escaped, nothing else."""
    text = "<>&\u2028\u2029\b\f\n\r\t\0\x1b\x7f/é\"\\'"
    assert dumps(text).decode() == (
        r'"\u003c\u003e\u0026\u2028\u2029\b\f\n\r\t\u0000\u001b' + "\x7f/é" + r"\"\\'" + '"'
    )


@pytest.mark.parametrize("text", [f"a{chr(0xD800)}b", f"a{chr(0xDCFF)}b"], ids=["high", "low"])
def test_what_is_not_unicode_is_printed_as_the_replacement_character(text: str) -> None:
    """Lone surrogates, also those of undecodable environment bytes, become U+FFFD in valid UTF-8."""
    assert dumps({text: [text]}) == '{"a\ufffdb":["a\ufffdb"]}'.encode()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (12345678901234567890, "12345678901234567890"),
        (True, "true"),
        (1.0, "1"),
        (1.5, "1.5"),
        (1e20, "100000000000000000000"),
        (1e300, "1e+300"),
        (math.inf, "1e999"),
        (-math.inf, "-1e999"),
        ([], "[]"),
        ({}, "{}"),
        ((1, None), "[1,null]"),
    ],
)
def test_values_in_print(value: object, text: str) -> None:
    """Integers stay exact, whole floats lose their point, a number too large is one too large again."""
    assert dumps(value).decode() == text


def test_an_unknown_type_is_a_type_error() -> None:
    """Only what JSON knows is printed."""
    with pytest.raises(TypeError, match="cannot print set as JSON"):
        dumps([{1}])


@pytest.mark.row("contract", 24, 25)
@pytest.mark.parametrize(
    "data",
    [
        *(
            b"",
            b" \n",
            b"{",
            b"[",
            b'"',
            b"{{{{",
            b'{"a"}',
            b'{"a":}',
            b'{"a":1,}',
            b"[1,]",
            b"{'a':1}",
            b"{a:1}",
        ),
        *(b"// x\n{}", b"{} x", b"{}{}", b"01", b"+1", b".5", b"1.", b"-", b"NaN", b"-Infinity", b"Infinity"),
        *(b'"a\tb"', b'"\\x41"', b'"\\u12"', b"\xef\xbb\xbf{}", '{"a":1}'.encode("utf-16"), b"nul", b"True"),
        *(b"\xa0{}", b"\x0c{}", b'{"a":NaN}', b"[" * 20000, b'{"a":' * 20000, b"[" * 20000 + b"]" * 20000),
    ],
)
def test_what_is_no_json_is_a_value_error(data: bytes) -> None:
    """Every wrong document fails with ValueError and a text; depth does not crash the process."""
    with pytest.raises(ValueError) as caught:
        loads(data)
    assert str(caught.value)


@pytest.mark.row("contract", 26)
@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b'{"a":1e999}', {"a": math.inf}),
        (b'{"a":"\\ud800"}', {"a": "\ufffd"}),
        (b'{"\\uDFFF":[{"\\udead":"x\\ud83d"}]}', {"\ufffd": [{"\ufffd": "x\ufffd"}]}),
        (b'{"a":"\\ud83d\\ude00"}', {"a": "\U0001f600"}),
        (b'{"a":"\xff"}', {"a": "\ufffd"}),
        (b"1" * 5000, math.inf),
        (b"9007199254740993", 9007199254740993),
        (b"1e3", 1000.0),
        (b"-0", 0),
        (b'"\x7f"', "\x7f"),
    ],
)
def test_odd_values_that_go_accepts(text: bytes, value: object) -> None:
    """Members that nobody looks at only need correct syntax, as in Go."""
    assert loads(text) == value


@pytest.mark.row("contract", 23)
@pytest.mark.parametrize(
    ("text", "members"),
    [
        ('{"a":1,"a":2}', {"a": 2}),
        ('{"a":1,"a":null}', {"a": 1}),
        ('{"a":null,"a":1}', {"a": 1}),
        ('{"a":null}', {"a": None}),
        ('{"x":{"a":1,"a":null,"b":2}}', {"x": {"a": 1, "b": 2}}),
    ],
)
def test_the_last_of_equal_keys_counts_and_null_does_not(text: str, members: object) -> None:
    """Go writes each occurrence over the one before; null writes nothing."""
    assert loads(text) == members


def test_a_repeated_key_stands_where_it_came_last() -> None:
    """Order matters to keys that differ in case only: the last one counts."""
    members = loads('{"a":1,"A":2,"a":3}')
    assert isinstance(members, dict)
    assert list(members.items()) == [("A", 2), ("a", 3)]


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (None, "null"),
        (True, "bool"),
        (1, "number"),
        (1.5, "number"),
        ("", "string"),
        ([], "array"),
        ({}, "object"),
    ],
)
def test_kinds_are_called_as_in_go(value: object, word: str) -> None:
    """The word for a JSON type in messages."""
    assert kind(value) == word
