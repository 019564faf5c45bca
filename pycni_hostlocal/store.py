"""The reservations of one network as files: the reference's format, to the byte.

    <dataDir>/<network>/lock                  flock(2) on it guards everything below
                        10.1.0.2              one file per address: container id, CR LF, interface
                        last_reserved_ip.N    the address last given from range set N

The Go plugin may work on the same folder at the same time, so the lock, the names and the contents are a
contract. A reservation becomes visible complete or not at all: it is written without a name and then linked
to it. It is not synced to the disk: it has to outlive a process, not the node (after a power failure its
container is gone as well, and GC and a full range recognise an empty file).
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time

from pycni.errors import TRY_AGAIN_LATER, CNIError
from pycni_hostlocal.allocator import View, address_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Final, Self

    from pycni_hostlocal.allocator import Owner, Pick

LOCK_SECONDS: Final = 30.0
"""How long a request waits for the folder's lock."""
ABANDONED_SECONDS: Final = 60.0
"""Age from which an empty reservation counts as left by a writer that died (in seconds)."""

_LAST: Final = "last_reserved_ip."
_TEMPORARY: Final = ".pycni-reservation"
"""Only where the file system lacks unnamed files; made under the lock, so one name is enough."""
_NO_UNNAMED: Final = frozenset((errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL))
_NO_LINKS: Final = frozenset((errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS))
_FIRST_PAUSE: Final = 0.0005
_LONGEST_PAUSE: Final = 0.02


def failure(operation: str, path: str, error: OSError, advice: str) -> CNIError:
    """An OSError as `open /path: permission denied`, with what to do."""
    reason = error.strerror or str(error)
    return CNIError(f"{operation} {path}: {reason.lower()}", advice)


class Store:
    """A network's folder, locked from `__enter__` to `__exit__`; every method blocks and needs the lock.

    `path` is absolute. `umask` is the caller's: modes come out as if the caller had made the files.
    """

    def __init__(self, path: str, umask: int, seconds: float = LOCK_SECONDS) -> None:
        self.path = path
        self._umask = umask
        self._seconds = seconds
        self._fd = -1
        self._lock = -1
        self._unnamed = True

    @classmethod
    def existing(cls, path: str, umask: int) -> Store | None:
        """The store if its folder is there; for verbs that must not create one."""
        return cls(path, umask) if os.path.isdir(path) else None

    def __enter__(self) -> Self:
        """Make the folder and its lock if missing, and take the lock.

        Raises CNIError: code 11 if somebody holds the lock for too long, 999 if the folder cannot be used.
        """
        deadline = time.monotonic() + self._seconds
        while True:
            self._open()
            try:
                self._acquire(deadline)
                # Somebody may have removed the folder or the lock before the lock was ours.
                if os.fstat(self._lock).st_nlink:
                    return self
            except BaseException:
                self.close()
                raise
            self.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the lock up; harmless when repeated."""
        for fd in (self._lock, self._fd):
            if fd >= 0:
                os.close(fd)
        self._lock = self._fd = -1

    def _open(self) -> None:
        make_folder(self.path, self._umask)
        lock = os.path.join(self.path, "lock")
        try:
            self._fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._lock = _open_or_create("lock", self._fd, os.O_RDONLY, 0o750 & ~self._umask)
        except OSError as error:
            self.close()
            raise failure(
                "open", lock, error, '"ipam.dataDir" must be a folder that can be written'
            ) from error

    def _acquire(self, deadline: float) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise self._timed_out() from None
            except OSError as error:
                lock = os.path.join(self.path, "lock")
                raise failure("flock", lock, error, "the file system must support flock(2)") from error
            time.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE)

    def _timed_out(self) -> CNIError:
        holders = lock_holders(self._lock)
        who = f"held by process {', '.join(map(str, holders))}" if holders else "the holder is not known"
        return CNIError(
            f"timed out waiting for lock {os.path.join(self.path, 'lock')}",
            f"waited {self._seconds:g} seconds; {who}",
            code=TRY_AGAIN_LATER,
        )

    def view(self, owners: bool = True) -> View:
        """Look at everything; `owners` reads each reservation (some 4 µs each)."""
        names = os.listdir(self._fd)
        view = View(names)
        for name in names:
            if name.startswith(_LAST):
                number = name[len(_LAST) :]
                if number.isdecimal() and (text := _read(name, self._fd)) is not None:
                    view.last[int(number)] = text.decode("utf-8", "replace")
            elif name == _TEMPORARY:
                # Whoever made it died: its maker would hold the lock.
                self._unlink(name)
                view.names.discard(name)
            elif owners and (":" in name or "." in name) and (content := _read(name, self._fd)) is not None:
                view.owners[name] = content.strip()
                if not view.owners[name] and self.age(name) >= ABANDONED_SECONDS:
                    view.abandoned.add(name)
        return view

    def age(self, name: str) -> float:
        """Seconds since a file was written; 0 if it is gone."""
        try:
            return max(time.time() - os.stat(name, dir_fd=self._fd).st_mtime, 0.0)
        except OSError:
            return 0.0

    def reserve(self, pick: Pick, owner: Owner) -> bool:
        """Give the address a file; False if it has one by now. Raises CNIError (999) on an I/O error."""
        name = str(pick.ip)
        try:
            if pick.reuse:
                self._unlink(name)
            return self._publish(name, owner.content)
        except OSError as error:
            path = os.path.join(self.path, name)
            raise failure("open", path, error, "the reservation could not be written") from error

    def remember(self, pick: Pick) -> None:
        """Note the address as the last one of its set. Raises CNIError (999) on an I/O error.

        Written in place: it is only a hint where to go on, and replacing the file would cost more.
        """
        name = f"{_LAST}{pick.index}"
        text = str(pick.ip).encode()
        try:
            fd = _open_or_create(name, self._fd, os.O_RDWR, 0o600 & ~self._umask)
            try:
                os.pwrite(fd, text, 0)
                os.ftruncate(fd, len(text))
            finally:
                os.close(fd)
        except OSError as error:
            path = os.path.join(self.path, name)
            raise failure("open", path, error, "the last reserved address could not be written") from error

    def release(self, name: str) -> None:
        """Remove a reservation; a missing one is fine. Raises CNIError (999) if it cannot be removed."""
        try:
            self._unlink(name)
        except OSError as error:
            path = os.path.join(self.path, name)
            raise failure("remove", path, error, "the address stays reserved") from error

    def _unlink(self, name: str) -> None:
        try:  # noqa: SIM105 - contextlib would cost start-up time
            os.unlink(name, dir_fd=self._fd)
        except FileNotFoundError:
            pass

    def _publish(self, name: str, content: bytes) -> bool:
        if self._unnamed:
            try:
                fd = os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=self._fd)
            except OSError as error:
                if error.errno not in _NO_UNNAMED:
                    raise
                self._unnamed = False
            else:
                return self._link_unnamed(fd, name, content)
        return self._publish_by_name(name, content)

    def _link_unnamed(self, fd: int, name: str, content: bytes) -> bool:
        try:
            _fill(fd, content, 0o600 & ~self._umask)
            # os.link follows the symbolic link in /proc only if a folder's descriptor is given.
            os.link(
                f"/proc/self/fd/{fd}", name, src_dir_fd=self._fd, dst_dir_fd=self._fd, follow_symlinks=True
            )
        except FileExistsError:
            return False
        except FileNotFoundError:  # no /proc here
            self._unnamed = False
            return self._publish_by_name(name, content)
        finally:
            os.close(fd)
        return True

    def _publish_by_name(self, name: str, content: bytes) -> bool:
        self._unlink(_TEMPORARY)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            fd = os.open(_TEMPORARY, flags, 0o600, dir_fd=self._fd)
            try:
                _fill(fd, content, 0o600 & ~self._umask)
            finally:
                os.close(fd)
            return self._link_named(name)
        finally:
            self._unlink(_TEMPORARY)

    def _link_named(self, name: str) -> bool:
        try:
            os.link(_TEMPORARY, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if exists(name, self._fd):
                return False
            os.rename(_TEMPORARY, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        return True


def read_view(path: str) -> View | None:
    """A look without the lock and without touching anything; None if there is no folder.

    Good for CHECK and STATUS: reservations appear complete, and those of one attachment are not changed
    while it is checked. Raises CNIError (999) if the folder cannot be read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise failure("open", path, error, '"ipam.dataDir" must be a folder that can be read') from error
    try:
        names = os.listdir(fd)
        owners = {
            name: content.strip()
            for name in names
            if address_of(name) is not None and (content := _read(name, fd)) is not None
        }
        return View(names, owners)
    finally:
        os.close(fd)


def exists(name: str, folder: int) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def make_folder(path: str, umask: int) -> None:
    """`mkdir -p` with mode 0755 less the caller's umask; raises CNIError (999) `mkdir PATH: …`."""
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    if parent != path:
        make_folder(parent, umask)
    mode = 0o755 & ~umask
    try:
        os.mkdir(path, mode)
        if stat.S_IMODE(os.stat(path).st_mode) & 0o777 != mode:
            os.chmod(path, mode)
    except FileExistsError:
        if os.path.isdir(path):
            return
        raise CNIError(f"mkdir {path}: not a directory", '"ipam.dataDir" must be a folder') from None
    except OSError as error:
        raise failure("mkdir", path, error, '"ipam.dataDir" must be a folder that can be made') from error


def _open_or_create(name: str, folder: int, flags: int, mode: int) -> int:
    """Open a file, or create it with exactly `mode` (the process may have another umask than the caller)."""
    while True:
        try:
            return os.open(name, flags | os.O_CLOEXEC, dir_fd=folder)
        except FileNotFoundError:
            pass
        try:
            fd = os.open(name, flags | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode, dir_fd=folder)
        except FileExistsError:
            continue
        os.fchmod(fd, mode)
        return fd


def _fill(fd: int, content: bytes, mode: int) -> None:
    os.fchmod(fd, mode)
    rest = content
    while rest:
        rest = rest[os.write(fd, rest) :]


def _read(name: str, folder: int) -> bytes | None:
    """A small file's bytes; None if it is gone, unreadable or no file. A FIFO does not make it wait."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return None
    try:
        data = chunk = os.read(fd, 4096)
        while len(chunk) == 4096 and len(data) < 1 << 20:
            chunk = os.read(fd, 4096)
            data += chunk
        return data
    except OSError:
        return None
    finally:
        os.close(fd)


def lock_holders(fd: int) -> list[int]:
    """The processes that /proc/locks names as holders of an flock on the open file."""
    status = os.fstat(fd)
    wanted = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    try:
        with open("/proc/locks") as table:
            rows = [line.split() for line in table]
    except OSError:
        return []
    return [int(row[4]) for row in rows if len(row) > 5 and row[1] == "FLOCK" and row[5] == wanted]
