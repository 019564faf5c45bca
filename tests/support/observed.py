"""Links as the kernel layer reports them, for tests of pure functions."""

from __future__ import annotations

from typing import Any

from pycni.kernel.messages import Link


def observed_link(name: str, index: int, kind: str, mac: bytes, **changes: Any) -> Link:
    """A link that is up, with nothing special about it but `changes`."""
    usual: dict[str, Any] = {
        "mtu": 1500,
        "flags": 1,
        "operstate": "up",
        "master": 0,
        "peer": 0,
        "peer_netnsid": None,
        "promiscuity": 0,
        "txqlen": 0,
        "port": None,
        "vlan_filtering": None,
        "altnames": (),
    }
    return Link(index=index, name=name, kind=kind, mac=mac, **(usual | changes))
