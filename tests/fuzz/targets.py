"""What the fuzzer calls, and what must hold of the answer.

Requests go through the whole contract to the real plugins on a simulated node whose store, rules and foreign
delegates are stand-ins, so that nothing is touched; texts go to the parsers of the runtime side as well.
"""

from __future__ import annotations

import json
import re
import signal
from typing import TYPE_CHECKING, Any

import mutate

from pycni import delegate
from pycni.addresses import CIDR
from pycni.context import Completed
from pycni.delegate import Delegates
from pycni.errors import CNIError
from pycni.main import drive
from pycni.request import VERBS, parse_config
from pycni.runtime import cache, conflist
from pycni.skel import Plugin, handle
from pycni.testing.fake import FakeContext, FakeDelegates, FakeKernel
from pycni.types import DNS, IPConfig, Result
from pycni.versions import SUPPORTED
from pycni.wire.json import dumps, loads
from pycni.wire.parse import parse_as
from pycni.wire.result import parse_result
from pycni_bridge import firewall, masquerade, spoofcheck
from pycni_bridge.plugin import Bridge
from pycni_hostlocal import plugin as host_local
from pycni_hostlocal.allocator import View, allocate
from pycni_hostlocal.resolvconf import parse_resolv_conf
from pycni_loopback.plugin import Loopback

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from pycni.context import Context
    from pycni.request import Request
    from pycni.skel import Reply, SupportsPlugin

SECONDS = 20
"""Of the processor's time; a request that takes more hangs."""

FOREIGN = re.compile(r"unexpected \w*(Error|Exception|Exit|Iteration)\b")
"""How the contract's edge calls what is no CNIError: a mistake in the code, whatever the input."""


class HangError(BaseException):
    """A call took too long."""


class BrokenError(AssertionError):
    """What must hold does not."""


class Addresses(Plugin):
    """A delegate that answers with what the config says, whatever that is."""

    name = "addresses"

    async def add(self, request: Request, ctx: Context) -> Result:
        ipam = request.members().object("ipam")
        subnets = ipam.raw("subnets") if ipam is not None else None
        texts = [text for text in subnets if isinstance(text, str)] if isinstance(subnets, list) else []
        return Result(ips=tuple(IPConfig(CIDR.parse(text)) for text in texts))

    async def check(self, request: Request, ctx: Context) -> None:
        return

    async def delete(self, request: Request, ctx: Context) -> None:
        return


class Echo(Plugin):
    """Answers ADD with its prevResult, and fails CHECK in a way that depends on the config."""

    name = "tuning"

    async def add(self, request: Request, ctx: Context) -> Result:
        return request.prev_result() or Result()

    async def check(self, request: Request, ctx: Context) -> None:
        await self.add(request, ctx)
        if "capabilities" in request.config:
            raise CNIError(str(request.config["capabilities"]), request.args, code=100)

    async def delete(self, request: Request, ctx: Context) -> None:
        await self.add(request, ctx)

    async def gc(self, request: Request, ctx: Context) -> None:
        request.valid_attachments()


class Store:
    """host-local's reservations in memory, decided by its own allocator."""

    def __init__(self) -> None:
        self.view = View()

    def reserve(self, _place: Any, wanted: Any, kept: list[Any]) -> None:
        decision = allocate(self.view, wanted)
        if decision.error is not None:
            raise decision.error
        for pick in decision.picks:
            self.view.add(str(pick.ip), wanted.owner)
            self.view.last[pick.index] = str(pick.ip)
            kept.append(pick)

    def give_back(self, _place: Any, _owner: Any, kept: list[Any]) -> None:
        for pick in kept:
            self.view.discard(str(pick.ip))

    def release(self, _place: Any, owner: Any) -> None:
        for ip in self.view.held_by(owner):
            self.view.discard(str(ip))

    def addresses_of(self, _place: Any, owner: Any) -> list[str]:
        return sorted(str(ip) for ip in self.view.held_by(owner))


class ForeignDelegates(FakeDelegates):
    """Besides those by name, one called "foreign" that is executed."""

    async def _find(self, request: Request, plugin: str) -> tuple[str, SupportsPlugin | None]:
        if plugin == "foreign":
            return await Delegates._find(self, request, plugin)
        return await super()._find(request, plugin)


class World:
    """A simulated node for some requests in a row; `r` also decides what foreign delegates answer."""

    def __init__(self, r: Random) -> None:
        self.r = r
        self.kernel = FakeKernel(filters_vlans=r.random() < 0.7)
        self.host = self.kernel.namespace("/host")
        self.pods = {path: self.kernel.namespace(path) for path in ("/pod/0", "/pod/1")}
        self.pods["/host"] = self.host
        store = Store()
        self.delegates = {"host-local": host_local.HostLocal(), "addresses": Addresses()}
        nothing: Callable[..., None] = lambda *_args: None  # noqa: E731
        self.stand_ins = {
            **dict.fromkeys((firewall.add_masquerade, firewall.remove_masquerade), nothing),
            **dict.fromkeys((firewall.add_spoof_check, firewall.remove_spoof_check), nothing),
            masquerade.unmasqueraded: lambda _m: [],
            masquerade.gc: lambda *_args: [],
            spoofcheck.drift: lambda *_args: [],
            spoofcheck.refs: frozenset,
            spoofcheck.entries: list,
            spoofcheck.gc: nothing,
            delegate._look_up: lambda name, _path, _cwd: (f"/opt/cni/bin/{name}", None),
            host_local._reserve: store.reserve,
            host_local._release: store.release,
            host_local.give_back: store.give_back,
            host_local.addresses_of: store.addresses_of,
            host_local.leaked: lambda *_args: {},
            host_local.collect: lambda *_args: [],
            host_local.probe: nothing,
            host_local._dns: lambda _path: DNS(),
        }

    def context(self, env: dict[str, str]) -> FakeContext:
        ctx = FakeContext(self.host, self.pods.get(env.get("CNI_NETNS", "")), stand_ins=self.stand_ins)
        ctx.delegate = ForeignDelegates(ctx, self.delegates)
        ctx.execute = self._execute  # type: ignore[method-assign]
        return ctx

    async def _execute(self, _path: str, _env: dict[str, str], _stdin: bytes) -> Completed:
        r = self.r
        answer: Any = r.choice((mutate.RESULT, mutate.OLD_RESULT, {"code": 11, "msg": "x"}, {}))
        stdout = json.dumps({**answer, "cniVersion": r.choice((*SUPPORTED, "", "7.0.0"))}).encode()
        while r.random() < 0.4:
            stdout = mutate.damaged(r, stdout)
        return Completed(r.choice((0, 0, 0, 1, -9)), stdout, r.choice((b"", b"\xffoops")), "")


PLUGINS: dict[str, Any] = {
    "bridge": Bridge(),
    "host-local": host_local.HostLocal(),
    "loopback": Loopback(),
    "tuning": Echo(),
}


def serve(world: World, plugin: str, env: dict[str, str], stdin: bytes) -> Reply:
    """One request through the contract; raises HangError, or whatever should never come out of it."""
    ctx = world.context(env)
    reply = drive(handle(PLUGINS[plugin], env, stdin, ctx))
    for line in ctx.lines:
        if "Traceback" in line or FOREIGN.search(line):
            raise BrokenError(f"the log says {line}")
    return reply


def judge(env: dict[str, str], stdin: bytes, reply: Reply) -> str:
    """The reply's kind for the statistics; raises BrokenError unless it is one that the contract allows."""
    verb = env.get("CNI_COMMAND", "")
    if not verb or verb == "VERSION":
        _hold(reply.status == 0 and bool(reply.stderr) != bool(reply.stdout), reply)
        return verb or "about"
    _hold(not reply.stderr and reply.status in (0, 1), reply)
    name = verb if verb in VERBS else "unknown verb"
    if reply.status:
        error = _object(reply)
        _hold({"code", "msg"} <= set(error) <= {"code", "msg", "details"}, reply)
        details, code = error.get("details", "x"), error["code"]
        _hold(isinstance(error["msg"], str) and isinstance(details, str) and details != "", reply)
        _hold(type(code) is int and code >= 0, reply)
        _hold(bool(error["msg"]) or code != 999, reply)
        _hold(not FOREIGN.search(details), reply)
        return f"{name} {code}"
    if verb != "ADD":
        _hold(not reply.stdout, reply)
        return f"{name} ok"
    version = _object(reply)["cniVersion"]
    _hold(version in SUPPORTED and version == (_asked(stdin) or "0.1.0"), reply)
    result = parse_as(loads(reply.stdout), version)
    _hold(result.cni_version == version, reply)
    return "ADD ok"


def _asked(stdin: bytes) -> object:
    members = {key.lower(): value for key, value in parse_config(stdin).items() if value is not None}
    return members.get("cniversion")


def _object(reply: Reply) -> dict[str, Any]:
    """The one JSON object on stdout, by the standard library's reading."""
    document = json.loads(reply.stdout.decode("utf-8"))
    _hold(isinstance(document, dict), reply)
    found: dict[str, Any] = document
    return found


def _hold(condition: bool, reply: Reply) -> None:
    if not condition:
        raise BrokenError(f"status {reply.status}, stdout {reply.stdout!r}, stderr {reply.stderr!r}")


def parse(data: bytes) -> None:
    """The runtime side's readers: each accepts or raises CNIError (ValueError where it says so)."""
    readers: tuple[Callable[[bytes], object], ...] = (
        conflist.parse_list,
        conflist.parse_plugin,
        conflist.list_from_plugin,
        cache.decode,
        lambda raw: parse_resolv_conf(raw.decode("utf-8", "surrogateescape")),
        lambda raw: delegate.success(Completed(0, raw), "1.0.0"),
        lambda raw: delegate.failure("/x", Completed(1, raw)),
        lambda raw: parse_result(loads(raw)),
    )
    for reader in readers:
        try:
            reader(data)
        except (CNIError, ValueError) as error:
            if isinstance(error, UnicodeError):
                raise
    try:
        value = loads(data)
    except ValueError:
        return
    try:
        again = loads(dumps(value))
    except CNIError:  # deeper than can be printed
        return
    if again != value and "nan" not in repr(value):
        raise BrokenError(f"{value!r} was printed as {dumps(value)!r}")


def watch() -> None:
    """From now on a call that takes too long raises HangError; `reset` begins to count anew."""

    def hang(_number: int, _frame: object) -> None:
        raise HangError(f"no answer after {SECONDS} s of the processor's time")

    signal.signal(signal.SIGVTALRM, hang)


def reset(seconds: float = SECONDS) -> None:
    """Count anew, 0 for no more; told again later, for an exception in a finalizer is lost."""
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds, 10 * seconds)
