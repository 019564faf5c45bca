"""Who is at work on the node's attachments, and who died at it: what the intents on disk tell.

GC asks this: it spares what is in flight, and forgets what dead requests left once that is collected. The
files are those of `pycni.attachments`.
"""

from __future__ import annotations

import os

from pycni.attachments import FOLDER, RUN_DIR, Intent, decode_intent, is_same_file
from pycni.kernel.flock import LOCK_EX, LOCK_SH, try_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection


def in_flight(run_dir: str = RUN_DIR) -> frozenset[tuple[str, str, str]]:
    """The attachments (network, container id, interface) that a living request is working on. Blocking."""
    found = set()
    for name in _names(f"{run_dir}/{FOLDER}"):
        intent = _locked_intent(f"{run_dir}/{FOLDER}/{name}")
        if intent is not None and intent.verb:
            found.add((intent.network, intent.container_id, intent.ifname))
    return frozenset(found)


def dead(network: str, living: Collection[tuple[str, str]], run_dir: str) -> list[tuple[str, Intent]]:
    """Files and intents of dead requests of a network's attachments, but for the `living`. Blocking.

    `living` are pairs of container id and interface.
    """
    found = []
    for name in _names(f"{run_dir}/{FOLDER}"):
        path = f"{run_dir}/{FOLDER}/{name}"
        intent = _dead_intent(path)
        if intent and intent.network == network and (intent.container_id, intent.ifname) not in living:
            found.append((path, intent))
    return found


def forget_dead(found: list[tuple[str, Intent]]) -> None:
    """Remove those of the files in which nobody has written since. Blocking; never raises."""
    for path, intent in found:
        _dead_intent(path, unlink=intent)


def _dead_intent(path: str, *, unlink: Intent | None = None) -> Intent | None:
    """The intent of a file that nobody has locked; the file goes if it is `unlink`."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        # Shared to look: with the other kind one who looks would be taken for one who works.
        if not try_lock(descriptor, LOCK_EX if unlink else LOCK_SH):
            return None
        intent = decode_intent(os.pread(descriptor, 4096, 0))
        if intent is not None and intent == unlink and is_same_file(path, descriptor):
            os.unlink(path)
        return intent
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _locked_intent(path: str) -> Intent | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        return None if try_lock(descriptor, LOCK_SH) else decode_intent(os.pread(descriptor, 4096, 0))
    finally:
        os.close(descriptor)
