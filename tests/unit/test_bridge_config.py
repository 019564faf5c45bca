"""pycni_bridge.config: what a config means, and what is refused before anything is touched."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycni.errors import CNIError
from pycni.request import Request
from pycni.types import DNS
from pycni_bridge.config import BridgeConfig, parse_config, parse_config_for_del, parse_mac

SWITCHES = {
    "ipMasq": "ip_masq",
    "forceAddress": "force_address",
    "hairpinMode": "hairpin_mode",
    "promiscMode": "promisc_mode",
    "macspoofchk": "mac_spoof_check",
    "enabledad": "enable_dad",
    "disableContainerInterface": "disable_container_interface",
    "portIsolation": "port_isolation",
    "isGateway": "is_gateway",
}
IPAM = {"type": "host-local"}


def request(config: dict[str, Any], args: str = "") -> Request:
    whole = {"cniVersion": "1.1.0", "name": "net", "type": "bridge", **config}
    # Through text, as a config comes: so equal keys and the like mean what they mean there.
    return Request("ADD", "net", "1.1.0", json.loads(json.dumps(whole)), b"", {}, args=args)


def parsed(cni_args: str = "", **config: Any) -> BridgeConfig:
    return parse_config(request(config, cni_args))


def refusal(cni_args: str = "", **config: Any) -> CNIError:
    with pytest.raises(CNIError) as caught:
        parse_config(request(config, cni_args))
    return caught.value


@pytest.mark.row("plugins", 64)
@pytest.mark.row("contract", 27)
def test_defaults() -> None:
    """An empty config is layer 2 on cni0 with every switch off and a random MAC."""
    assert parsed() == BridgeConfig(bridge="cni0")
    assert not any(getattr(parsed(), field) for field in SWITCHES.values())


@pytest.mark.parametrize(("key", "field"), SWITCHES.items())
def test_each_switch_sets_its_field_alone(key: str, field: str) -> None:
    """A boolean key changes one field, is false when written so, and absent when null."""
    assert parsed(**{key: True}) == BridgeConfig(**{field: True})
    assert parsed(**{key: False}) == parsed(**{key: None}) == BridgeConfig()


@pytest.mark.parametrize("key", SWITCHES)
@pytest.mark.parametrize("value", ["true", 1, 0, [], {}])
def test_a_switch_is_a_boolean(key: str, value: object) -> None:
    """Anything but true, false and null is refused by a message with the key and the value."""
    error = refusal(**{key: value})
    assert error.code == 999
    assert error.msg.startswith("failed to load netconf: json: cannot unmarshal ")
    assert error.msg.endswith(f"into field {key} of type bool")
    assert f'key "{key}" is {json.dumps(value)}' in error.details


def test_default_gateway_implies_gateway() -> None:
    """isDefaultGateway alone makes the bridge a gateway."""
    config = parsed(isDefaultGateway=True)
    assert config.is_gateway
    assert config.is_default_gateway
    assert not parsed(isGateway=True).is_default_gateway


@pytest.mark.row("plugins", 70)
def test_keys_match_in_any_case() -> None:
    """Letter case does not matter, of keys nested in others neither."""
    config = parsed(BRIDGE="br7", IsGateway=True, IPAM={"TYPE": "host-local"}, RuntimeConfig={"Mac": MAC})
    assert config == BridgeConfig(
        bridge="br7", is_gateway=True, ipam_type="host-local", mac=bytes.fromhex(MAC.replace(":", ""))
    )


MAC = "0a:40:00:00:00:05"


@pytest.mark.parametrize(
    ("ipam", "kind"),
    [(None, ""), ({}, ""), ({"type": ""}, ""), ({"type": None}, ""), ({"type": "x"}, "x")],
)
def test_layer_3_is_an_ipam_with_a_type(ipam: object, kind: str) -> None:
    """No ipam, an empty one and one without type are layer 2."""
    assert parsed(ipam=ipam).ipam_type == kind


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"bridge": 7}, "bridge"),
        ({"mtu": "1400"}, "mtu"),
        ({"mtu": 1400.0}, "mtu"),
        ({"mtu": True}, "mtu"),
        ({"ipMasqBackend": 1}, "ipMasqBackend"),
        ({"ipam": []}, "ipam"),
        ({"ipam": {"type": 3}}, "ipam.type"),
        ({"dns": "10.0.0.1"}, "dns"),
        ({"dns": {"nameservers": "10.0.0.1"}}, "dns.nameservers"),
        ({"dns": {"search": [1]}}, "dns.search"),
        ({"dns": {"domain": ["x"]}}, "dns.domain"),
        ({"args": {"cni": {"mac": 5}}}, "args.cni.mac"),
        ({"args": []}, "args"),
        ({"runtimeConfig": {"mac": {}}}, "runtimeConfig.mac"),
        ({"runtimeConfig": "mac"}, "runtimeConfig"),
    ],
)
def test_a_wrong_type_names_its_key(config: dict[str, Any], key: str) -> None:
    """The message says which member, by its path, and the details show its value."""
    error = refusal(**config)
    assert error.msg.startswith("failed to load netconf: json: cannot unmarshal ")
    assert f"into field {key} of type " in error.msg
    assert f'key "{key}" is ' in error.details


@pytest.mark.parametrize(("mtu", "meant"), [(0, 0), (-1, 0), (68, 68), (9000, 9000), (65535, 65535)])
def test_mtu(mtu: int, meant: int) -> None:
    """Zero and less leave the kernel's default; 68 to 65535 are taken."""
    assert parsed(mtu=mtu).mtu == meant


@pytest.mark.parametrize("mtu", [1, 67, 65536, 1 << 40])
def test_mtu_out_of_range(mtu: int) -> None:
    """What the kernel would refuse is refused before anything is made, in the reference's words."""
    error = refusal(mtu=mtu)
    assert error.msg == "failed to make veth pair: invalid argument"
    assert f'key "mtu" is {mtu}' in error.details


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "LinkAttrs.Name cannot be empty"),
        ("sixteen-letters-", "numerical result out of range"),
        ("ä" * 8, "numerical result out of range"),
        ("a/b", "invalid argument"),
        ("a b", "invalid argument"),
        ("..", "invalid argument"),
        ("a:b", "invalid argument"),
    ],
)
def test_bridge_name(name: str, reason: str) -> None:
    """A name that no link can have is refused in the reference's words, with the key in the details."""
    error = refusal(bridge=name)
    assert error.msg == f'failed to create bridge "{name}": could not add "{name}": {reason}'
    assert f'key "bridge" is "{name}"' in error.details


def test_longest_bridge_name() -> None:
    """Fifteen bytes are a name."""
    assert parsed(bridge="fifteen-letters").bridge == "fifteen-letters"


@pytest.mark.row("plugins", 79)
@pytest.mark.parametrize(
    ("config", "msg", "keys"),
    [
        (
            {"ipam": IPAM, "disableContainerInterface": True},
            "cannot use IPAM when DisableContainerInterface flag is set",
            ("disableContainerInterface", "ipam.type"),
        ),
        (
            {"hairpinMode": True, "promiscMode": True},
            "cannot set hairpin mode and promiscuous mode at the same time",
            ("hairpinMode", "promiscMode"),
        ),
        (
            {"ipam": IPAM, "ipMasq": True, "ipMasqBackend": "pf"},
            'unknown ipmasq backend "pf"',
            ("ipMasqBackend",),
        ),
    ],
)
def test_contradictions(config: dict[str, Any], msg: str, keys: tuple[str, ...]) -> None:
    """Keys that exclude each other are refused by the reference's text, and the details name them."""
    error = refusal(**config)
    assert (error.code, error.msg) == (999, msg)
    assert all(f'"{key}"' in error.details for key in keys)


@pytest.mark.parametrize("config", [{"ipMasq": False, "ipam": IPAM}, {"ipMasq": True}])
def test_an_unused_backend_may_be_anything(config: dict[str, Any]) -> None:
    """Without masquerading (switched off, or layer 2) nobody asks what the backend is."""
    assert not parsed(ipMasqBackend="pf", **config).masquerades


@pytest.mark.parametrize("backend", ["", "iptables", "nftables"])
def test_backends(backend: str) -> None:
    """Both backends are known, and none is the free choice."""
    config = parsed(ipMasq=True, ipMasqBackend=backend, ipam=IPAM)
    assert config.masquerades
    assert config.ip_masq_backend == backend


def test_dns() -> None:
    """All four members are read; an object without any counts as absent."""
    dns = {"nameservers": ["10.0.0.53"], "domain": "a.test", "search": ["b.test"], "options": ["ndots:2"]}
    assert parsed(dns=dns).dns == DNS(("10.0.0.53",), "a.test", ("b.test",), ("ndots:2",))
    assert not parsed(dns={}).dns
    assert not parsed(dns={"nameservers": []}).dns


# --- MAC ---


@pytest.mark.row("plugins", 68, 69, 70)
@pytest.mark.parametrize(
    ("args", "in_args", "runtime", "last"),
    [
        ("", None, None, ""),
        ("01", None, None, "01"),
        ("01", "02", None, "02"),
        ("01", "02", "03", "03"),
        ("", "02", "03", "03"),
        ("01", None, "03", "03"),
        ("01", "", "", "01"),
        ("", "02", "", "02"),
    ],
)
def test_the_last_source_of_a_mac_counts(
    args: str, in_args: str | None, runtime: str | None, last: str
) -> None:
    """CNI_ARGS, then args.cni.mac, then runtimeConfig.mac; an empty one is none."""

    def mac(end: str | None) -> str | None:
        return f"02:00:00:00:00:{end}" if end else end

    config = {"args": {"cni": {"mac": mac(in_args)}}, "runtimeConfig": {"mac": mac(runtime)}}
    found = parsed(f"MAC={mac(args)}" if args else "", **config).mac
    assert found == (bytes.fromhex(f"0200000000{last}") if last else None)


def test_keys_of_the_delegate_in_cni_args() -> None:
    """IP is host-local's, so bridge lets it pass; what neither knows is refused unless told to ignore it."""
    assert parsed("IP=10.0.0.9;MAC=02:00:00:00:00:01").mac == bytes.fromhex("020000000001")
    assert refusal("K8S_POD_NAME=x").msg == 'ARGS: unknown args ["K8S_POD_NAME=x"]'
    assert parsed("IgnoreUnknown=1;K8S_POD_NAME=x").mac is None
    assert refusal("MAC").msg == 'ARGS: invalid pair "MAC"'


@pytest.mark.parametrize(
    "text",
    ["0a:1b:2c:3d:4e:5f", "0A:1B:2C:3D:4E:5F", "0a-1b-2c-3d-4e-5f", "0a1b.2c3d.4e5f", "0A1B.2C3D.4E5F"],
)
def test_notations_of_a_mac(text: str) -> None:
    """Colons or hyphens by twos, dots by fours, in either letter case."""
    assert parse_mac(text) == bytes.fromhex("0a1b2c3d4e5f")


@pytest.mark.parametrize(
    "text",
    [
        *("zz", "0a", "0a:1b", "0a1b2c3d4e5f", "0a:1b:2c:3d:4e:5g", "0a:1b:2c:3d:4e:5", "0a:1b:2c:3d:4e:05f"),
        *("0a:1b-2c:3d:4e:5f", "0a1b:2c3d:4e5f", "0a.1b.2c.3d.4e.5f", "0a:1b:2c:3d:4e:", ":", "-", " ", "."),
        *("0a:1b:2c:3d:4e:5f ", "+a:1b:2c:3d:4e:5f", "٠a:1b:2c:3d:4e:5f", "0a:1b:2c:3d:4e:5f:60", "0a1b"),
    ],
)
def test_not_a_mac(text: str) -> None:
    """Other spellings are refused with the text quoted."""
    with pytest.raises(CNIError, match="invalid MAC address") as caught:
        parse_mac(text)
    assert caught.value.msg == f"failed to make veth pair: address {text}: invalid MAC address"
    assert f'"{text}"' in caught.value.details


@pytest.mark.parametrize("text", ["00:00:00:00:00:00", "01:00:00:00:00:00", "ff:ff:ff:ff:ff:ff"])
def test_addresses_that_no_link_may_have(text: str) -> None:
    """Zero and multicast addresses are refused as the kernel would."""
    with pytest.raises(CNIError) as caught:
        parse_mac(text)
    assert caught.value.msg == "failed to make veth pair: cannot assign requested address"
    assert text in caught.value.details


@pytest.mark.parametrize("count", [8, 20])
def test_longer_link_addresses(count: int) -> None:
    """EUI-64 and InfiniBand addresses are addresses, but none that a veth can have."""
    with pytest.raises(CNIError) as caught:
        parse_mac(":".join(["02"] * count))
    assert caught.value.msg == "failed to make veth pair: invalid argument"
    assert f"{count} bytes" in caught.value.details


@given(st.binary(min_size=6, max_size=6).filter(lambda raw: any(raw) and not raw[0] & 1))
def test_every_unicast_mac_is_read_in_every_notation(raw: bytes) -> None:
    """What is written in any of the three notations comes out as its bytes."""
    for separator, width in ((":", 1), ("-", 1), (".", 2)):
        assert parse_mac(raw.hex(separator, width)) == raw


@given(st.text(max_size=20))
def test_any_text_is_a_mac_or_an_error(text: str) -> None:
    """Whatever stands there, it is six bytes, none, or a CNIError: never another exception."""
    try:
        mac = parse_mac(text)
    except CNIError:
        return
    assert mac is None if text == "" else mac is not None and len(mac) == 6


# --- DEL and GC ---


def test_del_reads_what_it_needs() -> None:
    """Bridge, IPAM type and the switches behind which rules stand, in any letter case."""
    config = parse_config_for_del(
        request({"Bridge": "br1", "IPMasq": True, "MacSpoofChk": True, "ipam": {"Type": "host-local"}})
    )
    assert config == BridgeConfig(bridge="br1", ip_masq=True, mac_spoof_check=True, ipam_type="host-local")


@pytest.mark.parametrize(
    "config",
    [
        {"mtu": "x"},
        {"vlan": 9999},
        {"vlanTrunk": [None]},
        {"hairpinMode": True, "promiscMode": True},
        {"disableContainerInterface": True},
        {"ipMasqBackend": "pf"},
        {"dns": 5},
        {"runtimeConfig": {"mac": "zz"}},
        {"args": []},
    ],
)
def test_del_is_not_blocked_by_a_config_that_was_spoiled(config: dict[str, Any]) -> None:
    """What ADD would refuse does not keep DEL from finding what to remove."""
    needed = {"bridge": "br1", "ipMasq": True, "ipam": IPAM}
    with pytest.raises(CNIError):
        parse_config(request({**needed, **config}))
    found = parse_config_for_del(request({**needed, **config}))
    assert (found.bridge, found.masquerades, found.ipam_type) == ("br1", True, "host-local")


@pytest.mark.parametrize("value", ["yes", 1, 0, [], {}])
def test_del_takes_a_switch_of_a_wrong_type_as_set(value: object) -> None:
    """Rules are looked for in vain rather than left behind."""
    config = parse_config_for_del(request({"ipMasq": value, "macspoofchk": value, "ipam": IPAM}))
    assert config.mac_spoof_check
    assert config.masquerades


@pytest.mark.parametrize("ipam", [None, [], "host-local", {}, {"type": 5}, {"type": ""}])
def test_del_without_a_readable_ipam_type_asks_no_ipam(ipam: object) -> None:
    """There is nobody to ask then."""
    assert parse_config_for_del(request({"ipam": ipam, "bridge": 5})) == BridgeConfig()


@given(
    st.dictionaries(
        st.sampled_from([*SWITCHES, "ipam", "dns", "mtu", "bridge", "args"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2)
            ),
            max_leaves=5,
        ),
    )
)
def test_no_config_stops_del(config: dict[str, Any]) -> None:
    """Whatever stands under the keys, DEL gets a config, and ADD one or a CNIError."""
    assert parse_config_for_del(request(config))
    with contextlib.suppress(CNIError):
        parse_config(request(config))
