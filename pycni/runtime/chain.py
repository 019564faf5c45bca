"""Chains: the verbs of a network list, plugin after plugin, with prevResult, capabilities and the cache.

What a plugin receives, in which order and when a chain stops are `libcni`'s. Better than there: names are
checked for every verb before anything is touched, ADD finds all executables before it starts the first, a
plugin's result reaches the next one in the list's version, integers pass unharmed. Sources: CNI spec 1.1.0,
sections 3 and 4.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final

from anyio import to_thread

from pycni import delegate
from pycni.errors import INCOMPATIBLE_VERSION, INVALID_NETWORK_CONFIG, CNIError
from pycni.runtime.cache import DEFAULT_DIR, Cache, Entry
from pycni.runtime.call import check_names, plugin_environment, plugin_input
from pycni.runtime.execute import execute
from pycni.runtime.lock import DEFAULT_RUN_DIR, hold
from pycni.versions import OLDEST, VERB_SINCE, at_least, parse_version
from pycni.wire.result import parse_result, result_members

if TYPE_CHECKING:
    from pycni.context import Completed
    from pycni.runtime.call import Attachment
    from pycni.runtime.conflist import NetworkList, PluginConf
    from pycni.types import Result
    from pycni.wire.json import JSON

_PREV_RESULT_SINCE: Final = "0.4.0"
_WORDS: Final = {"ADD": "add", "DEL": "delete"}


class ChainError(CNIError):
    """A chain that stopped: `ran` are the types of the plugins that had finished, in the order of the calls.

    For ADD what they made is still there: nothing is undone, DEL removes it.
    """

    def __init__(self, msg: str, details: str, *, code: int, ran: tuple[str, ...]) -> None:
        super().__init__(msg, details, code=code)
        self.ran = ran


def is_older(version: str, floor: str) -> bool:
    """Whether a list's version is older than `floor`; an unreadable one counts as older."""
    try:
        return not at_least(version, floor)
    except CNIError:
        return True


def _print_to_stderr(text: bytes) -> None:
    sys.stderr.buffer.write(text)
    sys.stderr.buffer.flush()


class Runtime:
    """The runtime's side of the contract on one node.

    `path` is CNI_PATH; relative elements count from the working directory. `run_dir` holds the lock that
    lets one program at a time work on an attachment. `env` is what plugins inherit (default: this
    process's). `on_stderr` gets what a plugin wrote there, after its end; `on_warning` a sentence about what
    was passed over. Methods raise CNIError; plugins' own errors keep their code and details.
    """

    def __init__(
        self,
        path: str,
        cache: Cache | str = DEFAULT_DIR,
        *,
        run_dir: str = DEFAULT_RUN_DIR,
        env: Mapping[str, str] | None = None,
        on_stderr: Callable[[bytes], None] = _print_to_stderr,
        on_warning: Callable[[str], None] | None = None,
    ) -> None:
        self.path = path
        self.cache = cache if isinstance(cache, Cache) else Cache(cache)
        self.run_dir = run_dir
        self.env = dict(os.environ) if env is None else dict(env)
        self._on_stderr = on_stderr
        self._on_warning = on_warning or (lambda text: _print_to_stderr(f"{text}\n".encode()))

    def find(self, plugin: str) -> str:
        """The executable of a plugin type; raises CNIError (999) `failed to find plugin …`. Blocking."""
        try:
            here = os.getcwd()
        except OSError:  # it was removed; absolute elements still work
            here = ""
        return delegate.find_plugin(plugin, self.path, here)

    async def add(self, network: NetworkList, attachment: Attachment) -> Result:
        """ADD in the list's order; the last plugin's result, in the version in which it answered.

        Raises ChainError for a plugin that fails or a cache that cannot be written; nothing is undone then
        and nothing remembered: the caller must `delete`. Raises CNIError before anything was done for bad
        names, a missing executable, or a cache file's name that is too long or another attachment's.
        """
        check_names(network.name, attachment)
        if not network.plugins:
            raise CNIError("no plugins in list", f"network {network.name}", code=INVALID_NETWORK_CONFIG)
        for plugin in network.plugins:
            try:
                self.find(plugin.type)
            except CNIError as error:
                raise _stopped(plugin, "ADD", error, ()) from error
        async with self._held(network, attachment):
            await to_thread.run_sync(self.cache.check_free, *_key(network, attachment))
            return await self._add_all(network, attachment)

    async def check(self, network: NetworkList, attachment: Attachment) -> None:
        """CHECK in the list's order with the remembered result; the first error ends it and is raised bare.

        A list with `disableCheck` succeeds unasked. Without a remembered result the plugins are asked all the
        same; if one complains, the details say so.
        """
        check_names(network.name, attachment)
        version = network.cni_version or OLDEST
        if not at_least(version, VERB_SINCE["CHECK"]):
            raise CNIError(
                f'configuration version "{version}" does not support the CHECK command',
                f"CHECK exists since {VERB_SINCE['CHECK']}",
                code=INCOMPATIBLE_VERSION,
            )
        if network.disable_check:
            return
        async with self._held(network, attachment):
            await self._check_all(network, attachment)

    async def delete(self, network: NetworkList, attachment: Attachment) -> None:
        """DEL in reverse order; the first error ends it, and the attachment stays remembered.

        From 0.4.0 on the plugins get the remembered result; one that cannot be used is forgotten with a
        warning. Repeating is fine, and so is an attachment that nobody remembers.
        """
        check_names(network.name, attachment)
        parse_version(network.cni_version)
        async with self._held(network, attachment):
            await self._delete_all(network, attachment)

    async def status(self, network: NetworkList) -> bool:
        """STATUS in the list's order; the first error is raised bare, so that its code survives.

        False, and nobody asked, if the list is older than 1.1.0; else True.
        """
        check_names(network.name)
        if is_older(network.cni_version, VERB_SINCE["STATUS"]):
            return False
        for plugin in network.plugins:
            await self._call("STATUS", network, plugin)
        return True

    async def gc_plugin(self, network: NetworkList, plugin: PluginConf, valid: list[JSON]) -> None:
        """GC of one plugin, with the attachments that stay under both of their keys."""
        keys = ("cni.dev/valid-attachments", "cni.dev/attachments")
        await self._call("GC", network, plugin, injected=dict.fromkeys(keys, valid))

    @asynccontextmanager
    async def _held(self, network: NetworkList, attachment: Attachment) -> AsyncIterator[None]:
        """Alone with the attachment; without a lock, and with a warning, where there can be none."""
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(hold(self.run_dir, *_key(network, attachment)))
            except OSError as error:
                self._on_warning(f"going on without a lock, others may interfere: {error}")
            yield

    async def _add_all(self, network: NetworkList, attachment: Attachment) -> Result:
        result: Result | None = None
        ran: tuple[str, ...] = ()
        for plugin in network.plugins:
            try:
                result = await self._add_one(network, plugin, attachment, result)
            except CNIError as error:
                raise _stopped(plugin, "ADD", error, ran) from error
            ran += (plugin.type,)
        assert result is not None
        try:
            await to_thread.run_sync(self.cache.write, _remember(network, attachment, result))
        except CNIError as error:
            text = f'failed to set network "{network.name}" cached result: {error.msg}'
            raise ChainError(text, error.details, code=error.code, ran=ran) from error
        return result

    async def _check_all(self, network: NetworkList, attachment: Attachment) -> None:
        try:
            injected = await self._prev_result(network, attachment)
        except CNIError as error:
            text = f'failed to get network "{network.name}" cached result: {error.msg}'
            raise CNIError(text, error.details, code=error.code) from error
        try:
            for plugin in network.plugins:
                await self._call("CHECK", network, plugin, attachment, injected)
        except CNIError as error:
            if injected:
                raise
            missing = f"no cached result of this attachment in {self.cache.results}: was it added from there?"
            raise CNIError(error.msg, _joined(error.details, missing), code=error.code) from error

    async def _delete_all(self, network: NetworkList, attachment: Attachment) -> None:
        injected = await self._prev_result_for_delete(network, attachment)
        ran: tuple[str, ...] = ()
        for plugin in reversed(network.plugins):
            try:
                await self._call("DEL", network, plugin, attachment, injected)
            except CNIError as error:
                raise _stopped(plugin, "DEL", error, ran) from error
            ran += (plugin.type,)
        await to_thread.run_sync(self.cache.remove, *_key(network, attachment))

    async def _add_one(
        self, network: NetworkList, plugin: PluginConf, attachment: Attachment, previous: Result | None
    ) -> Result:
        version = network.cni_version or OLDEST
        injected = None if previous is None else {"prevResult": result_members(previous, version)}
        completed = await self._call("ADD", network, plugin, attachment, injected)
        return delegate.success(completed, version)

    async def _call(
        self,
        verb: str,
        network: NetworkList,
        plugin: PluginConf,
        attachment: Attachment | None = None,
        injected: Mapping[str, JSON] | None = None,
    ) -> Completed:
        path = self.find(plugin.type)
        env = plugin_environment(verb, self.path, self.env, attachment)
        completed = await execute(path, env, plugin_input(network, plugin, attachment, injected))
        failed = bool(completed.status or completed.failure)
        # A failed plugin that printed no error object: what it wrote is in the error already.
        if completed.stderr and (completed.stdout or not failed):
            self._on_stderr(completed.stderr)
        if failed:
            raise delegate.failure(path, completed)
        return completed

    async def _prev_result(self, network: NetworkList, attachment: Attachment) -> dict[str, JSON]:
        """The remembered result, in the list's version, as what is injected; empty if there is none."""
        entry = await to_thread.run_sync(self.cache.read, *_key(network, attachment))
        if entry is None:
            return {}
        result = parse_result(dict(entry.result or {}))
        return {"prevResult": result_members(result, network.cni_version or OLDEST)}

    async def _prev_result_for_delete(self, network: NetworkList, attachment: Attachment) -> dict[str, JSON]:
        if is_older(network.cni_version, _PREV_RESULT_SINCE):
            return {}
        try:
            return await self._prev_result(network, attachment)
        except CNIError as error:
            self._on_warning(f"deleting without the cached result, which cannot be used: {error}")
        await to_thread.run_sync(self.cache.remove, *_key(network, attachment))
        return {}


def _key(network: NetworkList, attachment: Attachment) -> tuple[str, str, str]:
    return network.name, attachment.container_id, attachment.ifname


def _remember(network: NetworkList, attachment: Attachment, result: Result) -> Entry:
    return Entry(
        network=network.name,
        container_id=attachment.container_id,
        ifname=attachment.ifname,
        netns=attachment.netns,
        args=attachment.args,
        capability_args=attachment.capability_args,
        config=network.raw,
        result=result_members(result, result.cni_version, sort=True),
    )


def _stopped(plugin: PluginConf, verb: str, error: CNIError, ran: tuple[str, ...]) -> ChainError:
    text = f"plugin {plugin.label} failed ({_WORDS[verb]}): {error.msg}"
    return ChainError(text, error.details, code=error.code, ran=ran)


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)
