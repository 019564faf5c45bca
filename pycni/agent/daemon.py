"""The process `pycni agent`: socket, signals, warm modules."""

from __future__ import annotations

import fcntl
import gc
import importlib
import logging
import os
import resource
import signal
import socket
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import anyio

from pycni.agent.server import Agent
from pycni.delegate import load_plugin
from pycni.errors import CNIError
from pycni.install import registered_plugins
from pycni.kernel import nftables

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pycni.skel import SupportsPlugin

log = logging.getLogger("pycni.agent")

SOCKET: Final = "agent.sock"
LOCK: Final = "agent.lock"
BACKLOG: Final = 4096

_ENDING: Final = (signal.SIGTERM, signal.SIGINT)

_WARM: Final = (
    "_ctypes",
    "pycni.kernel.iptables",
    "pycni.kernel.namespace",
    "pycni.wire.result",
)
"""Modules that plugins import when they need them first; the first call shall not pay for it."""


def run(run_dir: str) -> int:
    """Serve until SIGTERM or SIGINT, then finish what was begun; a second signal undoes it. The exit status.

    Raises CNIError if another agent serves `run_dir`, if the socket cannot be made there, or if the locale is
    one whose file names would differ from the launchers'.
    """
    if sys.getfilesystemencoding() != "utf-8":
        raise CNIError("the agent needs UTF-8", "start it with LC_ALL=C.UTF-8 or with PYTHONUTF8=1")
    os.umask(0o022)
    with suppress(ValueError, OSError):
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    lock = lock_run_dir(run_dir)
    try:
        plugins = load_plugins()
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)  # until somebody hears them
        listener = listen_at(f"{run_dir}/{SOCKET}")
        os.umask(0)  # a file gets the mode that its creator computes from the caller's umask
        gc.collect()
        gc.freeze()
        anyio.run(_main, run_dir, plugins, listener)
    finally:
        os.close(lock)
    return 0


def lock_run_dir(run_dir: str) -> int:
    """The descriptor whose lock says that this process is the agent of `run_dir`. Raises CNIError."""
    path = f"{run_dir}/{LOCK}"
    try:
        os.makedirs(run_dir, 0o755, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise CNIError(f"cannot use {path}: {error.strerror}", "--run-dir names another folder") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise CNIError(f"another agent serves {run_dir}", f"it is process {holder or 'unknown'}") from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def listen_at(path: str) -> socket.socket:
    """A listening socket that only its owner may connect to; what a dead agent left there is replaced.

    The caller must hold the lock of the folder. Raises CNIError.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.setblocking(False)
    umask = os.umask(0o177)
    try:
        with suppress(FileNotFoundError):
            os.unlink(path)
        listener.bind(path)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise CNIError(f"cannot listen at {path}: {error.strerror or error}", "see --run-dir") from error
    finally:
        os.umask(umask)
    return listener


def load_plugins() -> dict[str, tuple[str, SupportsPlugin]]:
    """All registered plugins that can be imported, as name → (reference, object)."""
    plugins = {}
    for plugin in registered_plugins():
        try:
            plugins[plugin.name] = (plugin.value, load_plugin(plugin.value))
        except Exception as error:  # noqa: BLE001 - its launcher will say so too, and the others are served
            log.error("plugin %s is not served: %s: %s", plugin.name, type(error).__name__, error)
    for name in _WARM:
        importlib.import_module(name)
    nftables.prepare()
    return plugins


async def _main(
    run_dir: str, plugins: dict[str, tuple[str, SupportsPlugin]], listener: socket.socket
) -> None:
    with anyio.open_signal_receiver(*_ENDING) as signals:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
        async with anyio.create_task_group() as watching:
            agent = Agent(run_dir, plugins, watching)
            async with anyio.create_task_group() as calls:
                with anyio.CancelScope() as accepting:
                    watching.start_soon(_end, signals, accepting, calls.cancel_scope)
                    log.info("listening in %s, plugins: %s", run_dir, ", ".join(sorted(plugins)))
                    await agent.accept(listener, calls)
                os.unlink(f"{run_dir}/{SOCKET}")
                listener.close()
                agent.refuse_untaken()
                log.info("ending; calls at work: %d", agent.working)
            watching.cancel_scope.cancel()
    log.info("ended; %s", ", ".join(f"{name}: {count}" for name, count in sorted(agent.counts.items())))


async def _end(
    signals: AsyncIterator[signal.Signals], accepting: anyio.CancelScope, calls: anyio.CancelScope
) -> None:
    scopes = [calls, accepting]
    async for _ in signals:
        if scopes:
            scopes.pop().cancel()
