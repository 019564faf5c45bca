"""Reading typed members out of a config object, with errors that name the key and the value.

Keys match in any letter case and the last one counts, `null` is absence, unknown keys are ignored: that is
how the reference's decoder treats configs (see `pycni.wire.json` for the syntax below it).
"""

from __future__ import annotations

from pycni.errors import CNIError
from pycni.wire.json import dumps, kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Final

    from pycni.wire.json import JSON

_SHOWN: Final = 60


def shown(value: object) -> str:
    """A value as it goes into a message: compact JSON, cut to a readable length."""
    try:
        text = dumps(value).decode()
    except CNIError:
        return f"{kind(value)} nested too deeply to be shown"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


class Members:
    """The members of one JSON object; `where` is its path for messages ("ipam", "" for the top).

    `prefix` opens every message, e.g. "failed to load netconf: ". All methods raise CNIError (999) if the
    member is there and has another type.
    """

    def __init__(self, members: Mapping[str, JSON], where: str = "", prefix: str = "") -> None:
        self._where = where
        self._prefix = prefix
        self._values = {}
        for key, value in members.items():
            if value is not None:
                # Last one counts, in document order; a null leaves what was there.
                self._values[key.lower()] = value

    def path(self, key: str) -> str:
        return f"{self._where}.{key}" if self._where else key

    def __contains__(self, key: str) -> bool:
        return key.lower() in self._values

    def keys(self) -> tuple[str, ...]:
        """The members that are there, in lower case."""
        return tuple(self._values)

    def raw(self, key: str) -> JSON:
        """The member as it was parsed, None where absent."""
        return self._values.get(key.lower())

    def error(self, key: str, value: object, wanted: str) -> CNIError:
        """The error for a member of the wrong type (also for items of a list)."""
        path = self.path(key)
        return CNIError(
            f"{self._prefix}json: cannot unmarshal {kind(value)} into field {path} of type {wanted}",
            f'key "{path}" is {shown(value)}; give {_ARTICLES[wanted]}',
        )

    def string(self, key: str, default: str = "") -> str:
        value = self.raw(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.error(key, value, "string")
        return value

    def boolean(self, key: str, default: bool = False) -> bool:
        value = self.raw(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(key, value, "bool")
        return value

    def integer(self, key: str, default: int | None = 0) -> int | None:
        """An integer of 64 bits; `1.0` and `1e3` are refused as in Go."""
        value = self.raw(key)
        if value is None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or not -(1 << 63) <= value < 1 << 63:
            raise self.error(key, value, "int")
        return value

    def number(self, key: str, default: int = 0) -> int:
        """Like `integer` where absence has a value."""
        return self.integer(key, default) or 0

    def object(self, key: str) -> Members | None:
        value = self.raw(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.error(key, value, "object")
        return Members(value, self.path(key), self._prefix)

    def array(self, key: str) -> list[JSON] | None:
        value = self.raw(key)
        if value is None:
            return None
        if not isinstance(value, list):
            raise self.error(key, value, "array")
        return value

    def strings(self, key: str) -> tuple[str, ...] | None:
        """A list of strings; None where absent, so that `[]` can be told from it."""
        items = self.array(key)
        if items is None:
            return None
        texts: list[str] = []
        for item in items:
            if item is not None and not isinstance(item, str):
                raise self.error(key, item, "string")
            texts.append(item or "")
        return tuple(texts)

    def objects(self, key: str) -> tuple[Members, ...] | None:
        """A list of objects; a `null` or other item is an error that names its position."""
        items = self.array(key)
        if items is None:
            return None
        members: list[Members] = []
        for position, item in enumerate(items):
            if not isinstance(item, dict):
                raise self.error(f"{key}[{position}]", item, "object")
            members.append(Members(item, self.path(f"{key}[{position}]"), self._prefix))
        return tuple(members)


_ARTICLES: Final = {
    "string": "a string in quotes",
    "bool": "true or false, without quotes",
    "int": "a whole number, without quotes",
    "object": "an object in braces",
    "array": "a list in brackets",
}
