"""The pure parts of making a pair."""

from __future__ import annotations

from pycni_bridge.wiring import random_mac


def test_a_random_mac_is_a_local_unicast_address() -> None:
    """Six bytes, never multicast, always locally administered, another one each time."""
    macs = [random_mac() for _ in range(200)]
    assert {len(mac) for mac in macs} == {6}
    assert {mac[0] & 0x03 for mac in macs} == {0x02}
    assert len(set(macs)) == len(macs)
