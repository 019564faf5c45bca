"""Plugins that record how they were called and answer as they are told, for the tests of chains.

They are shell scripts; each call leaves its environment and standard input in the log folder.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pycni.runtime import Attachment, NetworkList, Runtime, parse_list

if TYPE_CHECKING:
    from pathlib import Path

_SCRIPT = """\
#!/bin/sh
me=${{0##*/}}
cat > {log}/$$.stdin
env -0 > {log}/$$.env
echo "$me $CNI_COMMAND $$" >> {log}/order
if [ -e {answers}/$me.$CNI_COMMAND ]; then . {answers}/$me.$CNI_COMMAND; exit; fi
[ "$CNI_COMMAND" = ADD ] && echo '{{"cniVersion":"1.1.0","interfaces":[{{"name":"'$me'"}}]}}'
exit 0
"""

POD = Attachment("cid1", "/run/netns/cid1", "eth0")


@dataclass
class RecordedCall:
    """What one call of a plugin got."""

    plugin: str
    verb: str
    env: dict[str, str]
    stdin: bytes

    @property
    def config(self) -> Any:
        return json.loads(self.stdin)


class Recorder:
    """A folder of recording plugins, and a runtime that uses them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bin = root / "bin"
        self.log = root / "log"
        self.answers = root / "answers"
        for folder in (self.bin, self.log, self.answers):
            folder.mkdir()
        self.stderr: list[bytes] = []
        self.warnings: list[str] = []
        self.plugins("a", "b", "c")

    def plugins(self, *names: str) -> None:
        """Put recording plugins of these names into the folder."""
        for name in names:
            path = self.bin / name
            path.write_text(_SCRIPT.format(log=self.log, answers=self.answers))
            path.chmod(0o755)

    def answer(self, plugin: str, verb: str, script: str) -> None:
        """What the plugin does for this verb from now on, in shell; it ends there."""
        (self.answers / f"{plugin}.{verb}").write_text(script)

    def fail(self, plugin: str, verb: str, error: str = '{"code":7,"msg":"planned","details":"dd"}') -> None:
        """Let the plugin answer this verb with an error object."""
        self.answer(plugin, verb, f"echo '{error}'; exit 1\n")

    def recover(self, plugin: str, verb: str) -> None:
        """Let the plugin answer this verb as it did at first."""
        (self.answers / f"{plugin}.{verb}").unlink()

    @property
    def order(self) -> list[str]:
        """The calls so far: `["a ADD", "b ADD"]`."""
        return [f"{call.plugin} {call.verb}" for call in self.calls]

    @property
    def calls(self) -> list[RecordedCall]:
        """The calls so far with what they got."""
        found = []
        order = self.log / "order"
        for line in order.read_text().splitlines() if order.exists() else ():
            plugin, verb, pid = line.split(" ")
            pairs = os.fsdecode((self.log / f"{pid}.env").read_bytes()).split("\0")
            env = dict(pair.split("=", 1) for pair in pairs if pair)
            found.append(RecordedCall(plugin, verb, env, (self.log / f"{pid}.stdin").read_bytes()))
        return found

    def forget(self) -> None:
        """Start a new log."""
        for file in self.log.iterdir():
            file.unlink()

    def runtime(self, **options: Any) -> Runtime:
        """A runtime over the folder of plugins, with a cache and a run folder of its own."""
        settings: dict[str, Any] = {
            "run_dir": str(self.root / "run"),
            "env": {"PATH": os.environ["PATH"]},
            "on_stderr": self.stderr.append,
            "on_warning": self.warnings.append,
        }
        return Runtime(str(self.bin), str(self.root / "cache"), **(settings | options))

    @property
    def cached(self) -> list[str]:
        """The names of the cache files."""
        results = self.root / "cache" / "results"
        return sorted(os.listdir(results)) if results.exists() else []

    def cache_file(self, name: str) -> Path:
        """A file of the cache; its folder exists."""
        results = self.root / "cache" / "results"
        results.mkdir(parents=True, exist_ok=True)
        return results / name


def network(*plugins: str | dict[str, Any], version: str | None = "1.1.0", **members: Any) -> NetworkList:
    """A list named net1 over plugins given by type or by object; `a` and `b` unless told."""
    chosen = [{"type": item} if isinstance(item, str) else item for item in plugins or ("a", "b")]
    document = {"name": "net1", "plugins": chosen, **members}
    if version is not None:
        document["cniVersion"] = version
    return parse_list(json.dumps(document).encode())
