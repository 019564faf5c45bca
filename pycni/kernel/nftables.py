"""nftables: one transaction in, one listing out.

libnftables does the work inside this process if the node has it (a transaction costs a third of a
millisecond), else `nft -j -f -` is executed (ten milliseconds and more). Why, and what that means for
licences: docs/decisions/0002. Sources: <nftables/libnftables.h>, libnftables-json(5).

Everything here blocks and acts on the network namespace of the calling thread.
"""

from __future__ import annotations

import _thread
import os
import time

from pycni.errors import TRY_AGAIN_LATER, CNIError
from pycni.kernel import process
from pycni.wire.json import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Final

    Command = dict[str, Any]
    """One command of libnftables-json(5): `{"add": {"rule": {…}}}`."""
    Rule = dict[str, Any]
    """A listed rule: `family`, `table`, `chain`, `handle`, `expr`, and `comment` where it has one."""

WAIT_SECONDS: Final = 30.0
"""How long a caller waits for the others of its process, and for an `nft` process."""

_LIBRARY: Final = "libnftables.so.1"
_OUTPUT_HANDLE: Final = 1 << 3
_OUTPUT_JSON: Final = 1 << 4
_RACE_SECONDS: Final = 10.0
_PAUSE: Final = 0.001
_LONGEST_PAUSE: Final = 0.05
_NOT_THERE: Final = "No such file or directory"


class NftError(CNIError):
    """nftables refused a transaction as a whole; `msg` is what nft says about it.

    `missing` tells that something named in it (table, chain, rule handle) does not exist.
    """

    def __init__(self, words: str, details: str = "") -> None:
        super().__init__(f"nftables: {words}", details)
        self.missing = _NOT_THERE in words


def run(commands: Sequence[Command] | str) -> list[dict[str, Any]]:
    """Execute all commands as one transaction, and return what they list.

    `commands` is JSON as data, or text in nft's own language for the few things that JSON cannot say in
    older versions (comments of tables and chains). Raises NftError if the kernel or nft refuses (nothing
    has changed then), CNIError (code 11) if nftables stays busy, CNIError if the node has no nftables.
    """
    text = commands.encode() if isinstance(commands, str) else dumps({"nftables": commands})
    if not _busy.acquire(timeout=WAIT_SECONDS):
        raise CNIError(
            "nftables is busy",
            f"another request of this process has been using it for {WAIT_SECONDS:g} seconds",
            code=TRY_AGAIN_LATER,
        )
    try:
        status, output, complaint = _executor()(text)
    finally:
        _busy.release()
    if status:
        raise NftError(_words(complaint), f"transaction: {text.decode('utf-8', 'replace')[:2000]}")
    return _rows(output)


def read_chain(family: str, table: str, chain: str) -> list[Rule] | None:
    """The rules of one chain in their order; None if the chain or its table does not exist."""
    try:
        rows = run([{"list": {"chain": {"family": family, "table": table, "name": chain}}}])
    except NftError as error:
        if error.missing:
            return None
        raise
    return [row["rule"] for row in rows if "rule" in row]


def list_chain(family: str, table: str, chain: str) -> list[Rule]:
    """Like `read_chain`, and a missing chain has no rules."""
    return read_chain(family, table, chain) or []


def chain_names(family: str, table: str) -> list[str]:
    """The names of a table's chains; none if the table does not exist."""
    chains = [row["chain"] for row in run([{"list": {"chains": {"family": family}}}]) if "chain" in row]
    return [chain["name"] for chain in chains if chain["table"] == table and chain["family"] == family]


def transact(decide: Callable[[], Sequence[Command]]) -> None:
    """Observe, decide, commit: run what `decide()` returns, if anything.

    `decide` observes anew and is asked again if something that it saw is gone by the time of the commit:
    another process removed a rule. Each time somebody has got on, so this is repeated for as long as ten
    seconds, with pauses that grow. Raises like `run`.
    """
    deadline = time.monotonic() + _RACE_SECONDS
    pause = _PAUSE
    while commands := decide():
        try:
            run(commands)
            return
        except NftError as error:
            if not error.missing or time.monotonic() > deadline:
                raise
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def in_process() -> bool:
    """Whether asking costs no process, because the library is there."""
    global _library
    if _library is None:
        _library = _load()
    return _library is not False


def works() -> bool:
    """Whether this node's nftables can be used at all: library or executable, kernel, permission."""
    try:
        run([{"list": {"tables": {}}}])
    except CNIError:
        return False
    return True


def prepare() -> None:
    """Load the library and make the context now rather than in the first request.

    A long-lived process calls this at its start: libnftables ends the *process* if it cannot get a
    descriptor while it makes a context. Raises nothing; a node without nftables is noticed at need.
    """
    works()


def add(kind: str, **attributes: Any) -> Command:
    """`add("rule", family=…, …)` as JSON; `kind` is "table", "chain" or "rule"."""
    return {"add": {kind: attributes}}


def delete(kind: str, **attributes: Any) -> Command:
    """Delete a table or chain by `name`, or a rule by `handle`."""
    return {"delete": {kind: attributes}}


def flush_chain(family: str, table: str, name: str) -> Command:
    """Remove all rules of a chain."""
    return {"flush": {"chain": {"family": family, "table": table, "name": name}}}


def match(protocol: str, field: str, right: object, op: str = "==") -> Command:
    """A rule expression that compares a header field; `protocol` is "ip", "ip6" or "ether"."""
    return {"match": {"op": op, "left": {"payload": {"protocol": protocol, "field": field}}, "right": right}}


def _words(complaint: str) -> str:
    """nft's first sentence, without the position in a text that nobody has seen."""
    for line in complaint.splitlines():
        before, mark, sentence = line.partition("Error: ")
        if mark:
            return sentence.strip()
        if before.strip():
            return before.strip()
    return "unknown error"


def _rows(output: str) -> list[dict[str, Any]]:
    if not output.strip():
        return []
    document = loads(output)
    rows = document.get("nftables") if isinstance(document, dict) else None
    return rows if isinstance(rows, list) else []  # type: ignore[return-value]


# --- How: in this process, or as a process. `_busy` guards everything below it. ---

_busy: Final = _thread.allocate_lock()
_library: Any = None
_context: _Context | None = None


def _executor() -> Callable[[bytes], tuple[int, str, str]]:
    global _context
    if not in_process():
        return _as_process
    # A context's socket belongs to the namespace (and to the process) that it was opened in.
    here = (os.getpid(), os.stat("/proc/thread-self/ns/net").st_ino)
    if _context is None or _context.home != here:
        if _context is not None and _context.home[0] == here[0]:
            _context.close()
        _context = None
        _context = _Context(_library, here)
    return _context.execute


def _load() -> Any:
    """libnftables with its prototypes declared, or False where there is none."""
    try:
        from ctypes import CDLL, c_char_p, c_int, c_uint, c_uint32, c_void_p

        library = CDLL(_LIBRARY)
    except (ImportError, OSError):
        return False
    for name, result, *arguments in (
        ("nft_ctx_new", c_void_p, c_uint32),
        ("nft_ctx_free", None, c_void_p),
        ("nft_ctx_buffer_output", c_int, c_void_p),
        ("nft_ctx_buffer_error", c_int, c_void_p),
        ("nft_ctx_get_output_buffer", c_char_p, c_void_p),
        ("nft_ctx_get_error_buffer", c_char_p, c_void_p),
        ("nft_ctx_output_set_flags", None, c_void_p, c_uint),
        ("nft_run_cmd_from_buffer", c_int, c_void_p, c_char_p),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class _Context:
    """A libnftables context; used by one thread at a time."""

    def __init__(self, library: Any, home: tuple[int, int]) -> None:
        _check_socket()
        self.home = home
        self._library = library
        self._handle = library.nft_ctx_new(0)
        if not self._handle:
            raise NftError("cannot make a context", "libnftables: out of memory")
        library.nft_ctx_buffer_output(self._handle)
        library.nft_ctx_buffer_error(self._handle)
        library.nft_ctx_output_set_flags(self._handle, _OUTPUT_JSON | _OUTPUT_HANDLE)

    def execute(self, text: bytes) -> tuple[int, str, str]:
        status = self._library.nft_run_cmd_from_buffer(self._handle, text)
        # Reading a buffer is what empties it, so both are read after every run.
        output = self._library.nft_ctx_get_output_buffer(self._handle) or b""
        complaint = self._library.nft_ctx_get_error_buffer(self._handle) or b""
        return status, output.decode("utf-8", "replace"), complaint.decode("utf-8", "replace")

    def close(self) -> None:
        self._library.nft_ctx_free(self._handle)


def _check_socket() -> None:
    """Fail with an exception where libnftables would call exit(3): no descriptor, no nf_tables, no right."""
    from _socket import SOCK_RAW, socket

    try:
        socket(16, SOCK_RAW, 12).close()  # AF_NETLINK, NETLINK_NETFILTER
    except OSError as error:
        raise NftError(
            f"cannot open a netlink socket: {(error.strerror or 'unknown error').lower()}",
            "the kernel needs nf_tables and this process a free file descriptor",
        ) from error


def _as_process(text: bytes) -> tuple[int, str, str]:
    path = process.find("nft")
    if path is None:
        raise NftError(
            'cannot find "nft"',
            f"neither {_LIBRARY} nor an executable nft in PATH or {':'.join(process.SYSTEM_FOLDERS)}; "
            "install nftables",
        )
    done = process.run(path, ("-j", "-a", "-f", "-"), text, WAIT_SECONDS)
    return done.status, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
