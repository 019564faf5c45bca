"""Network namespaces for tests: made without `ip netns exec`, which would mount another /sys.

`setns` and `unshare` act on the calling thread alone, and a child process inherits the namespaces of the
thread that starts it. So running a program inside a namespace costs two system calls and no helper process.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MNT_DETACH = 2

NETNS_DIR = Path("/run/netns")
PING_SECONDS = 20
_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"{what}: {os.strerror(errno)}")


def unshare(flags: int) -> None:
    """unshare(2) of the calling thread."""
    _checked(_libc.unshare(flags), f"unshare({flags:#x})")


def setns(fd: int, kind: int = CLONE_NEWNET) -> None:
    """setns(2) of the calling thread."""
    _checked(_libc.setns(fd, kind), f"setns({fd})")


def mount(source: str, target: str | Path, fstype: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    result = _libc.mount(
        source.encode(), os.fsencode(target), fstype.encode(), ctypes.c_ulong(flags), data.encode()
    )
    _checked(result, f"mount({source}, {target}, {fstype})")


def unmount(target: str | Path, flags: int = MNT_DETACH) -> None:
    """umount2(2)."""
    _checked(_libc.umount2(os.fsencode(target), flags), f"umount2({target})")


class NetNS:
    """A network namespace pinned at a file below /run/netns, so that `ip netns` sees it too."""

    def __init__(self, name: str) -> None:
        """Create it, with `lo` down as the kernel makes it; raises FileExistsError for a name in use."""
        self.name = name
        self.path = NETNS_DIR / name
        NETNS_DIR.mkdir(exist_ok=True)
        self.path.touch(mode=0o444, exist_ok=False)
        failures: list[BaseException] = []
        maker = threading.Thread(target=self._make, args=(failures,))
        maker.start()
        maker.join()
        if failures:
            self.path.unlink()
            raise failures[0]

    def _make(self, failures: list[BaseException]) -> None:
        try:
            unshare(CLONE_NEWNET)  # of this thread, which ends right after
            mount("/proc/thread-self/ns/net", self.path, flags=MS_BIND)
        except OSError as error:
            failures.append(error)

    @property
    def ident(self) -> tuple[int, int]:
        """(st_dev, st_ino), equal for every path of one namespace."""
        status = self.path.stat()
        return status.st_dev, status.st_ino

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Move the calling thread into the namespace; a child started meanwhile lives there.

        Do not await inside: other tasks of this thread would be moved too.
        """
        with open("/proc/thread-self/ns/net", "rb") as home, open(self.path, "rb") as there:
            setns(there.fileno())
            try:
                yield
            finally:
                setns(home.fileno())

    def popen(self, *argv: str | Path, **options: Any) -> subprocess.Popen[bytes]:
        """`subprocess.Popen` inside the namespace."""
        with self.inside():
            return subprocess.Popen([str(word) for word in argv], **options)

    def run(
        self,
        *argv: str | Path,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        check: bool = True,
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a program to its end; with `check` a failure raises AssertionError with what it printed."""
        process = self.popen(
            *argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            stdout, stderr = process.communicate(stdin, timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
        if check and process.returncode != 0:
            command = " ".join(map(str, argv))
            output = (stdout + stderr).decode(errors="replace")
            raise AssertionError(f"[{self.name}] {command}: exit {process.returncode}\n{output}")
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    def json(self, *argv: str) -> Any:
        """The parsed output of a program that prints JSON; no output reads as an empty list."""
        return json.loads(self.run(*argv).stdout or b"[]")

    def ping(self, address: str, count: int = 1) -> None:
        """Raise AssertionError unless `address` (IPv4 or IPv6) answers `count` times, within PING_SECONDS.

        Asked again and again until then: the reference leaves its IPv6 gateway tentative for as long as two
        seconds, and what is lost or unreachable in that time is no fault.
        """
        deadline = time.monotonic() + PING_SECONDS
        words = ("ping", "-n", "-c", str(count), "-W", "1", address)
        while (done := self.run(*words, check=False)).returncode != 0:
            output = (done.stdout + done.stderr).decode(errors="replace")
            assert time.monotonic() < deadline, f"[{self.name}] {' '.join(words)}: {output}"
            time.sleep(0.05)

    def delete(self) -> None:
        """Unpin it; the kernel tears it down when its last process and socket are gone."""
        if self.path.exists():
            with contextlib.suppress(OSError):  # somebody unmounted it already: a case of the tests
                unmount(self.path)
            self.path.unlink()
