"""Reading, converting and printing results: `pycni.wire.result` and `pycni.wire.parse`."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycni.addresses import CIDR, IP
from pycni.errors import CNIError
from pycni.types import DNS, Interface, IPConfig, Result, Route
from pycni.versions import SUPPORTED
from pycni.wire.json import dumps, loads
from pycni.wire.result import convert, parse_as, parse_prev_result, parse_result, print_result, result_members

FULL = Result(
    interfaces=(
        Interface("br0", "00:11:22:33:44:55"),
        Interface("eth0", "", 1450, "/run/netns/x", "/s", "pci"),
    ),
    ips=(
        IPConfig(CIDR.parse("10.1.2.3/24"), IP.parse("10.1.2.1"), 0),
        IPConfig(CIDR.parse("fd00::3/64"), None, 1),
    ),
    routes=(
        Route(CIDR.parse("0.0.0.0/0")),
        Route(CIDR.parse("fd09::/64"), IP.parse("fd00::9"), 1400, 1300, 5, 0, 253),
    ),
    dns=DNS(("192.0.2.1",), "example.org", ("a.example",), ("ndots:2",)),
)


def printed(result: Result, version: str) -> dict[str, Any]:
    value = json.loads(print_result(result, version))
    assert isinstance(value, dict)
    return value


# Which version a result is read as


@pytest.mark.row("contract", 61)
@pytest.mark.parametrize(
    ("data", "default", "version"),
    [
        ({}, "", "0.1.0"),
        ({}, "1.0.0", "1.0.0"),
        ({"cniVersion": ""}, "0.4.0", "0.4.0"),
        ({"cniVersion": 5}, "0.4.0", "0.4.0"),
        ({"cniVersion": None}, "0.4.0", "0.4.0"),
        ({"cniVersion": "1.1.0"}, "0.2.0", "1.1.0"),
        ({"CNIVERSION": "1.1.0"}, "0.2.0", "1.1.0"),
    ],
)
def test_a_delegate_result_has_its_own_version_or_the_config_s(
    data: dict[str, Any], default: str, version: str
) -> None:
    """Its own number counts whatever the config's; absent, empty or no string, the config's is taken."""
    assert parse_result(data, default) == Result(cni_version=version)


@pytest.mark.row("contract", 61)
@pytest.mark.parametrize("version", ["0.5.0", "7.0.0", "1.0", "x"])
def test_an_unknown_version_is_refused(version: str) -> None:
    """A result or a config of a version that nobody defined."""
    text = f'unsupported CNI result version "{version}"'
    for attempt in (
        lambda: parse_result({"cniVersion": version}),
        lambda: parse_result({}, version),
        lambda: parse_as({}, version),
    ):
        with pytest.raises(CNIError) as caught:
            attempt()
        assert (caught.value.code, caught.value.msg) == (999, text)


@pytest.mark.parametrize("data", [[], "x", 5, None])
def test_a_result_is_an_object(data: Any) -> None:
    """Anything else is refused in words."""
    with pytest.raises(CNIError, match="into a result of type object"):
        parse_result(data)


FAMILIES = {
    **dict.fromkeys(("0.1.0", "0.2.0"), "[ 0.1.0 0.2.0]"),
    **dict.fromkeys(("0.3.0", "0.3.1", "0.4.0"), "[0.3.0 0.3.1 0.4.0]"),
    **dict.fromkeys(("1.0.0", "1.1.0"), "[1.0.0 1.1.0]"),
}


@pytest.mark.row("contract", 52)
@pytest.mark.parametrize("config", SUPPORTED)
@pytest.mark.parametrize("own", [*SUPPORTED, "9.9.9"])
def test_prev_result_may_have_another_number_of_its_family_only(config: str, own: str) -> None:
    """Within a family the number is kept; across families it is refused with the reference's text."""
    if FAMILIES[config] == FAMILIES.get(own):
        assert parse_prev_result({"cniVersion": own}, config) == Result(cni_version=own)
        return
    with pytest.raises(CNIError) as caught:
        parse_prev_result({"cniVersion": own}, config)
    assert caught.value.code == 999
    assert caught.value.msg == (
        f"could not parse prevResult: result type supports {FAMILIES[config]} "
        f'but unmarshalled CNIVersion is "{own}"'
    )


@pytest.mark.row("contract", 51)
@pytest.mark.parametrize("config", SUPPORTED)
def test_prev_result_without_a_number_has_the_config_s(config: str) -> None:
    """Absent, null and empty are the same (the reference refuses an empty one from 0.3.0 on)."""
    for data in ({}, {"cniVersion": None}, {"cniVersion": ""}):
        assert parse_prev_result(data, config) == Result(cni_version=config)


def test_no_prev_result_is_none() -> None:
    """Null is none, an unknown config version and a number of another type are errors of prevResult."""
    assert parse_prev_result(None, "1.1.0") is None
    with pytest.raises(
        CNIError, match=r'could not parse prevResult: unsupported CNI result version "9\.9\.9"'
    ):
        parse_prev_result({}, "9.9.9")
    with pytest.raises(
        CNIError, match="could not parse prevResult: json: cannot unmarshal number into field cni"
    ):
        parse_prev_result({"cniVersion": 5}, "1.1.0")


# What is read


def test_every_member_is_read() -> None:
    """All members of the newest version arrive in the canonical type, and print again."""
    data = {
        "cniVersion": "1.1.0",
        "interfaces": [
            {"name": "br0", "mac": "00:11:22:33:44:55"},
            {"name": "eth0", "mtu": 1450, "sandbox": "/run/netns/x", "socketPath": "/s", "pciID": "pci"},
        ],
        "ips": [
            {"address": "10.1.2.3/24", "gateway": "10.1.2.1", "interface": 0},
            {"address": "fd00::3/64", "gateway": "", "interface": 1},
        ],
        "routes": [
            {"dst": "0.0.0.0/0", "gw": ""},
            {
                "dst": "fd09::/64",
                "gw": "fd00::9",
                "mtu": 1400,
                "advmss": 1300,
                "priority": 5,
                "table": 0,
                "scope": 253,
            },
        ],
        "dns": {
            "nameservers": ["192.0.2.1"],
            "domain": "example.org",
            "search": ["a.example"],
            "options": ["ndots:2"],
        },
        "unknown": 1,
    }
    assert parse_result(data) == FULL.replace(cni_version="1.1.0")
    assert parse_result({key.upper(): value for key, value in data.items()}) == parse_result(data)


def test_nothing_is_validated_that_the_reference_does_not_validate() -> None:
    """Any mac, a negative mtu or index, and an index that points nowhere pass."""
    result = parse_result(
        {
            "cniVersion": "1.1.0",
            "interfaces": [{"name": "", "mac": "zz", "mtu": -1}],
            "ips": [{"address": "10.0.0.5/8", "interface": -7}],
        }
    )
    assert result.interfaces == (Interface("", "zz", -1),)
    assert result.ips[0].interface == -7


@pytest.mark.row("contract", 45)
def test_older_versions_do_not_know_newer_members() -> None:
    """0.3.0 to 0.4.0 drop an interface's mtu, socketPath and pciID; from 1.0.0 on a label is unknown."""
    interface = {"name": "a", "mtu": 1, "socketPath": "s", "pciID": "p"}
    assert parse_result({"cniVersion": "0.4.0", "interfaces": [interface]}).interfaces == (Interface("a"),)
    newer = parse_result({"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.1/8", "version": 4}]})
    assert newer.ips[0].version == ""


BAD: list[tuple[dict[str, Any], int, str]] = [
    ({"ips": [{"address": "bad"}]}, 999, "invalid CIDR address: bad"),
    ({"ips": [{"address": ""}]}, 999, "invalid CIDR address: "),
    ({"ips": [{"address": "<nil>"}]}, 999, "invalid CIDR address: <nil>"),
    ({"ips": [{"address": "10.0.0.1/8", "gateway": "10.0.0.1/8"}]}, 999, "invalid IP address: 10.0.0.1/8"),
    (
        {"ips": [{"address": 5}]},
        999,
        "json: cannot unmarshal number into field ips[0].address of type string",
    ),
    (
        {"ips": [{"address": "10.0.0.1/8", "interface": 1.5}]},
        999,
        "json: cannot unmarshal number into field ips[",
    ),
    ({"ips": {}}, 999, "json: cannot unmarshal object into field ips of type array"),
    ({"ips": ["x"]}, 999, "json: cannot unmarshal string into field ips[0] of type object"),
    ({"routes": [{"dst": "default"}]}, 999, "invalid CIDR address: default"),
    ({"routes": [{"dst": "::/0", "gw": "x"}]}, 999, "invalid IP address: x"),
    (
        {"routes": [{"dst": "::/0", "table": "main"}]},
        999,
        "json: cannot unmarshal string into field routes[0].table",
    ),
    ({"interfaces": [{"name": 5}]}, 999, "json: cannot unmarshal number into field interfaces[0].name"),
    (
        {"interfaces": [{"name": "a", "mtu": "1500"}]},
        999,
        "json: cannot unmarshal string into field interfaces[0].mtu",
    ),
    ({"dns": []}, 999, "json: cannot unmarshal array into field dns of type object"),
    ({"dns": {"search": "x"}}, 999, "json: cannot unmarshal string into field dns.search of type array"),
    # The reference prints "<nil>" for these, which nobody can read again, or crashes: refused here.
    ({"ips": [{}]}, 6, "ips[0].address is missing"),
    ({"ips": [{"address": None}]}, 6, "ips[0].address is missing"),
    ({"routes": [{"gw": "10.0.0.1"}]}, 6, "routes[0].dst is missing"),
    ({"ips": [{"address": "10.0.0.1/8"}, None]}, 6, "ips[1] is null"),
    ({"routes": [None]}, 6, "routes[0] is null"),
    ({"interfaces": [None]}, 6, "interfaces[0] is null"),
]


@pytest.mark.parametrize(("data", "code", "msg"), BAD)
def test_bad_content_is_refused_by_name(data: dict[str, Any], code: int, msg: str) -> None:
    """The reference's text where it has one; the details name the key. prevResult keeps code and text."""
    with pytest.raises(CNIError) as caught:
        parse_result({"cniVersion": "1.1.0", **data})
    assert caught.value.code == code
    assert caught.value.msg.startswith(msg)
    assert next(iter(data)) in str(caught.value)
    with pytest.raises(CNIError) as wrapped:
        parse_prev_result(data, "1.1.0")
    assert wrapped.value.code == code
    assert wrapped.value.msg == f"could not parse prevResult: {caught.value.msg}"
    assert wrapped.value.details == caught.value.details


@pytest.mark.parametrize(
    ("data", "msg"),
    [
        ({"ip4": {}}, "ip4.ip is missing"),
        ({"ip4": []}, "json: cannot unmarshal array into field ip4 of type object"),
        ({"ip6": {"ip": "fd00::1"}}, "invalid CIDR address: fd00::1"),
        ({"ip6": {"ip": "fd00::1/64", "routes": [None]}}, "ip6.routes[0] is null"),
    ],
)
def test_bad_content_of_the_oldest_shape(data: dict[str, Any], msg: str) -> None:
    """ip4 and ip6 are checked like lists."""
    with pytest.raises(CNIError) as caught:
        parse_result({"cniVersion": "0.2.0", **data})
    assert caught.value.msg == msg


# Converting


def test_a_plugin_s_own_result_counts_as_the_newest() -> None:
    """A result without a version prints in every version as one of 1.1.0 would."""
    for version in SUPPORTED:
        assert print_result(FULL, version) == print_result(FULL.replace(cni_version="1.1.0"), version)


def test_an_empty_target_is_the_oldest_version() -> None:
    """A config without a version gets a result of 0.1.0."""
    assert print_result(FULL, "") == print_result(FULL, "0.1.0")
    assert result_members(FULL, "") == result_members(FULL, "0.1.0")


def test_same_version_is_unchanged() -> None:
    """Nothing is lost or added where no conversion is needed, labels and absence of addresses included."""
    odd = Result(ips=(IPConfig(CIDR.parse("10.0.0.1/8"), version="6"),), cni_version="0.4.0")
    assert convert(odd, "0.4.0") is odd
    assert printed(odd, "0.4.0")["ips"] == [{"version": "6", "address": "10.0.0.1/8"}]
    for version in ("0.1.0", "0.2.0"):
        assert printed(Result(cni_version="0.1.0"), version) == {"cniVersion": version, "dns": {}}


def test_labels_are_copied_among_labelled_versions_and_computed_from_newer_ones() -> None:
    """A wrong or missing label survives 0.3.0 to 0.4.0; from 1.x the address decides."""
    ips = [{"address": "10.0.0.1/8", "version": "6"}, {"address": "10.0.0.2/8"}]
    old = parse_result({"cniVersion": "0.3.0", "ips": ips})
    assert [ip["version"] for ip in printed(old, "0.4.0")["ips"]] == ["6", ""]
    through = convert(convert(old, "1.1.0"), "0.4.0")
    assert [ip.version for ip in through.ips] == ["4", "4"]


def test_ip4_stands_before_ip6_whatever_the_order_of_addresses() -> None:
    """The oldest shape has a fixed order of members."""
    result = Result(ips=FULL.ips[::-1])
    assert list(printed(result, "0.2.0")) == ["cniVersion", "ip4", "ip6", "dns"]


def test_conversion_to_an_unknown_version_is_refused() -> None:
    """Both numbers are named."""
    with pytest.raises(CNIError, match=r"no converter for CNI result version 1\.1\.0 to 9\.9\.9"):
        print_result(FULL, "9.9.9")
    with pytest.raises(CNIError, match=r"no converter for CNI result version 7\.0\.0 to 1\.1\.0"):
        convert(FULL.replace(cni_version="7.0.0"), "1.1.0")


@pytest.mark.row("contract", 47)
@pytest.mark.parametrize("version", ["0.1.0", "0.2.0"])
def test_the_oldest_versions_need_an_address(version: str) -> None:
    """Code 999, and the details say which versions do without."""
    with pytest.raises(CNIError) as caught:
        print_result(Result(interfaces=FULL.interfaces), version)
    assert (caught.value.code, caught.value.msg) == (999, "cannot convert: no valid IP addresses")
    assert "0.3.0" in caught.value.details


# Printing


@pytest.mark.row("contract", 43)
def test_layout() -> None:
    """Four blanks a level, one member a line, sorted keys from 1.0.0 on, no line feed at the end."""
    assert print_result(Result(interfaces=(Interface("<lo>", sandbox="/x"),)), "1.1.0").decode() == (
        '{\n    "cniVersion": "1.1.0",\n    "interfaces": [\n        {\n'
        '            "name": "\\u003clo\\u003e",\n            "sandbox": "/x"\n        }\n    ]\n}'
    )


@pytest.mark.row("contract", 44)
def test_zero_is_a_value_for_index_table_and_scope_only() -> None:
    """`interface`, `table` and `scope` print 0 and are absent as None; mtu, advmss, priority 0 are absent."""
    zero = Result(
        interfaces=(Interface("a", mtu=0),),
        ips=(IPConfig(CIDR.parse("10.0.0.1/8"), interface=0),),
        routes=(Route(CIDR.parse("10.0.0.0/8"), table=0, scope=0), Route(CIDR.parse("10.0.0.0/8"))),
    )
    assert printed(zero, "1.1.0") == {
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "a"}],
        "ips": [{"address": "10.0.0.1/8", "interface": 0}],
        "routes": [{"dst": "10.0.0.0/8", "scope": 0, "table": 0}, {"dst": "10.0.0.0/8"}],
    }


def test_integers_stay_exact() -> None:
    """A number above 2^53 is printed as it came (the reference loses its last digits)."""
    route = {"dst": "10.0.0.0/8", "table": 9007199254740993}
    result = parse_result({"cniVersion": "1.1.0", "routes": [route]})
    assert b"9007199254740993" in print_result(result, "1.1.0")


@pytest.mark.parametrize("version", SUPPORTED)
def test_members_for_another_document_are_what_is_printed(version: str) -> None:
    """`result_members` is the printed object, order included, or the same sorted at all levels."""
    members = result_members(FULL, version)
    assert dumps(members, indent="    ") == print_result(FULL, version)
    assert dumps(result_members(FULL, version, sort=True)) == dumps(members, sort_keys=True)


# All versions


CIDRS = st.sampled_from(["10.1.2.3/24", "10.1.2.4/32", "fd00::3/64", "0.0.0.0/0", "::/0", "10.9.0.0/16"]).map(
    CIDR.parse
)
GATEWAYS = st.none() | st.sampled_from(["10.1.2.1", "fd00::1"]).map(IP.parse)
NUMBERS = st.none() | st.integers(-1, 2)
COUNTS = st.integers(0, 2)
NAMES = st.sampled_from(["", "eth0", "a<b"])
TEXTS = st.lists(NAMES.filter(bool), max_size=2).map(tuple)
RESULTS = st.builds(
    Result,
    interfaces=st.lists(st.builds(Interface, NAMES, NAMES, COUNTS, NAMES, NAMES, NAMES), max_size=3).map(
        tuple
    ),
    ips=st.lists(st.builds(IPConfig, CIDRS, GATEWAYS, NUMBERS), max_size=3).map(tuple),
    routes=st.lists(
        st.builds(Route, CIDRS, GATEWAYS, COUNTS, COUNTS, COUNTS, NUMBERS, NUMBERS), max_size=3
    ).map(tuple),
    dns=st.builds(DNS, TEXTS, NAMES, TEXTS, TEXTS),
)


@pytest.mark.row("contract", 50)
@given(RESULTS, st.sampled_from(SUPPORTED))
def test_what_a_version_prints_it_reads_again(result: Result, version: str) -> None:
    """Reading a printed result gives the converted one, and converting once more changes nothing."""
    try:
        converted = convert(result, version)
    except CNIError as refusal:
        assert refusal.msg == "cannot convert: no valid IP addresses"  # noqa: PT017 - or it converts
        return
    data = loads(print_result(result, version))
    assert parse_result(data) == converted
    assert parse_prev_result(data, version) == converted
    assert convert(converted, version) == converted


@given(RESULTS, st.sampled_from(SUPPORTED), st.sampled_from(SUPPORTED))
def test_going_down_and_up_again_only_loses(result: Result, low: str, high: str) -> None:
    """After a way through an older version every address and route left is one that was there."""
    try:
        through = convert(convert(result, low), high)
    except CNIError as refusal:
        assert refusal.msg == "cannot convert: no valid IP addresses"  # noqa: PT017 - or it converts
        return
    assert through.dns == result.dns
    before = {(ip.address, ip.gateway) for ip in result.ips}
    assert {(ip.address, ip.gateway) for ip in through.ips} <= before
    assert {(r.dst, r.gw) for r in through.routes} <= {(r.dst, r.gw) for r in result.routes}
    if low >= "0.3.0" and high >= "0.3.0":
        assert [ip.address for ip in through.ips] == [ip.address for ip in result.ips]
        assert through.routes == result.routes
