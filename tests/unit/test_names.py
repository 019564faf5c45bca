"""Identifiers, interface names and derived names: `pycni.names`."""

from __future__ import annotations

import hashlib
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycni import names
from pycni.errors import CNIError


@pytest.mark.row("contract", 13, 14)
@pytest.mark.parametrize("text", ["a", "A", "0", "a.b-c_d", "a..b", "a" * 300, "0.", "a-"])
def test_identifiers(text: str) -> None:
    """A letter or digit, then letters, digits, `_`, `.`, `-`, of any length."""
    assert names.is_identifier(text)
    names.check_container_id(text)
    names.check_network_name(text)


BAD = [
    "-a",
    "_a",
    ".a",
    "..",
    "a/b",
    "a b",
    "é",
    "aé",
    "a\n",
    "\na",
    "a\0",
    "a:b",
    "a\udcff",
    "１",
    "a\u2028",
]


@pytest.mark.row("contract", 13)
@pytest.mark.parametrize("text", BAD)
def test_what_is_no_identifier_is_shown_in_the_details(text: str) -> None:
    """Container ids fail with code 4, network names with 7; a trailing line feed is no loophole."""
    with pytest.raises(CNIError) as container:
        names.check_container_id(text)
    with pytest.raises(CNIError) as network:
        names.check_network_name(text)
    assert (container.value.code, container.value.msg) == (4, "invalid characters in containerID")
    assert (network.value.code, network.value.msg) == (7, "invalid characters found in network name")
    assert container.value.details == network.value.details == text


@given(st.text())
def test_identifiers_are_exactly_the_expression(text: str) -> None:
    """`is_identifier` is `[a-zA-Z0-9][a-zA-Z0-9_.-]*` from end to end."""
    alnum = string.ascii_letters + string.digits
    wanted = text != "" and text[0] in alnum and all(char in alnum + "_.-" for char in text)
    assert names.is_identifier(text) is wanted


def test_a_missing_network_name_has_its_own_text() -> None:
    """Code 7, `missing network name`."""
    with pytest.raises(CNIError) as caught:
        names.check_network_name("")
    assert (caught.value.code, caught.value.msg) == (7, "missing network name")


@pytest.mark.row("contract", 15, 17)
@pytest.mark.parametrize("name", ["eth0", "lo", "...", "-x", "%d", "é" * 7, "\udcff", "x" * 15, "a.b@c"])
def test_interface_names(name: str) -> None:
    """1 to 15 bytes of nearly anything, also what is not UTF-8."""
    names.check_interface_name(name)


@pytest.mark.row("contract", 15, 17)
@pytest.mark.parametrize(
    ("name", "msg", "details"),
    [
        ("", "interface name is empty", ""),
        ("x" * 16, "interface name is too long", "interface name should be less than 16 characters"),
        ("é" * 8, "interface name is too long", "interface name should be less than 16 characters"),
        ("/" * 16, "interface name is too long", "interface name should be less than 16 characters"),
        (".", "interface name is . or ..", ""),
        ("..", "interface name is . or ..", ""),
        ("a/b", "interface name contains / or : or whitespace characters", ""),
        ("a:b", "interface name contains / or : or whitespace characters", ""),
        ("a\n", "interface name contains / or : or whitespace characters", ""),
    ],
)
def test_bad_interface_names(name: str, msg: str, details: str) -> None:
    """Code 4 with the reference's texts, in its order; the length counts in bytes."""
    with pytest.raises(CNIError) as caught:
        names.check_interface_name(name)
    assert (caught.value.code, caught.value.msg, caught.value.details) == (4, msg, details)


@pytest.mark.row("contract", 16)
def test_white_space_is_unicode_white_space_of_go() -> None:
    """Exactly these code points are white space in an interface name; U+001C and U+200B are not."""
    white = {*range(0x09, 0x0E), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B)}
    white |= {0x2028, 0x2029, 0x202F, 0x205F, 0x3000}
    found = {code for code in range(0x3100) if names.interface_name_problem(f"a{chr(code)}b")}
    assert found == white | {ord("/"), ord(":")}


@given(st.text())
def test_digest_is_sha512(text: str) -> None:
    """The C module behind `digest` computes what hashlib computes."""
    assert names.digest(text) == hashlib.sha512(text.encode("utf-8", "surrogateescape")).hexdigest()


def test_a_host_side_is_always_called_the_same() -> None:
    """The name of the host side is a function of the three, fits, and tells attachments apart."""
    one = names.host_veth("net", "pod", "eth0")
    assert one == names.host_veth("net", "pod", "eth0")
    assert one.startswith("veth")
    assert names.interface_name_problem(one) is None
    assert len(one) == 15
    others = {
        names.host_veth("net", "pod", "eth1"),
        names.host_veth("net2", "pod", "eth0"),
        names.host_veth("net", "pod2", "eth0"),
        names.host_veth("net-pod", "", "eth0"),
    }
    assert one not in others
    assert len(others) == 4
