"""Calling other plugins: find the executable, call ours in process by proof, execute any other.

What is observable is the same either way: same environment but for CNI_COMMAND, same standard input, errors
passed on with their own code. Sources: CNI spec 1.1.0, section 4 "Plugin Delegation"; the reference's
`pkg/invoke` (its texts are kept, people search for them).
"""

from __future__ import annotations

import os
import stat
import sys

from pycni.cni_args import quote
from pycni.errors import UNKNOWN, CNIError
from pycni.record import Record
from pycni.wire.config import Members
from pycni.wire.json import loads
from pycni.wire.result import parse_result, print_result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from pycni.context import Completed, Context
    from pycni.request import Request
    from pycni.skel import SupportsPlugin
    from pycni.types import Result

MARKER: Final = b"#pycni-launcher "
"""Opens the line of a launcher that says, as a JSON object, which plugin of which installation it starts."""
_HEAD_BYTES: Final = 2048
_TAIL_BYTES: Final = 4096
_ELF: Final = b"\x7fELF"
ROOT: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
"""The folder that this installation's packages lie in; launchers carry it in their marker."""


class Launcher(Record):
    """What the marker line of an installed launcher says."""

    plugin: str
    ref: str
    version: str
    root: str


def find_plugin(name: str, path: str, cwd: str) -> str:
    """The absolute path of the executable called `name` on `path` (CNI_PATH, split at colons).

    Relative elements count from `cwd`, empty ones are skipped, and so is a file that is not executable: it
    must not hide a good one further on. Raises CNIError (999) with the reference's texts. Blocking.
    """
    if not path:
        raise CNIError("no paths provided", "CNI_PATH must list the folders of the plugins")
    if not name:
        raise CNIError("no plugin name provided")
    if "/" in name or "\0" in name:
        raise CNIError(f"invalid plugin name: {name}", "a plugin is named, not located by a path")
    unusable = []
    for folder in path.split(":"):
        if not folder or not (cwd or folder.startswith("/")):  # relative to a directory that was removed
            continue
        candidate = os.path.join(cwd, folder, name)
        try:
            mode = os.stat(candidate).st_mode
        except (OSError, ValueError):
            continue
        if not stat.S_ISREG(mode):
            continue
        if mode & 0o111:
            return candidate
        unusable.append(candidate)
    found = f"found but not executable: {', '.join(unusable)}" if unusable else ""
    raise CNIError(f'failed to find plugin "{name}" in path [{path.replace(":", " ")}]', found)


def read_launcher(path: str) -> Launcher | None:
    """The marker of a launcher, None for any other file. Blocking.

    In a launcher that is a text the marker is near the begin, in a compiled one at the end.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        text = os.read(fd, _HEAD_BYTES)
        if text.startswith(_ELF):
            text = os.pread(fd, _TAIL_BYTES, max(0, os.fstat(fd).st_size - _TAIL_BYTES))
    finally:
        os.close(fd)
    start = text.rfind(b"\n" + MARKER) + 1
    if not start:
        return None
    try:
        fields = loads(text[start + len(MARKER) :].partition(b"\n")[0])
    except ValueError:
        return None
    if not isinstance(fields, dict):
        return None
    values = [value for name in Launcher._fields if isinstance(value := fields.get(name), str)]
    return Launcher(*values) if len(values) == len(Launcher._fields) else None


def load_plugin(ref: str) -> SupportsPlugin:
    """The plugin object that an entry point's `module:attribute` names (a class is instantiated)."""
    module_name, _, attribute = ref.partition(":")
    __import__(module_name)
    plugin = getattr(sys.modules[module_name], attribute)
    loaded: SupportsPlugin = plugin() if isinstance(plugin, type) else plugin
    return loaded


def failure(path: str, completed: Completed) -> CNIError:
    """The error object of an executed plugin that failed: its own, or one that says how it died."""
    if completed.failure:
        text = f"fork/exec {path}: {completed.failure}"
        return CNIError(f"netplugin failed with no error message: {text}", code=UNKNOWN)
    if not completed.stdout:
        if completed.stderr:
            words = _quoted(completed.stderr)
            return CNIError(f"netplugin failed: {words}", f"{path} {_ending(completed)}", code=UNKNOWN)
        return CNIError(f"netplugin failed with no error message: {_ending(completed)}", path, code=UNKNOWN)
    try:
        members = loads(completed.stdout)
        if members is None:
            members = {}
        if not isinstance(members, dict):
            raise ValueError("json: not an object")
        said = Members(members)
        code = said.number("code")
        if code < 0:
            raise said.error("code", code, "int")
        return CNIError(said.string("msg"), said.string("details"), code=code)
    except (ValueError, CNIError) as error:
        problem = error.msg if isinstance(error, CNIError) else error
        words = _quoted(completed.stdout)
        text = f"netplugin failed but error parsing its diagnostic message {words}: {problem}"
        return CNIError(text, path, code=UNKNOWN)


def success(completed: Completed, config_version: str) -> Result:
    """The result of an executed plugin's ADD; raises CNIError (999) if it printed none.

    A result without a version is taken to be of the config's.
    """
    try:
        members = loads(completed.stdout)
    except ValueError as error:
        raise CNIError(f"failed to unmarshal raw result: {error}") from None
    if members is None:
        members = {}
    if not isinstance(members, dict):
        raise CNIError("failed to unmarshal raw result: json: not an object")
    if not isinstance(members.get("cniVersion"), str) or not members["cniVersion"]:
        members["cniVersion"] = config_version
    return parse_result(members)


def _ending(completed: Completed) -> str:
    if completed.status >= 0:
        return f"exit status {completed.status}"
    return f"signal: {_SIGNALS.get(-completed.status, f'signal {-completed.status}')}"


_SIGNALS: Final = {6: "aborted", 9: "killed", 11: "segmentation fault", 13: "broken pipe", 15: "terminated"}


def _quoted(raw: bytes) -> str:
    return quote(raw.decode("utf-8", "surrogateescape"))


class Delegates:
    """The delegates of one request, called with the request's own environment and standard input."""

    def __init__(self, ctx: Context, *, looped: bool) -> None:
        """`looped`: whether an event loop runs here, so that any plugin may be called in process."""
        self._ctx = ctx
        self._looped = looped
        self._found: dict[str, tuple[str, SupportsPlugin | None]] = {}

    async def needs_link(self, request: Request, plugin: str) -> bool:
        """Whether the delegate may look at the pod's interface, which must then be there before its ADD.

        Of a foreign executable nobody can tell (dhcp does); ours say so (`pycni.skel.Plugin.needs_link`).
        Raises CNIError (999) if there is no such plugin.
        """
        _, own = await self._find(request, plugin)
        return own is None or bool(getattr(own, "needs_link", True))

    async def add(self, request: Request, plugin: str) -> Result:
        """ADD of the plugin named `plugin`; its CNIError passes through with its own code."""
        result = await self._call(request, plugin, "ADD")
        assert result is not None
        return result

    async def check(self, request: Request, plugin: str) -> None:
        """CHECK; raises what the delegate answers."""
        await self._call(request, plugin, "CHECK")

    async def delete(self, request: Request, plugin: str) -> None:
        """DEL; raises what the delegate answers."""
        await self._call(request, plugin, "DEL")

    async def gc(self, request: Request, plugin: str) -> None:
        """GC; raises what the delegate answers."""
        await self._call(request, plugin, "GC")

    async def status(self, request: Request, plugin: str) -> None:
        """STATUS; raises what the delegate answers."""
        await self._call(request, plugin, "STATUS")

    async def _call(self, request: Request, plugin: str, verb: str) -> Result | None:
        ctx = self._ctx
        path, own = await self._find(request, plugin)
        env = {**request.env, "CNI_COMMAND": verb}
        if own is not None:
            return await self._call_in_process(own, request.replace(verb=verb, env=env))
        completed = await ctx.execute(path, env, request.stdin)
        if completed.status != 0 or completed.failure:
            raise failure(path, completed)
        if completed.stderr:
            ctx.log(completed.stderr.decode("utf-8", "replace").rstrip("\n"))
        return success(completed, request.cni_version) if verb == "ADD" else None

    async def _find(self, request: Request, plugin: str) -> tuple[str, SupportsPlugin | None]:
        """The executable, and the plugin object if it can be called in process instead."""
        if plugin not in self._found:
            path, launcher = await self._ctx.run(_look_up, plugin, request.path, self._ctx.caller.cwd)
            own = load_plugin(launcher.ref) if launcher is not None else None
            callable_here = own is not None and (self._looped or getattr(own, "loopless", False))
            self._found[plugin] = path, own if callable_here else None
        return self._found[plugin]

    async def _call_in_process(self, plugin: SupportsPlugin, request: Request) -> Result | None:
        from pycni.skel import call
        from pycni.versions import SUPPORTED, gate

        gate(request.verb, request.cni_version, getattr(plugin, "supported", SUPPORTED))
        result = await call(plugin, request, self._ctx)
        if request.verb != "ADD":
            return None
        assert result is not None
        if request.cni_version >= "0.3.0":
            return result
        # What a result of an old version cannot carry must not pass here either.
        return parse_result(loads(print_result(result, request.cni_version)))


def _look_up(name: str, path: str, cwd: str) -> tuple[str, Launcher | None]:
    """The executable, and its marker if it is a launcher of this very installation."""
    from pycni import __version__

    found = find_plugin(name, path, cwd)
    launcher = read_launcher(found)
    own = launcher is not None and launcher.root == ROOT and launcher.version == __version__
    return found, launcher if own else None
