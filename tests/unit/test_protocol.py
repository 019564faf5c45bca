"""The frames between launcher and agent: the pure codec, and the launcher's own copy of it."""

from __future__ import annotations

import ast
import os
import socket
import struct
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycni import handover, launcher, request
from pycni.agent import protocol
from pycni.agent.protocol import Frame, ProtocolError
from pycni.errors import CNIError

FRAMES = st.sampled_from(sorted(protocol.FIELDS)).flatmap(
    lambda kind: st.tuples(
        st.just(kind), st.lists(st.binary(max_size=300), min_size=(n := protocol.FIELDS[kind]), max_size=n)
    )
)


def decode(data: bytes) -> Frame:
    kind, length = protocol.decode_head(data[: protocol.HEAD_BYTES])
    assert length == len(data) - protocol.HEAD_BYTES
    return protocol.decode_body(kind, data[protocol.HEAD_BYTES :])


@given(FRAMES)
def test_frame_survives_encoding(frame: tuple[int, list[bytes]]) -> None:
    """Decoding gives back what was encoded."""
    kind, fields = frame
    assert decode(protocol.encode(kind, *fields)) == Frame(kind, tuple(fields))


@given(FRAMES)
def test_launcher_writes_the_same_frames(frame: tuple[int, list[bytes]]) -> None:
    """The launcher's own few lines write byte for byte what the protocol module writes."""
    kind, fields = frame
    assert launcher.frame(kind, *fields) == protocol.encode(kind, *fields)


@given(FRAMES)
def test_launcher_reads_the_same_frames(frame: tuple[int, list[bytes]]) -> None:
    """The launcher reads what the protocol module writes, whatever pieces it arrives in."""
    kind, fields = frame
    agent, mine = socket.socketpair()
    with agent, mine:
        data = protocol.encode(kind, *fields)
        sender = threading.Thread(
            target=lambda: [agent.sendall(data[at : at + 7]) for at in range(0, len(data), 7)]
        )
        sender.start()
        assert launcher.receive(mine) == (kind, fields, -1)
        sender.join()


def test_launcher_receives_the_descriptor() -> None:
    """A descriptor sent with a frame arrives with it, for the program that is executed next to inherit."""
    agent, mine = socket.socketpair()
    read_end, write_end = os.pipe()
    with agent, mine:
        data = protocol.encode(protocol.EXECUTE, b"/bin/true", b"", b"")
        agent.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", write_end))])
        os.close(write_end)
        _, _, descriptor = launcher.receive(mine)
    assert os.get_inheritable(descriptor)
    os.write(descriptor, b"x")
    assert os.read(read_end, 1) == b"x"
    os.close(descriptor)
    os.close(read_end)


def test_launcher_has_the_same_numbers() -> None:
    """Kinds, version and limits that the launcher repeats are those of the modules that define them."""
    assert launcher.PROTOCOL == protocol.VERSION
    for name in ("REQUEST", "TAKEN", "GO", "EXECUTE", "EXECUTED", "ANSWER", "CANCEL"):
        assert getattr(launcher, name) == getattr(protocol, name), name
    assert launcher.STDIN_LIMIT == request.STDIN_LIMIT
    assert launcher.TOO_LARGE == handover.TOO_LARGE


def test_launcher_imports_only_what_is_compiled_in() -> None:
    """Before the agent answers a launcher imports nothing but C modules of the interpreter."""
    tree = ast.parse(Path(launcher.__file__).read_text())
    at_the_top = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = {node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in at_the_top}
    assert names == {"posix", "sys", "_signal", "_socket"}


@pytest.mark.parametrize(
    "head",
    [
        b"\x02\x01\0\0\0\0\0\0",
        b"\x01\x00\0\0\0\0\0\0",
        b"\x01\x63\0\0\0\0\0\0",
        b"\x01\x01\0\x01\0\0\0\0",
        b"GET / HT",
        b"\x01\x01\0\0" + (protocol.FRAME_LIMIT + 1).to_bytes(4, "little"),
    ],
)
def test_bad_head(head: bytes) -> None:
    """Another version, an unknown kind, set reserved bytes and too long a frame are refused at the head."""
    with pytest.raises(ProtocolError):
        protocol.decode_head(head)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x01",
        b"\0\0\0",
        b"\x05\0\0\0abc",
        b"\xff\xff\xff\xff",
        b"\0\0\0\0" * 2,
        b"\0\0\0\0" * 4,
        b"\0\0\0\0" * 3 + b"\0",
    ],
)
def test_bad_body(body: bytes) -> None:
    """A field that ends beyond the frame, too few fields, too many, or a rest are refused."""
    with pytest.raises(ProtocolError):
        protocol.decode_body(protocol.ANSWER, body)


@given(st.sampled_from(sorted(protocol.FIELDS)), st.binary(max_size=64))
def test_any_bytes_are_a_frame_or_an_error(kind: int, body: bytes) -> None:
    """No bytes make the decoder raise anything but ProtocolError; what passes encodes to the same bytes."""
    try:
        frame = protocol.decode_body(kind, body)
    except ProtocolError:
        return
    assert protocol.encode(kind, *frame.fields)[protocol.HEAD_BYTES :] == body


@pytest.mark.parametrize("field", [b"", b"\0", b"\0" * 5, b"\0" * 9])
def test_number_of_another_width(field: bytes) -> None:
    """A number has four or eight bytes."""
    with pytest.raises(ProtocolError):
        protocol.number(field)


VARIABLES = st.lists(
    st.tuples(
        st.binary(min_size=1, max_size=5).filter(lambda name: not set(name) & set(b"\0=")),
        st.binary(max_size=8).filter(lambda value: 0 not in value),
    ),
    max_size=6,
)


@given(VARIABLES)
def test_launcher_and_agent_read_the_same_environment(pairs: list[tuple[bytes, bytes]]) -> None:
    """Both take the first of equal names and keep bytes that are no UTF-8."""
    block = b"".join([name + b"=" + value + b"\0" for name, value in pairs])
    env = handover.decode_environment(block)
    for name, _ in pairs:
        assert os.fsencode(env[os.fsdecode(name)]) == launcher.variable(block, name)
    assert handover.decode_environment(handover.encode_environment(env)) == env


def test_absent_variable() -> None:
    """A variable that is not there, or is the end of another's name, reads as empty."""
    block = b"XCNI_COMMAND=ADD\0CNI_COMMANDX=DEL\0A=CNI_COMMAND=GC\0"
    assert launcher.variable(block, b"CNI_COMMAND") == b""
    assert launcher.variable(b"", b"CNI_COMMAND") == b""


def test_call_tells_the_caller_s_facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the launcher packs is what the agent unpacks: directory, umask, namespaces and so on."""
    monkeypatch.chdir(tmp_path)
    sandbox = os.open("/proc/self/ns/net", os.O_RDONLY)
    before = os.umask(0o037)
    try:
        parts = (b"A=1\0", b"{}", launcher.directory(), launcher.numbers(0, 0))
    finally:
        os.umask(before)
    call = handover.decode_call(parts, 77, sandbox)
    os.close(sandbox)
    own = os.stat("/proc/self/ns/net")
    mount = os.stat("/proc/self/ns/mnt")
    assert (call.env, call.stdin) == ({"A": "1"}, b"{}")
    assert (call.caller.pid, call.caller.cwd, call.caller.umask) == (77, str(tmp_path), 0o037)
    assert call.caller.netns == call.caller.sandbox_id == (own.st_dev, own.st_ino)
    assert call.mount == (mount.st_dev, mount.st_ino)
    assert call.root == (os.stat("/").st_dev, os.stat("/").st_ino)


@pytest.mark.parametrize(
    ("problem", "words"), [(21, "is a directory"), (launcher.TOO_LARGE, "16777216 bytes")]
)
def test_unreadable_standard_input(problem: int, words: str) -> None:
    """Standard input that could not be read, or not to its end, becomes an error of code 5."""
    call = handover.decode_call((b"", b"", b"", launcher.numbers(problem, 2)), 1, -1)
    assert isinstance(call.stdin, CNIError)
    assert call.stdin.code == 5
    assert words in call.stdin.msg
    assert call.caller.sandbox_errno == 2
    assert call.caller.sandbox_id is None


@pytest.mark.parametrize(
    "parts", [(), (b"", b"", b""), (b"", b"", b"", b"\0" * 71), (b"", b"", b"", b"", b"")]
)
def test_parts_that_are_no_call(parts: tuple[bytes, ...]) -> None:
    """A call of other parts is refused as a ValueError, which ends its connection only."""
    with pytest.raises(ValueError):
        handover.decode_call(parts, 1, -1)
