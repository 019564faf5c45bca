"""The reservations of one network as files: the reference's format, to the byte.

    <dataDir>/<network>/lock                  flock(2) on it guards everything below
                        10.1.0.2              one file per address: container id, CR LF, interface
                        last_reserved_ip.N    the address last given from range set N

The Go plugin may work on the same folder at the same time, so the lock, the names and the contents are a
contract.
"""

from __future__ import annotations

import os
import time

from pycni_hostlocal.allocator import View, owner_of
from pycni_hostlocal.files import TEMPORARY, failure, open_or_create, publish, read_file, remove
from pycni_hostlocal.lock import LockedFolder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Final

    from pycni_hostlocal.allocator import Owner, Pick

    Stamp = tuple[int, int, int, int]

ABANDONED_SECONDS: Final = 60.0
"""Age from which a reservation that tells no owner counts as left by a writer that died."""

_LAST: Final = "last_reserved_ip."
_BACKDATED: Final = 10_000_000_000
"""Nanoseconds; more than the steps in which file systems count time."""
_REMEMBERED: Final[dict[str, tuple[Stamp, View] | None]] = {}
"""What this process saw in a folder, and the folder's stamp by which it knows that nothing changed since.

None after the first look: a process that looks once only should not pay for remembering.
"""


class Store(LockedFolder):
    """A network's folder while it is locked; methods need the lock and block.

    A long-lived process reads the reservations once and then follows its own changes; anybody else's change
    shows in the folder's times (see `_stamp_folder`), and makes it read again.
    """

    def __init__(self, path: str, umask: int) -> None:
        super().__init__(path, umask)
        self._view: View | None = None
        self._sure = True

    @classmethod
    def existing(cls, path: str, umask: int) -> Store | None:
        """The store if its folder is there; for verbs that must not create one."""
        return cls(path, umask) if os.path.isdir(path) else None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._keep_view(kind is None and self._sure)
        finally:
            self.close()

    def view(self) -> View:
        """What is reserved, by whom; kept up to date by this store's methods. Raises CNIError (999)."""
        known = _REMEMBERED.get(self.path)
        try:
            fresh = known is not None and known[0] == _stamp(self.fd)
            view = known[1] if known is not None and fresh else look(self.fd)
            if TEMPORARY in view.names:
                remove(TEMPORARY, self.fd)  # whoever made it died: its maker would hold the lock
                view.names.discard(TEMPORARY)
        except OSError as error:
            raise failure("read", self.path, error, '"ipam.dataDir" must be a readable folder') from error
        view.last = _read_last(view, self.fd)
        self._view = view
        return view

    def reserve(self, pick: Pick, owner: Owner) -> bool:
        """Give the address a file; False if it has one by now. Raises CNIError (999) on an I/O error."""
        name = str(pick.ip)
        try:
            if pick.reuse:
                remove(name, self.fd)
            made = publish(name, self.fd, owner.content, 0o600 & ~self.umask)
        except OSError as error:
            self._sure = False
            path = os.path.join(self.path, name)
            raise failure("open", path, error, "the reservation could not be written") from error
        if not made:
            self._sure = False  # somebody does not heed the lock
            self._seen.names.add(name)
        else:
            self._seen.add(name, owner)
        return made

    def remember(self, pick: Pick) -> None:
        """Note the address as the last one of its set. Raises CNIError (999) on an I/O error.

        Written in place: it is only a hint where to go on, and replacing the file would cost more.
        """
        name = f"{_LAST}{pick.index}"
        text = str(pick.ip).encode()
        try:
            fd = open_or_create(name, self.fd, os.O_RDWR, 0o600 & ~self.umask)
            try:
                os.pwrite(fd, text, 0)
                os.ftruncate(fd, len(text))
            finally:
                os.close(fd)
        except OSError as error:
            path = os.path.join(self.path, name)
            raise failure("open", path, error, "the last reserved address could not be written") from error
        self._seen.names.add(name)
        self._seen.last[pick.index] = str(pick.ip)

    def release(self, name: str, content: bytes) -> bool:
        """Remove a reservation if it still has this trimmed content; False if it has not.

        Raises CNIError (999) if it cannot be removed.
        """
        held = read_file(name, self.fd)
        if held is None or held.strip() != content:
            self._sure = False
            return False
        try:
            remove(name, self.fd)
        except OSError as error:
            self._sure = False
            path = os.path.join(self.path, name)
            raise failure("remove", path, error, "the address stays reserved") from error
        self._seen.discard(name)
        return True

    @property
    def _seen(self) -> View:
        return self._view or self.view()

    def _keep_view(self, good: bool) -> None:
        looked_before = self.path in _REMEMBERED
        _REMEMBERED[self.path] = None
        if good and looked_before and self._view is not None and self._view.complete:
            stamp = _stamp_folder(self.fd)
            if stamp is not None:
                _REMEMBERED[self.path] = stamp, self._view


def _stamp(fd: int) -> Stamp:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns


def _stamp_folder(fd: int) -> Stamp | None:
    """Date the folder back, so that the next change, however soon, cannot give it the same time again.

    (The kernel's clock for files ticks every few milliseconds: two changes may bear one time.)
    """
    now = time.time_ns()
    try:
        os.utime(fd, ns=(now, now - _BACKDATED))
        return _stamp(fd)
    except OSError:
        return None


def look(folder: int) -> View:
    """Read the whole folder, but for the last addresses; some 5 µs per reservation. Raises OSError."""
    names = os.listdir(folder)
    view = View(names)
    for name in names:
        if name.startswith(_LAST) or not (":" in name or "." in name):
            continue
        content = read_file(name, folder)
        if content is None:
            continue
        view.owners[name] = content = content.strip()
        if owner_of(content) is None:
            view.complete = False  # whether it is abandoned depends on the time of the look
            if _age(name, folder) >= ABANDONED_SECONDS:
                view.abandoned.add(name)
    return view


def _age(name: str, folder: int) -> float:
    try:
        return time.time() - os.stat(name, dir_fd=folder).st_mtime
    except OSError:
        return 0.0


def _read_last(view: View, folder: int) -> dict[int, str]:
    last = {}
    for name in view.names:
        if name.startswith(_LAST):
            number = name[len(_LAST) :]
            text = read_file(name, folder)
            if text is not None and number.isdecimal() and str(int(number)) == number:
                last[int(number)] = text.decode("utf-8", "replace")
    return last


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
        return look(fd)
    finally:
        os.close(fd)
