"""Network configuration lists, parsed from bytes.

The list's own keys are read as they are spelt, those of its plugins in any letter case, as the plugins read
them. Where lists are found is `pycni.runtime.folder`'s. Sources: CNI spec 1.1.0, section 1 "Network
configuration format"; the reference's `libcni` for what is accepted and for the texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isinf
from typing import TYPE_CHECKING, Final

from pycni.errors import DECODING_FAILURE, INVALID_NETWORK_CONFIG, CNIError
from pycni.record import Record
from pycni.versions import NEWEST, at_least, parse_version
from pycni.wire.config import Members, shown
from pycni.wire.json import dumps, loads

if TYPE_CHECKING:
    from pycni.wire.json import JSON

_LIST: Final = "error parsing configuration list: "
_PLUGIN: Final = "error parsing configuration: "


class PluginConf(Record):
    """One plugin of a list: its executable's name, its object as written, its capabilities that are true."""

    type: str
    members: Mapping[str, JSON]
    capabilities: frozenset[str] = frozenset()

    @property
    def label(self) -> str:
        """How error texts name it: `type="bridge"`, and its own name where it has one."""
        name = self.members.get("name")
        own = f' name="{name}"' if isinstance(name, str) and name else ""
        return f'type="{self.type}"{own}'


class NetworkList(Record):
    """A network: an ordered chain of plugins under one name.

    `cni_version` is the version chosen for the calls ("" where the list has none, which plugins read as
    0.1.0). `raw` is the list as it was read; the first `inlined` plugins stand in it, the others came from
    the network's plugin folder. `file` is where it was found, "" if it was parsed from bytes.
    """

    name: str
    cni_version: str
    plugins: tuple[PluginConf, ...]
    raw: bytes
    disable_check: bool = False
    disable_gc: bool = False
    load_only_inlined: bool = False
    inlined: int = 0
    file: str = ""


def parse_list(raw: bytes) -> NetworkList:
    """A `.conflist`. Raises CNIError (code 6 or 7) with the reference's texts.

    `plugins` may be absent unless `loadOnlyInlinedPlugins` is true: the plugin folder may supply them. The
    name is checked when the network is used.
    """
    members = _object(raw, _LIST)
    name = members.get("name")
    if "name" not in members:
        raise _broken(_LIST + "no name", 'the list needs a "name"')
    if not isinstance(name, str):
        raise _wrong_type("name", name)
    only_inlined = _boolean(members, "loadOnlyInlinedPlugins")
    plugins = _inlined_plugins(members, only_inlined)
    return NetworkList(
        name=name,
        cni_version=choose_version(members),
        plugins=plugins,
        raw=raw,
        disable_check=_boolean(members, "disableCheck"),
        disable_gc=_boolean(members, "disableGC"),
        load_only_inlined=only_inlined,
        inlined=len(plugins),
    )


def parse_plugin(raw: bytes) -> PluginConf:
    """One plugin's configuration (`.conf`, `.json`); raises CNIError (code 6 or 7) with libcni's texts."""
    return _plugin(_object(raw, _PLUGIN))


def list_from_plugin(raw: bytes) -> NetworkList:
    """A single plugin's configuration as a list of one; raises like `parse_plugin` and `parse_list`."""
    conf = parse_plugin(raw)
    wrapped = {key: conf.members[key] for key in ("cniVersion", "name") if key in conf.members}
    return parse_list(dumps({**wrapped, "plugins": [conf.members]}, sort_keys=True))


def choose_version(members: Mapping[str, JSON]) -> str:
    """The version of a list's calls: the highest usable one of `cniVersions` and `cniVersion`.

    Versions newer than this library's are passed over; without `cniVersions`, `cniVersion` is taken as it
    is ("" if absent), for the plugins to judge. Raises CNIError for a wrong type or an unreadable entry.
    """
    single = members.get("cniVersion", "")
    if not isinstance(single, str):
        raise _wrong_type("cniVersion", single)
    if "cniVersions" not in members:
        return single
    listed = members["cniVersions"]
    if not isinstance(listed, list):
        raise _broken(
            f"{_LIST}invalid type for cniVersions: {_go_type(listed)}", "cniVersions must be a list"
        )
    candidates = []
    for position, entry in enumerate(listed):
        if not isinstance(entry, str):
            raise _broken(f"{_LIST}invalid type for cniVersions index {position}: {_go_type(entry)}")
        candidates.append((entry, f"invalid cniVersions entry {entry} at index {position}"))
    if single:
        candidates.append((single, f"invalid cniVersion {single}"))
    usable = [entry for entry, problem in candidates if _is_usable(entry, problem)]
    return max(usable, key=parse_version) if usable else single


def _is_usable(version: str, problem: str) -> bool:
    try:
        return at_least(NEWEST, version)
    except CNIError as error:
        raise _broken(f"{_LIST}{problem}: {error.msg}", error.details) from None


def _inlined_plugins(members: Mapping[str, JSON], only_inlined: bool) -> tuple[PluginConf, ...]:
    if "plugins" not in members:
        if only_inlined:
            raise _broken(f"{_LIST}`loadOnlyInlinedPlugins` is true, and no 'plugins' key")
        return ()
    items = members["plugins"]
    if not isinstance(items, list):
        raise _broken(f"{_LIST}invalid 'plugins' type {_go_type(items)}", "plugins must be a list of objects")
    if not items:
        raise _broken(f"{_LIST}no plugins in list")
    plugins = []
    for position, item in enumerate(items):
        try:
            if not isinstance(item, dict):
                raise _broken(f"{_PLUGIN}json: cannot unmarshal {shown(item)} into an object")
            plugins.append(_plugin(item))
        except CNIError as error:
            raise _broken(f"failed to parse plugin config {position}: {error.msg}", error.details) from None
    return tuple(plugins)


def _plugin(members: dict[str, JSON]) -> PluginConf:
    typed = Members(members, prefix=_PLUGIN)
    try:
        kind = typed.string("type")
        capabilities = _capabilities(typed)
        ipam = typed.object("ipam")
        if ipam is not None:
            ipam.string("type")
        typed.object("dns")
        typed.object("prevResult")
    except CNIError as error:
        raise CNIError(error.msg, error.details, code=DECODING_FAILURE) from None
    if not kind:
        raise _broken(f"{_PLUGIN}missing 'type'", 'each plugin names its executable by "type"')
    return PluginConf(kind, members, capabilities)


def _capabilities(plugin: Members) -> frozenset[str]:
    declared = plugin.raw("capabilities")
    if declared is None:
        return frozenset()
    if not isinstance(declared, dict):
        raise plugin.error("capabilities", declared, "object")
    for key, value in declared.items():
        if value is not None and not isinstance(value, bool):
            raise plugin.error(f"capabilities.{key}", value, "bool")
    return frozenset(key for key, value in declared.items() if value)


def _object(raw: bytes, prefix: str) -> dict[str, JSON]:
    try:
        value = loads(raw)
        if not isinstance(value, dict):
            raise ValueError(f"json: cannot unmarshal {shown(value)} into an object")
        _refuse_overflow(value)
    except ValueError as error:
        raise CNIError(f"{prefix}{error}", code=DECODING_FAILURE) from None
    return value


def _refuse_overflow(value: JSON) -> None:
    """`1e400` is a number in JSON and infinity here, which could not be printed for a plugin."""
    if isinstance(value, float) and isinf(value):
        raise ValueError("json: a number is out of range")
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _refuse_overflow(item)


def _boolean(members: Mapping[str, JSON], key: str) -> bool:
    value = members.get(key, False)
    if isinstance(value, bool):
        return value
    if not isinstance(value, str):
        raise _broken(f"{_LIST}invalid type {_go_type(value)} for {key}", f"{key} must be true or false")
    if value.lower() not in ("true", "false"):
        raise _broken(f'{_LIST}invalid value "{value.lower()}" for {key}', f"{key} must be true or false")
    return value.lower() == "true"


def _wrong_type(key: str, value: JSON) -> CNIError:
    text = f"{_LIST}invalid {key} type {_go_type(value)}"
    return _broken(text, f'key "{key}" is {shown(value)}; give a string in quotes')


def _broken(msg: str, details: str = "") -> CNIError:
    return CNIError(msg, details, code=INVALID_NETWORK_CONFIG)


def _go_type(value: JSON) -> str:
    """A value's type as the reference's texts name it."""
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, (int, float)):
        return "float64"
    if isinstance(value, str):
        return "string"
    return "map[string]interface {}" if isinstance(value, dict) else "[]interface {}"
