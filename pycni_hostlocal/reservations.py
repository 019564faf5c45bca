"""What each verb does to the store, as one blocking function under one lock.

These are the plugin's whole effects. Several requests may share one lock (`reserve` takes a list), and one
that fails does not fail another.
"""

from __future__ import annotations

import os

from pycni.errors import NOT_AVAILABLE, CNIError
from pycni.names import is_identifier
from pycni.record import Record
from pycni_hostlocal.allocator import (
    Decision,
    Owner,
    View,
    Wanted,
    address_of,
    allocate,
    exhausted,
    occupancy,
    unplaced,
)
from pycni_hostlocal.store import ABANDONED_SECONDS, Store, failure, read_view

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from pycni_hostlocal.allocator import Pick
    from pycni_hostlocal.ranges import RangeSet


class Place(Record):
    """Where a network's reservations are: the absolute path of its folder, and the caller's umask."""

    path: str
    umask: int


def reserve(place: Place, wishes: list[Wanted], kept: list[list[Pick]]) -> list[CNIError | None]:
    """Reserve for each wish; the answers are errors or None, in order.

    What was reserved for a wish is appended to its list in `kept` as it happens, so that a caller who was
    interrupted knows what to give back. Raises CNIError if the store cannot be opened or locked.
    """
    hopeless = [unplaced(wish) for wish in wishes]
    if all(hopeless) and not os.path.isdir(place.path):
        return list(hopeless)
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
                    view.last[pick.index] = str(pick.ip)
                return decision.error
            lost = _write(store, view, wanted.owner, decision, kept)
        except CNIError as error:
            return error
        if lost is None:
            return None
        view.names.add(lost)  # somebody who does not heed the lock was faster


def _write(store: Store, view: View, owner: Owner, decision: Decision, kept: list[Pick]) -> str | None:
    """Reserve the picks, all or none; returns the name of one that somebody else got first, else None."""
    done = len(kept)
    at = 0
    try:
        for pick in decision.picks:
            at = pick.index
            if not store.reserve(pick, owner):
                _give_back(store, kept, done)
                return str(pick.ip)
            kept.append(pick)
            store.remember(pick)
    except CNIError as error:
        _give_back(store, kept, done)
        raise CNIError(
            f"failed to allocate for range {at}: {error.msg}", error.details, code=error.code
        ) from error
    for pick in decision.picks:
        view.record(pick, owner)
    return None


def _give_back(store: Store, kept: list[Pick], start: int) -> None:
    while len(kept) > start:
        try:  # noqa: SIM105 - contextlib would cost start-up time
            store.release(str(kept[-1].ip))
        except CNIError:  # the first error is the one to report; DEL frees it
            pass
        kept.pop()


def give_back(place: Place, owner: Owner, kept: list[Pick]) -> None:
    """Release what `reserve` kept for `owner`, as far as it is still the owner's. Raises CNIError."""
    if not kept:
        return
    store = Store.existing(place.path, place.umask)
    if store is None:
        return
    with store:
        owners = store.view().owners
        for pick in kept:
            if owners.get(str(pick.ip)) == owner.content:
                store.release(str(pick.ip))


def release(place: Place, owner: Owner) -> None:
    """Free every address of the attachment, else the legacy reservations of its container.

    Nothing is created. Goes on past a reservation that cannot be removed, then raises the first error.
    """
    store = Store.existing(place.path, place.umask)
    if store is None:
        return
    with store:
        owners = store.view().owners
        for content in (owner.content, owner.legacy_content):
            names = [
                name for name, held in owners.items() if held == content and address_of(name) is not None
            ]
            if names:
                _release_all(store, names)
                return


def _release_all(store: Store, names: list[str]) -> None:
    first: CNIError | None = None
    for name in names:
        try:
            store.release(name)
        except CNIError as error:
            first = first or error
    if first is not None:
        raise first


def collect(
    place: Place,
    valid: Collection[tuple[str, str]],
    in_flight: Collection[tuple[str, str]] = (),
) -> list[str]:
    """Free every reservation whose attachment is neither `valid` nor at work; returns their names.

    Attachments are (container id, interface). A legacy reservation stays as long as any attachment of its
    container does; a file that tells no owner goes when it is old enough not to be in the making.
    """
    store = Store.existing(place.path, place.umask)
    if store is None:
        return []
    living = {(name.strip(), ifname) for name, ifname in (*valid, *in_flight)}
    containers = {name for name, _ in living}
    with store:
        leaked = []
        for name, content in sorted(store.view().owners.items()):
            if address_of(name) is not None and not _stays(store, name, content, living, containers):
                leaked.append(name)
        _release_all(store, leaked)
    return leaked


def _stays(
    store: Store, name: str, content: bytes, living: set[tuple[str, str]], containers: set[str]
) -> bool:
    container_id, separator, ifname = content.decode("utf-8", "surrogateescape").partition("\r\n")
    if separator and is_identifier(container_id):
        return (container_id, ifname) in living
    if is_identifier(container_id):
        return container_id in containers
    return store.age(name) < ABANDONED_SECONDS


def addresses_of(place: Place, owner: Owner) -> list[str]:
    """The addresses that the attachment holds (texts, sorted), legacy ones of its container included."""
    view = read_view(place.path)
    return [] if view is None else sorted(str(ip) for ip in view.held_by(owner))


def probe(place: Place, sets: tuple[RangeSet, ...]) -> None:
    """Whether an ADD could succeed; takes no lock and writes nothing.

    Raises CNIError (code 50) if the store cannot be written or a range set has no free address.
    """
    folder = place.path
    while not os.path.lexists(folder) and folder != "/":
        folder = os.path.dirname(folder)
    try:
        if not os.path.isdir(folder):
            raise NotADirectoryError(20, "not a directory")
        if not os.access(folder, os.W_OK | os.X_OK):
            os.close(os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        space = os.statvfs(folder)
    except OSError as error:
        unusable = failure("open", place.path, error, f"{folder} must be a folder that can be written")
        raise CNIError(unusable.msg, unusable.details, code=NOT_AVAILABLE) from error
    if space.f_bavail == 0 or (space.f_files and space.f_favail == 0):
        raise CNIError(
            f"open {place.path}: no space left on device",
            f"{space.f_bavail} blocks and {space.f_favail} inodes are free",
            code=NOT_AVAILABLE,
        )
    view = read_view(place.path) or View()
    for index, ranges in enumerate(sets):
        if ranges.capacity <= len(view.names) and occupancy(view, ranges)[0] >= ranges.capacity:
            full = exhausted(view, index, ranges)
            raise CNIError(full.msg, full.details, code=NOT_AVAILABLE)
