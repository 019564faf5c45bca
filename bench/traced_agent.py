"""The node agent with a clock at its joints: one line of JSON for each ADD that it served.

Run as `traced_agent.py TRACE --run-dir DIR` in place of `pycni agent --run-dir DIR`. It wraps internals of
pycni by name, so a change there that matters ends it at its start. Meant for one call at a time. All times
are seconds of CLOCK_MONOTONIC, which every process of a machine shares.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any, TextIO

import pycni.agent.server
import pycni.attachments
import pycni.skel
import pycni.wire.result
import pycni_bridge.attach
import pycni_hostlocal.plugin
from pycni.agent.daemon import run
from pycni.agent.server import Agent
from pycni.agent.workers import Workers
from pycni.kernel.netlink import NetlinkSocket

Trace = dict[str, Any]

_LAYERS = {
    "pycni.agent.removal": "netlink",
    "pycni.kernel": "netlink",
    "pycni_hostlocal": "ipam",
    "pycni_bridge": "firewall",
}
"""Which layer a blocking function belongs to, by the beginning of its module's name."""

_in_thread = threading.local()
_current: Trace = {}


def layer_of(work: Callable[..., object]) -> str:
    return next((layer for start, layer in _LAYERS.items() if work.__module__.startswith(start)), "other")


def moment(name: str) -> None:
    _current[name] = perf_counter()


def spend(name: str, seconds: float, trace: Trace | None = None) -> None:
    trace = _current if trace is None else trace
    trace[name] = trace.get(name, 0.0) + seconds


class TimedSocket:
    """A netlink socket whose system calls are timed: the kernel does its work inside them."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def send(self, *args: Any) -> Any:
        return self._timed(self._socket.send, *args)

    def recvfrom(self, *args: Any) -> Any:
        return self._timed(self._socket.recvfrom, *args)

    def _timed(self, call: Callable[..., Any], *args: Any) -> Any:
        began = perf_counter()
        try:
            return call(*args)
        finally:
            _in_thread.kernel = getattr(_in_thread, "kernel", 0.0) + perf_counter() - began


def wrap(owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
    """Replace `owner.name` by a function that calls `wrapper(original, *args)`."""
    original = getattr(owner, name)
    setattr(owner, name, lambda *args, **more: wrapper(original, *args, **more))


def timed(name: str) -> Callable[..., Any]:
    """A wrapper for plain functions."""

    def wrapper(original: Callable[..., Any], *args: Any, **more: Any) -> Any:
        began = perf_counter()
        try:
            return original(*args, **more)
        finally:
            spend(name, perf_counter() - began)

    return wrapper


def instrument(out: TextIO) -> None:
    """Put the clocks in; each ADD's line goes to `out`."""

    async def converse(original: Callable[..., Awaitable[None]], *args: Any) -> None:
        global _current
        _current = {}
        moment("accepted")
        await original(*args)

    async def work(original: Callable[..., Awaitable[None]], agent: Agent, *args: Any) -> None:
        moment("go")
        await original(agent, *args)
        if args[-1].env.get("CNI_COMMAND") == "ADD" and args[-2].name == "bridge":
            out.write(json.dumps(_current) + "\n")
            out.flush()

    async def serve(original: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        reply = await original(*args)
        moment("served")
        return reply

    async def answer(original: Callable[..., Awaitable[None]], *args: Any) -> None:
        await original(*args)
        moment("answered")

    async def in_worker(
        original: Callable[..., Awaitable[Any]], workers: Workers, job: Any, *args: Any
    ) -> Any:
        began, trace, inside = perf_counter(), _current, []

        def measured(*args: Any) -> Any:
            _in_thread.kernel, entered = 0.0, perf_counter()
            try:
                return job(*args)
            finally:
                inside.append((perf_counter() - entered, _in_thread.kernel))

        try:
            return await original(workers, measured, *args)
        finally:
            seconds, kernel = inside[0] if inside else (0.0, 0.0)
            spend(layer_of(job), seconds - kernel, trace)
            spend("kernel", kernel, trace)
            spend("hops", perf_counter() - began - seconds, trace)

    def opened(original: Callable[..., None], socket: Any, *args: Any) -> None:
        original(socket, *args)
        socket._socket = TimedSocket(socket._socket)

    wrap(Agent, "_converse", converse)
    wrap(Agent, "_work", work)
    wrap(Agent, "_answer", answer)
    wrap(pycni.agent.server, "serve", serve)
    wrap(Workers, "run", in_worker)
    wrap(NetlinkSocket, "__init__", opened)
    wrap(pycni.attachments, "_attempt", timed("lock"))
    wrap(pycni.skel, "parse_request", timed("parse"))
    wrap(pycni_bridge.attach, "parse_config", timed("parse"))
    wrap(pycni_hostlocal.plugin, "load_config", timed("parse"))
    wrap(pycni.wire.result, "print_result", timed("print"))


if __name__ == "__main__":
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    with open(sys.argv[1], "w", encoding="utf-8") as trace_file:
        instrument(trace_file)
        sys.exit(run(sys.argv[sys.argv.index("--run-dir") + 1]))
