"""Our plugins served in the test's own process, as a launcher without an agent serves them.

For tests in a guest kernel, where every process costs, and for faults: `around` is called with the number of
each step (everything that passes the context's `run`) and the step itself, and may raise before or after it.
"""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pycni import launcher
from pycni.context import Caller
from pycni.handover import Call, decode_call, encode_environment
from pycni.main import Cancelled, OneShot, cancelled_reply, drive, serve
from pycni_bridge.plugin import Bridge
from support.calls import SYSTEM_PATH, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from support.netns import NetNS

    Around = Callable[[int, Callable[[], Any]], Any]


@contextmanager
def handed_over(env: Mapping[str, str], config: Any, host: NetNS, pod: NetNS) -> Iterator[Call]:
    """What a launcher in `host` hands over for `pod`, whose namespace is open until the end of the block."""
    sandbox = os.open(pod.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        caller = Caller(os.getpid(), "/", 0o022, host.ident, sandbox, pod.ident)
        yield Call(env, json.dumps(config).encode(), caller, (0, 0), (0, 0))
    finally:
        os.close(sandbox)


class Watched(OneShot):
    """A one-shot context that counts its steps, outside of clean-up, and keeps what is logged."""

    def __init__(self, call: Call, run_dir: str, around: Around | None) -> None:
        super().__init__(call, run_dir, [])
        self._around = around
        self.steps = 0
        self.lines: list[str] = []

    async def run(self, work: Callable[..., Any], *args: Any) -> Any:
        if self._shield.depth:
            return work(*args)
        number, self.steps = self.steps, self.steps + 1
        return self._around(number, lambda: work(*args)) if self._around else work(*args)

    def log(self, text: str) -> None:
        self.lines.append(text)


class InProcess:
    """The bridge plugin in one node's namespace; delegates are found in `bin_dir`."""

    def __init__(self, host: NetNS, bin_dir: Path, run_dir: Path) -> None:
        self.host = host
        self.bin_dir = bin_dir
        self.run_dir = run_dir
        self.steps = 0
        self.around: Around | None = None

    def __call__(self, verb: str, config: Any, *, netns: NetNS | str = "", **variables: str) -> Outcome:
        """One call; `steps` afterwards says how many it took. Further arguments are environment variables."""
        usual = {
            "PATH": SYSTEM_PATH,
            "CNI_CONTAINERID": "pod-one",
            "CNI_NETNS": str(getattr(netns, "path", netns)),
            "CNI_IFNAME": "eth0",
            "CNI_PATH": str(self.bin_dir),
        }
        return self.serve({**usual, **variables, "CNI_COMMAND": verb}, json.dumps(config).encode())

    def serve(self, env: dict[str, str], stdin: bytes) -> Outcome:
        """One call with this environment and standard input."""
        block = encode_environment(env)
        with self.host.inside():
            sandbox, errno = launcher.open_sandbox(block, os.fsencode(env["CNI_COMMAND"]))
            parts = (block, stdin, launcher.directory(), launcher.numbers(0, errno))
            call = decode_call(parts, os.getpid(), sandbox)
            ctx = Watched(call, str(self.run_dir), self.around)
            try:
                reply = drive(serve(Bridge(), call, ctx))
            except Cancelled:
                reply = cancelled_reply([])
            finally:
                ctx.close()
                if sandbox >= 0:
                    os.close(sandbox)
        self.steps = ctx.steps
        logged = "".join(f"{line}\n" for line in ctx.lines)
        return Outcome(reply.status, reply.stdout, reply.stderr + logged.encode())
