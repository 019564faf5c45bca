"""CNI_ARGS: `key=value` pairs separated by semicolons.

Rules and texts are those of the reference's `pkg/types` (CNI conventions, "CNI_ARGS"). Keys match exactly,
case included.
"""

from __future__ import annotations

from pycni.errors import CNIError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_FLAGS: Final = {"1": True, "true": True, "0": False, "false": False}
_ESCAPES: Final = {
    '"': '\\"',
    "\\": "\\\\",
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
} | {
    "\t": "\\t",
    "\v": "\\v",
}


def parse_args(text: str, known: tuple[str, ...]) -> dict[str, str]:
    """The values of the `known` keys that occur in `text`; of a repeated key the last one.

    A plugin lists as known whatever it or the plugins beside it understand (bridge and host-local are given
    the same CNI_ARGS). Raises CNIError (999) for a piece that is not one pair, for an `IgnoreUnknown` that
    is not a boolean, and for other keys unless `IgnoreUnknown` is true, wherever it stands.
    """
    values: dict[str, str] = {}
    unknown: list[str] = []
    ignore = False
    for pair in text.split(";") if text else ():
        key, equals, value = pair.partition("=")
        if not equals or "=" in value:
            raise CNIError(f"ARGS: invalid pair {quote(pair)}", _hint(text))
        if key == "IgnoreUnknown":
            if value.lower() not in _FLAGS:
                raise bad_value(pair, f"boolean unmarshal error: invalid input {value}")
            ignore = _FLAGS[value.lower()]
        elif key in known:
            values[key] = value
        else:
            unknown.append(pair)
    if unknown and not ignore:
        raise CNIError(
            f"ARGS: unknown args [{' '.join(map(quote, unknown))}]",
            f"known keys of CNI_ARGS are {', '.join(known)}; IgnoreUnknown=1 lets others pass",
        )
    return values


def bad_value(pair: str, problem: str) -> CNIError:
    """The error for a known key whose value does not parse; `pair` is the piece of CNI_ARGS."""
    return CNIError(f"ARGS: error parsing value of pair {quote(pair)}: {problem}", f"in CNI_ARGS: {pair}")


def quote(text: str) -> str:
    """`text` in double quotes with escapes, as Go's `%q` prints it."""
    return f'"{"".join(map(_escaped, text))}"'


def _escaped(char: str) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    if char.isprintable():
        return char
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of the environment that was not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _hint(text: str) -> str:
    return f"CNI_ARGS is {quote(text)}; write KEY=VALUE pairs separated by single semicolons"
