"""The one-shot process that a native launcher becomes when no agent answers its call.

It tells what happened so far in three arguments: what became of standard input (0, an errno or TOO_LARGE),
whether an agent may have begun the work, and the signal that asked for the end, or 0. Standard input is
whole again, and environment, directory, umask and process id are the caller's.
"""

from __future__ import annotations

import sys
from _signal import (  # type: ignore[import-not-found] # `signal` around it would import `enum`
    SIG_UNBLOCK,
    SIGHUP,
    SIGINT,
    SIGTERM,
    pthread_sigmask,
)

from pycni import launcher
from pycni.launcher import STDIN_LIMIT, directory, environment, numbers, open_sandbox, read_all, variable
from pycni.main import one_shot, watch_signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def take_over(plugin: str, ref: str, release: str, run_dir: str, roots: list[str]) -> NoReturn:
    """The rest of the process's life; the arguments are those of `pycni.launcher.run`."""
    launcher.run(plugin, ref, release, run_dir, roots, _answer)


def _answer(facts: launcher.Launcher) -> launcher.Answer:
    problem, begun, number = [int(word) for word in sys.argv[1:4]]
    ended_by = [number] if number else []
    if begun:  # the launcher blocked them, so that none is lost on the way to here
        watch_signals(ended_by)
        pthread_sigmask(SIG_UNBLOCK, (SIGTERM, SIGINT, SIGHUP))
    block = environment()
    verb = variable(block, b"CNI_COMMAND")
    stdin = b""
    if verb not in (b"", b"VERSION") and not problem:
        stdin, problem = read_all(0, STDIN_LIMIT)
    sandbox, sandbox_errno = open_sandbox(block, verb)
    call = (block, stdin, directory(), numbers(problem, sandbox_errno))
    return one_shot(facts.ref, facts.run_dir, call, sandbox, repeated=bool(begun), ended_by=ended_by)
