"""The bridge plugin with a fuse: at a chosen step of its ADD somebody gets a signal, or something happens.

The config's key `fuse` says who and when: {"at": 3, "when": "before" or "after", "whom": "launcher", "agent"
or "both", "signal": 9}. A step is one call of the context's `run` or one batch of requests to the host. With
"run": TEXT a shell runs that on the host instead; with "count": PATH the number of steps is written there.
Nobody dies twice: "agent" is nobody where there is none.
"""

from __future__ import annotations

import os
import subprocess
import time
from typing import TYPE_CHECKING, Any

from pycni_bridge.plugin import Bridge

if TYPE_CHECKING:
    from pycni.context import Context
    from pycni.request import Request
    from pycni.types import Result


class Dying(Bridge):
    """A bridge plugin in all but its name."""

    name = "dying"

    async def add(self, request: Request, ctx: Context) -> Result:
        options: Any = request.config.get("fuse") or {}
        fuse = Fuse(options, ctx)
        result = await super().add(request, ctx)
        if "count" in options:
            with open(options["count"], "w") as file:
                file.write(str(fuse.steps))
        return result


class Fuse:
    """Counts the steps of a context and of its host namespace from now on, and kills at the chosen one."""

    def __init__(self, options: dict[str, Any], ctx: Context) -> None:
        self.steps = 0
        self._inside = False
        self._at, self._when = options.get("at", -1), options.get("when", "before")
        self._whom, self._signal = options.get("whom", "launcher"), options.get("signal", 9)
        self._command = options.get("run", "")
        self._caller = ctx.caller.pid
        host = ctx.host()
        for place, name in ((ctx, "run"), (host, "perform"), (host, "request"), (host, "remove")):
            setattr(place, name, self._counted(getattr(place, name)))

    def _counted(self, genuine: Any) -> Any:
        async def call(*args: Any, **kwargs: Any) -> Any:
            if self._inside:  # a step of a step
                return await genuine(*args, **kwargs)
            step, self.steps = self.steps, self.steps + 1
            if step == self._at and self._when == "before":
                self._burn()
            self._inside = True
            try:
                result = await genuine(*args, **kwargs)
            finally:
                self._inside = False
            if step == self._at and self._when == "after":
                self._burn()
            return result

        return call

    def _burn(self) -> None:
        if self._command:
            subprocess.run(self._command, shell=True, check=True)
            return
        me = os.getpid()
        if self._whom in ("launcher", "both"):
            os.kill(self._caller, self._signal)
        if self._whom in ("agent", "both") and me != self._caller:
            os.kill(me, self._signal)
            time.sleep(60)  # a signal to oneself need not be delivered to this very thread
