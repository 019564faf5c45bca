"""The store under faults: lesser file systems, no room, crashes, a held lock, many processes at once."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.observe import descriptors

from pycni.addresses import CIDR, IP
from pycni.errors import CNIError
from pycni_hostlocal import lock
from pycni_hostlocal import store as store_module
from pycni_hostlocal.allocator import Owner, Pick, Wanted
from pycni_hostlocal.files import publish_by_name
from pycni_hostlocal.lock import LockedFolder, lock_holders
from pycni_hostlocal.ranges import RangeSet, complete_range, complete_set
from pycni_hostlocal.reservations import Place, collect, give_back, leaked, release, reserve
from pycni_hostlocal.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

REFERENCE = os.environ.get("REF_BIN", "/usr/lib/cni") + "/host-local"


def ranges(*subnets: str) -> tuple[RangeSet, ...]:
    return tuple(complete_set([complete_range(CIDR.parse(text))]) for text in subnets)


DUAL = ranges("10.0.0.0/24", "fd00::/64")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(str(tmp_path / "net"), 0o022)


def add(place: Place, name: str, sets: tuple[RangeSet, ...] = DUAL) -> list[str]:
    kept: list[Pick] = []
    (error,) = reserve(place, [Wanted(Owner(name, "eth0"), sets)], [kept])
    if error is not None:
        assert kept == []
        raise error
    return [str(pick.ip) for pick in kept]


def files(place: Place) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(place.path).iterdir()}


def reservations(place: Place) -> dict[str, bytes]:
    return {name: content for name, content in files(place).items() if name[:1] in "1f"}


def broken(name: str, number: int, when: Callable[..., bool]) -> Callable[..., Any]:
    """os.<name>, failing with errno `number` whenever `when` holds for its arguments."""
    genuine = getattr(os, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        if when(*args, **kwargs):
            raise OSError(number, os.strerror(number), args[0])
        return genuine(*args, **kwargs)

    return call


def unnamed(path: Any, flags: int, *_: Any, **__: Any) -> bool:
    return flags & os.O_TMPFILE == os.O_TMPFILE


def from_proc(source: str, *_: Any, **__: Any) -> bool:
    return source.startswith("/proc/")


WITHOUT: dict[str, list[tuple[str, int, Callable[..., bool]]]] = {
    "unnamed files (overlay of old)": [("open", errno.EOPNOTSUPP, unnamed)],
    "unnamed files (kernel of old)": [("open", errno.EISDIR, unnamed)],
    "/proc": [("link", errno.ENOENT, from_proc)],
    "links": [("open", errno.EOPNOTSUPP, unnamed), ("link", errno.EPERM, lambda *_, **__: True)],
}


@pytest.mark.parametrize("lacking", WITHOUT)
def test_lesser_file_systems(lacking: str, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without unnamed files, links or /proc the files come out the same, and nothing else is left."""
    for name, number, when in WITHOUT[lacking]:
        monkeypatch.setattr(os, name, broken(name, number, when))
    assert add(place, "a") == ["10.0.0.2", "fd00::2"]
    assert add(place, "b") == ["10.0.0.3", "fd00::3"]
    assert files(place) == {
        "lock": b"",
        "10.0.0.2": b"a\r\neth0",
        "10.0.0.3": b"b\r\neth0",
        "fd00::2": b"a\r\neth0",
        "fd00::3": b"b\r\neth0",
        "last_reserved_ip.0": b"10.0.0.3",
        "last_reserved_ip.1": b"fd00::3",
    }
    modes = {Path(place.path, name).stat().st_mode & 0o777 for name in reservations(place)}
    assert modes == {0o600}
    assert {Path(place.path, name).stat().st_nlink for name in reservations(place)} == {1}


@pytest.mark.parametrize("lacking", ["/proc", "links"])
def test_a_faster_stranger_is_not_overwritten(
    lacking: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An address that somebody takes without heeding the lock, after our look, is left to him."""
    stranger = Path(place.path, "10.0.0.2")
    looked = Store.view

    def view(self: Store) -> Any:
        seen = looked(self)
        stranger.write_bytes(b"stranger\r\neth0")
        return seen

    monkeypatch.setattr(Store, "view", view)
    assert add(place, "a") == ["10.0.0.3", "fd00::2"]
    for name, number, when in WITHOUT[lacking]:
        monkeypatch.setattr(os, name, broken(name, number, when))
    stranger.unlink()
    Path(place.path, "last_reserved_ip.0").write_text("10.0.0.1")
    assert add(place, "b") == ["10.0.0.4", "fd00::3"]
    assert stranger.read_bytes() == b"stranger\r\neth0"


EFFECTS = ("open", "write", "fchmod", "link", "pwrite", "ftruncate", "unlink", "mkdir", "listdir")


class FaultAt:
    """Makes the call numbered `step` of all `EFFECTS` fail; `calls` counts them."""

    def __init__(self, patch: pytest.MonkeyPatch, step: int, number: int) -> None:
        self.calls = 0
        self._step = step
        self._number = number
        for name in EFFECTS:
            patch.setattr(os, name, self._wrapped(getattr(os, name)))

    def _wrapped(self, genuine: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.calls - 1 == self._step:
                raise OSError(self._number, os.strerror(self._number))
            return genuine(*args, **kwargs)

        return call


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_fault_at_every_step_leaves_no_reservation(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever system call of an ADD fails, it fails whole: no address is kept, and the next ADD works."""
    failed = []
    step = calls = 0
    while step <= calls:
        place = Place(str(tmp_path / str(step)), 0o022)
        with monkeypatch.context() as patch:
            fault = FaultAt(patch, step, number)
            try:
                add(place, "a")
            except CNIError as error:
                failed.append(error)
                assert not Path(place.path).exists() or not reservations(place), f"step {step}"
            calls = fault.calls
        release(place, Owner("a", "eth0"))
        assert len(add(place, "a")) == 2
        step += 1
    assert len(failed) >= 12
    for error in failed:
        assert os.strerror(number).lower() in error.msg
        assert error.details


def _die_at(step: int, place: Place) -> None:
    calls = 0

    def dying(genuine: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls - 1 == step:
                os._exit(0)
            return genuine(*args, **kwargs)

        return call

    with Store(place.path, 0o022) as held:
        for name in ("unlink", "open", "write", "link", "pwrite"):
            setattr(os, name, dying(getattr(os, name)))
        publish_by_name("10.0.0.9", held.fd, b"dead\r\neth0", 0o600)
        held.remember(Pick(0, IP.parse("10.0.0.9"), CIDR.parse("10.0.0.0/24"), IP.parse("10.0.0.1")))


@pytest.mark.parametrize("step", range(6))
def test_a_crash_leaves_nothing_that_del_misses(step: int, place: Place) -> None:
    """A process that dies at any call of a reservation by name leaves only what the next DEL removes."""
    add(place, "first")
    child = os.fork()
    if child == 0:
        try:
            _die_at(step, place)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    release(place, Owner("dead", "eth0"))
    left = set(files(place))
    assert left == {"lock", "10.0.0.2", "fd00::2", "last_reserved_ip.0", "last_reserved_ip.1"}
    assert files(place)["10.0.0.2"] == b"first\r\neth0"


def test_an_empty_reservation_is_used_when_the_range_is_full(place: Place) -> None:
    """What a crashed writer of the reference left empty is given again, not while it may be in the making."""
    small = ranges("10.0.0.0/30")
    add(place, "a", small)
    leaked = Path(place.path, "10.0.0.2")
    leaked.write_bytes(b"")
    with pytest.raises(CNIError, match="no IP addresses available") as caught:
        add(place, "b", small)
    assert "a reservation without owner (1)" in caught.value.details
    os.utime(leaked, (time.time() - 3600,) * 2)
    assert add(place, "b", small) == ["10.0.0.2"]
    assert leaked.read_bytes() == b"b\r\neth0"


def test_release_goes_on_past_errors(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address that cannot be removed is reported, after all the others were."""
    add(place, "a")
    stuck = broken("unlink", errno.EIO, lambda name, **_: name == "10.0.0.2")
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", stuck)
        with pytest.raises(CNIError, match=r"10\.0\.0\.2: input/output error"):
            release(place, Owner("a", "eth0"))
    assert set(reservations(place)) == {"10.0.0.2"}


def test_giving_back_spares_what_became_somebody_elses(place: Place) -> None:
    """Undoing an ADD removes only reservations that are still its own."""
    kept: list[Pick] = []
    reserve(place, [Wanted(Owner("a", "eth0"), DUAL)], [kept])
    Path(place.path, "10.0.0.2").write_bytes(b"b\r\neth0")
    give_back(place, Owner("a", "eth0"), kept)
    assert reservations(place) == {"10.0.0.2": b"b\r\neth0"}


def test_gc_spares_attachments_at_work(place: Place) -> None:
    """A reservation whose attachment is in flight stays, valid or not."""
    add(place, "a")
    add(place, "b")
    living = [("a", "eth0")]
    suspects = leaked(place.path, living)
    assert set(suspects) == {"10.0.0.3", "fd00::3"}
    assert collect(place, living, suspects) == ["10.0.0.3", "fd00::3"]
    assert set(reservations(place)) == {"10.0.0.2", "fd00::2"}


@pytest.mark.row("plugins", 134)
def test_a_held_lock_is_waited_for_and_then_named(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the time limit the error is code 11 and names the lock file and the process that holds it."""
    add(place, "a")
    holder = subprocess.Popen(
        ["flock", f"{place.path}/lock", "sh", "-c", "echo held; exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        monkeypatch.setattr(LockedFolder.__init__, "__defaults__", (0.05,))
        with pytest.raises(CNIError) as caught:
            add(place, "b")
        assert caught.value.code == 11
        assert f"{place.path}/lock" in caught.value.msg
        assert str(holder.pid) in caught.value.details
    finally:
        holder.communicate()
    assert add(place, "b") == ["10.0.0.3", "fd00::3"]


def test_threads_of_one_process_wait_for_each_other(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a process the wait is bounded as well, and the lock is free again afterwards."""
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with Store(place.path, 0o022):
            entered.set()
            leave.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    assert entered.wait(30)
    monkeypatch.setattr(LockedFolder.__init__, "__defaults__", (0.05,))
    try:
        with pytest.raises(CNIError) as caught:
            add(place, "a")
        assert caught.value.code == 11
        assert str(os.getpid()) in caught.value.details
    finally:
        leave.set()
        thread.join()
    assert add(place, "a") == ["10.0.0.2", "fd00::2"]


def test_a_folder_removed_while_waiting_is_made_again(place: Place) -> None:
    """Whoever waits for the lock of a folder that somebody removes gets a new folder, not a dead one."""
    add(place, "a")
    fd = os.open(f"{place.path}/lock", os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    got: list[list[str]] = []
    thread = threading.Thread(target=lambda: got.append(add(place, "b")))
    thread.start()
    lock = os.stat(f"{place.path}/lock").st_ino
    while not any(_opened(other) == lock for other in descriptors() if other != fd):
        assert thread.is_alive()
    for path in Path(place.path).iterdir():
        path.unlink()
    os.rmdir(place.path)
    os.close(fd)
    thread.join()
    assert got == [["10.0.0.2", "fd00::2"]]
    assert reservations(place)["10.0.0.2"] == b"b\r\neth0"


def _opened(fd: int) -> int:
    try:
        return os.fstat(fd).st_ino
    except OSError:
        return -1


def test_the_holder_is_found(place: Place) -> None:
    """/proc/locks tells who holds the lock; nobody after it was released."""
    with Store(place.path, 0o022) as held:
        assert lock_holders(held._lock) == [os.getpid()]
    fd = os.open(f"{place.path}/lock", os.O_RDONLY)
    try:
        assert lock_holders(fd) == []
    finally:
        os.close(fd)


def _many(place: Place, start: int, count: int) -> None:
    for number in range(start, start + count):
        add(place, f"c{number}")


def _reference(place: Place, verb: str, name: str) -> subprocess.Popen[bytes]:
    config = (
        f'{{"cniVersion":"1.0.0","name":"net","ipam":{{"dataDir":"{Path(place.path).parent}",'
        '"ranges":[[{"subnet":"10.0.0.0/24"}],[{"subnet":"fd00::/64"}]]}}'
    )
    env = {
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": name,
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/x",
        "CNI_NETNS": "/x",
    }
    pipe = subprocess.PIPE
    process = subprocess.Popen([REFERENCE], env=env, stdin=pipe, stdout=pipe, stderr=pipe)
    assert process.stdin is not None
    process.stdin.write(config.encode())
    process.stdin.close()
    process.stdin = None
    return process


def test_many_processes_and_the_reference_at_once(place: Place) -> None:
    """Processes and threads of ours beside the reference: each address is given once, none is lost."""
    fork = multiprocessing.get_context("fork")
    ours: list[Any] = [fork.Process(target=_many, args=(place, 100 * n, 20)) for n in range(4)]
    ours += [threading.Thread(target=_many, args=(place, 1000 + 100 * n, 10)) for n in range(4)]
    for each in ours:
        each.start()
    theirs = [_reference(place, "ADD", f"g{n}") for n in range(20)]
    for process in theirs:
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0, out
    for each in ours:
        each.join(60)
    owners = reservations(place)
    assert len(owners) == 2 * (4 * 20 + 4 * 10 + 20)
    assert len(set(owners.values())) == len(owners) // 2
    for n in range(20):
        release(place, Owner(f"g{n}", "eth0"))
    theirs = [_reference(place, "DEL", f"c{n}") for n in range(20)]
    for process in theirs:
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert len(reservations(place)) == len(owners) - 2 * 40


def test_no_process_keeps_a_descriptor(place: Place) -> None:
    """Good and bad requests alike close what they opened."""
    add(place, "a")
    before = descriptors()
    add(place, "b")
    with pytest.raises(CNIError):
        add(place, "b")
    release(place, Owner("a", "eth0"))
    with pytest.raises(CNIError):
        add(Place("/proc/none/net", 0o022), "c")
    assert descriptors() <= before
    assert lock._QUEUES[place.path].locked() is False


def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows with each reading of the whole folder."""
    seen: list[int] = []
    genuine = store_module.look
    monkeypatch.setattr(store_module, "look", lambda folder: (seen.append(folder), genuine(folder))[1])
    return seen


def test_a_long_lived_process_reads_the_folder_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the third request on nothing is read as long as all changes are this process's own."""
    seen = looks(monkeypatch)
    for number in range(20):
        add(place, f"c{number}")
    for number in range(0, 20, 2):
        release(place, Owner(f"c{number}", "eth0"))
    with pytest.raises(CNIError, match="duplicate"):
        add(place, "c3")
    assert add(place, "c4") == ["10.0.0.22", "fd00::16"]
    assert len(seen) == 2
    assert len(reservations(place)) == 22


@pytest.mark.parametrize("verb", ["ADD", "DEL"])
def test_a_change_of_somebody_else_is_seen_at_once(
    verb: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However soon after our own change the reference changes the store, the next look takes it in."""
    seen = looks(monkeypatch)
    for number in range(8):
        add(place, f"c{number}")
        name = f"g{number}" if verb == "ADD" else f"c{number}"
        process = _reference(place, verb, name)
        process.communicate(timeout=60)
        assert process.returncode == 0
        if verb == "ADD":
            with pytest.raises(CNIError, match="duplicate"):
                add(place, name)
        else:
            assert name.encode() + b"\r\neth0" not in files(place).values()
            with Store(place.path, 0o022) as held:
                assert not held.view().held_by(Owner(name, "eth0"))
    assert len(seen) >= 8


def test_a_change_in_the_same_tick_is_seen(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file made right after our own change is not missed where the clock of files ticks once a second."""
    exact = store_module._stamp

    def coarse(fd: int) -> tuple[int, int, int, int]:
        device, inode, modified, changed = exact(fd)
        return device, inode, modified // 10**9, changed // 10**9

    monkeypatch.setattr(store_module, "_stamp", coarse)
    seen = looks(monkeypatch)
    for number in range(20):
        add(place, f"c{number}")
        stranger = Path(place.path, f"10.0.0.{number + 100}")
        stranger.write_bytes(b"s\r\neth0")
        with Store(place.path, 0o022) as held:
            assert stranger.name in held.view().names
    assert len(seen) < 40


def test_an_edited_reservation_is_not_released(place: Place) -> None:
    """The owner is read from the file before it is removed, whatever is remembered."""
    for name in "abc":
        add(place, name)
    Path(place.path, "10.0.0.2").write_bytes(b"z\r\neth0")
    release(place, Owner("a", "eth0"))
    assert reservations(place)["10.0.0.2"] == b"z\r\neth0"
    release(place, Owner("z", "eth0"))
    assert "10.0.0.2" not in reservations(place)


def test_one_bad_wish_spares_the_others(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several wishes under one lock each gets its own answer."""
    stuck = broken("link", errno.EIO, lambda _source, name, **_: name == "10.0.0.3")
    monkeypatch.setattr(os, "link", stuck)
    wishes = [Wanted(Owner(name, "eth0"), DUAL) for name in ("a", "b", "a")]
    kept: list[list[Pick]] = [[], [], []]
    first, second, third = reserve(place, wishes, kept)
    assert first is None
    assert second is not None
    assert "10.0.0.3: input/output error" in second.msg
    assert third is not None
    assert "duplicate" in third.msg
    assert [[str(pick.ip) for pick in picks] for picks in kept] == [["10.0.0.2", "fd00::2"], [], []]
