"""The agent's committers: one for each resource that serialises the node, made when it is first needed.

Link removals and the host namespace's requests have one each; a function that declares a batch form
(`pycni.grouping.Grouped`) has one for each of its keys, such as a store's folder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pycni.agent.committer import Committer, Statistics
from pycni.agent.removal import LinkRemover
from pycni.kernel.namespace import Namespace

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from anyio.abc import TaskGroup

    from pycni.agent.workers import Workers
    from pycni.grouping import Grouped
    from pycni.kernel.namespace import Answer, Setting
    from pycni.kernel.netlink import NetlinkSocket

    Steps = tuple[bytes | Setting, ...]

_KEPT = 64
"""Committers of keys that are kept while idle, for their figures; a node has fewer networks than that."""


class Groups:
    """Everything of the node that is committed in groups; `watch` must run as a task beside it."""

    def __init__(self, tasks: TaskGroup, workers: Workers) -> None:
        self._tasks = tasks
        self._workers = workers
        self._sockets: list[NetlinkSocket] = []
        self._host = Namespace(workers.run, here=True, sockets=self._sockets)
        self._requests: Committer[Steps, list[Answer]] = Committer(self._perform, tasks.start_soon)
        self._remover = LinkRemover(tasks, self._host)
        self._grouped: dict[
            tuple[Grouped[*tuple[Any, ...], Any], Hashable], Committer[tuple[Any, ...], Any]
        ] = {}

    async def watch(self) -> None:
        await self._remover.watch()

    def statistics(self) -> dict[str, Statistics]:
        """Figures by the committer's name."""
        figures = {"requests": self._requests.statistics(), "removals": self._remover.committer.statistics()}
        for (grouped, key), committer in self._grouped.items():
            figures[f"{grouped.name} {key}".rstrip()] = committer.statistics()
        return figures

    def host(self) -> Namespace:
        """The node's namespace for one call."""
        return SharedHost(self._workers.run, self._requests, self._remover, self._sockets)

    async def call(self, grouped: Grouped[*tuple[Any, ...], Any], args: tuple[Any, ...]) -> Any:
        """`grouped(*args)`, together with the calls of the same key that are waiting."""
        key = (grouped, grouped.key(*args))
        committer = self._grouped.get(key)
        if committer is None:
            self._forget_idle()

            async def commit(calls: list[tuple[Any, ...]]) -> list[Any]:
                return await self._workers.run(grouped.many, calls)

            committer = self._grouped[key] = Committer(commit, self._tasks.start_soon)
        return await committer.submit(args)

    def _forget_idle(self) -> None:
        if len(self._grouped) >= _KEPT:
            self._grouped = {key: one for key, one in self._grouped.items() if not one.idle}

    async def _perform(self, batch: list[Steps]) -> list[list[Answer] | Exception]:
        """All steps of all callers in one go, and to each its answers."""
        answers = iter(await self._host.perform([step for steps in batch for step in steps]))
        return [[next(answers) for _ in steps] for steps in batch]


class SharedHost(Namespace):
    """The node's namespace as one call sees it: its requests travel with those of other calls."""

    def __init__(
        self,
        run: Any,
        requests: Committer[Steps, list[Answer]],
        remover: LinkRemover,
        sockets: list[NetlinkSocket],
    ) -> None:
        super().__init__(run, here=True, sockets=sockets)
        self._requests = requests
        self._remover = remover

    async def perform(self, steps: Sequence[bytes | Setting]) -> list[Answer]:
        return await self._requests.submit(tuple(steps))

    async def request(self, messages: Sequence[bytes]) -> list[Answer]:
        return await self._requests.submit(tuple(messages))

    async def remove(self, *, name: str = "", index: int = 0) -> Answer:
        return await self._remover.remove(name, index)
