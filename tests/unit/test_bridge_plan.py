"""pycni_bridge.plan: from the IPAM's answer to a result, gateways and routes, without touching anything."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycni.addresses import CIDR, IP
from pycni.errors import CNIError
from pycni.types import DNS, Interface, IPConfig, Result, Route
from pycni_bridge.config import BridgeConfig
from pycni_bridge.plan import (
    GatewayPlan,
    attachment_result,
    gateway_addresses,
    kernel_routes,
    layer2_result,
    plan_gateways,
)

PLAIN = BridgeConfig(ipam_type="host-local")
GATEWAY = PLAIN.replace(is_gateway=True)
DEFAULT = GATEWAY.replace(is_default_gateway=True)
FORCE = GATEWAY.replace(force_address=True)


def ip(address: str, gateway: str = "") -> IPConfig:
    return IPConfig(CIDR.parse(address), IP.parse(gateway) if gateway else None)


def route(dst: str, gw: str = "", **more: int) -> Route:
    return Route(CIDR.parse(dst), IP.parse(gw) if gw else None, **more)


def cidrs(*texts: str) -> tuple[CIDR, ...]:
    return tuple(map(CIDR.parse, texts))


def gateways_of(config: BridgeConfig, *ips: IPConfig) -> list[str]:
    result = attachment_result(config, Result(ips=ips))
    return [str(entry.gateway) if entry.gateway is not None else "" for entry in result.ips]


def routes_of(config: BridgeConfig, ips: tuple[IPConfig, ...], *routes: Route) -> list[str]:
    result = attachment_result(config, Result(ips=ips, routes=routes))
    return [f"{entry.dst}{f' via {entry.gw}' if entry.gw is not None else ''}" for entry in result.routes]


# --- The result ---


def test_an_answer_without_addresses_is_refused() -> None:
    """Layer 3 without an address is the reference's error, and the details name the IPAM."""
    with pytest.raises(CNIError) as caught:
        attachment_result(GATEWAY, Result(routes=(route("10.0.0.0/8"),)))
    assert (caught.value.code, caught.value.msg) == (999, "IPAM plugin returned missing IP config")
    assert "host-local" in caught.value.details


def test_addresses_belong_to_the_pods_interface() -> None:
    """Whatever the IPAM said about interfaces is dropped: each address is the third interface's."""
    answer = Result(
        interfaces=(Interface("foreign0"),),
        ips=(ip("10.0.0.2/24").replace(interface=0, version="4"), ip("fd00::2/64").replace(interface=7)),
        cni_version="0.4.0",
    )
    result = attachment_result(PLAIN, answer)
    assert result.interfaces == ()
    assert [(entry.interface, entry.version) for entry in result.ips] == [(2, ""), (2, "")]


@pytest.mark.parametrize(
    ("address", "gateway"),
    [
        ("10.0.0.2/24", "10.0.0.1"),
        ("10.0.5.7/16", "10.0.0.1"),
        ("10.0.0.2/30", "10.0.0.1"),
        ("10.0.0.5/31", "10.0.0.5"),
        ("10.79.0.200/32", "10.79.0.201"),
        ("fd00::2/64", "fd00::1"),
        ("fd00:0:0:9::ffff/48", "fd00::1"),
    ],
)
def test_a_missing_gateway_is_the_first_address(address: str, gateway: str) -> None:
    """With isGateway it is the network's address plus one, also for /31 and /32; without there is none."""
    assert gateways_of(GATEWAY, ip(address)) == [gateway]
    assert gateways_of(PLAIN, ip(address)) == [""]


def test_a_given_gateway_is_kept() -> None:
    """What the IPAM says goes into the result, gateway or not."""
    assert gateways_of(GATEWAY, ip("10.0.0.2/24", "10.0.0.254")) == ["10.0.0.254"]
    assert gateways_of(PLAIN, ip("10.0.0.2/24", "10.9.9.9")) == ["10.9.9.9"]


@pytest.mark.parametrize(("address", "gateway"), [("10.0.0.2/24", "fd00::1"), ("fd00::2/64", "10.0.0.1")])
def test_a_gateway_of_the_other_family_is_refused(address: str, gateway: str) -> None:
    """host-local lets it pass; no kernel would take it, so it is named before anything is made."""
    with pytest.raises(CNIError) as caught:
        attachment_result(PLAIN, Result(ips=(ip(address, gateway),)))
    assert gateway in caught.value.msg
    assert address in caught.value.msg


V4, V6 = ip("10.0.0.2/24", "10.0.0.1"), ip("fd00::2/64", "fd00::1")


@pytest.mark.parametrize(
    ("ips", "routes", "expected"),
    [
        ((V4,), (), ["0.0.0.0/0 via 10.0.0.1"]),
        ((V6,), (), ["::/0 via fd00::1"]),
        ((V4, V6), (), ["0.0.0.0/0 via 10.0.0.1", "::/0 via fd00::1"]),
        (
            (V4,),
            (route("10.9.0.0/16"),),
            ["10.9.0.0/16", "0.0.0.0/0 via 10.0.0.1"],
        ),
        ((V4,), (route("0.0.0.0/0", "10.0.0.9"),), ["0.0.0.0/0 via 10.0.0.9"]),
        ((V4,), (route("0.0.0.0/0"),), ["0.0.0.0/0 via 10.0.0.1"]),
        (
            (V4, V6),
            (route("::/0"), route("0.0.0.0/0", "10.0.0.9")),
            ["::/0 via fd00::1", "0.0.0.0/0 via 10.0.0.9"],
        ),
        ((V4,), (route("::/0"),), ["::/0", "0.0.0.0/0 via 10.0.0.1"]),
        ((V4,), (route("0.0.0.0/1"),), ["0.0.0.0/1", "0.0.0.0/0 via 10.0.0.1"]),
        ((V4, ip("10.1.0.2/24", "10.1.0.1")), (), ["0.0.0.0/0 via 10.0.0.1"]),
        (
            (ip("10.1.0.2/24"), V4),
            (),
            ["0.0.0.0/0 via 10.1.0.1"],
        ),
    ],
)
def test_default_routes(ips: tuple[IPConfig, ...], routes: tuple[Route, ...], expected: list[str]) -> None:
    """isDefaultGateway: one default route per family, the IPAM's (gateway filled in) or a new one."""
    assert routes_of(DEFAULT, ips, *routes) == expected


def test_no_default_route_without_being_asked() -> None:
    """isGateway alone leaves the IPAM's routes as they are."""
    assert routes_of(GATEWAY, (V4,), route("0.0.0.0/0")) == ["0.0.0.0/0"]
    assert routes_of(GATEWAY, (V4,)) == []


def test_attributes_of_routes_survive() -> None:
    """A default route of the IPAM keeps its metric and the like when its gateway is filled in."""
    answer = Result(ips=(V4,), routes=(route("0.0.0.0/0", priority=50, mtu=1300, table=7),))
    (made,) = attachment_result(DEFAULT, answer).routes
    assert made == route("0.0.0.0/0", "10.0.0.1", priority=50, mtu=1300, table=7)


def test_dns_of_the_config_replaces_the_ipams_as_a_whole() -> None:
    """One member in the config is enough; none leaves the IPAM's."""
    own, theirs = DNS(domain="a.test"), DNS(nameservers=("10.0.0.53",), search=("b.test",))
    answer = Result(ips=(V4,), dns=theirs)
    assert attachment_result(PLAIN.replace(dns=own), answer).dns == own
    assert attachment_result(PLAIN, answer).dns == theirs
    assert layer2_result(BridgeConfig(dns=own)) == Result(dns=own)


# --- Gateway addresses ---


def test_gateway_addresses() -> None:
    """Each gateway with its pod address' prefix, IPv4 first, each once; none unless asked to be a gateway."""
    ips = (V6, V4, ip("10.0.0.77/24", "10.0.0.1"), ip("10.1.0.2/16", "10.1.0.1"), ip("fd01::2/64"))
    result = Result(ips=ips)
    assert gateway_addresses(GATEWAY, result) == cidrs("10.0.0.1/24", "10.1.0.1/16", "fd00::1/64")
    assert gateway_addresses(PLAIN, result) == ()


@pytest.mark.parametrize(
    ("wanted", "existing", "plan"),
    [
        ((), ("10.0.0.1/24",), ((), ())),
        (("10.0.0.1/24",), (), (("10.0.0.1/24",), ())),
        (("10.0.0.1/24",), ("10.0.0.1/24",), ((), ())),
        (("10.0.0.1/24",), ("fe80::1/64", "fd00::1/64"), (("10.0.0.1/24",), ())),
        (("10.0.0.1/24", "10.1.0.1/24"), (), (("10.0.0.1/24", "10.1.0.1/24"), ())),
        (("10.0.0.1/24", "10.1.0.1/24"), ("10.1.0.1/24",), (("10.0.0.1/24",), ())),
        (("fd00::1/64",), ("fd01::1/64",), (("fd00::1/64",), ())),
        (("fd00::1/64",), ("fe80::1/64",), (("fd00::1/64",), ())),
        (("10.0.0.1/24", "fd00::1/64"), ("10.0.0.1/24",), (("fd00::1/64",), ())),
    ],
)
def test_gateways_that_do_not_conflict(
    wanted: tuple[str, ...], existing: tuple[str, ...], plan: tuple[tuple[str, ...], tuple[str, ...]]
) -> None:
    """What is missing is added, nothing is taken away, and forceAddress changes nothing about that."""
    expected = GatewayPlan(*(cidrs(*part) for part in plan))
    for config in (GATEWAY, FORCE):
        assert plan_gateways(config, cidrs(*wanted), cidrs(*existing)) == expected


@pytest.mark.parametrize(
    ("wanted", "existing", "in_the_way"),
    [
        ("10.1.2.3/16", ("10.0.0.1/8",), ("10.0.0.1/8",)),
        ("10.1.2.3/16", ("192.168.0.1/24",), ("192.168.0.1/24",)),
        ("10.0.0.1/24", ("10.0.0.1/16",), ("10.0.0.1/16",)),
        ("10.0.0.1/24", ("10.0.0.2/24", "fd00::1/64"), ("10.0.0.2/24",)),
        ("10.0.0.1/24", ("10.1.0.1/24", "10.2.0.1/24"), ("10.1.0.1/24", "10.2.0.1/24")),
        ("2001:db8:1:2::1/64", ("2001:db8:1::1/48",), ("2001:db8:1::1/48",)),
        ("2001:db8:1::1/48", ("2001:db8:1:2::1/64", "fd00::1/64"), ("2001:db8:1:2::1/64",)),
        ("fd00::1/64", ("fd00::2/64",), ("fd00::2/64",)),
    ],
)
def test_gateways_that_conflict(wanted: str, existing: tuple[str, ...], in_the_way: tuple[str, ...]) -> None:
    """Another IPv4 address or an overlapping IPv6 one is refused by name, or with forceAddress replaced."""
    with pytest.raises(CNIError) as caught:
        plan_gateways(GATEWAY, cidrs(wanted), cidrs(*existing))
    assert caught.value.msg == (
        f'failed to set bridge addr: "cni0" already has an IP address different from {wanted}'
    )
    assert in_the_way[0] in caught.value.details
    assert "forceAddress" in caught.value.details
    assert plan_gateways(FORCE, cidrs(wanted), cidrs(*existing)) == GatewayPlan(
        cidrs(wanted), cidrs(*in_the_way)
    )


def test_an_address_that_stays_is_not_in_the_way() -> None:
    """Of two wanted gateways one is there already: forceAddress takes only the third away."""
    wanted, existing = cidrs("10.0.0.1/24", "10.1.0.1/24"), cidrs("10.1.0.1/24", "10.2.0.1/24")
    assert plan_gateways(FORCE, wanted, existing) == GatewayPlan(cidrs("10.0.0.1/24"), cidrs("10.2.0.1/24"))


v4 = st.builds(CIDR, st.builds(IP, st.just(4), st.integers(0x0A000000, 0x0A00FFFF)), st.integers(8, 32))
v6 = st.builds(
    CIDR,
    st.builds(IP, st.just(6), st.integers(0, 1 << 20).map(lambda n: (0xFD << 120) + n)),
    st.integers(100, 128),
)
some = st.lists(v4 | v6, max_size=4, unique=True)


@given(some, some)
def test_a_plan_brings_about_what_is_wanted(wanted: list[CIDR], existing: list[CIDR]) -> None:
    """Applied, every gateway is there, nothing wanted is lost, and planning again changes nothing."""
    plan = plan_gateways(FORCE, wanted, existing)
    assert set(plan.delete) <= set(existing) - set(wanted)
    assert set(plan.add) == set(wanted) - set(existing)
    after = [cidr for cidr in existing if cidr not in plan.delete] + list(plan.add)
    assert set(wanted) <= set(after)
    assert plan_gateways(GATEWAY, wanted, after) == GatewayPlan()
    for address in set(after) - set(wanted):
        assert not any(
            gateway.family == address.family and (address.family == 4 or gateway.overlaps(address))
            for gateway in plan.add
        )


@given(some, some)
def test_without_force_nothing_is_taken_away(wanted: list[CIDR], existing: list[CIDR]) -> None:
    """Either no address is in the way, or the request is refused; forceAddress is what decides."""
    forced = plan_gateways(FORCE, wanted, existing)
    if forced.delete:
        with pytest.raises(CNIError):
            plan_gateways(GATEWAY, wanted, existing)
    else:
        assert plan_gateways(GATEWAY, wanted, existing) == forced


# --- Routes of the pod ---


@pytest.mark.parametrize(
    ("given", "gateway"),
    [
        (route("10.9.0.0/16"), "10.0.0.1"),
        (route("10.9.0.0/16", "10.0.0.7"), "10.0.0.7"),
        (route("fd09::/64"), "fd00::1"),
        (route("10.9.0.7/32", scope=253), ""),
        (route("10.9.0.7/32", scope=254), ""),
        (route("10.9.0.7/32", scope=200), "10.0.0.1"),
        (route("10.9.0.7/32", scope=0), "10.0.0.1"),
        (route("10.9.0.7/32", "10.0.0.7", scope=253), "10.0.0.7"),
    ],
)
def test_gateways_of_routes(given: Route, gateway: str) -> None:
    """A route's own gateway, else the first of its family; a route on the link itself has none."""
    ips = (ip("10.3.0.2/24"), V4, ip("10.1.0.2/24", "10.1.0.1"), V6)
    (made,) = kernel_routes(Result(ips=ips, routes=(given,)))
    assert made == given.replace(gw=IP.parse(gateway) if gateway else None)


def test_routes_without_any_gateway_lead_through_the_device() -> None:
    """A family without a gateway gets device routes."""
    routes = (route("0.0.0.0/0"), route("fd09::/64"))
    assert kernel_routes(Result(ips=(ip("10.0.0.2/24"),), routes=routes)) == routes
    assert kernel_routes(Result(ips=(V4,), routes=routes))[1] == routes[1]
