"""Names: what may become a file name, an interface name or a rule's name, and how ours are derived.

Every name that reaches the file system or the kernel is checked here first. Sources: CNI spec 1.1.0
("Parameters", "Configuration format"), the reference's `pkg/utils`, IFNAMSIZ of <linux/if.h>.
"""

from __future__ import annotations

from pycni.errors import INVALID_ENVIRONMENT, INVALID_NETWORK_CONFIG, CNIError

try:  # `hashlib` loads OpenSSL, a third of an interpreter's start; the C modules below are part of CPython
    from _sha512 import sha512
except ImportError:
    try:
        from _sha2 import sha512
    except ImportError:
        from hashlib import sha512

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

IFNAME_BYTES: Final = 15
"""IFNAMSIZ minus the closing NUL."""

_ALNUM: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")
_IDENTIFIER: Final = _ALNUM | frozenset("_.-")
# Unicode white space as Go's unicode.IsSpace has it; str.isspace() also takes U+001C to U+001F.
_SPACE: Final = frozenset(
    "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
)


def is_identifier(text: str) -> bool:
    """Whether `text` matches `[a-zA-Z0-9][a-zA-Z0-9_.-]*` from end to end."""
    return text[:1] in _ALNUM and _IDENTIFIER.issuperset(text) if text else False


def check_container_id(container_id: str) -> None:
    """Raises CNIError (code 4) unless it is an identifier."""
    if not is_identifier(container_id):
        raise CNIError("invalid characters in containerID", container_id, code=INVALID_ENVIRONMENT)


def check_network_name(name: str) -> None:
    """Raises CNIError (code 7) unless it is an identifier."""
    if not name:
        raise CNIError("missing network name", 'the config needs a "name"', code=INVALID_NETWORK_CONFIG)
    if not is_identifier(name):
        raise CNIError("invalid characters found in network name", name, code=INVALID_NETWORK_CONFIG)


def interface_name_problem(name: str) -> tuple[str, str] | None:
    """What is wrong with an interface name, as (msg, details), or None. Length counts in bytes."""
    if not name:
        return "interface name is empty", ""
    if len(name.encode("utf-8", "surrogateescape")) > IFNAME_BYTES:
        return "interface name is too long", "interface name should be less than 16 characters"
    if name in (".", ".."):
        return "interface name is . or ..", ""
    if any(char in "/:" or char in _SPACE for char in name):
        return "interface name contains / or : or whitespace characters", ""
    return None


def check_interface_name(name: str) -> None:
    """Raises CNIError (code 4) with the reference's texts."""
    problem = interface_name_problem(name)
    if problem is not None:
        raise CNIError(*problem, code=INVALID_ENVIRONMENT)


def digest(text: str) -> str:
    """SHA-512 of the UTF-8 text in hexadecimal, from which the reference derives its rules' names."""
    hexadecimal: str = sha512(text.encode("utf-8", "surrogateescape")).hexdigest()
    return hexadecimal


def attachment_key(network: str, container_id: str, ifname: str) -> str:
    """32 hexadecimal digits that stand for one attachment (NUL cannot be part of any of the three)."""
    return digest(f"{network}\0{container_id}\0{ifname}")[:32]


def host_veth(network: str, container_id: str, ifname: str) -> str:
    """The name of the host side: `veth` and 11 digits of the attachment's key.

    Always the same for one attachment, so that a repeated ADD finds what a crashed one left and DEL needs
    no namespace to find its link.
    """
    return "veth" + attachment_key(network, container_id, ifname)[:11]


_ALIAS_PREFIX: Final = "pycni:"
_ALIAS_BYTES: Final = 255
"""IFALIASZ minus the closing NUL."""


def link_alias(network: str, container_id: str, ifname: str) -> str:
    """What the host side's `alias` says: whose it is, for people and for GC. Cut where it is too long."""
    return f"{_ALIAS_PREFIX}{network}/{container_id}/{ifname}"[:_ALIAS_BYTES]


def parse_alias(alias: str) -> tuple[str, str, str] | None:
    """(network, container id, interface) of a link's alias; None for any other text, or one that was cut."""
    if not alias.startswith(_ALIAS_PREFIX):
        return None
    parts = alias[len(_ALIAS_PREFIX) :].split("/")
    if len(parts) != 3 or len(alias) >= _ALIAS_BYTES:
        return None
    return parts[0], parts[1], parts[2]
