"""iptables, by its own executables: read one chain, change a table in one transaction.

There are two kinds with one language: "nft" keeps its rules in nftables, "legacy" in tables of its own.
`iptables` is whichever the node's administrator chose; the other one may hold rules too. Lines are those of
`iptables -S` (`-A CHAIN …`), which `iptables-restore` reads back. Sources: iptables(8), iptables-restore(8).

Everything here blocks and acts on the network namespace of the calling thread.
"""

from __future__ import annotations

import os

from pycni.errors import TRY_AGAIN_LATER, CNIError
from pycni.kernel import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

LOCK_SECONDS: Final = 5
"""How long legacy iptables waits for the lock that all its users share (/run/xtables.lock)."""

RUN_SECONDS: Final = 30.0
"""How long a process may take in all."""

NAMES: Final = {4: "iptables", 6: "ip6tables"}
"""The executables' names by address family."""

_NOT_THERE: Final = 1
_RESOURCE_PROBLEM: Final = 4
_WAIT: Final = f"--wait={LOCK_SECONDS}"


def find(family: int, kind: str = "") -> str | None:
    """The path of iptables (`family` 4) or ip6tables (6), or None.

    `kind` "nft" or "legacy" asks for that one: by its full name, or the plain name if it is of that kind;
    "" takes what the plain name stands for.
    """
    plain = process.find(NAMES[family])
    if not kind:
        return plain
    exact = process.find(f"{NAMES[family]}-{kind}")
    if exact is not None:
        return exact
    return plain if plain is not None and kind_of(plain) in (kind, "") else None


def locate(family: int, kind: str = "") -> str:
    """Like `find`, but raises CNIError `failed to locate iptables: …` if there is none."""
    path = find(family, kind)
    if path is None:
        name = NAMES[family]
        raise CNIError(
            f'failed to locate {name}: exec: "{name}": executable file not found in $PATH',
            f"looked in PATH and in {':'.join(process.SYSTEM_FOLDERS)}; install iptables, or set "
            '"ipMasqBackend": "nftables"',
        )
    return path


def kind_of(path: str) -> str:
    """Which kind an executable is, by the file it is a link to: "nft", "legacy", or "" (a wrapper script)."""
    name = os.path.basename(os.path.realpath(path))
    if "nft" in name:
        return "nft"
    return "legacy" if "legacy" in name or name.startswith("xtables") else ""


def legacy_tables(family: int) -> frozenset[str]:
    """The legacy tables that exist in this namespace; looking through iptables would create them."""
    name = {4: "ip_tables_names", 6: "ip6_tables_names"}[family]
    try:
        with open(f"/proc/thread-self/net/{name}", encoding="utf-8") as file:
            return frozenset(file.read().split())
    except OSError:  # the module has never been loaded
        return frozenset()


def works(path: str) -> bool:
    """Whether this executable can read the filter table: the reference's own test."""
    try:
        return process.run(path, ("-t", "filter", "-S", "INPUT", "1", _WAIT), b"", RUN_SECONDS).status in (
            0,
            1,
        )
    except CNIError:
        return False


def read_chain(path: str, table: str, chain: str) -> list[str] | None:
    """The rules of a chain as lines that begin with `-A`; None if there is no such chain.

    Raises CNIError: code 11 if the lock is held for more than `LOCK_SECONDS`, else 999 with iptables' words.
    """
    done = process.run(path, ("-t", table, "-S", chain, _WAIT), b"", RUN_SECONDS)
    if done.status == _NOT_THERE:
        return None
    _check(path, done.status, done.stderr, f"-t {table} -S {chain}")
    return _rules(done.stdout)


def read_table(path: str, table: str) -> list[str]:
    """All rules of a table as lines that begin with `-A`; raises like `read_chain`."""
    done = process.run(path, ("-t", table, "-S", _WAIT), b"", RUN_SECONDS)
    _check(path, done.status, done.stderr, f"-t {table} -S")
    return _rules(done.stdout)


def change(path: str, table: str, lines: Sequence[str]) -> None:
    """Execute `lines` on one table as one transaction (iptables-restore without flushing).

    A line `:CHAIN - [0:0]` creates a chain of one's own, or empties it. Raises CNIError: code 11 if the
    lock is held for more than `LOCK_SECONDS`, else 999 with iptables' words; nothing has changed then.
    """
    text = "\n".join((f"*{table}", *lines, "COMMIT", ""))
    restore = f"{path}-restore"
    done = process.run(restore, ("--noflush", _WAIT), text.encode(), RUN_SECONDS)
    _check(restore, done.status, done.stderr, text)


def _rules(output: bytes) -> list[str]:
    return [line for line in output.decode("utf-8", "replace").splitlines() if line.startswith("-A ")]


def _check(path: str, status: int, stderr: bytes, what: str) -> None:
    if not status:
        return
    name = path.rpartition("/")[2]
    words = stderr.decode("utf-8", "replace").strip()
    if status == _RESOURCE_PROBLEM and "xtables lock" in words:
        raise CNIError(
            f"{name}: another program is holding the xtables lock",
            f"waited {LOCK_SECONDS} seconds; try again later",
            code=TRY_AGAIN_LATER,
        )
    raise CNIError(f"running {name} failed: exit status {status}: {words}", f"input: {what}")
