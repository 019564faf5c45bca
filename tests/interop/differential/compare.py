"""What differs between two worlds after a step, once what must differ is out of the way."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import TYPE_CHECKING, Any

from differential.case import Shell
from differential.sight import VETH
from support.golden import PARSER_TAIL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from differential.world import Moment, World

MAC = re.compile(r"\b[0-9a-f]{2}(?::[0-9a-f]{2}){5}\b")
_ROLE = re.compile(r"\$MAC\([^)]*\)")
_ABSENT = "(absent)"


@dataclasses.dataclass(frozen=True)
class Difference:
    """One place where the two are not equal; values as JSON. `where` is `VERB PLUGIN: path`."""

    step: int
    where: str
    reference: str
    ours: str

    def __str__(self) -> str:
        return f"step {self.step}: {self.where}: the reference has {self.reference}, ours {self.ours}"


class Names:
    """The roles of one world's random names, at one moment."""

    def __init__(self, world: World, moment: Moment) -> None:
        sight = moment.sight
        links = sight.links.get("host", []) if sight is not None else []
        self.veths, self.macs = (sight.veths, sight.macs) if sight is not None else ({}, {})
        self.paths = sorted(((v, k) for k, v in world.values.items()), key=lambda item: -len(item[0]))
        self.known = set(MAC.findall(repr(world.case).lower()))
        ports = [(link.get("master"), link["address"]) for link in links]
        self.borrowed = {
            link["ifname"]: link["address"] for link in links if (link["ifname"], link["address"]) in ports
        }

    def text(self, text: str) -> str:
        for path, name in self.paths:
            text = text.replace(path, name)
        text = VETH.sub(lambda found: self.veths.get(found[0], "$VETH"), text)
        return MAC.sub(lambda found: self._mac(found[0]), text)

    def _mac(self, mac: str) -> str:
        return mac if mac in self.known else self.macs.get(mac, "$MAC")

    def apply(self, value: Any) -> Any:
        """`value` with every name of this world replaced, in keys too."""
        replaced = json.loads(self.text(json.dumps(value)))
        return self._follow_ports(replaced) if self.borrowed else replaced

    def _follow_ports(self, value: Any) -> Any:
        """A bridge without an address of its own bears the lowest of its ports': which one is chance."""
        for name, mac in self.borrowed.items():
            for link in _links_of(value):
                key = "mac" if "mac" in link else "address"
                if name in (link.get("name"), link.get("ifname")) and link.get(key) == self._mac(mac):
                    link[key] = "$MAC(a port)"
        return value


def _links_of(value: Any) -> list[dict[str, Any]]:
    """The interfaces of a result, or the links of a state."""
    if not isinstance(value, dict):
        return []
    return [*value.get("interfaces", ()), *value.get("host", {}).get("links", {}).values()]


def differences(number: int, reference: tuple[World, Moment], ours: tuple[World, Moment]) -> list[Difference]:
    """All of one step; a command's outcome is not compared, since it must succeed."""
    step = reference[1].step
    title = "command" if isinstance(step, Shell) else f"{step.verb} {step.plugin}"
    names = [Names(*side) for side in (reference, ours)]
    found: list[tuple[str, Any, Any]] = []
    if reference[1].outcome is not None:
        found += _outcomes(names, reference[1], ours[1])
    sights = [reference[1].sight, ours[1].sight]
    found += _walk("", *(n.apply(sight.state) for n, sight in zip(names, sights, strict=True) if sight))
    return [Difference(number, f"{title}: {path}", _shown(a), _shown(b)) for path, a, b in found]


def _shown(value: Any) -> str:
    return value if value is _ABSENT else json.dumps(value, sort_keys=True)


def _walk(path: str, reference: Any = None, ours: Any = None) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(reference, dict) and isinstance(ours, dict):
        for key in (*reference, *(key for key in ours if key not in reference)):
            inner = f"{path}.{key}" if path else key
            yield from _walk(inner, reference.get(key, _ABSENT), ours.get(key, _ABSENT))
    elif isinstance(reference, list) and isinstance(ours, list) and len(reference) == len(ours):
        for index, pair in enumerate(zip(reference, ours, strict=True)):
            yield from _walk(f"{path}[{index}]", *pair)
    elif reference != ours or type(reference) is not type(ours):
        yield path, reference, ours


def _outcomes(names: list[Names], reference: Moment, ours: Moment) -> Iterator[tuple[str, Any, Any]]:
    first, second = reference.outcome, ours.outcome
    assert first is not None
    assert second is not None
    if b"Traceback" in second.stderr:
        yield "stderr", "", second.stderr.decode()
    texts = [
        n.text(side.stdout.decode("utf-8", "replace")) for n, side in zip(names, (first, second), strict=True)
    ]
    if first.status != second.status:
        yield "exit", [first.status, texts[0]], [second.status, texts[1]]
        return
    documents = [n.apply(_document(side.stdout)) for n, side in zip(names, (first, second), strict=True)]
    if first.status:
        yield from _errors(*documents)
        return
    found = list(_walk("result", *documents))
    yield from found
    layouts = [_ROLE.sub("$MAC", text) for text in texts]  # which port's MAC a bridge bears is chance
    if not found and layouts[0] != layouts[1]:
        yield "layout", *layouts


def _document(stdout: bytes) -> Any:
    try:
        return json.loads(stdout)
    except ValueError:
        return stdout.decode("utf-8", "replace")


def _errors(reference: Any, ours: Any) -> Iterator[tuple[str, Any, Any]]:
    """Code and text up to a parser's words are contract; ours may say more in the details."""
    if not isinstance(reference, dict) or not isinstance(ours, dict):
        yield from _walk("error", reference, ours)
        return
    if reference["code"] != ours.get("code"):
        yield "error.code", [reference["code"], reference["msg"]], [ours.get("code"), ours.get("msg")]
    msg = reference["msg"]
    tail = PARSER_TAIL.search(msg)
    same = ours["msg"].startswith(msg[: tail.start()]) if tail else ours["msg"] == msg
    if not same:
        yield "error.msg", msg, ours["msg"]
    if reference.get("details", "") not in ours.get("details", ""):
        yield "error.details", reference["details"], ours.get("details", "")
    more = ours.keys() - {"code", "msg", "details"} - reference.keys()
    if more:
        yield "error", sorted(reference), sorted(ours)
