"""The configuration folder: which networks it holds, and which one a name means.

The order of look-up is `libcni`'s. One thing is better: a broken file does not hide the good ones behind it.
"""

from __future__ import annotations

import os

from pycni.errors import INVALID_NETWORK_CONFIG, CNIError, from_exception
from pycni.names import check_network_name
from pycni.record import Record
from pycni.runtime.conflist import NetworkList, list_from_plugin, parse_list, parse_plugin
from pycni.wire.json import loads


class Problem(Record):
    """A file of the configuration folder that cannot be used, and the network's name if that is readable."""

    file: str
    error: CNIError
    name: str = ""


class Folder(Record):
    """What a configuration folder holds, in the order in which networks are looked up."""

    networks: tuple[NetworkList, ...]
    problems: tuple[Problem, ...]


def load(folder: str, name: str) -> tuple[NetworkList, tuple[Problem, ...]]:
    """The network `name` of a configuration folder, and the broken files that were passed over before it.

    `*.conflist` in byte order, the first of the name wins; else `*.conf` and `*.json` together, each a
    single plugin. Raises CNIError (code 7) `no net configuration with name …`, naming the broken files,
    since one of them may be the network that is meant; a broken file that readably bears the name raises
    its own error. Blocking.
    """
    check_network_name(name)
    known: set[str] = set()
    problems: list[Problem] = []
    for file in found_order(folder):
        found = _examine(file)
        if found.name != name:
            known.add(found.name)
        elif isinstance(found, Problem):
            raise found.error
        else:
            return found, tuple(problems)
        if isinstance(found, Problem):
            problems.append(found)
    if not known:
        raise _unusable(f"no net configurations found in {folder}", "NETCONFPATH names the folder")
    known.difference_update([""], (problem.name for problem in problems))
    details = [f"found there: {', '.join(sorted(known))}"] if known else []
    details += [f"passed over: {problem.error}" for problem in problems]
    raise _unusable(f'no net configuration with name "{name}" in {folder}', "; ".join(details))


def scan(folder: str) -> Folder:
    """Everything in a configuration folder; a missing folder is empty.

    Raises CNIError if the folder cannot be listed. Blocking.
    """
    found = [_examine(file) for file in found_order(folder)]
    return Folder(
        tuple(item for item in found if isinstance(item, NetworkList)),
        tuple(item for item in found if isinstance(item, Problem)),
    )


def _examine(file: str) -> NetworkList | Problem:
    raw = b""
    try:
        raw = _read(file)
        parsed = parse_list(raw) if file.endswith(".conflist") else list_from_plugin(raw)
        return _complete(parsed, file)
    except CNIError as error:
        return Problem(file, _located(file, error), _readable_name(raw))


def found_order(folder: str) -> list[str]:
    """The configuration files of a folder in the order of look-up: lists first, then single plugins."""
    return [*_files(folder, (".conflist",)), *_files(folder, (".conf", ".json"))]


def _files(folder: str, extensions: tuple[str, ...]) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            names = [
                entry.name
                for entry in entries
                if entry.name.endswith(extensions) and not entry.is_dir(follow_symlinks=False)
            ]
    except FileNotFoundError:
        return []
    except OSError as error:
        cause = from_exception(error)
        raise CNIError(f"error listing the configuration folder {folder}: {cause.msg}") from error
    return [os.path.join(folder, name) for name in sorted(names, key=os.fsencode)]


def _complete(network: NetworkList, file: str) -> NetworkList:
    """The list with the plugins of its own folder, `<folder of the file>/<name>/*.conf`, appended."""
    check_network_name(network.name)
    plugins = network.plugins
    if file.endswith(".conflist") and not network.load_only_inlined:
        for extra in _files(os.path.join(os.path.dirname(file), network.name), (".conf",)):
            try:
                plugins += (parse_plugin(_read(extra)),)
            except CNIError as error:
                raise _located(extra, error) from None
    if not plugins:
        raise _unusable(
            "no plugin configs found", f"neither in {file} nor in the folder {network.name} beside it"
        )
    return network.replace(plugins=plugins, file=file)


def _read(file: str) -> bytes:
    try:
        with open(file, "rb") as stream:
            return stream.read()
    except OSError as error:
        cause = (error.strerror or str(error)).lower()
        raise CNIError(f"error reading {file}: {cause}", code=INVALID_NETWORK_CONFIG) from error


def _located(file: str, error: CNIError) -> CNIError:
    return error if file in error.msg else CNIError(f"{file}: {error.msg}", error.details, code=error.code)


def _readable_name(raw: bytes) -> str:
    try:
        value = loads(raw)
    except ValueError:
        return ""
    name = value.get("name") if isinstance(value, dict) else None
    return name if isinstance(name, str) else ""


def _unusable(msg: str, details: str) -> CNIError:
    return CNIError(msg, details, code=INVALID_NETWORK_CONFIG)
