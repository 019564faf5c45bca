"""The contract as a function: `pycni.skel`, over a plugin that does what a test says."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pycni import __version__
from pycni.addresses import CIDR
from pycni.context import Caller, Context
from pycni.errors import INVALID_NETNS, IO_FAILURE, TRY_AGAIN_LATER, CNIError
from pycni.skel import Plugin, Reply, error_reply, handle
from pycni.types import Interface, IPConfig, Result

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pycni.request import Request

GOLDEN = Path(__file__).parent / "golden"
ENV = {
    "CNI_CONTAINERID": "pod-1",
    "CNI_NETNS": "/run/netns/x",
    "CNI_IFNAME": "eth0",
    "CNI_PATH": "/opt/cni/bin",
}
CONFIG = b'{"cniVersion":"1.1.0","name":"net1","type":"fake"}'
RESULT = Result(interfaces=(Interface("eth0"),), ips=(IPConfig(CIDR.parse("10.0.0.2/24"), interface=0),))


class FakeContext(Context):
    """Nothing but a record of what the skeleton asked for."""

    def __init__(self, *, own: bool = False, leftovers: bool = False) -> None:
        self.caller = Caller(1, "/", 0o022, (4, 100), 9, (4, 100 if own else 200))
        self._leftovers = leftovers
        self.events: list[str] = []

    async def hold(self, request: Request) -> None:
        self.events.append(f"hold {request.verb}")
        self.leftovers = self._leftovers

    @contextlib.contextmanager
    def shield(self) -> Iterator[None]:
        self.events.append("shield")
        yield

    def log(self, text: str) -> None:
        self.events.append(f"log {text}")


class Fake(Plugin):
    """Records its calls and raises or returns what it was given."""

    name = "fake"

    def __init__(self, result: Any = RESULT, error: BaseException | None = None) -> None:
        self.result = result
        self.error = error
        self.delete_error: BaseException | None = None
        self.requests: list[Request] = []

    async def add(self, request: Request, ctx: Context) -> Result:
        self._note(request, ctx)
        if self.error is not None:
            raise self.error
        result: Result = self.result
        return result

    async def check(self, request: Request, ctx: Context) -> None:
        self._note(request, ctx)
        if self.error is not None:
            raise self.error

    async def delete(self, request: Request, ctx: Context) -> None:
        self._note(request, ctx)
        error = self.delete_error or self.error
        if error is not None:
            raise error

    def _note(self, request: Request, ctx: Context) -> None:
        self.requests.append(request)
        assert isinstance(ctx, FakeContext)
        ctx.events.append(request.verb)


class Complete(Fake):
    """Has the optional verbs too."""

    async def gc(self, request: Request, ctx: Context) -> None:
        await self.check(request, ctx)

    async def status(self, request: Request, ctx: Context) -> None:
        await self.check(request, ctx)


def serve(
    plugin: Fake, verb: str, stdin: bytes | CNIError = CONFIG, ctx: FakeContext | None = None, **env: str
) -> Reply:
    return asyncio.run(handle(plugin, {**ENV, "CNI_COMMAND": verb, **env}, stdin, ctx or FakeContext()))


def error_of(reply: Reply) -> dict[str, Any]:
    """The one document on stdout of a failed request."""
    assert reply.status == 1
    error = json.loads(reply.stdout)
    assert isinstance(error, dict)
    assert set(error) <= {"code", "msg", "details"}
    return error


# Without a plugin's work


@pytest.mark.row("contract", 1)
@pytest.mark.parametrize("env", [{}, {"CNI_COMMAND": ""}, {"CNI_CONTAINERID": "///", "CNI_NETNS": "x"}])
def test_without_a_command_two_lines_on_stderr_tell_what_this_is(env: dict[str, str]) -> None:
    """Exit status 0, nothing on stdout, standard input not looked at."""
    plugin = Fake()
    reply = asyncio.run(handle(plugin, env, b"{{{", FakeContext()))
    assert reply == Reply(
        b"",
        0,
        f"CNI fake plugin {__version__} (pycni)\n"
        "CNI protocol versions supported: 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0\n".encode(),
    )
    assert plugin.requests == []


@pytest.mark.row("contract", 2, 4)
@pytest.mark.parametrize("name", ["bridge", "host-local", "loopback"])
def test_version_is_answered_in_the_reference_bytes(name: str) -> None:
    """VERSION and the bare call give the recorded stdout and status, whatever else is set."""
    case = json.loads((GOLDEN / f"version-{name}.json").read_text())
    plugin = Fake()
    plugin.name = name
    for step in case["steps"]:
        reply = asyncio.run(handle(plugin, step["env"], step["stdin_text"].encode(), FakeContext()))
        assert reply.stdout.decode() == step["stdout"]
        assert reply.status == step["exit"]
        # The recorded programs carry no version stamp: only their lines' form is comparable.
        assert len(reply.stderr.splitlines()) == len(step["stderr"].splitlines())
        assert reply.stderr.splitlines()[1:] == step["stderr"].encode().splitlines()[1:]


def test_version_lists_what_the_plugin_supports() -> None:
    """The list is the plugin's, printed as given; the version is always the newest."""
    plugin = Fake()
    plugin.supported = ("1.0.0", "0.4.0")
    reply = serve(plugin, "VERSION", b"")
    assert reply.stdout == b'{"cniVersion":"1.1.0","supportedVersions":["1.0.0","0.4.0"]}\n'


# Verbs


def test_add_prints_the_result_in_the_config_s_version() -> None:
    """Converted, indented by four blanks, no line feed, exit status 0."""
    bare = serve(Fake(Result(interfaces=(Interface("eth0"),))), "ADD")
    assert bare.stdout.decode() == (
        '{\n    "cniVersion": "1.1.0",\n    "interfaces": [\n'
        '        {\n            "name": "eth0"\n        }\n    ]\n}'
    )
    old = serve(Fake(), "ADD", b'{"cniVersion":"0.2.0","name":"n"}')
    assert old.status == 0
    assert json.loads(old.stdout) == {"cniVersion": "0.2.0", "ip4": {"ip": "10.0.0.2/24"}, "dns": {}}
    assert json.loads(serve(Fake(), "ADD", b'{"name":"n"}').stdout)["cniVersion"] == "0.1.0"


@pytest.mark.parametrize("verb", ["CHECK", "DEL", "GC", "STATUS"])
def test_other_verbs_print_nothing(verb: str) -> None:
    """The method is called with the request, and success is silence."""
    plugin = Complete()
    assert serve(plugin, verb) == Reply()
    (request,) = plugin.requests
    assert (request.verb, request.network) == (verb, "net1")


@pytest.mark.row("contract", 37)
@pytest.mark.parametrize("verb", ["GC", "STATUS"])
def test_a_verb_that_the_plugin_lacks_succeeds_behind_the_gates(verb: str) -> None:
    """No method, no effect: exit status 0 and no output; but the config's version must have the verb."""
    assert serve(Fake(), verb) == Reply()
    error = error_of(serve(Fake(), verb, b'{"cniVersion":"1.0.0","name":"n"}'))
    assert (error["code"], error["msg"]) == (1, f"config version does not allow {verb}")


def test_a_plugin_is_gated_by_its_own_versions() -> None:
    """What the plugin does not list is refused before it is called."""
    plugin = Fake()
    plugin.supported = ("1.0.0",)
    error = error_of(serve(plugin, "ADD"))
    assert error["details"] == 'config is "1.1.0", plugin supports ["1.0.0"]'
    assert plugin.requests == []


def test_an_unknown_command_is_an_error() -> None:
    """Code 4 with the word in it."""
    assert error_of(serve(Fake(), "FOO"))["msg"] == "unknown CNI_COMMAND: FOO"


@pytest.mark.parametrize("value", [None, "text", {"cniVersion": "1.1.0"}])
def test_an_add_that_returns_no_result_is_an_error(value: Any) -> None:
    """A plugin author who forgets the result is told; stdout is one error object."""
    error = error_of(serve(Fake(value), "ADD"))
    assert error["code"] == 999
    assert error["msg"]


# Failures


class Odd(Exception):
    """An exception whose text cannot even be made."""

    def __str__(self) -> str:
        return "bad \udcff text\n<second line>"


@pytest.mark.row("contract", 40)
@pytest.mark.parametrize(
    ("exception", "code", "msg"),
    [
        (CNIError("m", "d", code=11), 11, "m"),
        (CNIError("m", code=0), 0, "m"),
        (ValueError("v"), 999, "v"),
        (KeyError("k"), 999, "'k'"),
        (AssertionError(), 999, "AssertionError"),
        (OSError(2, "No such file or directory", "/x"), 999, "no such file or directory '/x'"),
        (RecursionError("deep"), 999, "deep"),
        (MemoryError(), 999, "MemoryError"),
        (StopAsyncIteration(), 999, "StopAsyncIteration"),
        (TimeoutError(), 999, "TimeoutError"),
        (ExceptionGroup("tasks", [CNIError("inner", code=7)]), 7, "inner"),
        (Odd(), 999, "bad \ufffd text\n<second line>"),
    ],
)
@pytest.mark.parametrize("verb", ["ADD", "CHECK", "DEL", "GC", "STATUS"])
def test_every_exception_becomes_one_error_object(
    verb: str, exception: Exception, code: int, msg: str
) -> None:
    """Whatever a plugin's method raises: one JSON object on stdout, status 1, nothing on stderr."""
    reply = serve(Complete(error=exception), verb)
    error = error_of(reply)
    assert (error["code"], error["msg"]) == (code, msg)
    assert reply.stderr == b""


@pytest.mark.parametrize("exception", [asyncio.CancelledError(), KeyboardInterrupt(), SystemExit(3)])
def test_cancellation_is_no_error_of_the_plugin(exception: BaseException) -> None:
    """What ends the task itself passes through."""
    with pytest.raises(type(exception)):
        serve(Fake(error=exception), "ADD")


@pytest.mark.row("contract", 38)
def test_layout_of_errors() -> None:
    """Members code, msg, details in this order, four blanks, no line feed; details are left out if empty."""
    assert error_reply(CNIError("missing network name", code=7)) == Reply(
        b'{\n    "code": 7,\n    "msg": "missing network name"\n}', 1
    )
    assert error_reply(CNIError("", "<d>&\u2028\udcff", code=0)).stdout.decode() == (
        '{\n    "code": 0,\n    "msg": "",\n    "details": "\\u003cd\\u003e\\u0026\\u2028\ufffd"\n}'
    )


@pytest.mark.row("contract", 18)
def test_bad_names_are_shown_as_valid_json() -> None:
    """An id that is not UTF-8 appears with the replacement character."""
    reply = serve(Fake(), "ADD", CNI_CONTAINERID="a\udcffb")
    assert error_of(reply)["details"] == "a\ufffdb"


def test_an_unreadable_standard_input_is_reported_after_the_environment() -> None:
    """The error of reading counts only if the environment is good, and never for VERSION."""
    failed = CNIError("error reading from stdin: is a directory", code=IO_FAILURE)
    assert error_of(serve(Fake(), "ADD", failed))["code"] == 5
    assert error_of(serve(Fake(), "ADD", failed, CNI_PATH=""))["code"] == 4
    assert serve(Fake(), "VERSION", failed).status == 0


# The guard, the order of requests, and what is left over


@pytest.mark.row("contract", 29)
@pytest.mark.parametrize("verb", ["ADD", "DEL"])
def test_the_own_namespace_is_refused_before_anything_is_done(verb: str) -> None:
    """Code 8; the plugin is not called, nobody is made to wait."""
    plugin, ctx = Fake(), FakeContext(own=True)
    error = error_of(serve(plugin, verb, ctx=ctx))
    assert error["code"] == INVALID_NETNS
    assert error["msg"] == "plugin's netns and netns from CNI_NETNS should not be the same"
    assert ctx.events == []


@pytest.mark.row("contract", 29, 30)
def test_the_guard_is_for_add_and_del_and_can_be_switched_off() -> None:
    """CHECK passes; CNI_NETNS_OVERRIDE lets ADD and DEL pass."""
    assert serve(Fake(), "CHECK", ctx=FakeContext(own=True)).status == 0
    for verb in ("ADD", "DEL"):
        assert serve(Fake(), verb, ctx=FakeContext(own=True), CNI_NETNS_OVERRIDE="1").status == 0


def test_a_refused_request_reaches_neither_lock_nor_plugin() -> None:
    """Bad input is refused before the first effect."""
    for stdin, env in ((b"{", {}), (b"{}", {}), (CONFIG, {"CNI_IFNAME": "a/b"}), (CONFIG, {"CNI_PATH": ""})):
        plugin, ctx = Complete(), FakeContext()
        assert serve(plugin, "ADD", stdin, ctx, **env).status == 1
        assert (plugin.requests, ctx.events) == ([], [])


def test_a_request_waits_for_its_turn_before_it_acts() -> None:
    """The context's `hold` comes before the plugin's method."""
    ctx = FakeContext()
    serve(Fake(), "ADD", ctx=ctx)
    assert ctx.events == ["hold ADD", "ADD"]


def test_leftovers_of_a_dead_request_are_deleted_before_add() -> None:
    """ADD is preceded by a DEL of the same attachment; that one's failure is only logged."""
    plugin, ctx = Fake(), FakeContext(leftovers=True)
    assert serve(plugin, "ADD", ctx=ctx).status == 0
    assert ctx.events == ["hold ADD", "DEL", "ADD"]
    assert plugin.requests[0] == plugin.requests[1].replace(verb="DEL")

    plugin, ctx = Fake(), FakeContext(leftovers=True)
    plugin.delete_error = OSError(5, "Input/output error")
    assert serve(plugin, "ADD", ctx=ctx).status == 0
    assert ctx.events[1:3] == [
        "DEL",
        "log cleaning up after a request that died: input/output error; OSError, errno 5",
    ]


@pytest.mark.parametrize("verb", ["CHECK", "DEL"])
def test_leftovers_concern_add_only(verb: str) -> None:
    """CHECK must not delete, and a DEL is one itself."""
    ctx = FakeContext(leftovers=True)
    serve(Fake(), verb, ctx=ctx)
    assert ctx.events == [f"hold {verb}", verb]


@pytest.mark.row("plugins", 44)
def test_an_add_whose_result_cannot_be_printed_is_undone() -> None:
    """A layer 2 network under 0.2.0: code 999, and a shielded DEL leaves nothing behind."""
    plugin, ctx = Fake(Result(interfaces=(Interface("eth0"),))), FakeContext()
    plugin.delete_error = CNIError("busy", code=TRY_AGAIN_LATER)
    error = error_of(serve(plugin, "ADD", b'{"cniVersion":"0.2.0","name":"n"}', ctx))
    assert (error["code"], error["msg"]) == (999, "cannot convert: no valid IP addresses")
    assert ctx.events == [
        *("hold ADD", "ADD", "shield", "DEL"),
        "log undoing an ADD whose result cannot be printed: busy",
    ]
