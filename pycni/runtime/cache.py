"""The runtime's memory of attachments: `<cache dir>/results/<network>-<container id>-<interface>`.

Bytes, names and modes are libcni's, so that either can go on with what the other left; older forms are
read. Better than there: a file appears complete or not at all, its name's length is known before any plugin
runs, and since the name is ambiguous ("a-b" + "c" is "a" + "b-c"), the members inside decide whose it is.
"""

from __future__ import annotations

import binascii
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from pycni.errors import IO_FAILURE, CNIError
from pycni.names import check_container_id, check_interface_name, check_network_name
from pycni.record import Record
from pycni.wire.config import Members
from pycni.wire.json import dumps, loads

if TYPE_CHECKING:
    from pycni.wire.json import JSON

DEFAULT_DIR: Final = "/var/lib/cni"
KIND: Final = "cniCacheV1"
_NAME_MAX: Final = 255
"""Bytes of one file name (NAME_MAX of <limits.h>)."""
_TEMPORARY: Final = ".pycni-"


class Entry(Record):
    """One attachment as it is remembered.

    `args` are CNI_ARGS as pairs; `capability_args` everything that was given at ADD, whatever the plugins
    declare. `config` is the network list's bytes as read, `result` the last plugin's result as printed; a
    file of an older form has nothing but a result.
    """

    network: str
    container_id: str
    ifname: str
    netns: str = ""
    args: tuple[tuple[str, str], ...] = ()
    capability_args: Mapping[str, JSON] | None = None
    config: bytes = b""
    result: Mapping[str, JSON] | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        """Network, container id, interface."""
        return self.network, self.container_id, self.ifname


def encode(entry: Entry) -> bytes:
    """The file's content: compact, members in libcni's order, everything below them sorted."""
    members: dict[str, JSON] = {
        "kind": KIND,
        "containerId": entry.container_id,
        "config": binascii.b2a_base64(entry.config, newline=False).decode("ascii"),
        "ifName": entry.ifname,
        "networkName": entry.network,
    }
    if entry.netns:
        members["netns"] = entry.netns
    if entry.args:
        members["cniArgs"] = [list(pair) for pair in entry.args]
    if entry.capability_args:
        members["capabilityArgs"] = _sorted(dict(entry.capability_args))
    if entry.result is not None:
        members["result"] = _sorted(dict(entry.result))
    return dumps(members)


def decode(raw: bytes) -> Entry:
    """The content read back. What is JSON but not of this form is taken as a bare result (older libcni).

    Such an entry has empty names. Raises CNIError if it is not a JSON object, or has a broken member.
    """
    try:
        value = loads(raw)
        if not isinstance(value, dict):
            raise ValueError("not a JSON object")
        members = Members(value)
        if members.raw("kind") != KIND:
            return Entry("", "", "", result=value)
        result = {} if members.raw("result") is None else members.raw("result")
        if not isinstance(result, dict):
            raise ValueError("its result is not an object")
        capability_args = members.raw("capabilityArgs")
        return Entry(
            network=members.string("networkName"),
            container_id=members.string("containerId"),
            ifname=members.string("ifName"),
            netns=members.string("netns"),
            args=_pairs(members.raw("cniArgs")),
            capability_args=capability_args if isinstance(capability_args, dict) else None,
            config=binascii.a2b_base64(members.string("config"), strict_mode=True),
            result=result,
        )
    except (ValueError, CNIError) as error:
        raise CNIError(f"broken cache file: {error}") from None


def _pairs(value: JSON) -> tuple[tuple[str, str], ...]:
    pairs: list[tuple[str, str]] = []
    for item in value if isinstance(value, list) else ():
        if not isinstance(item, list) or len(item) != 2:
            raise ValueError("cniArgs must be pairs of strings")
        pairs.append((str(item[0]), str(item[1])))
    return tuple(pairs)


def _sorted(value: JSON) -> JSON:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value


class Cache:
    """The cache files below one directory. All methods block and raise CNIError (code 5) for I/O failures."""

    def __init__(self, directory: str = DEFAULT_DIR) -> None:
        self.directory = directory
        self.results = os.path.join(directory, "results")

    def path(self, network: str, container_id: str, ifname: str) -> str:
        """Where the attachment is remembered.

        Raises CNIError for a name that may not become part of a file name (codes 4, 7), and (code 5) if all
        together are too long for one.
        """
        check_network_name(network)
        check_container_id(container_id)
        check_interface_name(ifname)
        name = f"{network}-{container_id}-{ifname}"
        length = len(os.fsencode(name))
        if length > _NAME_MAX:
            raise CNIError(
                f"cache file name is too long: {length} bytes",
                f"network, container id and interface may have {_NAME_MAX - 2} bytes together: {name}",
                code=IO_FAILURE,
            )
        return os.path.join(self.results, name)

    def check_free(self, network: str, container_id: str, ifname: str) -> None:
        """Raises CNIError (code 5) if another attachment is remembered under the same file name."""
        path = self.path(network, container_id, ifname)
        try:
            entry = self._load(path)
        except CNIError:
            return  # a broken file is nobody's memory: it will be replaced
        if entry is not None and not _may_be(entry, (network, container_id, ifname)):
            raise CNIError(
                f"cache file {path} belongs to another attachment",
                "it is of network {!r}, container {!r}, interface {!r}; delete that one first".format(
                    *entry.key
                ),
                code=IO_FAILURE,
            )

    def read(self, network: str, container_id: str, ifname: str) -> Entry | None:
        """What is remembered of the attachment; None if nothing is.

        Raises CNIError if there is a file but it cannot be read or understood.
        """
        entry = self._load(self.path(network, container_id, ifname))
        if entry is None or not _may_be(entry, (network, container_id, ifname)):
            return None
        return entry.replace(network=network, container_id=container_id, ifname=ifname)

    def write(self, entry: Entry) -> None:
        """Remember the attachment, in place of what was remembered of it; atomic and durable."""
        path = self.path(*entry.key)
        temporary = os.path.join(self.results, f"{_TEMPORARY}{os.getpid()}-{os.urandom(6).hex()}")
        try:
            _make_private(self.results)
            try:
                _write_durably(temporary, encode(entry))
                os.rename(temporary, path)
            except BaseException:
                _unlink(temporary)
                raise
        except OSError as error:
            raise _failure("write", path, error) from error

    def remove(self, network: str, container_id: str, ifname: str) -> None:
        """Forget the attachment; nothing remembered is success, and so is another one's file, which stays."""
        path = self.path(network, container_id, ifname)
        try:
            entry = self._load(path)
            if entry is not None and not _may_be(entry, (network, container_id, ifname)):
                return
        except CNIError:
            pass  # unreadable: it goes
        try:
            _unlink(path)
        except OSError as error:
            raise _failure("remove", path, error) from error

    def entries(self, container_id: str = "") -> tuple[Entry, ...]:
        """All remembered attachments in the order of their file names, or those of one container.

        Files of other forms, of names that do not fit their content, and unreadable ones are passed over;
        a missing directory is empty. Raises CNIError if the directory cannot be listed.
        """
        try:
            names = sorted(os.listdir(self.results), key=os.fsencode)
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise _failure("list", self.results, error) from error
        found = []
        for name in names:
            try:
                entry = self._load(os.path.join(self.results, name))
            except CNIError:
                continue
            if entry is not None and "-".join(entry.key) == name and container_id in ("", entry.container_id):
                found.append(entry)
        return tuple(found)

    def _load(self, path: str) -> Entry | None:
        try:
            with open(path, "rb") as stream:
                raw = stream.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _failure("read", path, error) from error
        try:
            return decode(raw)
        except CNIError as error:
            raise CNIError(f"{error.msg}: {path}", error.details) from None


def _may_be(entry: Entry, key: tuple[str, str, str]) -> bool:
    """Whether a file may be of this attachment: a bare result does not say, so its name decides."""
    return entry.key in (key, ("", "", ""))


def _make_private(directory: str) -> None:
    """The directory and its missing parents, mode 0700 whatever the umask."""
    if not os.path.isdir(directory):
        _make_private(os.path.dirname(directory))
        try:
            os.mkdir(directory, 0o700)
            os.chmod(directory, 0o700)
        except FileExistsError:
            if not os.path.isdir(directory):
                raise


def _write_durably(path: str, content: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as stream:
        os.fchmod(fd, 0o600)
        stream.write(content)
        stream.flush()
        os.fsync(fd)


def _unlink(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)


def _failure(attempt: str, path: str, error: OSError) -> CNIError:
    cause = (error.strerror or str(error)).lower()
    return CNIError(f"failed to {attempt} cache {path}: {cause}", f"errno {error.errno}", code=IO_FAILURE)
