"""The contract as one function: (environment, standard input) → (standard output, exit status).

It validates, gates the verb by version, orders the requests of one attachment, calls the plugin and prints
its answer or one error object. It does no I/O itself: what touches the world comes in with the context.
Source: CNI spec 1.1.0 and the reference's `pkg/skel`.
"""

from __future__ import annotations

from pycni.context import check_not_own_namespace
from pycni.errors import CNIError, from_exception
from pycni.record import Record
from pycni.request import check_environment, parse_request
from pycni.versions import NEWEST, SUPPORTED
from pycni.wire.json import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Protocol

    from pycni.context import Context
    from pycni.request import Request
    from pycni.types import Result

    class SupportsPlugin(Protocol):
        """What a plugin must have; `gc` and `status` (like `check`: request, ctx → None) are optional."""

        name: str

        async def add(self, request: Request, ctx: Context) -> Result: ...
        async def check(self, request: Request, ctx: Context) -> None: ...
        async def delete(self, request: Request, ctx: Context) -> None: ...


class Plugin:
    """A convenient base: the facts that the skeleton asks for, with their usual values.

    `loopless` promises that every await of this plugin ends in `ctx` (no anyio, no asyncio), so that a
    one-shot process need not start an event loop for it. An IPAM plugin that gives addresses without looking
    at the pod's interface sets `needs_link` to False: it is then asked before anything is made.
    """

    name: str
    supported: tuple[str, ...] = SUPPORTED
    loopless: bool = False
    needs_link: bool = True


class Reply(Record):
    """What the process leaves behind."""

    stdout: bytes = b""
    status: int = 0
    stderr: bytes = b""


def error_reply(error: BaseException) -> Reply:
    """Any failure as the contract's error object, exit status 1."""
    cni = from_exception(error)
    members: dict[str, object] = {"code": cni.code, "msg": cni.msg}
    if cni.details:
        members["details"] = cni.details
    return Reply(dumps(members, indent="    "), 1)


def about(plugin: SupportsPlugin) -> Reply:
    """What a bare call without CNI_COMMAND gets: two lines on standard error, exit status 0."""
    from pycni import __version__

    versions = ", ".join(_supported(plugin))
    text = f"CNI {plugin.name} plugin {__version__} (pycni)\nCNI protocol versions supported: {versions}\n"
    return Reply(b"", 0, text.encode())


def version_reply(plugin: SupportsPlugin) -> Reply:
    """VERSION: compact, with a line feed, always the newest version (as the reference prints it)."""
    body = {"cniVersion": NEWEST, "supportedVersions": _supported(plugin)}
    return Reply(dumps(body) + b"\n")


def _supported(plugin: SupportsPlugin) -> tuple[str, ...]:
    supported: tuple[str, ...] = getattr(plugin, "supported", SUPPORTED)
    return supported


async def call(plugin: SupportsPlugin, request: Request, ctx: Context) -> Result | None:
    """Call the plugin's method for the request's verb; a verb that it lacks succeeds without effect.

    Raises what the method raises, and CNIError (999) for an ADD that returned nothing.
    """
    method = getattr(plugin, {"DEL": "delete"}.get(request.verb, request.verb.lower()), None)
    if method is None:
        return None
    result: Result | None = await method(request, ctx)
    if result is None and request.verb == "ADD":
        raise CNIError(f"plugin {plugin.name} returned no result", "its add must return a pycni.types.Result")
    return result


async def handle(
    plugin: SupportsPlugin, env: Mapping[str, str], stdin: bytes | CNIError, ctx: Context
) -> Reply:
    """Serve one request. Never raises an Exception; cancellation passes through after the clean-up."""
    verb = env.get("CNI_COMMAND", "")
    if not verb:
        return about(plugin)
    if verb == "VERSION":
        return version_reply(plugin)
    try:
        return await _serve(plugin, env, stdin, ctx)
    except Exception as error:  # noqa: BLE001 - the edge where every failure becomes an error object
        return error_reply(error)


async def _serve(
    plugin: SupportsPlugin, env: Mapping[str, str], stdin: bytes | CNIError, ctx: Context
) -> Reply:
    if isinstance(stdin, CNIError):
        check_environment(env)
        raise stdin
    request = parse_request(env, stdin, _supported(plugin))
    if request.verb in ("ADD", "DEL"):
        check_not_own_namespace(ctx.caller, request.netns, request.netns_override)
    await ctx.hold(request)
    if request.verb == "ADD" and ctx.leftovers:
        await _undo(plugin, request, ctx, "cleaning up after a request that died")
    if request.verb == "GC":
        await _collect(plugin, request, ctx)
        return Reply()
    result = await call(plugin, request, ctx)
    if request.verb == "DEL":
        ctx.forget()
    if request.verb != "ADD" or result is None:
        return Reply()
    from pycni.wire.result import print_result

    try:
        return Reply(print_result(result, request.cni_version))
    except Exception:
        # A result that the config's version cannot carry is a failed ADD, and that leaves nothing.
        with ctx.shield():
            await _undo(plugin, request, ctx, "undoing an ADD whose result cannot be printed")
        raise


async def _collect(plugin: SupportsPlugin, request: Request, ctx: Context) -> None:
    """GC; then the intents of requests that died before it are of no use any more."""
    living = request.valid_attachments()
    dead = await ctx.dead(request.network, living) if living is not None else []
    await call(plugin, request, ctx)
    if dead:
        await ctx.forget_dead(dead)


async def _undo(plugin: SupportsPlugin, request: Request, ctx: Context, why: str) -> None:
    """A DEL of what ADD did, this one or an earlier one that died at work; its failure goes to the log."""
    try:
        await plugin.delete(request.replace(verb="DEL"), ctx)
    except Exception as error:  # noqa: BLE001 - what matters is what follows
        ctx.log(f"{why}: {from_exception(error)}")
