"""The allocator: the reference's table, its round robin against a model, and every refusal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycni.addresses import CIDR, IP
from pycni.errors import CNIError
from pycni_hostlocal.allocator import (
    Decision,
    Owner,
    View,
    Wanted,
    address_of,
    allocate,
    first_free,
    occupancy,
    unplaced,
)
from pycni_hostlocal.ranges import RangeSet, complete_range, complete_set

ME = Owner("me", "eth0")
OTHER = Owner("other", "eth0")


def ranges(*subnets: str) -> RangeSet:
    return complete_set([complete_range(CIDR.parse(text)) for text in subnets])


def span(subnet: str, start: str, end: str, gateway: str = "") -> RangeSet:
    made = complete_range(
        CIDR.parse(subnet), IP.parse(start), IP.parse(end), IP.parse(gateway) if gateway else None
    )
    return complete_set([made])


def view(*taken: str, last: str = "", owner: Owner = OTHER) -> View:
    names = {*taken, "lock"}
    return View(names, dict.fromkeys(taken, owner.content), {0: last} if last else {})


def ask(store: View, *sets: RangeSet, requested: tuple[str, ...] = (), owner: Owner = ME) -> Decision:
    return allocate(store, Wanted(owner, sets, tuple(map(IP.parse, requested))))


def texts(decision: Decision) -> list[str]:
    assert decision.error is None, decision.error
    return [str(pick.ip) for pick in decision.picks]


def refusal(decision: Decision) -> CNIError:
    assert decision.error is not None, decision.picks
    return decision.error


SMALL = ("10.0.0.0/29",)
TABLE = [
    (SMALL, (), "", "10.0.0.2"),
    (("2001:db8:1::/64",), (), "", "2001:db8:1::2"),
    (("10.0.0.0/30",), (), "", "10.0.0.2"),
    (SMALL, ("10.0.0.2",), "", "10.0.0.3"),
    (SMALL, (), "10.0.0.5", "10.0.0.6"),
    (SMALL, ("10.0.0.4", "10.0.0.5"), "10.0.0.3", "10.0.0.6"),
    (SMALL, ("10.0.0.6",), "10.0.0.5", "10.0.0.2"),
    (SMALL, ("10.0.0.2",), "10.0.0.100", "10.0.0.3"),
    (SMALL, ("10.0.0.2", "10.0.0.4", "10.0.0.5", "10.0.0.6"), "10.0.0.3", "10.0.0.3"),
    (SMALL, (), "banana", "10.0.0.2"),
    (SMALL, (), "10.0.0.4\n", "10.0.0.2"),
    (("10.0.0.0/30", "10.0.1.0/30"), (), "", "10.0.0.2"),
    (("10.0.0.0/30", "10.0.1.0/30"), (), "10.0.0.2", "10.0.1.2"),
    (("10.0.0.0/30", "10.0.1.0/30", "10.0.2.0/30"), (), "10.0.2.2", "10.0.0.2"),
    (("2001:db8::/32",), tuple(f"2001:db8::{n:x}" for n in range(2, 40)), "", "2001:db8::28"),
]


@pytest.mark.row("plugins", *range(104, 116))
@pytest.mark.parametrize(("subnets", "taken", "last", "expected"), TABLE)
def test_the_references_table(
    subnets: tuple[str, ...], taken: tuple[str, ...], last: str, expected: str
) -> None:
    """From these reservations and this last address the reference goes on with that one."""
    assert texts(ask(view(*taken, last=last), ranges(*subnets))) == [expected]


@pytest.mark.row("plugins", 116, 120)
@pytest.mark.parametrize("subnets", [("10.0.0.0/30",), SMALL, ("10.0.0.0/30", "10.0.1.0/30")])
def test_a_full_set_says_who_holds_it(subnets: tuple[str, ...]) -> None:
    """Exhaustion has the reference's text; the details count the addresses and name the holders."""
    full = ranges(*subnets)
    store = view()
    for number in range(full.capacity):
        owner = Owner(f"c{number % 7}", f"eth{number}")
        decision = ask(store, full, owner=owner)
        store.add(str(decision.picks[0].ip), owner)
    error = refusal(ask(store, full))
    assert error.msg == f"failed to allocate for range 0: no IP addresses available in range set: {full}"
    assert f"has {full.capacity} addresses, {full.capacity} are held" in error.details
    assert "c0 (1)" in error.details
    assert occupancy(store, full)[0] == full.capacity


@pytest.mark.row("plugins", 117)
def test_released_addresses_wait_for_the_round() -> None:
    """An address that was freed comes back only after the others of its set."""
    store = view()
    first = ask(store, ranges(*SMALL)).picks[0]
    store.last[0] = str(first.ip)
    assert texts(ask(store, ranges(*SMALL))) == ["10.0.0.3"]


def test_every_set_gives_one_address() -> None:
    """Picks come in the order of the sets and carry subnet and gateway of their range."""
    decision = ask(view(), ranges("10.0.0.0/24"), ranges("fd00::/64"))
    assert texts(decision) == ["10.0.0.2", "fd00::2"]
    assert [(str(pick.subnet), str(pick.gateway)) for pick in decision.picks] == [
        ("10.0.0.0/24", "10.0.0.1"),
        ("fd00::/64", "fd00::1"),
    ]


@pytest.mark.row("plugins", 100, 101)
def test_requested_addresses_go_to_their_sets() -> None:
    """A requested address is given by the set that has it, in any order; other sets choose themselves."""
    sets = (ranges("10.0.0.0/24", "10.1.0.0/24"), ranges("fd00::/64"))
    assert texts(ask(view(), *sets, requested=("fd00::999", "10.1.0.88"))) == ["10.1.0.88", "fd00::999"]
    assert texts(ask(view(), *sets, requested=("fd00::999",))) == ["10.0.0.2", "fd00::999"]


@pytest.mark.row("plugins", 118)
def test_a_requested_address_that_is_taken() -> None:
    """The text is the reference's, the details name the holder."""
    sets = span("192.168.1.0/29", "192.168.1.1", "192.168.1.6")
    error = refusal(ask(view("192.168.1.5"), sets, requested=("192.168.1.5",)))
    assert error.msg == (
        "failed to allocate for range 0: requested IP address 192.168.1.5 is not available "
        "in range set 192.168.1.1-192.168.1.6"
    )
    assert "other eth0" in error.details


def test_a_requested_gateway() -> None:
    """The gateway is not given, even on request."""
    error = refusal(ask(view(), ranges("10.0.0.0/24"), requested=("10.0.0.1",)))
    assert error.msg == "failed to allocate for range 0: requested ip 10.0.0.1 is subnet's gateway"


@pytest.mark.row("plugins", 119)
@pytest.mark.parametrize("requested", ["10.0.0.39", "10.0.0.51", "192.0.2.1", "fd00::1"])
def test_a_requested_address_outside_of_the_range(requested: str) -> None:
    """An address that no set has fails, and this is known without a look at the store."""
    sets = span("10.0.0.0/24", "10.0.0.40", "10.0.0.50")
    error = refusal(ask(view(), sets, requested=(requested,)))
    assert error.msg == f"failed to allocate all requested IPs: {requested}"
    assert error.msg == getattr(unplaced(Wanted(ME, (sets,), (IP.parse(requested),))), "msg", None)


@pytest.mark.row("plugins", 102)
def test_two_requested_addresses_of_one_set() -> None:
    """One address is given per set: the first is served, the others are named in order."""
    error = refusal(ask(view(), ranges("10.1.2.0/24"), requested=("10.1.2.88", "10.1.2.77", "10.1.2.66")))
    assert error.msg == "failed to allocate all requested IPs: 10.1.2.77 10.1.2.66"
    assert "only one address" in error.details


@pytest.mark.parametrize("requested", [(), ("10.0.0.4",), ("10.0.0.5",)])
@pytest.mark.parametrize("held", [ME.content, ME.legacy_content])
def test_an_attachment_gets_one_address_of_a_set(requested: tuple[str, ...], held: bytes) -> None:
    """Whoever holds an address of the set (by a legacy entry, too) is refused another, also on request."""
    store = View({"10.0.0.4"}, {"10.0.0.4": held})
    error = refusal(ask(store, ranges(*SMALL), requested=requested))
    assert error.msg == (
        "failed to allocate for range 0: 10.0.0.4 has been allocated to me, "
        "duplicate allocation is not allowed"
    )


def test_addresses_outside_of_the_set_are_no_duplicates() -> None:
    """An address held from other ranges, or by another interface, does not stand in the way."""
    elsewhere = View({"10.9.0.4"}, {"10.9.0.4": ME.content})
    assert texts(ask(elsewhere, ranges(*SMALL))) == ["10.0.0.2"]
    sibling = View({"10.0.0.2"}, {"10.0.0.2": Owner("me", "eth1").content})
    assert texts(ask(sibling, ranges(*SMALL))) == ["10.0.0.3"]


def test_a_later_set_that_fails_shows_what_came_before() -> None:
    """The decision keeps the picks before the error, which move the round on."""
    full = view("10.1.0.2")
    decision = ask(full, ranges("10.0.0.0/24"), ranges("10.1.0.0/30"))
    assert refusal(decision).msg.startswith("failed to allocate for range 1: no IP addresses available")
    assert [str(pick.ip) for pick in decision.picks] == ["10.0.0.2"]


def test_an_abandoned_reservation_is_used_when_nothing_else_is_left() -> None:
    """An empty file that a writer left is spared while there is a free address, then its address is given."""
    store = View({"10.0.0.2", "10.0.0.3"}, {"10.0.0.2": b"", "10.0.0.3": b"x"}, {}, {"10.0.0.2"})
    assert texts(ask(store, ranges(*SMALL))) == ["10.0.0.4"]
    store.names |= {"10.0.0.4", "10.0.0.5", "10.0.0.6"}
    decision = ask(store, ranges(*SMALL))
    assert texts(decision) == ["10.0.0.2"]
    assert decision.picks[0].reuse


def test_only_names_that_are_addresses_count() -> None:
    """`address_of` knows addresses of both families and nothing else that lies in the folder."""
    names = [
        "10.0.0.1",
        "fd00::2",
        "lock",
        "last_reserved_ip.0",
        "10.0.0.1~",
        "10.0.0",
        ".x",
        "a:b",
        "10.0.0.01",
    ]
    assert [name for name in names if address_of(name)] == ["10.0.0.1", "fd00::2"]


def positions(sets: RangeSet) -> list[tuple[int, bool]]:
    """Every address of the set in order, with whether it may be given."""
    return [
        (value, IP(each.start.family, value) != each.gateway)
        for each in sets.ranges
        for value in range(each.start.value, each.end.value + 1)
    ]


@st.composite
def situations(draw: st.DrawFn) -> tuple[RangeSet, set[str], IP | None]:
    """A set of one to three small ranges, reservations in it, and a last address in or beside it."""
    made = []
    for third in range(draw(st.integers(1, 3))):
        low = draw(st.integers(0, 12))
        high = draw(st.integers(low, min(low + 6, 14)))
        subnet = CIDR.parse(f"10.0.{third}.0/28")
        gateway = IP.parse(f"10.0.{third}.{draw(st.integers(0, 15))}")
        made.append(complete_range(subnet, subnet.ip + low, subnet.ip + max(high, 1), gateway))
    sets = complete_set(made)
    every = [value for value, _ in positions(sets)]
    taken = draw(st.sets(st.sampled_from(every)))
    last = draw(st.none() | st.sampled_from([*every, (10 << 24) + 999]))
    return sets, {str(IP(4, value)) for value in taken}, None if last is None else IP(4, last)


@pytest.mark.row("plugins", 103, 121)
@given(situations())
def test_the_search_is_the_references_round(situation: tuple[RangeSet, set[str], IP | None]) -> None:
    """Against a walk over every address: after the last one, once around, gateways and taken ones skipped."""
    sets, taken, last = situation
    every = positions(sets)
    numbers = [value for value, _ in every]
    start = numbers.index(last.value) + 1 if last is not None and last.value in numbers else 0
    walk = [*every[start:], *every[:start]]
    free = [value for value, allowed in walk if allowed and str(IP(4, value)) not in taken]
    found = first_free(sets, taken, last)
    assert (None if found is None else found[0].value) == (free[0] if free else None)
    assert found is None or found[0] in found[1]


@given(st.integers(0, (1 << 64) - 1), st.integers(0, 40))
def test_a_huge_subnet_is_not_enumerated(last: int, taken: int) -> None:
    """In a /64 the search looks at taken addresses only, wherever the round stands."""
    subnet = CIDR.parse("2001:db8::/64")
    sets = ranges("2001:db8::/64")
    start = subnet.ip + last
    held = {str(start + step) for step in range(1, taken + 1)}

    class Counting(set[str]):
        looks = 0

        def __contains__(self, name: object) -> bool:
            Counting.looks += 1
            return super().__contains__(name)

    found = first_free(sets, Counting(held), start)
    assert found is not None
    assert str(found[0]) not in held
    assert found[0] != found[1].gateway
    assert Counting.looks <= taken + 2
