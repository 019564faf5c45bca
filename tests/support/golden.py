"""Replaying the recordings of the reference plugins (tests/golden/README.md says what is in them).

A recording is a template: `$NAMES` in it stand for values that only a run knows. Matching walks template and
observation side by side; a name met for the first time takes the value found in its place (if that has the
shape of such a value) and stands for it from then on.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.calls import SYSTEM_PATH, Outcome, execute
from support.observe import firewall_state, host_state, lowest_port_mac, pod_state, snapshot, store

if TYPE_CHECKING:
    from support.netns import NetNS

GOLDEN = Path(__file__).parent.parent / "golden"
NAME = re.compile(r"\$[A-Z][A-Z0-9_]*")
# What a parser or a formatter of Go adds is no contract: compare messages up to there only.
PARSER_TAIL = re.compile(r"json: |invalid character |unexpected end of JSON input|strconv\.|\{Dst:\{IP:|ef53")


@dataclasses.dataclass(frozen=True)
class Deviation:
    """Where ours is better than the recording: what to expect of one step instead, and why.

    - `succeeds`: exit status 0 where the recording has a failure; `result` is then the whole result.
    - `error`: members of the error object; those not named are not compared.
    - `result`: the result instead of the recorded one.
    - `unchanged`: the step leaves the state as it found it, but for what `state` says.
    - `state`: the recorded state (or with `unchanged` the one before) → what to expect; a function, or a
      merge patch (RFC 7396).
    - `stderr`: a regular expression.
    """

    reason: str
    succeeds: bool = False
    error: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    unchanged: bool = False
    state: Callable[[dict[str, Any]], dict[str, Any]] | dict[str, Any] | None = None
    stderr: str = ""

    def state_from(self, recorded: dict[str, Any]) -> dict[str, Any]:
        """The state to expect."""
        if callable(self.state):
            return self.state(copy.deepcopy(recorded))
        return dict(merge(recorded, self.state or {}))


RECORDED = Deviation("none: as the recording has it")


def cases(*groups: str) -> list[str]:
    """GROUP/NAME of all recordings of these groups."""
    return sorted(f"{group}/{path.stem}" for group in groups for path in (GOLDEN / group).glob("*.json"))


def load(case: str) -> dict[str, Any]:
    """The recording GROUP/NAME."""
    recording: dict[str, Any] = json.loads((GOLDEN / f"{case}.json").read_text())
    return recording


def merge(target: Any, patch: Any) -> Any:
    """RFC 7396: `patch` over `target`, where None deletes."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


class Names:
    """What the placeholders stand for in this run."""

    def __init__(self, **known: str) -> None:
        self.values = {f"${name}": value for name, value in known.items()}

    def fill(self, template: Any) -> Any:
        """`template` with every name replaced, in keys too; one that has no value yet stays as it is."""
        if isinstance(template, str):
            return NAME.sub(lambda name: self.values.get(name[0], name[0]), template)
        if isinstance(template, list):
            return [self.fill(item) for item in template]
        if isinstance(template, dict):
            return {self.fill(key): self.fill(value) for key, value in template.items()}
        return template

    def match(self, template: Any, observed: Any, where: str) -> list[str]:
        """The differences, one line each; names without value take the observed one."""
        if isinstance(template, dict) and isinstance(observed, dict):
            expected = {self.fill(key): value for key, value in template.items()}
            found = [f"{where}.{key}: missing" for key in expected if key not in observed]
            found += [
                f"{where}.{key}: unexpected: {observed[key]}" for key in observed if key not in expected
            ]
            for key in expected.keys() & observed.keys():
                found += self.match(expected[key], observed[key], f"{where}.{key}")
            return found
        if isinstance(template, list) and isinstance(observed, list) and len(template) == len(observed):
            pairs = enumerate(zip(template, observed, strict=True))
            return [line for n, (a, b) in pairs for line in self.match(a, b, f"{where}[{n}]")]
        same = template == observed
        if isinstance(template, str) and isinstance(observed, str):
            same = self._match_text(template, observed)
        return [] if same else [f"{where}: expected {self.fill(template)!r}, is {observed!r}"]

    def _match_text(self, template: str, observed: str) -> bool:
        pattern, new = "", []
        for part in re.split(f"({NAME.pattern})", template):
            if not NAME.fullmatch(part):
                pattern += re.escape(part)
            elif part in self.values:
                pattern += re.escape(self.values[part])
            else:
                pattern += r"([0-9a-f]{2}(?::[0-9a-f]{2}){5})" if part.startswith("$MAC") else r"([^\s\"/]+)"
                new.append(part)
        matched = re.fullmatch(pattern, observed)
        if matched:
            self.values |= dict(zip(new, matched.groups(), strict=True))
        return bool(matched)

    def bind_links(self, template: dict[str, Any], observed: dict[str, Any]) -> None:
        """Names of links that no result showed: in order of creation, as both sides number them."""
        claimed = {self.values.get(key, key) for key in template}
        new = [key for key in template if NAME.fullmatch(key) and key not in self.values]
        rest = [name for name in observed if name not in claimed]
        self.values |= dict(zip(sorted(new), rest, strict=False))


class Replay:
    """One case against the plugins of one folder; `step(n)` returns the differences."""

    def __init__(
        self, case: dict[str, Any], bin_dir: Path, host: NetNS, new_pod: Callable[[], NetNS], folder: Path
    ) -> None:
        """Make pods, files and executables, and run the recording's set-up commands."""
        self.case = case
        self.host = host
        self.bin_dir = bin_dir
        setup = case["setup"]
        self.pods = {name: new_pod() for name in setup["pods"]}
        folders = {name: folder / name.lower() for name in ("EXTRA", "FILES", "DATADIR")}
        for path in folders.values():
            path.mkdir()
        self.data_dir = folders["DATADIR"]
        self.names = Names(
            BIN=str(bin_dir),
            HOSTNS=str(host.path),
            GONE="/run/netns/gone",
            **{k: str(v) for k, v in folders.items()},
        )
        self.names.values |= {name: str(pod.path) for name, pod in self.pods.items()}
        for mode, files in ((0o644, setup.get("files", {})), (0o755, setup.get("executables", {}))):
            for name, content in files.items():
                path = Path(self.names.fill(name))
                path.write_text(content)
                path.chmod(mode)
        for command in setup.get("commands", ()):
            host.run("sh", "-ec", self.names.fill(command))
        self.printed: dict[int, bytes] = {}

    def state(self) -> dict[str, Any]:
        """Everything that the recordings look at."""
        return {
            "host": host_state(self.host),
            "pods": {name: pod_state(pod) for name, pod in self.pods.items()},
            **firewall_state(self.host),
            "store": store(self.data_dir),
        }

    def step(self, number: int, deviation: Deviation = RECORDED) -> list[str]:
        """Do step `number` (from 1) and compare; raises AssertionError if one of its commands fails."""
        step = self.case["steps"][number - 1]
        if "command" in step:
            self.host.run("sh", "-ec", self.names.fill(step["command"]))
            return []
        expected, everything = step.get("state"), None
        if deviation.unchanged:
            expected, everything = self.state(), snapshot(self.host)
        outcome = self._execute(step)
        self.printed[number] = outcome.stdout
        self._see_lowest_mac(step)
        found = self._compare_output(step, outcome, deviation)
        if expected is not None:
            found += self._compare_state(deviation.state_from(expected), self.state())
        if everything is not None:
            found += self.names.match(everything, snapshot(self.host), "host")
        return found

    def _execute(self, step: dict[str, Any]) -> Outcome:
        env, stdin = self._request(step)
        return execute(self.host, self.bin_dir / step["plugin"], env, stdin).finish()

    def _request(self, step: dict[str, Any]) -> tuple[dict[str, str], bytes]:
        if "stdin_text" in step:
            stdin = step["stdin_text"].encode()
        else:
            config = copy.copy(step["stdin"])
            if "prev_result_of_step" in step:
                config.pop("prevResult")
            config = self.names.fill(config)
            if "prev_result_of_step" in step:
                config["prevResult"] = json.loads(self.printed[step["prev_result_of_step"]])
            stdin = json.dumps(config).encode()
        return self.names.fill(step["env"]) | {"PATH": SYSTEM_PATH}, stdin

    def _see_lowest_mac(self, step: dict[str, Any]) -> None:
        bridge = step.get("stdin", {}).get("bridge")
        if bridge and (mac := lowest_port_mac(self.host, bridge)):
            self.names.values["$MAC_LOWEST_PORT"] = mac

    def _compare_output(self, step: dict[str, Any], outcome: Outcome, deviation: Deviation) -> list[str]:
        found = [f"stderr: {outcome.stderr!r}"] if b"Traceback" in outcome.stderr else []
        status = 1 if deviation.error else 0 if deviation.succeeds else step["exit"]
        if outcome.status != status:
            return [*found, f"exit: expected {status}, is {outcome.status}: {outcome.stdout.decode()}"]
        if "stderr" in step:
            expected = deviation.stderr or re.escape(step["stderr"])
            if not re.fullmatch(expected, outcome.stderr.decode()):
                found.append(f"stderr: expected {expected!r}, is {outcome.stderr!r}")
        if status == 0:
            return found + self._compare_result(step, outcome, deviation)
        return found + self._compare_error(deviation.error or json.loads(step["stdout"]), outcome)

    def _compare_error(self, expected: dict[str, Any], outcome: Outcome) -> list[str]:
        try:
            error = outcome.json
        except ValueError as problem:
            return [f"stdout: no error object ({problem}): {outcome.stdout!r}"]
        found = []
        for key, text in expected.items():
            tail = PARSER_TAIL.search(str(text))
            if key == "details" or tail:  # ours may say more
                text = self.names.fill(text[: tail.start()] if tail else text)
                same = text in error.get(key, "") if key == "details" else error[key].startswith(text)
                found += [] if same else [f"error.{key}: expected {text!r}…, is {error.get(key)!r}"]
            else:
                found += self.names.match(text, error.get(key), f"error.{key}")
        return found

    def _compare_result(self, step: dict[str, Any], outcome: Outcome, deviation: Deviation) -> list[str]:
        if deviation.result is not None:
            return self.names.match(deviation.result, outcome.json, "stdout")
        template = "" if deviation.succeeds else step["stdout"]
        if not template or not outcome.stdout:
            return self.names.match(template, outcome.stdout.decode(), "stdout")
        found = self.names.match(json.loads(template), outcome.json, "stdout")
        if not found and self.names.fill(template) != outcome.stdout.decode():
            found = [f"stdout: expected the bytes {self.names.fill(template)!r}, is {outcome.stdout!r}"]
        return found

    def _compare_state(self, expected: dict[str, Any], observed: dict[str, Any]) -> list[str]:
        self.names.bind_links(expected["host"]["links"], observed["host"]["links"])
        places = [(expected["host"], observed["host"], "host")]
        places += [(expected["pods"][n], observed["pods"][n], n) for n in expected["pods"]]
        found = [line for place in places for line in self._compare_place(*place)]
        found += self.names.match(_by_chain(expected["nft"]), _by_chain(observed["nft"]), "nft")
        for key in {"nft_comments", "iptables", "store"} & expected.keys():
            found += self.names.match(expected[key], observed[key], key)
        return found

    def _compare_place(self, expected: dict[str, Any], observed: dict[str, Any], where: str) -> list[str]:
        links = {}
        for name, link in observed["links"].items():
            # What was not recorded of a link is not compared.
            recorded = next((v for k, v in expected["links"].items() if self.names.fill(k) == name), link)
            links[name] = {key: value for key, value in link.items() if key in recorded}
        found = self.names.match(expected["links"], links, f"{where}.links")
        found += self.names.match(expected["sysctls"], observed["sysctls"], f"{where}.sysctls")
        wanted, seen = (_as_lines(side) for side in (self.names.fill(expected["routes"]), observed["routes"]))
        found += [f"{where}.routes: missing: {route}" for route in sorted(wanted - seen)]
        found += [f"{where}.routes: unexpected: {route}" for route in sorted(seen - wanted)]
        return found


def _as_lines(routes: list[dict[str, Any]]) -> set[str]:
    return {json.dumps(route, sort_keys=True) for route in routes}


def _by_chain(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Tables and chains by name, since their order means nothing; rules in order within their chain."""
    grouped: dict[str, Any] = {}
    for item in items:
        ((kind, body),) = item.items()
        if kind == "table":
            grouped[f"table {body['family']} {body['name']}"] = body
        elif kind == "chain":
            grouped[f"chain {body['family']} {body['table']} {body['name']}"] = body
        else:
            place = f"{kind}s {body['family']} {body['table']} {body['chain']}"
            grouped.setdefault(place, []).append(body)
    return grouped
