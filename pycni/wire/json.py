"""The one place that reads and prints JSON as the contract wants it.

Reading is Go's `encoding/json` as far as configs can tell: strict syntax, one document, invalid UTF-8
replaced, the last of equal keys counts and `null` leaves an earlier value alone. Printing is Go's too:
four blanks, or compact, and `<`, `>`, `&`, U+2028 and U+2029 escaped.

The scanner is the standard library's C one, taken without the `json` package, which would import `re`
and double the start-up time of a one-shot plugin process (it is imported for the error text only).
"""

from __future__ import annotations

from pycni.errors import DECODING_FAILURE, CNIError
from pycni.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Final

    JSON = None | bool | int | float | str | list["JSON"] | dict[str, "JSON"]

_BLANKS: Final = " \t\n\r"
_INFINITE: Final = float("inf")
"""What a number like `1e999` is read as."""


def _refuse_constant(name: str) -> None:
    raise ValueError(f"invalid character '{name[:1]}' looking for beginning of value")


def _object(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    members = dict(pairs)
    if len(members) != len(pairs):
        members.clear()
        for key, value in pairs:
            if value is not None or key not in members:
                members.pop(key, None)
                members[key] = value
    return members


def _integer(digits: str) -> int | float:
    try:
        return int(digits)
    except ValueError:  # more digits than the interpreter converts; only its syntax had to be right
        return float(digits)


class _Rules(Record):
    """What the scanner wants to know; the names are those of `json.JSONDecoder`."""

    object_pairs_hook: Callable[[list[tuple[str, JSON]]], dict[str, JSON]]
    parse_int: Callable[[str], int | float]
    parse_constant: Callable[[str], None]
    parse_float: type = float
    object_hook: None = None
    strict: bool = True


def _make_scan() -> Callable[[str, int], tuple[JSON, int]]:
    rules = _Rules(_object, _integer, _refuse_constant)
    try:
        from _json import make_scanner
    except ImportError:  # another interpreter than CPython: slower to import, same behaviour
        from json import JSONDecoder

        return JSONDecoder(**rules.__dict__).scan_once  # type: ignore[attr-defined, no-any-return]
    return make_scanner(rules)  # type: ignore[arg-type]


_scan: Final = _make_scan()


def loads(data: bytes | str) -> JSON:
    """One JSON document. Raises ValueError, whatever is wrong with it (syntax, depth, trailing text)."""
    text = data if isinstance(data, str) else data.decode("utf-8", "replace")
    start = 0
    while text[start : start + 1] and text[start] in _BLANKS:
        start += 1
    if start == len(text):
        raise ValueError("unexpected end of JSON input")
    try:
        value, end = _scan(text, start)
    except StopIteration as stop:
        at = int(stop.value)
        if at >= len(text):
            raise ValueError("unexpected end of JSON input") from None
        raise ValueError(f"invalid character {text[at]!r} looking for beginning of value") from None
    except RecursionError:
        raise ValueError("exceeded max depth") from None
    except SystemError:
        # Without the `json` package in memory CPython's scanner fails without saying what is wrong.
        raise ValueError(_complaint(text)) from None
    rest = text[end:].lstrip(_BLANKS)
    if rest:
        raise ValueError(f"invalid character {rest[0]!r} after top-level value")
    if "\\ud" in text or "\\uD" in text:
        whole = [value]
        _replace_surrogates(whole)
        return whole[0]
    return value


def _replace_surrogates(root: list[JSON]) -> None:
    """Half a surrogate pair (`\\ud800`) is no character, and no file or interface can be called by it."""
    todo: list[JSON] = [root]
    while todo:
        item = todo.pop()
        if isinstance(item, list):
            item[:] = [_replaced(each) if isinstance(each, str) else each for each in item]
            todo += item
        elif isinstance(item, dict):
            pairs = [(_replaced(key), each) for key, each in item.items()]
            item.clear()
            item.update(
                _object([(key, _replaced(each) if isinstance(each, str) else each) for key, each in pairs])
            )
            todo += item.values()


def _replaced(text: str) -> str:
    return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text)


def _complaint(text: str) -> str:
    from json import JSONDecodeError
    from json import loads as decode

    try:
        decode(text)
    except JSONDecodeError as error:
        return str(error)
    return "invalid JSON"


_ESCAPES: Final = {
    **{code: f"\\u{code:04x}" for code in range(0x20)},
    **{ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"},
    ord('"'): '\\"',
    ord("\\"): "\\\\",
    ord("\b"): "\\b",
    ord("\f"): "\\f",
    ord("\n"): "\\n",
    ord("\r"): "\\r",
    ord("\t"): "\\t",
}


def _string(text: str) -> str:
    return f'"{text.translate(_ESCAPES)}"'


def _float(number: float) -> str:
    if number in (_INFINITE, -_INFINITE):
        return "1e999" if number > 0 else "-1e999"
    return str(int(number)) if number.is_integer() and abs(number) < 1e21 else repr(number)


def _encode(document: str) -> bytes:
    try:
        return document.encode("utf-8")
    except UnicodeEncodeError:  # lone surrogates: what was not UTF-8 in the environment, or `\ud800`
        return _replaced(document).encode("utf-8")


def dumps(value: object, *, indent: str = "", sort_keys: bool = False) -> bytes:
    """Print a document; `indent` is the text of one level ("" is compact), members in given order.

    Accepts what `loads` returns, and tuples and mappings. Raises TypeError for anything else, and CNIError
    (code 6) for what is nested hundreds of levels deep.
    """
    separator = ": " if indent else ":"

    def block(opening: str, items: Iterable[str], closing: str, margin: str) -> str:
        if not indent:
            return opening + ",".join(items) + closing
        inner = margin + indent
        body = f",{inner}".join(items)
        return f"{opening}{inner}{body}{margin}{closing}"

    def text(item: object, margin: str) -> str:
        if isinstance(item, str):
            return _string(item)
        if item is None:
            return "null"
        if item is True:
            return "true"
        if item is False:
            return "false"
        if isinstance(item, int):
            return int.__repr__(item)
        if isinstance(item, float):
            return _float(item)
        inner = margin + indent if indent else ""
        if isinstance(item, dict):
            if not item:
                return "{}"
            keys = sorted(item) if sort_keys else item
            pairs = [f"{_string(key)}{separator}{text(item[key], inner)}" for key in keys]
            return block("{", pairs, "}", margin)
        if isinstance(item, (list, tuple)):
            return block("[", [text(member, inner) for member in item], "]", margin) if item else "[]"
        raise TypeError(f"cannot print {type(item).__name__} as JSON")

    try:
        return _encode(text(value, "\n" if indent else ""))
    except RecursionError:  # what `loads` takes may be deeper than what can be printed
        raise CNIError("json: exceeded max depth", code=DECODING_FAILURE) from None


def kind(value: object) -> str:
    """The JSON word for a value's type, as Go's messages have it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, (int, float)):
        return "number"
    if isinstance(value, str):
        return "string"
    return "object" if isinstance(value, dict) else "array"
