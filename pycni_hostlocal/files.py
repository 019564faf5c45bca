"""Small files in one folder, by its descriptor: published whole, with exact modes.

A file becomes visible complete or not at all: it is written without a name and then linked to it (Linux
open(2), O_TMPFILE). Nothing is synced to the disk: a reservation has to outlive a process, not the node;
after a power failure its container is gone as well, and an empty file is recognised as leaked.
"""

from __future__ import annotations

import errno
import os

from pycni.errors import CNIError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

TEMPORARY: Final = ".pycni-reservation"
"""Only where the file system lacks unnamed files; made under the folder's lock, so one name is enough."""

_NO_UNNAMED: Final = frozenset((errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL))
_NO_LINKS: Final = frozenset((errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS))
_CHUNK: Final = 4096
_LARGEST: Final = 1 << 20


def failure(operation: str, path: str, error: OSError, advice: str) -> CNIError:
    """An OSError as `open /path: permission denied`, with what to do."""
    reason = error.strerror or str(error)
    return CNIError(f"{operation} {path}: {reason.lower()}", advice)


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
        if os.stat(path).st_mode & 0o777 != mode:
            os.chmod(path, mode)
    except FileExistsError:
        if not os.path.isdir(path):
            raise CNIError(f"mkdir {path}: not a directory", '"ipam.dataDir" must be a folder') from None
    except OSError as error:
        raise failure("mkdir", path, error, '"ipam.dataDir" must be a folder that can be made') from error


def open_or_create(name: str, folder: int, flags: int, mode: int) -> int:
    """Open a file, or create it with exactly `mode` (this process may have another umask than the caller)."""
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


def read_file(name: str, folder: int) -> bytes | None:
    """A small file's bytes; None if it is gone, unreadable or no file. A FIFO does not make it wait."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return None
    try:
        data = chunk = os.read(fd, _CHUNK)
        while len(chunk) == _CHUNK and len(data) < _LARGEST:
            chunk = os.read(fd, _CHUNK)
            data += chunk
        return data
    except OSError:
        return None
    finally:
        os.close(fd)


def remove(name: str, folder: int) -> None:
    """Unlink; a file that is gone is fine. Raises OSError."""
    try:  # noqa: SIM105 - contextlib would cost start-up time
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        pass


def publish(name: str, folder: int, content: bytes, mode: int) -> bool:
    """Create a file that appears with its content; False if the name is taken. Raises OSError."""
    try:
        fd = os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=folder)
    except OSError as error:
        if error.errno not in _NO_UNNAMED:
            raise
        return publish_by_name(name, folder, content, mode)
    try:
        _fill(fd, content, mode)
        # os.link follows the symbolic link in /proc only if a folder's descriptor is given.
        source = f"/proc/self/fd/{fd}"
        os.link(source, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=True)
    except FileExistsError:
        return False
    except FileNotFoundError:  # no /proc here
        return publish_by_name(name, folder, content, mode)
    finally:
        os.close(fd)
    return True


def publish_by_name(name: str, folder: int, content: bytes, mode: int) -> bool:
    """`publish` through a temporary name, for file systems without unnamed files.

    Whoever holds the folder's lock may remove that name at any time: its maker died.
    """
    # Not truncated: it may be a crashed maker's second link to a reservation.
    remove(TEMPORARY, folder)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = os.open(TEMPORARY, flags, 0o600, dir_fd=folder)
        try:
            _fill(fd, content, mode)
        finally:
            os.close(fd)
        return _give_name(name, folder)
    finally:
        remove(TEMPORARY, folder)


def _give_name(name: str, folder: int) -> bool:
    try:
        os.link(TEMPORARY, name, src_dir_fd=folder, dst_dir_fd=folder)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if _exists(name, folder):
            return False
        os.rename(TEMPORARY, name, src_dir_fd=folder, dst_dir_fd=folder)
    return True


def _exists(name: str, folder: int) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _fill(fd: int, content: bytes, mode: int) -> None:
    os.fchmod(fd, mode)
    rest = content
    while rest:
        rest = rest[os.write(fd, rest) :]
