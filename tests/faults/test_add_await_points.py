"""Cancellation at every await point of ADD leaves nothing behind.

ADD runs on an event loop through the agent's context, with its workers and committers. Each time that it
yields to the loop is a point; a first ADD counts them, and then one ADD after the other is cancelled at the
next point, as the agent cancels one whose launcher is gone.
"""

from __future__ import annotations

import itertools
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest
from support import observe
from support.calls import SYSTEM_PATH
from support.in_process import handed_over

from pycni.agent import protocol
from pycni.agent.context import AgentContext
from pycni.agent.groups import Groups, SharedHost
from pycni.agent.protocol import Frame
from pycni.agent.workers import Workers
from pycni.execute import execute_for_agent
from pycni.main import serve
from pycni_bridge.plugin import Bridge

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator

    from anyio.abc import TaskGroup
    from support.netns import NetNS

    from pycni.skel import Reply

BRIDGE = "awaitbr0"
GATEWAYS = ["10.62.0.1/24", "fd62::1/64"]
MANY = 20
"""Only an ADD that waits for the kernel again and again has more points; further ones are the same again."""
REFERENCE = Path("/usr/lib/cni/host-local")
LAYER3 = {
    "isDefaultGateway": True,
    "macspoofchk": True,
    "ipMasq": True,
    "ipMasqBackend": "nftables",
    "ipam": {
        "type": "host-local",
        "ranges": [[{"subnet": "10.62.0.0/24"}], [{"subnet": "fd62::/64"}]],
        "routes": [{"dst": "10.99.0.0/16"}],
    },
}
CONFIGS: dict[str, dict[str, Any]] = {
    "nftables": LAYER3,
    "iptables": {**LAYER3, "ipMasqBackend": "iptables"},
    "executed IPAM": {**LAYER3, "ipam": {**LAYER3["ipam"], "type": "executed-local"}},  # type: ignore[dict-item]
    "duplicate address detection": {**LAYER3, "enabledad": True},
    "layer 2": {},
}


class Points:
    """Awaits a coroutine and calls `reached(number, waited)` each time that it yields to the event loop.

    `waited` is the future that it waits for, None where it only lets others go on.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Reply], reached: Callable[[int, Any], None]) -> None:
        self._coroutine = coroutine
        self._reached = reached
        self.count = 0

    def __await__(self) -> Generator[Any, Any, Reply]:
        step: Callable[[], Any] = partial(self._coroutine.send, None)
        while True:
            try:
                waited = step()
            except StopIteration as end:
                reply: Reply = end.value
                return reply
            number, self.count = self.count, self.count + 1
            self._reached(number, waited)
            try:
                value = yield waited
            except BaseException as error:  # noqa: BLE001 - passed on to where it belongs
                step = partial(self._coroutine.throw, error)
            else:
                step = partial(self._coroutine.send, value)


def cancel_while_it_waits(scope: anyio.CancelScope, _waited: Any) -> None:
    """The cancellation is there before what is waited for."""
    scope.cancel()


def cancel_when_it_has_waited(scope: anyio.CancelScope, waited: Any) -> None:
    """What is waited for has come, and takes effect in the same turn of the loop as the cancellation."""
    if waited is None:
        scope.cancel()
    else:
        waited.add_done_callback(lambda _: scope.cancel())


class PlayedLauncher:
    """Stands for the connection to a launcher that executes what it is asked to."""

    def __init__(self, tasks: TaskGroup) -> None:
        self._tasks = tasks
        self.ctx: AgentContext | None = None

    async def send(self, kind: int, *fields: bytes, descriptor: int = -1) -> None:
        assert kind == protocol.EXECUTE
        assert descriptor >= 0
        self._tasks.start_soon(self._execute, fields)

    async def _execute(self, fields: tuple[bytes, ...]) -> None:
        assert self.ctx is not None
        done = await anyio.to_thread.run_sync(execute_for_agent, fields, [])
        self.ctx.executed(Frame(protocol.EXECUTED, done))


class Node:
    """One network, its plugins in the test's own process, and what is left of it."""

    def __init__(
        self, host: NetNS, pods: tuple[NetNS, NetNS], bin_dir: Path, run_dir: Path, data_dir: Path, conf: Any
    ) -> None:
        self.host, self.pods, self.run_dir, self.data_dir = host, pods, run_dir, data_dir
        self.path = f"{data_dir.parent}/executed:{bin_dir}"
        self.config = {"cniVersion": "1.0.0", "name": "awaits", "type": "bridge", "bridge": BRIDGE, **conf}
        if "ipam" in conf:
            self.config["ipam"] = {**conf["ipam"], "dataDir": str(data_dir)}

    def run(self, work: Callable[[Run], Awaitable[Any]]) -> Any:
        """`work` on an event loop with workers and committers of its own, all of whose work is done then."""
        with self.host.inside():
            return anyio.run(self._run, work)

    async def _run(self, work: Callable[[Run], Awaitable[Any]]) -> Any:
        workers = Workers()
        async with anyio.create_task_group() as tasks:
            run = Run(self, workers, Groups(tasks, workers), tasks)
            tasks.start_soon(run.groups.watch)
            answer = await work(run)
            with anyio.fail_after(60):
                while run.at_work:
                    await anyio.sleep(0.001)
            tasks.cancel_scope.cancel()
        workers.close()
        return answer

    def left(self) -> list[str]:
        """What there is of attachments, and the bridge."""
        found = observe.attachment_leftovers(self.host, self.data_dir)
        found += [name for name in observe.links(self.host) if name != "lo"]
        found += [f"{name} in {pod.name}" for pod in self.pods for name in observe.links(pod) if name != "lo"]
        found += [f"intent {path.name}" for path in self.run_dir.glob("attachments/*")]
        return found


class Run:
    """Calls that share one event loop."""

    def __init__(self, node: Node, workers: Workers, groups: Groups, tasks: TaskGroup) -> None:
        self._node = node
        self._workers = workers
        self.groups = groups
        self._tasks = tasks

    @property
    def at_work(self) -> int:
        """Blocking calls under way and callers of committers waiting; a removal ends after its answer."""
        return self._workers._pending + sum(one.waiting for one in self.groups.statistics().values())

    async def call(
        self, verb: str, number: int, reached: Callable[[anyio.CancelScope, int, Any], None] | None = None
    ) -> tuple[Reply | None, int, list[str]]:
        """A call for one of the two pods: the reply, None if it was cancelled; its points; what it logged."""
        node, pod = self._node, self._node.pods[number]
        env = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": f"pod-{number}",
            "CNI_NETNS": str(pod.path),
            "CNI_IFNAME": "eth0",
            "CNI_PATH": node.path,
            "PATH": SYSTEM_PATH,
        }
        launcher = PlayedLauncher(self._tasks)
        reply = None
        scope = anyio.CancelScope()
        with handed_over(env, node.config, node.host, pod) as call:
            ctx = AgentContext(call, str(node.run_dir), self._workers, launcher, self.groups)  # type: ignore[arg-type]
            launcher.ctx = ctx
            points = Points(
                serve(Bridge(), call, ctx), lambda at, waited: reached and reached(scope, at, waited)
            )
            try:
                with scope:
                    reply = await points
            finally:
                ctx.close(failed=reply is None or reply.status != 0)
        return reply, points.count, ctx.log_lines


@pytest.fixture
def node(
    request: pytest.FixtureRequest,
    host: NetNS,
    pod: Callable[[], NetNS],
    bin_dir: Path,
    run_dir: Path,
    data_dir: Path,
    tmp_path: Path,
) -> Iterator[Node]:
    (tmp_path / "executed").mkdir()
    shutil.copy(REFERENCE, tmp_path / "executed" / "executed-local")
    made = Node(host, (pod(), pod()), bin_dir, run_dir, data_dir, CONFIGS[request.param])
    assert made.left() == []
    yield made
    host.run("ip", "link", "delete", BRIDGE, check=False)


def ok(answer: tuple[Reply | None, int, list[str]]) -> int:
    """The points of a call that must have succeeded."""
    reply, points, lines = answer
    assert reply is not None
    assert reply.status == 0, reply.stdout.decode()
    assert lines == []
    return points


def cancelled_at(
    at: int, how: Callable[[anyio.CancelScope, Any], None]
) -> Callable[[anyio.CancelScope, int, Any], None]:
    return lambda scope, number, waited: how(scope, waited) if number == at else None


HOWS = pytest.mark.parametrize("how", [cancel_while_it_waits, cancel_when_it_has_waited])


@pytest.mark.parametrize("node", CONFIGS, indirect=True)
@HOWS
def test_cancelled_at_any_point(node: Node, how: Callable[[anyio.CancelScope, Any], None]) -> None:
    """Links, addresses, reservation, rules and intent: nothing is left, nor work of a thread."""

    async def healthy(run: Run) -> int:
        points = ok(await run.call("ADD", 0))
        ok(await run.call("DEL", 0))
        return points

    count = node.run(healthy)
    node.host.run("ip", "link", "delete", BRIDGE)
    assert count >= 4
    broken_off = 0
    count = min(count, MANY)
    for at in range(count):
        reply, _, lines = node.run(partial(Run.call, verb="ADD", number=0, reached=cancelled_at(at, how)))
        where = f"point {at} of {count}; undo said {lines}"
        if reply is None:
            broken_off += 1
        else:  # it was complete when the cancellation came, and is answered
            assert reply.status == 0, f"{where}: {reply.stdout.decode()}"
            ok(node.run(partial(Run.call, verb="DEL", number=0)))
            node.host.run("ip", "link", "delete", BRIDGE)
        assert lines == [], where
        assert node.left() == [], where
    assert broken_off >= count - 1


@pytest.mark.parametrize("node", ["nftables", "executed IPAM"], indirect=True)
@HOWS
def test_cancelled_in_company(node: Node, how: Callable[[anyio.CancelScope, Any], None]) -> None:
    """Another pod's ADD that shares commits and bridge with a cancelled one succeeds, and is all there is."""

    async def both(run: Run, at: int) -> tuple[Reply | None, int, list[str]]:
        answers: dict[int, tuple[Reply | None, int, list[str]]] = {}

        async def add(number: int) -> None:
            answers[number] = await run.call("ADD", number, cancelled_at(at, how) if number == 0 else None)

        async with anyio.create_task_group() as calls:
            for number in (0, 1):
                calls.start_soon(add, number)
        ok(answers[1])
        return answers[0]

    broken_off = 0
    for at in itertools.count():
        reply, points, lines = node.run(partial(both, at=at))
        where = f"point {at} of {points}; undo said {lines}"
        assert lines == [], where
        if reply is None:
            broken_off += 1
        else:
            assert reply.status == 0, f"{where}: {reply.stdout.decode()}"
            ok(node.run(partial(Run.call, verb="DEL", number=0)))
        check_whole(node, where)
        ok(node.run(partial(Run.call, verb="DEL", number=1)))
        node.host.run("ip", "link", "delete", BRIDGE)
        assert node.left() == [], where
        if reply is not None and at >= points:
            break
    assert broken_off >= 5


@pytest.mark.parametrize("node", ["nftables"], indirect=True)
def test_an_add_begins_while_the_idle_bridge_is_taken_back(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cancelled ADD found its bridge idle, and will remove it: who joins now has a bridge afterwards."""
    genuine = SharedHost.ports
    found_idle = anyio.Event()
    whole = anyio.Event()

    async def slow(self: SharedHost, index: int) -> Any:
        ports = await genuine(self, index)
        found_idle.set()
        with anyio.move_on_after(0.5, shield=True):
            await whole.wait()
        return ports

    async def both(run: Run) -> None:
        async def second() -> None:
            await found_idle.wait()
            ok(await run.call("ADD", 1))
            whole.set()

        async with anyio.create_task_group() as calls:
            calls.start_soon(second)
            reply, _, lines = await run.call("ADD", 0, lambda scope, _at, _waited: cancel_with_a_link(scope))
            assert (reply, lines) == (None, [])

    def cancel_with_a_link(scope: anyio.CancelScope) -> None:
        if BRIDGE in observe.links(node.host):
            scope.cancel()

    monkeypatch.setattr(SharedHost, "ports", slow)
    node.run(both)
    check_whole(node, "after both")
    ok(node.run(partial(Run.call, verb="DEL", number=1)))


def check_whole(node: Node, where: str) -> None:
    """The second pod has its own of everything, and there is nothing of the first."""
    assert list(observe.links(node.pods[0])) == ["lo"], where
    pod = node.pods[1]
    assert len(observe.addresses(pod, "eth0")) == 2, where
    assert observe.addresses(node.host, BRIDGE) == GATEWAYS, where
    veths = [link for link in observe.links(node.host).values() if link.get("master") == BRIDGE]
    assert len(veths) == 1, where
    owners = [text.split()[0] for text in observe.reservations(node.data_dir).values()]
    assert owners == ["pod-1"] * 2, where
    rules = [str(item["rule"]) for item in observe.own_nft_rules(node.host) if "rule" in item]
    assert not [rule for rule in rules if "pod-0" in rule], where
    assert sum("pod-1" in rule for rule in rules) >= 3, where
    for gateway in GATEWAYS:
        pod.ping(gateway.partition("/")[0])
