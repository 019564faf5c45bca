"""What a runtime, or a person's config, can get wrong, and what the answer has to be.

`$POD` and the other names are filled in by the test (see `test_bad_input.py`); configs are patches (RFC 7396,
None deletes) to the plugin's good config, or whole documents as bytes.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

MARKED_LIST = ["1.0.0", "1.1.0"]
PREFIX = "error unmarshall network config: "
LOAD = "failed to load netconf: "


@dataclasses.dataclass(frozen=True)
class Case:
    """One refused request: `code`, `msg` whole or up to a closing "…", and `tells`, texts that the message or
    its details must hold, as a rule the key and the value.

    `env` replaces variables, None unsets; `fill` is a member name whose value is blanks up to that size.
    """

    title: str
    code: int
    msg: str
    tells: tuple[str, ...] = ()
    plugin: str = "bridge"
    verb: str = "ADD"
    config: dict[str, Any] | bytes = dataclasses.field(default_factory=dict)
    env: dict[str, str | None] = dataclasses.field(default_factory=dict)


def _requests() -> list[Case]:
    """The environment."""
    missing = "required env variables [{}] missing"
    nothing: dict[str, str | None] = dict.fromkeys(
        ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH")
    )
    found = []
    for verb, names in {
        "ADD": "CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH",
        "CHECK": "CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH",
        "DEL": "CNI_CONTAINERID,CNI_IFNAME,CNI_PATH",
        "GC": "CNI_PATH",
        "STATUS": "CNI_PATH",
    }.items():
        found.append(Case(f"{verb} without variables", 4, missing.format(names), (verb,), verb=verb, env=nothing))
    for name in ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"):
        found.append(Case(f"empty {name}", 4, missing.format(name), env={name: ""}))
    for verb in ("FOO", "add", "ADD ", "VERSION2"):
        found.append(
            Case(f"unknown command {verb!r}", 4, f"unknown CNI_COMMAND: {verb}", ("ADD, CHECK, DEL",), verb=verb)
        )
    for name in ("a/b", "../etc", "..", ".x", "-x", "a b", "a\n", "é", "a\\b", "a\udcff", "a;b", "*"):
        shown = name.replace("\udcff", "\ufffd")
        found.append(
            Case(
                f"container id {name!r}",
                4,
                "invalid characters in containerID",
                (shown,),
                env={"CNI_CONTAINERID": name},
            )
        )
    blank = "interface name contains / or : or whitespace characters"
    for name, msg in {
        "abcdefghijklmnop": "interface name is too long",
        "é" * 8: "interface name is too long",
        ".": "interface name is . or ..",
        "..": "interface name is . or ..",
        "a/b": blank,
        "eth0:1": blank,
        "a b": blank,
        "a\u2003b": blank,
        "eth0\n": blank,
    }.items():
        found.append(Case(f"interface name {name!r}", 4, msg, (), env={"CNI_IFNAME": name}))
    return found


CASES = _requests()
