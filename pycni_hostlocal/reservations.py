"""What each verb does to the store, as blocking functions: the plugin's whole effects.

Each takes the folder's lock once at most. Several requests may share it (`reserve` takes a list), and one
that fails does not fail another.
"""

from __future__ import annotations

import errno
import os

from pycni.errors import NOT_AVAILABLE, CNIError
from pycni.record import Record
from pycni_hostlocal.allocator import (
    View,
    address_of,
    allocate,
    exhausted,
    occupancy,
    owner_of,
    unplaced,
)
from pycni_hostlocal.files import failure
from pycni_hostlocal.store import Store, read_view

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from pycni_hostlocal.allocator import Decision, Owner, Pick, Wanted
    from pycni_hostlocal.ranges import RangeSet


class Place(Record):
    """Where a network's reservations are: the absolute path of its folder, and the caller's umask."""

    path: str
    umask: int

    def __str__(self) -> str:
        return self.path


def reserve(place: Place, wishes: list[Wanted], kept: list[list[Pick]]) -> list[CNIError | None]:
    """Reserve for each wish; the answers are errors or None, in order.

    What was reserved for a wish is appended to its list in `kept` as it happens, so that a caller who was
    interrupted knows what to give back. Raises CNIError if the store cannot be opened or locked.
    """
    hopeless = [unplaced(wish) for wish in wishes]
    if all(hopeless) and not os.path.isdir(place.path):
        return hopeless
    with Store(place.path, place.umask) as store:
        view = store.view()
        return [_serve(store, view, wish, picks) for wish, picks in zip(wishes, kept, strict=True)]


def _serve(store: Store, view: View, wanted: Wanted, kept: list[Pick]) -> CNIError | None:
    while True:
        decision = allocate(view, wanted)
        try:
            if decision.error is not None:
                for pick in decision.picks:
                    store.remember(pick)
                return decision.error
            if _write(store, wanted.owner, decision, kept):
                return None
        except CNIError as error:
            return error


def _write(store: Store, owner: Owner, decision: Decision, kept: list[Pick]) -> bool:
    """Reserve the picks, all or none; False if somebody who does not heed the lock was faster at one."""
    at = 0
    try:
        for pick in decision.picks:
            at = pick.index
            if not store.reserve(pick, owner):
                _undo(store, owner, kept)
                return False
            kept.append(pick)
            store.remember(pick)
    except CNIError as error:
        _undo(store, owner, kept)
        msg = f"failed to allocate for range {at}: {error.msg}"
        raise CNIError(msg, error.details, code=error.code) from error
    return True


def _undo(store: Store, owner: Owner, kept: list[Pick]) -> None:
    while kept:
        try:  # noqa: SIM105 - contextlib would cost start-up time
            store.release(str(kept[-1].ip), owner.content)
        except CNIError:  # the first error is the one to report; DEL frees it
            pass
        kept.pop()


def give_back(place: Place, owner: Owner, kept: list[Pick]) -> None:
    """Release what `reserve` kept for `owner`, as far as it is still the owner's. Raises CNIError."""
    store = Store.existing(place.path, place.umask) if kept else None
    if store is not None:
        with store:
            store.view()
            _release_all(store, {str(pick.ip): owner.content for pick in kept})


def release(place: Place, owner: Owner) -> None:
    """Free every address of the attachment, else the legacy reservations of its container.

    Nothing is created. Goes on past a reservation that cannot be removed, then raises the first error.
    """
    (error,) = release_many(place, [owner])
    if error is not None:
        raise error


def release_many(place: Place, owners: list[Owner]) -> list[CNIError | None]:
    """`release` for many under one lock; the answers are errors or None, in order.

    Raises CNIError if the store cannot be opened or locked.
    """
    store = Store.existing(place.path, place.umask)
    if store is None:
        return [None] * len(owners)
    with store:
        held = store.view().owners
        return [_release_owner(store, held, owner) for owner in owners]


def _release_owner(store: Store, held: dict[str, bytes], owner: Owner) -> CNIError | None:
    for content in (owner.content, owner.legacy_content):
        mine = {name: content for name, holder in held.items() if holder == content and address_of(name)}
        if mine:
            try:
                _release_all(store, mine)
            except CNIError as error:
                return error
            break
    return None


def _release_all(store: Store, held: dict[str, bytes]) -> list[str]:
    """Release all that can be, then raise the first error; returns the names."""
    first: CNIError | None = None
    released = []
    for name, content in held.items():
        try:
            if store.release(name, content):
                released.append(name)
        except CNIError as error:
            first = first or error
    if first is not None:
        raise first
    return released


def leaked(path: str, living: Collection[tuple[str, str]]) -> dict[str, bytes]:
    """Reservations (contents by name) whose attachment is not among `living`; touches nothing.

    Attachments are (container id, interface). A legacy reservation stays as long as any attachment of its
    container lives; one that tells no owner goes when it is old enough not to be in the making.
    """
    view = read_view(path)
    if view is None:
        return {}
    pairs = {(container_id.strip(), ifname) for container_id, ifname in living}
    containers = {container_id for container_id, _ in pairs}
    found = {}
    for name, content in sorted(view.owners.items()):
        owner = owner_of(content)
        if owner is None:
            stays = name not in view.abandoned
        elif owner.ifname:
            stays = (owner.container_id, owner.ifname) in pairs
        else:
            stays = owner.container_id in containers
        if not stays and address_of(name) is not None:
            found[name] = content
    return found


def collect(place: Place, living: Collection[tuple[str, str]], suspects: dict[str, bytes]) -> list[str]:
    """Free those of the `suspects` that are still there and still leaked; returns their names.

    Goes on past a reservation that cannot be removed, then raises the first error.
    """
    store = Store.existing(place.path, place.umask)
    if store is None:
        return []
    with store:
        store.view()
        still = leaked(place.path, living)
        return _release_all(store, {name: held for name, held in suspects.items() if still.get(name) == held})


def addresses_of(place: Place, owner: Owner) -> list[str]:
    """The addresses that the attachment holds (texts, sorted), legacy ones of its container included."""
    view = read_view(place.path)
    return [] if view is None else sorted(str(ip) for ip in view.held_by(owner))


def probe(place: Place, sets: tuple[RangeSet, ...]) -> None:
    """Whether an ADD could succeed; takes no lock and writes nothing.

    Raises CNIError (code 50) if the store cannot be written or a range set has no free address.
    """
    _probe_folder(place.path)
    view = read_view(place.path) or View()
    for index, ranges in enumerate(sets):
        if ranges.capacity <= len(view.names) and occupancy(view, ranges)[0] >= ranges.capacity:
            full = exhausted(view, index, ranges)
            raise CNIError(full.msg, full.details, code=NOT_AVAILABLE)


def _probe_folder(path: str) -> None:
    folder = path
    while not os.path.lexists(folder) and folder != "/":
        folder = os.path.dirname(folder)
    try:
        if not os.path.isdir(folder):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(folder, os.W_OK | os.X_OK):
            # access(2) does not tell why; a file without a name is no trace if this works after all
            os.close(os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        space = os.statvfs(folder)
    except OSError as error:
        unusable = failure("open", path, error, f"{folder} must be a folder that can be written")
        raise CNIError(unusable.msg, unusable.details, code=NOT_AVAILABLE) from error
    if space.f_bavail == 0 or (space.f_files and space.f_favail == 0):
        raise CNIError(
            f"open {path}: no space left on device",
            f"{space.f_bavail} blocks and {space.f_favail} inodes are free",
            code=NOT_AVAILABLE,
        )
