"""One implementation's world: fresh namespaces and folders, in which a case happens and is looked at."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from differential.case import NETWORK, Call, Case, Shell, Step
from differential.sight import Sight, see
from support.calls import SYSTEM_PATH, Outcome, execute
from support.netns import NetNS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_NAME = re.compile(r"\$[A-Z]+\d?")
_numbers = itertools.count()


@dataclasses.dataclass(frozen=True)
class Moment:
    """After one step: what the call printed (None after a command), and what there was to see then.

    `sight` is None where nobody looked: after a CHECK in another version than the case's newest.
    """

    step: Step
    outcome: Outcome | None
    sight: Sight | None


class World:
    """Namespaces and folders of one run of a case. `close()` takes the namespaces away."""

    def __init__(
        self, case: Case, version: str, folder: Path, bin_dir: Path, reference: Path, *, thorough: bool
    ) -> None:
        """Make everything; `bin_dir` holds the plugins under test, in one of the two worlds the reference's.

        Unless `thorough`, nobody looks around after a step that changes nothing, and at no sysctl.
        """
        self.case, self.version, self.thorough = case, version, thorough
        self.steps = [
            step for step in case.steps if isinstance(step, Shell) or (step.since or version) <= version
        ]
        self.data_dir = folder / "store"
        files = folder / "files"
        for path in (self.data_dir, files):
            path.mkdir(parents=True)
        self.bin_dir, self.reference = folder / "bin", folder / "reference"
        self.bin_dir.symlink_to(bin_dir)
        self.reference.symlink_to(reference)
        number = next(_numbers)
        self.host = NetNS(f"world-{number}")
        self.pods = [NetNS(f"world-{number}-pod{n}") for n in range(1, case.pods + 1)]
        self.values = {
            "$DATADIR": str(self.data_dir),
            "$FILES": str(files),
            "$BIN": str(self.bin_dir),
            "$REF": str(self.reference),
            "$HOST": str(self.host.path),
            "$GONE": "/run/netns/gone",
        }
        self.values |= {f"$POD{n}": str(pod.path) for n, pod in enumerate(self.pods, 1)}
        for name, content in case.files:
            (files / name).write_text(content)
        self._results: dict[tuple[str, str], Any] = {}

    def run(self) -> list[Moment]:
        """All steps; raises AssertionError if a command fails."""
        self._settle()
        return [self._step(step) for step in self.steps]

    def _settle(self) -> None:
        self.host.run("ip", "link", "set", "lo", "up")
        with self.host.inside():
            for name in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
                with open(f"/proc/sys/net/{name}", "w") as switch:
                    switch.write("0")

    def _step(self, step: Step) -> Moment:
        outcome = None
        if isinstance(step, Shell):
            where = self.pods[step.pod - 1] if step.pod else self.host
            where.run("sh", "-ec", self._fill(step.command), env=os.environ | {"PATH": SYSTEM_PATH})
        else:
            outcome = self._call(step)
        last = step is self.steps[-1]
        look = last or self.thorough or (isinstance(step, Call) and step.verb in ("ADD", "DEL"))
        return Moment(
            step, outcome, see(self.host, self.pods, self.data_dir, closely=self.thorough) if look else None
        )

    def _call(self, call: Call) -> Outcome:
        usual: dict[str, str | None] = {
            "PATH": SYSTEM_PATH,
            "CNI_COMMAND": call.verb,
            "CNI_CONTAINERID": call.owner,
            "CNI_NETNS": f"$POD{call.pod}" if call.netns is None else call.netns,
            "CNI_IFNAME": call.ifname,
            "CNI_PATH": call.path,
        }
        given: Mapping[str, str | None] = usual | dict(call.env)
        env = {name: self._fill(value) for name, value in given.items() if value is not None}
        under_test = call.plugin in self.case.ours and not call.reference
        folder = self.bin_dir if under_test else self.reference
        outcome = execute(self.host, folder / call.plugin, env, self._stdin(call)).finish()
        if outcome.status == 0 and call.verb == "ADD":
            self._results[call.owner, call.ifname] = json.loads(outcome.stdout)
        return outcome

    def _stdin(self, call: Call) -> bytes:
        if isinstance(call.config, bytes):
            return self._fill(call.config.decode("latin-1")).encode("latin-1")
        config = {"cniVersion": self.version, "name": NETWORK, "type": call.plugin} | self._fill(call.config)
        if call.prev and (result := self._results.get((call.owner, call.ifname))) is not None:
            config["prevResult"] = _edited(result, self._fill(call.edits))
        return json.dumps({key: value for key, value in config.items() if value is not ...}).encode()

    def _fill(self, template: Any) -> Any:
        if isinstance(template, str):
            return _NAME.sub(lambda name: self.values.get(name[0], name[0]), template)
        if isinstance(template, dict):
            return {key: self._fill(value) for key, value in template.items()}
        if isinstance(template, list | tuple):
            return type(template)(self._fill(item) for item in template)
        return template

    def close(self) -> None:
        """Unpin the namespaces."""
        for netns in (self.host, *self.pods):
            netns.delete()


def _edited(result: Any, edits: tuple[tuple[str, Any], ...]) -> Any:
    edited = copy.deepcopy(result)
    for path, value in edits:
        *parents, last = path.split("/")
        place = edited
        for part in parents:
            place = place[int(part)] if isinstance(place, list) else place[part]
        key: Any = int(last) if isinstance(place, list) and last != "-" else last
        if last == "-":
            place.append(value)
        elif value is ...:
            del place[key]
        else:
            place[key] = value
    return edited


def run_both(
    case: Case, version: str, folder: Path, reference: Path, ours: Path, *, thorough: bool = True
) -> list[tuple[World, list[Moment]]]:
    """The case in the reference's world and in ours, at the same time."""
    worlds = [
        World(case, version, folder / name, bin_dir, reference, thorough=thorough)
        for name, bin_dir in (("reference", reference), ("ours", ours))
    ]
    try:
        with ThreadPoolExecutor(2) as pool:
            moments = list(pool.map(World.run, worlds))
    finally:
        for world in worlds:
            world.close()
    return list(zip(worlds, moments, strict=True))
