"""Spec versions: which exist, how they compare, which verb needs which.

Sources: CNI spec 1.1.0, sections "Version considerations" and the verbs; the reference's `pkg/version`.
"""

from __future__ import annotations

from pycni.errors import DECODING_FAILURE, INCOMPATIBLE_VERSION, CNIError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

SUPPORTED: Final = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
NEWEST: Final = SUPPORTED[-1]
OLDEST: Final = SUPPORTED[0]

VERB_SINCE: Final = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}
"""Verbs that not every version has; ADD, DEL and VERSION always exist."""

_MAX_DIGITS: Final = 18


def parse_version(text: str) -> tuple[int, int, int]:
    """`"1.0.0"` as numbers; missing parts are 0 and an empty text is 0.1.0, as in the reference.

    Raises CNIError (code 6) if a part is not a number of at most 18 digits or there are more than three.
    """
    if not text:
        text = OLDEST
    parts = text.split(".")
    if len(parts) > 3:
        raise CNIError(f'invalid version "{text}": too many parts', code=DECODING_FAILURE)
    numbers = [0, 0, 0]
    for position, part in enumerate(parts):
        digits = part[1:] if part[:1] in ("+", "-") else part
        if not (digits.isascii() and digits.isdigit() and len(digits) <= _MAX_DIGITS):
            which = ("major", "minor", "micro")[position]
            raise CNIError(
                f'failed to convert {which} version part "{part}": invalid syntax',
                f'cniVersion is "{text}"; write one of {", ".join(SUPPORTED)}',
                code=DECODING_FAILURE,
            )
        numbers[position] = int(part)
    return numbers[0], numbers[1], numbers[2]


def at_least(version: str, floor: str) -> bool:
    """Whether `version` is `floor` or newer; raises like `parse_version`."""
    return parse_version(version) >= parse_version(floor)


def quoted_list(versions: tuple[str, ...]) -> str:
    """A list as the reference prints it: `["0.1.0" "0.2.0"]`."""
    return "[" + " ".join(f'"{version}"' for version in versions) + "]"


def gate(verb: str, version: str, supported: tuple[str, ...] = SUPPORTED) -> None:
    """Refuse a verb that the config's version does not have, or a version that the plugin does not speak.

    Raises CNIError: code 6 for an unreadable version (verbs with a minimum only), code 1 otherwise.
    """
    floor = VERB_SINCE.get(verb)
    if floor is not None:
        if not at_least(version, floor):
            raise CNIError(
                f"config version does not allow {verb}",
                f'cniVersion is "{version}", {verb} exists since {floor}',
                code=INCOMPATIBLE_VERSION,
            )
        if not any(at_least(candidate, version) for candidate in supported):
            raise CNIError(
                f"plugin version does not allow {verb}",
                f'cniVersion is "{version}", plugin supports {quoted_list(supported)}',
                code=INCOMPATIBLE_VERSION,
            )
    if version not in supported:
        raise CNIError(
            "incompatible CNI versions",
            f'config is "{version}", plugin supports {quoted_list(supported)}',
            code=INCOMPATIBLE_VERSION,
        )
