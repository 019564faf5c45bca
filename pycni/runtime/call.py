"""What one call of a plugin is made of: names that are safe, its environment, its standard input. Pure.

Sources: CNI spec 1.1.0, sections 2 "Parameters" and 3 "Deriving request configuration"; `libcni` for what
else a plugin finds there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pycni.errors import INVALID_NETWORK_CONFIG, UNKNOWN_CONTAINER, CNIError
from pycni.names import check_container_id, check_interface_name, check_network_name
from pycni.record import Record
from pycni.wire.json import dumps

if TYPE_CHECKING:
    from pycni.runtime.conflist import NetworkList, PluginConf
    from pycni.wire.json import JSON


class Attachment(Record):
    """One interface of one container on a network, as the runtime knows it.

    `netns` is the path of its namespace ("" where it is gone), `args` become CNI_ARGS, `capability_args`
    become `runtimeConfig` of those plugins that declare the capability.
    """

    container_id: str
    netns: str
    ifname: str = "eth0"
    args: tuple[tuple[str, str], ...] = ()
    capability_args: Mapping[str, JSON] | None = None


def plugin_input(
    network: NetworkList,
    plugin: PluginConf,
    attachment: Attachment | None = None,
    injected: Mapping[str, JSON] | None = None,
) -> bytes:
    """Standard input of one call: the plugin's object with what the runtime puts in, compact and sorted.

    `name` and `cniVersion` are the list's; `runtimeConfig` is there if one of the attachment's capability
    arguments is for this plugin; `injected` (a prevResult) comes last. Other spellings of a key that is set
    go, because plugins read keys in any letter case.
    """
    members: dict[str, JSON] = {"name": network.name, "cniVersion": network.cni_version}
    given = (attachment.capability_args if attachment else None) or {}
    matching = {key: value for key, value in given.items() if key in plugin.capabilities}
    if matching:
        members["runtimeConfig"] = matching
    members.update(injected or {})
    taken = {key.lower() for key in members}
    kept = {key: value for key, value in plugin.members.items() if key.lower() not in taken}
    return dumps({**kept, **members}, sort_keys=True)


def check_names(network: str, attachment: Attachment | None = None) -> None:
    """Raises CNIError unless all names may become file and interface names (codes and texts of libcni)."""
    if attachment is not None:
        if not attachment.container_id:
            raise CNIError("missing containerID", code=UNKNOWN_CONTAINER)
        check_container_id(attachment.container_id)
    if not network:
        raise CNIError("missing network name:", code=INVALID_NETWORK_CONFIG)
    check_network_name(network)
    if attachment is not None:
        check_interface_name(attachment.ifname)


def plugin_environment(
    verb: str, path: str, base: Mapping[str, str], attachment: Attachment | None = None
) -> dict[str, str]:
    """The whole environment of a call: the runtime's own, with the six CNI variables always set.

    `path` is CNI_PATH; GC, STATUS have no attachment and get empty variables for it.
    """
    return {
        **base,
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": attachment.container_id if attachment else "",
        "CNI_NETNS": attachment.netns if attachment else "",
        "CNI_ARGS": ";".join(f"{key}={value}" for key, value in attachment.args) if attachment else "",
        "CNI_IFNAME": attachment.ifname if attachment else "",
        "CNI_PATH": path,
    }
