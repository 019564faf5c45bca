"""Plugins for the tests of agent and launcher: they write down what they do, and stop where they are told.

The config's `folder` is where: `journal` gets a line `word pid` for each thing done, and a step "block"
(a blocking call) or "wait" (an await) goes on when the file `go` is there. `steps` maps a verb to its steps.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pycni.context import Transaction
from pycni.skel import Plugin
from pycni.types import Result

if TYPE_CHECKING:
    from pycni.context import Context
    from pycni.request import Request


class Journal(Plugin):
    name = "journal"
    loopless = True

    async def add(self, request: Request, ctx: Context) -> Result:
        async with Transaction(ctx) as done:

            async def undo() -> None:
                await ctx.run(note, request, "undo")
                if "foreign" in steps(request):
                    await ctx.delegate.delete(request, "foreign")

            done.undo(undo)
            await self._work(request, ctx)
        return Result()

    async def delete(self, request: Request, ctx: Context) -> None:
        await self._work(request, ctx)

    check = gc = status = delete

    async def _work(self, request: Request, ctx: Context) -> None:
        await ctx.run(note, request, request.verb)
        for step in steps(request):
            if step == "block":
                await ctx.run(block, request)
            elif step == "wait":
                await wait(request, ctx)
            elif step == "foreign":
                await ctx.delegate.add(request, "foreign")
            elif step == "exit":
                sys.exit(3)
            elif step == "fail":
                raise RuntimeError("a fault")
        await ctx.run(note, request, f"{request.verb}-done")


class Looped(Journal):
    """The same as a plugin that needs an event loop."""

    name = "looped"
    loopless = False


def steps(request: Request) -> list[str]:
    chosen: Any = request.config.get("steps", {})
    return list(chosen.get(request.verb, []))


def folder(request: Request) -> Path:
    return Path(str(request.config["folder"]))


def note(request: Request, word: str) -> None:
    with (folder(request) / "journal").open("a") as file:
        file.write(f"{word} {os.getpid()}\n")


def block(request: Request) -> None:
    while not (folder(request) / "go").exists():
        time.sleep(0.005)


async def wait(request: Request, ctx: Context) -> None:
    while not (folder(request) / "go").exists():
        await ctx.sleep(0.005)
