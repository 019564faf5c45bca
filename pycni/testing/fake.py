"""A context without a machine: a plugin's verbs run against a simulated kernel, in place, without root.

    node = FakeNode()
    pod = node.sandbox("/run/netns/pod")
    reply = node.call(MyPlugin(), "ADD", {"cniVersion": "1.1.0", "name": "net", "type": "mine"}, pod)
    assert node.kernel.snapshot()["2 /run/netns/pod"]["links"]["eth0"]

Everything that a plugin does through its namespaces happens in `pycni.testing.kernel`. What it runs otherwise
(`ctx.run`) is executed for real, unless a stand-in is given for it.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from pycni.context import Caller, Completed, Context, SandboxMissing
from pycni.delegate import Delegates
from pycni.errors import CNIError
from pycni.kernel.namespace import Namespace
from pycni.kernel.netlink import Answer
from pycni.main import drive
from pycni.skel import handle
from pycni.testing.kernel import FakeKernel, FakeNet
from pycni.testing.links import Refused
from pycni.testing.rtnetlink import answer
from pycni.wire.json import dumps

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Self, TypeVar, TypeVarTuple

    from pycni.kernel.namespace import Setting
    from pycni.request import Request
    from pycni.skel import Reply, SupportsPlugin

    T = TypeVar("T")
    Ts = TypeVarTuple("Ts")
    Around = Callable[[int, Callable[[], Any]], Any]

__all__ = ["FakeContext", "FakeDelegates", "FakeKernel", "FakeNamespace", "FakeNet", "FakeNode"]


class FakeNamespace(Namespace):
    """A namespace of a simulated kernel, with every method that plugins use."""

    def __init__(self, ctx: FakeContext, net: FakeNet) -> None:
        super().__init__(ctx.run, net.fd, net.path)
        self.net = net

    async def read_sysctls(self, names: Sequence[str]) -> list[str | None]:
        return await self._run(self._read, tuple(names))

    def _read(self, names: tuple[str, ...]) -> list[str | None]:
        return [self.net.settings.get(name) for name in names]

    def _enter(self, func: Callable[[*Ts], T], *args: *Ts) -> T:
        return func(*args)

    def _perform(self, steps: tuple[bytes | Setting, ...]) -> list[Answer]:
        return [answer(self.net, step) if isinstance(step, bytes) else self._write(step) for step in steps]

    def _write(self, setting: Setting) -> Answer:
        try:
            self.net.write(setting.name, setting.value)
        except Refused as refusal:
            text = f"{setting.name}={setting.value}: {refusal.text}"
            return Answer(refusal.errno if setting.required else 0, text)
        self.net.kernel.settle()
        return Answer()


class FakeDelegates(Delegates):
    """Delegates by name, called in process."""

    def __init__(self, ctx: Context, plugins: Mapping[str, SupportsPlugin]) -> None:
        super().__init__(ctx, looped=False)
        self._plugins = plugins

    async def _find(self, request: Request, plugin: str) -> tuple[str, SupportsPlugin | None]:
        own = self._plugins.get(plugin)
        if own is None:
            raise CNIError(f'failed to find plugin "{plugin}" in path [{request.path}]')
        return plugin, own


class FakeContext(Context):
    """One request's access to a simulated node.

    `around` is called with the number of each step (everything that passes `run`, clean-up left out) and the
    step itself; it may raise before or after it. `stand_ins` replace functions that a plugin runs. What the
    plugin logs is in `lines`.
    """

    def __init__(
        self,
        host: FakeNet,
        sandbox: FakeNet | None = None,
        *,
        delegates: Mapping[str, SupportsPlugin] | None = None,
        stand_ins: Mapping[Any, Callable[..., Any]] | None = None,
        around: Around | None = None,
        in_flight: frozenset[tuple[str, str, str]] = frozenset(),
    ) -> None:
        self.caller = Caller(
            pid=1,
            cwd="/",
            umask=0o022,
            netns=host.identity,
            sandbox_fd=sandbox.fd if sandbox is not None else -1,
            sandbox_id=sandbox.identity if sandbox is not None else None,
            sandbox_errno=0 if sandbox is not None else errno.ENOENT,
        )
        self.delegate = FakeDelegates(self, delegates or {})
        self.steps = 0
        self.lines: list[str] = []
        self._host = FakeNamespace(self, host)
        self._sandbox = FakeNamespace(self, sandbox) if sandbox is not None else None
        self._stand_ins = stand_ins or {}
        self._around = around
        self._in_flight = in_flight
        self._shield = _Shield()

    async def run(self, work: Callable[[*Ts], T], *args: *Ts) -> T:
        step: Callable[..., T] = self._stand_ins.get(work, work)
        if self.cleaning_up:
            return step(*args)
        number, self.steps = self.steps, self.steps + 1
        if self._around is None:
            return step(*args)
        outcome: T = self._around(number, lambda: step(*args))
        return outcome

    async def sleep(self, seconds: float) -> None:
        """Time does not pass here."""

    def shield(self) -> _Shield:
        return self._shield

    @property
    def cleaning_up(self) -> bool:
        """Whether the running code undoes something."""
        return self._shield.depth > 0

    def host(self) -> Namespace:
        return self._host

    async def sandbox(self) -> Namespace:
        if self._sandbox is None:
            raise SandboxMissing("")
        return self._sandbox

    async def execute(self, path: str, env: dict[str, str], stdin: bytes) -> Completed:
        return Completed(-1, failure="nothing is executed here")

    async def in_flight(self) -> frozenset[tuple[str, str, str]]:
        return self._in_flight

    def log(self, text: str) -> None:
        self.lines.append(text)


class _Shield:
    """Counts how deep the running code is in clean-up."""

    def __init__(self) -> None:
        self.depth = 0

    def __enter__(self) -> Self:
        self.depth += 1
        return self

    def __exit__(self, *_details: object) -> None:
        self.depth -= 1


class FakeNode:
    """A simulated node and its pods; `last` is the context of the last call."""

    def __init__(
        self,
        *,
        delegates: Mapping[str, SupportsPlugin] | None = None,
        stand_ins: Mapping[Any, Callable[..., Any]] | None = None,
        filters_vlans: bool = True,
    ) -> None:
        self.kernel = FakeKernel(filters_vlans=filters_vlans)
        self.host = self.kernel.namespace()
        self.host.set_up(self.host.find(name="lo"), True)
        self.kernel.settle()
        self.last: FakeContext | None = None
        self._delegates = delegates or {}
        self._stand_ins = stand_ins or {}

    def sandbox(self, path: str) -> FakeNet:
        """A pod's namespace, as a runtime makes it: `lo` is down."""
        return self.kernel.namespace(path)

    def call(
        self,
        plugin: SupportsPlugin,
        verb: str,
        config: object,
        sandbox: FakeNet | None = None,
        *,
        around: Around | None = None,
        **variables: str,
    ) -> Reply:
        """One request of a plugin that needs no event loop; further arguments are environment variables."""
        env = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": "pod",
            "CNI_NETNS": sandbox.path if sandbox is not None else "",
            "CNI_IFNAME": "eth0",
            "CNI_PATH": "/opt/cni/bin",
            **variables,
        }
        ctx = self.last = FakeContext(
            self.host, sandbox, delegates=self._delegates, stand_ins=self._stand_ins, around=around
        )
        return drive(handle(plugin, env, dumps(config), ctx))
