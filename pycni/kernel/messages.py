"""The rtnetlink requests that this project sends, and the objects that it reads: one place to look.

`pycni.kernel.links` and `pycni.kernel.routing` hold the definitions. A builder returns one complete
request as bytes, to be sent by `pycni.kernel.namespace.Namespace.request`; `decode` turns an answer's
payload into a `Link`, an `Address` or a `RouteEntry`.

The codec is our own because a library's costs more to import than a plugin has to live; the tests prove it
byte for byte against pyroute2.
"""

from __future__ import annotations

from pycni.kernel.links import (
    RTM_DELLINK,
    RTM_NEWLINK,
    Link,
    Port,
    del_group,
    del_link,
    dump_links,
    dump_ports,
    get_link,
    new_bridge,
    new_veth,
    read_group,
    read_index,
    read_link,
    set_alias,
    set_group,
    set_link,
    set_port,
)
from pycni.kernel.routing import (
    RTM_NEWADDR,
    RTM_NEWROUTE,
    Address,
    NextHop,
    RouteEntry,
    del_address,
    del_route,
    dump_addresses,
    dump_routes,
    new_address,
    new_route,
    read_address,
    read_route,
)

__all__ = [
    "Address",
    "Link",
    "NextHop",
    "Port",
    "RouteEntry",
    "decode",
    "del_address",
    "del_group",
    "del_link",
    "del_route",
    "dump_addresses",
    "dump_links",
    "dump_ports",
    "dump_routes",
    "get_link",
    "new_address",
    "new_bridge",
    "new_route",
    "new_veth",
    "read_group",
    "read_index",
    "set_alias",
    "set_group",
    "set_link",
    "set_port",
]


def decode(kind: int, payload: bytes) -> Link | Address | RouteEntry | None:
    """An answer's payload by its message type; None for types and address families not known here."""
    if kind in (RTM_NEWLINK, RTM_DELLINK):
        return read_link(payload)
    if kind == RTM_NEWADDR:
        return read_address(payload)
    if kind == RTM_NEWROUTE:
        return read_route(payload)
    return None
