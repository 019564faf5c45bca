"""What an installed executable does: hand the call to the node's agent, or do the work in this process.

The file that `pycni install` writes under a plugin's name is some lines that load this module from its
bytecode and call `run`. An interpreter's start is half of what the reference needs for a whole ADD, so only
modules that are compiled into the interpreter are imported here (not even `__future__`), and the rest of
`pycni` only where the work is done here. `pycni.agent.protocol` describes the frames and `pycni.handover`
the parts of a call; a test holds the three together.
"""

import posix
import sys
from _signal import (  # type: ignore[import-not-found] # `signal` around it would import `enum`
    SIG_BLOCK,
    SIG_DFL,
    SIG_IGN,
    SIG_UNBLOCK,
    SIGHUP,
    SIGINT,
    SIGPIPE,
    SIGTERM,
    getsignal,
    pthread_sigmask,
    signal,
)
from _socket import AF_UNIX, CMSG_SPACE, SCM_RIGHTS, SOCK_CLOEXEC, SOCK_STREAM, SOL_SOCKET
from _socket import socket as Socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final, NoReturn

    Answer = tuple[int, bytes, bytes, Callable[[], object] | None]

PROTOCOL: "Final" = 1
REQUEST: "Final" = 1
TAKEN: "Final" = 2
GO: "Final" = 4
EXECUTE: "Final" = 5
EXECUTED: "Final" = 6
ANSWER: "Final" = 7
CANCEL: "Final" = 8
TAKEN_SECONDS: "Final" = 1.0
"""How long the agent has for taking a call; after that the work is done here, and the agent gets no GO."""
STDIN_LIMIT: "Final" = 16 << 20
TOO_LARGE: "Final" = 0xFFFF
"""Stands for "standard input is over the limit" where an errno is expected."""

_STOPS: "Final" = (SIGTERM, SIGINT, SIGHUP)
_ended_by: "list[int]" = []  # the first signal that asked this process to stop


class Launcher:
    """The facts that `pycni install` wrote into the executable.

    `release` names version and folder of the installation: an agent of another one does not take the call.
    """

    def __init__(self, plugin: str, ref: str, release: str, run_dir: str, roots: "list[str]") -> None:
        self.plugin = plugin
        self.ref = ref
        self.release = release
        self.run_dir = run_dir
        self.roots = roots

    def add_roots(self) -> None:
        """Make `pycni` and what it needs importable."""
        sys.path += [root for root in self.roots if root not in sys.path]


def run(
    plugin: str,
    ref: str,
    release: str,
    run_dir: str,
    roots: "list[str]",
    answer: "Callable[[Launcher], Answer] | None" = None,
) -> "NoReturn":
    """The whole life of the process; `answer` finds what is to be written, by default with the agent."""
    launcher = Launcher(plugin, ref, release, run_dir, roots)
    status, afterwards = 1, None
    try:
        _fill_standard_descriptors()
        try:
            status, stdout, stderr, afterwards = (answer or _answer)(launcher)
        except BaseException as error:  # noqa: BLE001 - the runtime is to get an error object, whatever happens
            stdout, stderr = failure_object(launcher, error), b""
        status = deliver(status, stdout, stderr)
    finally:
        try:
            if afterwards is not None:
                afterwards()
        finally:
            posix._exit(status)


def _fill_standard_descriptors() -> None:
    for descriptor in (0, 1, 2):
        try:
            posix.fstat(descriptor)
        except OSError:
            # Gets the lowest free number, so no socket of ours does.
            try:
                posix.open("/dev/null", posix.O_RDWR)
            except OSError:
                posix.open("/", posix.O_RDONLY)


def _answer(launcher: Launcher) -> "Answer":
    block = environment()
    verb = variable(block, b"CNI_COMMAND")
    stdin, problem = read_all(0, STDIN_LIMIT) if verb not in (b"", b"VERSION") else (b"", 0)
    sandbox, sandbox_errno = open_sandbox(block, verb)
    call = (block, stdin, directory(), numbers(problem, sandbox_errno))
    answer, lost = ask_agent(launcher, call, sandbox)
    if answer is not None:
        return (*answer, None)
    launcher.add_roots()
    from pycni.main import one_shot

    return one_shot(launcher.ref, launcher.run_dir, call, sandbox, repeated=lost, ended_by=_ended_by)


def environment() -> bytes:
    """The environment as the caller gave it, NUL after each variable.

    Not from `posix.environ`: the interpreter's start may have set LC_CTYPE.
    """
    try:
        descriptor = posix.open("/proc/self/environ", posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return b"".join([name + b"=" + value + b"\0" for name, value in posix.environ.items()])
    block = read_all(descriptor, 64 << 20)[0]
    posix.close(descriptor)
    return block


def variable(block: bytes, name: bytes) -> bytes:
    """The value of a variable, empty where unset; the first of several counts."""
    start = 0 if block.startswith(name + b"=") else block.find(b"\0" + name + b"=") + 1
    if not start and not block.startswith(name + b"="):
        return b""
    return block[start + len(name) + 1 : block.find(b"\0", start)]


def read_all(descriptor: int, limit: int) -> "tuple[bytes, int]":
    """Everything up to end of file and 0, or nothing and the errno, or nothing and TOO_LARGE."""
    pieces: list[bytes] = []
    size = 0
    while size < limit:
        try:
            piece = posix.read(descriptor, 1 << 16)
        except BlockingIOError:
            _wait_for(descriptor, writing=False)
            continue
        except OSError as error:
            return b"", error.errno or TOO_LARGE
        if not piece:
            return b"".join(pieces), 0
        pieces.append(piece)
        size += len(piece)
    return b"", TOO_LARGE


def _wait_for(descriptor: int, *, writing: bool) -> None:
    """For a standard stream that somebody made non-blocking."""
    from select import select

    select([] if writing else [descriptor], [descriptor] if writing else [], [])


def open_sandbox(block: bytes, verb: bytes) -> "tuple[int, int]":
    """CNI_NETNS as (descriptor or -1, errno)."""
    path = variable(block, b"CNI_NETNS") if verb in (b"ADD", b"CHECK", b"DEL") else b""
    if not path:
        return -1, 0
    try:
        # Anything may be named here, and to open a device can have effects. A namespace is a regular file.
        regular = posix.stat(path).st_mode & 0o170000 == 0o100000
        access = posix.O_RDONLY | posix.O_NONBLOCK if regular else posix.O_PATH
        return posix.open(path, access | posix.O_CLOEXEC), 0
    except OSError as error:
        return -1, error.errno or 2


def directory() -> bytes:
    """The working directory, empty where it was removed."""
    try:
        return posix.getcwdb()
    except OSError:
        return b""


def numbers(problem: int, sandbox_errno: int) -> bytes:
    """What only this process knows, eight bytes each: umask, what became of standard input and of CNI_NETNS,
    then device and inode of the network namespace, the mount namespace and the root folder."""
    umask = posix.umask(0)
    posix.umask(umask)
    values = [umask, problem, sandbox_errno]
    for path in ("/proc/self/ns/net", "/proc/self/ns/mnt", "/"):
        try:
            status = posix.stat(path)
        except OSError:
            values += (0, 0)
        else:
            values += (status.st_dev, status.st_ino)
    return b"".join([value.to_bytes(8, "little") for value in values])


def frame(kind: int, *fields: bytes) -> bytes:
    """Protocol version, kind, two zero bytes, length of the rest; then each field after its own length."""
    body = b"".join([part for data in fields for part in (len(data).to_bytes(4, "little"), data)])
    return bytes((PROTOCOL, kind, 0, 0)) + len(body).to_bytes(4, "little") + body


def receive(sock: Socket) -> "tuple[int, list[bytes], int]":
    """The next frame as (kind, fields, descriptor or -1). Raises OSError if the connection ends."""
    # The program that is executed next inherits the descriptor, which is the attachment's lock.
    head, ancillary, _, _ = sock.recvmsg(8, CMSG_SPACE(4))
    descriptor = int.from_bytes(ancillary[0][2][:4], sys.byteorder) if ancillary else -1
    head += _receive_exactly(sock, 8 - len(head))
    body = _receive_exactly(sock, int.from_bytes(head[4:], "little"))
    fields = []
    at = 0
    while at < len(body):
        end = at + 4 + int.from_bytes(body[at : at + 4], "little")
        fields.append(body[at + 4 : end])
        at = end
    return head[1], fields, descriptor


def _receive_exactly(sock: Socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = sock.recv(min(count - len(data), 1 << 20))
        if not piece:
            raise OSError("the agent closed the connection")
        data += piece
    return data


def ask_agent(
    launcher: Launcher, call: "tuple[bytes, ...]", sandbox: int
) -> "tuple[tuple[int, bytes, bytes] | None, bool]":
    """The agent's answer (status, stdout, stderr), or None and whether it may have begun the work."""
    try:
        sock = Socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
        sock.settimeout(TAKEN_SECONDS)
        sock.connect(launcher.run_dir + "/agent.sock")
        who = [text.encode() for text in (launcher.release, launcher.plugin, launcher.ref)]
        _send_request(sock, frame(REQUEST, *who, *call), sandbox)
        if receive(sock)[0] != TAKEN:
            return None, False
        sock.settimeout(None)
        _pass_on_signals(sock)
        sock.sendall(frame(GO))
    except OSError:
        return None, False
    try:
        return _serve_agent(launcher, sock), True
    except OSError:
        return None, True


def _send_request(sock: Socket, data: bytes, sandbox: int) -> None:
    rights = [(SOL_SOCKET, SCM_RIGHTS, sandbox.to_bytes(4, sys.byteorder))] if sandbox >= 0 else []
    sent = sock.sendmsg([data], rights)
    if sent < len(data):
        sock.sendall(data[sent:])


def _pass_on_signals(sock: Socket) -> None:
    """From here on a signal asks the agent to undo the work; its answer is still waited for."""

    def stop(number: int, _frame: object) -> None:
        if not _ended_by:
            _ended_by.append(number)
            try:  # noqa: SIM105
                sock.send(frame(CANCEL, number.to_bytes(4, "little")))
            except OSError:
                pass

    for number in _STOPS:
        if getsignal(number) is not SIG_IGN:
            signal(number, stop)


def _serve_agent(launcher: Launcher, sock: Socket) -> "tuple[int, bytes, bytes]":
    """Execute foreign programs on the agent's word until it has the answer."""
    while True:
        kind, fields, descriptor = receive(sock)
        if kind == ANSWER:
            return int.from_bytes(fields[0], "little"), fields[1], fields[2]
        if kind != EXECUTE:
            raise OSError(f"unknown frame {kind} from the agent")
        launcher.add_roots()
        from pycni.execute import execute_for_agent

        reply = frame(EXECUTED, *execute_for_agent(fields, _ended_by))
        if descriptor >= 0:
            posix.close(descriptor)  # the attachment's lock, held so far even if the agent died meanwhile
        pthread_sigmask(SIG_BLOCK, _STOPS)  # no CANCEL into the middle of a frame
        try:
            sock.sendall(reply)
        finally:
            pthread_sigmask(SIG_UNBLOCK, _STOPS)


def deliver(status: int, stdout: bytes, stderr: bytes) -> int:
    """Write what the caller waits for and return the exit status.

    As with the reference, a pipe that nobody reads ends the process by SIGPIPE, and an answer that cannot
    be written is a failure.
    """
    try:  # noqa: SIM105 - contextlib is not compiled in
        write_all(2, stderr)
    except OSError:
        pass
    try:
        write_all(1, stdout)
    except BrokenPipeError:
        signal(SIGPIPE, SIG_DFL)
        posix.kill(posix.getpid(), SIGPIPE)
    except OSError as error:
        try:  # noqa: SIM105
            write_all(2, f"Error writing to stdout: {error}\n".encode())
        except OSError:
            pass
        return status or 1
    return status


def write_all(descriptor: int, data: bytes) -> None:
    """All of it, also into a non-blocking descriptor. Raises OSError."""
    while data:
        try:
            data = data[posix.write(descriptor, data) :]
        except BlockingIOError:
            _wait_for(descriptor, writing=True)


def failure_object(launcher: Launcher, error: BaseException) -> bytes:
    """An error object made without help: the import of `pycni` may be what failed."""
    root = launcher.roots[0] if launcher.roots else ""
    msg = _printable(f"pycni failed to start: {type(error).__name__}: {error}")
    details = _printable(f"plugin {launcher.plugin}, installed from {root}; run pycni install again")
    return f'{{\n    "code": 999,\n    "msg": "{msg}",\n    "details": "{details}"\n}}'.encode()


def _printable(text: str) -> str:
    return "".join([char if " " <= char <= "~" and char not in '"\\' else "?" for char in text[:500]])
