"""Small value classes without the cost of `dataclasses`.

A plugin process lives for some milliseconds, and importing `dataclasses` (which imports `inspect` and
`re`) takes longer than a bare interpreter needs to start; each decorated class then compiles source at
import. `Record` gives what this project needs of it: fields from annotations, defaults, equality, repr
and `replace`. Type checkers see a frozen, keyword-or-positional dataclass (PEP 681).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar, Self, dataclass_transform
else:

    def dataclass_transform(**_options):
        return lambda cls: cls


@dataclass_transform(frozen_default=True)
class Record:
    """Base of immutable value classes.

    A subclass declares fields by annotation; a class attribute of the same name is its default. Defaults
    are shared between instances, so they must be immutable (use tuples). Hashable if all fields are.
    """

    _fields: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        own = tuple(name for name in cls.__annotations__ if not name.startswith("_"))
        cls._fields = (*(name for name in cls._fields if name not in own), *own)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        fields = self._fields
        if len(args) > len(fields):
            raise TypeError(f"{type(self).__name__} takes {len(fields)} values, got {len(args)}")
        state = self.__dict__
        state.update(zip(fields, args, strict=False))
        for name, value in kwargs.items():
            if name in state or name not in fields:
                raise TypeError(f"{type(self).__name__} got an unexpected or repeated field {name!r}")
            state[name] = value
        if len(state) < len(fields):
            for name in fields[len(args) :]:
                if name not in state:
                    try:
                        state[name] = getattr(type(self), name)
                    except AttributeError:
                        raise TypeError(f"{type(self).__name__} needs the field {name!r}") from None

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable; use replace({name}=…)")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash((type(self), *(self.__dict__[name] for name in self._fields)))

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={self.__dict__[name]!r}" for name in self._fields)
        return f"{type(self).__name__}({inside})"

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed; raises TypeError for an unknown field."""
        return type(self)(**{**self.__dict__, **changes})
