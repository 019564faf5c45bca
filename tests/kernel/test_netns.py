"""Entering network namespaces: the right one, of one thread only, and always back."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest
from support.observe import descriptors

from pycni.context import SandboxMissing
from pycni.errors import CNIError
from pycni.kernel import netns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.netns import NetNS

OWN = "/proc/thread-self/ns/net"


@pytest.fixture
def sandbox(pod: Callable[[], NetNS]) -> NetNS:
    return pod()


@pytest.fixture
def fd(sandbox: NetNS) -> Iterator[int]:
    opened = netns.open_namespace(str(sandbox.path))
    yield opened
    os.close(opened)


def here() -> tuple[int, int]:
    return netns.identity(OWN)


def test_a_namespace_is_known_by_its_inode(sandbox: NetNS, fd: int) -> None:
    """Path, descriptor and the inside of one namespace agree; another one differs."""
    assert netns.identity(fd) == netns.identity(str(sandbox.path)) == sandbox.ident
    assert netns.inside(fd, here) == sandbox.ident
    assert here() != sandbox.ident


def test_opened_descriptors_are_not_inherited(fd: int) -> None:
    """A child process must not keep a sandbox alive."""
    assert not os.get_inheritable(fd)


def test_a_function_runs_inside_with_its_arguments_and_result(fd: int) -> None:
    """`lo` is down in a fresh sandbox: the function saw that namespace and not this one."""
    before = here()
    assert netns.inside(fd, lambda *words: (*words, here() != before), 1, "two") == (1, "two", True)
    assert here() == before


def test_the_thread_is_back_after_an_exception(fd: int) -> None:
    """Whatever the function raises passes through, KeyboardInterrupt too."""
    before = here()
    for kind in (ValueError, CNIError, KeyboardInterrupt):

        def fail(kind: type[BaseException] = kind) -> None:
            raise kind("inside")

        with pytest.raises(kind, match="inside"):
            netns.inside(fd, fail)
        assert here() == before


def test_namespaces_nest(fd: int, new_netns: Callable[[str], NetNS]) -> None:
    """The way back leads to where the thread was, not to where the process started."""
    other = new_netns("other")
    inner = netns.open_namespace(str(other.path))
    try:
        seen = netns.inside(fd, lambda: (here(), netns.inside(inner, here), here()))
    finally:
        os.close(inner)
    assert seen == (netns.identity(fd), other.ident, netns.identity(fd))


def test_other_threads_stay_where_they_are(fd: int) -> None:
    """While one thread is inside, another sees the process's own namespace."""
    entered, seen = threading.Event(), threading.Event()

    def stay() -> tuple[int, int]:
        entered.set()
        assert seen.wait(10)
        return here()

    found: list[tuple[int, int]] = []
    worker = threading.Thread(target=lambda: found.append(netns.inside(fd, stay)))
    worker.start()
    assert entered.wait(10)
    assert here() != netns.identity(fd)
    seen.set()
    worker.join()
    assert found == [netns.identity(fd)]


def test_nothing_stays_open(fd: int) -> None:
    """Neither a round trip nor a refused path costs a descriptor."""
    netns.inside(fd, here)
    before = descriptors()
    netns.inside(fd, here)
    for path in ("/etc/hostname", "/proc/self/ns/mnt", "/none"):
        with pytest.raises(CNIError):
            netns.open_namespace(path)
    with pytest.raises(CNIError):
        netns.inside(-1, here)
    assert descriptors() <= before


def test_a_missing_path_is_told_apart() -> None:
    """DEL forgives exactly this one; the text is the reference's."""
    with pytest.raises(SandboxMissing) as caught:
        netns.open_namespace("/run/netns/none")
    assert caught.value.msg == 'failed to Statfs "/run/netns/none": no such file or directory'


@pytest.mark.parametrize("kind", ["file", "folder", "fifo", "device", "socket", "mount namespace"])
def test_what_is_no_network_namespace_is_refused(tmp_path: Path, kind: str) -> None:
    """Text of the reference; a device is not even opened, a FIFO does not block."""
    path = tmp_path / "netns"
    if kind == "file":
        path.write_text("")
    elif kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/null")
    elif kind == "socket":
        import socket

        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    else:
        path.symlink_to("/proc/self/ns/mnt")
    with pytest.raises(CNIError) as caught:
        netns.open_namespace(str(path))
    assert caught.value.msg.startswith(f'unknown FS magic on "{path}": ')
    assert not isinstance(caught.value, SandboxMissing)


@pytest.mark.parametrize("path", ["/etc/hostname/net", "/run/netns/" + "x" * 300, "/run/netns/a\0b"])
def test_other_failures_name_the_path(path: str) -> None:
    """ENOTDIR, a name too long and a NUL are errors of their own, which DEL does not forgive."""
    with pytest.raises(CNIError) as caught:
        netns.open_namespace(path)
    assert caught.value.msg.startswith(f'failed to Statfs "{path}": ')
    assert not isinstance(caught.value, SandboxMissing)


def test_a_received_descriptor_is_checked_as_well(fd: int) -> None:
    """check_namespace lets a network namespace pass and nothing else."""
    netns.check_namespace(fd, "/run/netns/pod")
    with open("/proc/self/ns/uts", "rb") as other, pytest.raises(CNIError, match="unknown FS magic"):
        netns.check_namespace(other.fileno(), "/run/netns/pod")
    with pytest.raises(CNIError, match="unknown FS magic"):
        netns.check_namespace(-1, "/run/netns/pod")


def test_failures_of_somebody_else_get_the_same_words() -> None:
    """open_failure turns the errno that a launcher saw into the error that it would have been here."""
    missing = netns.open_failure("/x", FileNotFoundError(errno.ENOENT, "No such file or directory"))
    assert isinstance(missing, SandboxMissing)
    refused = netns.open_failure("/x", PermissionError(errno.EACCES, "Permission denied"))
    assert refused.msg == 'failed to Statfs "/x": permission denied'


def python(script: str, fd: int) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", script, str(fd)], pass_fds=(fd,), capture_output=True, timeout=60, check=False
    )


def test_a_thread_that_cannot_come_back_ends_its_process(fd: int) -> None:
    """Status 70 and one line on standard error; nothing runs after it, not even `finally`."""
    script = """
import os, sys
from pycni.kernel import netns
def strand():
    def refuse(fd):
        raise OSError(1, "Operation not permitted")
    netns._setns = refuse
try:
    netns.inside(int(sys.argv[1]), strand)
finally:
    print("went on")
"""
    ended = python(script, fd)
    assert ended.returncode == netns.STRANDED
    assert ended.stdout == b""
    assert ended.stderr.startswith(b"pycni: cannot return from a sandbox's network namespace: ")


def test_who_may_not_enter_gets_an_error_and_goes_on(fd: int) -> None:
    """Without CAP_SYS_ADMIN there is no way in, and none back is needed."""
    script = """
import os, sys
from pycni.errors import CNIError
from pycni.kernel import netns
fd = int(sys.argv[1])
os.setuid(65534)
try:
    netns.inside(fd, print, "inside")
except CNIError as error:
    print(error.msg)
"""
    ended = python(script, fd)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith(b"error switching to ns ")
    assert ended.stdout.endswith(b": operation not permitted\n")


def test_a_descriptor_of_something_else_cannot_be_entered() -> None:
    """The error names what the descriptor was opened by."""
    before = here()
    with open("/etc/hostname", "rb") as other, pytest.raises(CNIError) as caught:
        netns.inside(other.fileno(), here)
    assert caught.value.msg == "error switching to ns /etc/hostname: invalid argument"
    assert here() == before
