"""Parsing network configuration lists (pycni.runtime.conflist)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pycni.errors import CNIError
from pycni.runtime.conflist import list_from_plugin, parse_list, parse_plugin

LIST = "error parsing configuration list: "
CONF = "error parsing configuration: "


def document(**members: Any) -> bytes:
    return json.dumps({"name": "n", "plugins": [{"type": "a"}], **members}).encode()


@pytest.mark.row("contract", 65)
@pytest.mark.parametrize(
    ("raw", "msg"),
    [
        (b"", LIST + "unexpected end of JSON input"),
        (b"{", LIST),
        (b"[]", LIST + "json: cannot unmarshal [] into an object"),
        (b'"x"', LIST + "json: cannot unmarshal"),
        (b"{} {}", LIST + "invalid character '{' after top-level value"),
        (b"{}", LIST + "no name"),
        (b'{"Name":"n"}', LIST + "no name"),
        (b'{"name":5}', LIST + "invalid name type float64"),
        (b'{"name":null}', LIST + "invalid name type <nil>"),
        (b'{"name":["n"]}', LIST + "invalid name type []interface {}"),
        (document(cniVersion=5), LIST + "invalid cniVersion type float64"),
        (document(cniVersion=None), LIST + "invalid cniVersion type <nil>"),
        (document(cniVersions=1), LIST + "invalid type for cniVersions: float64"),
        (document(cniVersions=None), LIST + "invalid type for cniVersions: <nil>"),
        (document(cniVersions=[5]), LIST + "invalid type for cniVersions index 0: float64"),
        (document(cniVersions=["1.0.0", "x"]), LIST + "invalid cniVersions entry x at index 1: "),
        (document(cniVersions=["1.0.0"], cniVersion="x"), LIST + "invalid cniVersion x: "),
        (document(disableCheck=1), LIST + "invalid type float64 for disableCheck"),
        (document(disableCheck=None), LIST + "invalid type <nil> for disableCheck"),
        (document(disableGC="Yes"), LIST + 'invalid value "yes" for disableGC'),
        (
            document(loadOnlyInlinedPlugins=[]),
            LIST + "invalid type []interface {} for loadOnlyInlinedPlugins",
        ),
        (
            b'{"name":"n","loadOnlyInlinedPlugins":true}',
            LIST + "`loadOnlyInlinedPlugins` is true, and no 'plugins' key",
        ),
        (document(plugins={}), LIST + "invalid 'plugins' type map[string]interface {}"),
        (document(plugins="a"), LIST + "invalid 'plugins' type string"),
        (document(plugins=None), LIST + "invalid 'plugins' type <nil>"),
        (document(plugins=[]), LIST + "no plugins in list"),
        (document(plugins=[{}]), f"failed to parse plugin config 0: {CONF}missing 'type'"),
        (document(plugins=[{"type": "a"}, {"type": ""}]), f"failed to parse plugin config 1: {CONF}missing"),
        (document(plugins=["a"]), f"failed to parse plugin config 0: {CONF}json: cannot unmarshal"),
        (document(plugins=[None]), f"failed to parse plugin config 0: {CONF}json: cannot unmarshal"),
        (
            document(plugins=[{"type": 5}]),
            f"failed to parse plugin config 0: {CONF}json: cannot unmarshal number",
        ),
        (b'{"name":"n","plugins":[{"type":"a","x":1e400}]}', LIST + "json: a number is out of range"),
    ],
)
def test_a_broken_list_is_refused_with_the_references_words(raw: bytes, msg: str) -> None:
    """A list that the reference refuses is refused, and the message begins as there."""
    with pytest.raises(CNIError) as caught:
        parse_list(raw)
    assert caught.value.msg.startswith(msg)
    assert caught.value.code in (6, 7)


@pytest.mark.parametrize(
    ("member", "wanted"),
    [
        ({"capabilities": 5}, "capabilities of type object"),
        ({"capabilities": {"mac": "yes"}}, "capabilities.mac of type bool"),
        ({"ipam": "host-local"}, "ipam of type object"),
        ({"ipam": {"type": 1}}, "ipam.type of type string"),
        ({"dns": []}, "dns of type object"),
        ({"prevResult": "x"}, "prevResult of type object"),
    ],
)
def test_a_plugins_known_members_have_their_types(member: dict[str, Any], wanted: str) -> None:
    """The members of a plugin that the runtime knows are checked when the list is read."""
    with pytest.raises(CNIError) as caught:
        parse_list(document(plugins=[{"type": "a", **member}]))
    assert caught.value.msg.startswith(f"failed to parse plugin config 0: {CONF}json: cannot unmarshal")
    assert wanted in caught.value.msg


@pytest.mark.row("contract", 67)
@pytest.mark.parametrize(
    ("members", "chosen"),
    [
        ({}, ""),
        ({"cniVersion": "0.4.0"}, "0.4.0"),
        ({"cniVersion": "zzz"}, "zzz"),
        ({"cniVersions": ["0.3.1", "1.0.0"]}, "1.0.0"),
        ({"cniVersions": ["1.0.0", "0.3.1"]}, "1.0.0"),
        ({"cniVersions": ["0.4.0", "0.10.0"]}, "0.10.0"),
        ({"cniVersions": ["1.0.0"], "cniVersion": "0.4.0"}, "1.0.0"),
        ({"cniVersions": ["0.4.0"], "cniVersion": "1.0.0"}, "1.0.0"),
        ({"cniVersions": ["1.0.0", "2.0.0", "1.1.0"]}, "1.1.0"),
        ({"cniVersions": ["2.0.0"], "cniVersion": "3.0.0"}, "3.0.0"),
        ({"cniVersions": ["2.0.0"]}, ""),
        ({"cniVersions": []}, ""),
    ],
)
def test_the_highest_known_version_is_chosen(members: dict[str, Any], chosen: str) -> None:
    """Of cniVersions and cniVersion the numerically highest counts that is not newer than the library."""
    assert parse_list(document(**members)).cni_version == chosen


@pytest.mark.row("contract", 66)
@pytest.mark.parametrize("value", [True, "true", "TRUE", "True"])
@pytest.mark.parametrize("key", ["disableCheck", "disableGC", "loadOnlyInlinedPlugins"])
def test_booleans_may_be_words(key: str, value: object) -> None:
    """A list's switches are booleans, or the word in any case."""
    attribute = {"disableCheck": "disable_check", "disableGC": "disable_gc"}.get(key, "load_only_inlined")
    assert getattr(parse_list(document(**{key: value})), attribute) is True
    assert getattr(parse_list(document(**{key: "False"})), attribute) is False
    assert getattr(parse_list(document()), attribute) is False


def test_capabilities_are_those_that_are_true() -> None:
    """A capability that is false or null is not granted."""
    parsed = parse_list(document(plugins=[{"type": "a", "capabilities": {"x": True, "y": False, "z": None}}]))
    assert parsed.plugins[0].capabilities == frozenset({"x"})


def test_a_plugins_type_may_be_spelt_in_any_case() -> None:
    """Plugins read their keys in any letter case, so the runtime finds the type as they would."""
    assert parse_list(document(plugins=[{"TYPE": "a"}])).plugins[0].type == "a"


def test_large_integers_stay_exact() -> None:
    """A number beyond 2^53 is kept to the last digit."""
    parsed = parse_plugin(b'{"type":"a","big":12345678901234567890}')
    assert parsed.members["big"] == 12345678901234567890


@pytest.mark.row("contract", 70)
def test_a_single_plugin_becomes_a_list() -> None:
    """A .conf's name and version become the list's, and its object the only plugin."""
    parsed = list_from_plugin(b'{"type":"a","name":"n","cniVersion":"0.4.0","disableCheck":true,"x":1}')
    assert (parsed.name, parsed.cni_version, parsed.disable_check) == ("n", "0.4.0", False)
    assert parsed.plugins[0].members["x"] == 1
    assert json.loads(parsed.raw)["plugins"][0]["disableCheck"] is True


def test_a_list_without_plugins_can_be_read() -> None:
    """The plugins may come from the network's folder."""
    assert parse_list(b'{"name":"n"}').plugins == ()
