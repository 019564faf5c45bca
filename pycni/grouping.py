"""Blocking functions that can do many calls at once, for resources that serialise a node.

The store's lock, a firewall's transaction: each costs nearly the same for ten pods as for one. Such a
function is declared together with its form for many; whoever runs it decides. A one-shot process calls it as
it is, the agent gathers the calls that are waiting (`pycni.agent.committer`).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from typing import Any, Generic, TypeVar, TypeVarTuple

    Ts = TypeVarTuple("Ts")
    T = TypeVar("T")
else:
    T = Ts = ()

    class Generic:
        """Stands in for `typing.Generic`, which a one-shot process need not import."""

        def __class_getitem__(cls, _parameters):
            return cls


class Grouped(Generic[*Ts, T]):
    """`one(*args)`, or `many([args, …])` which answers each call with its result or its exception.

    Calls with the same `key(*args)` may be done together; `many` must do them in the given order and must
    not let one call's failure become another's.
    """

    def __init__(
        self,
        name: str,
        one: Callable[[*Ts], T],
        many: Callable[[list[tuple[Any, ...]]], list[T | Exception]],
        key: Callable[..., Hashable],
    ) -> None:
        self.name = name
        self._one = one
        self.many = many
        self.key = key

    def __call__(self, *args: *Ts) -> T:
        return self._one(*args)
