"""Executing plugins as a runtime does: environment and stdin in, status, stdout and stderr out."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from support.netns import NetNS

SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
CALL_SECONDS = 60


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How one execution ended."""

    status: int
    stdout: bytes
    stderr: bytes

    @property
    def json(self) -> Any:
        """Standard output parsed; raises ValueError unless it is one JSON document."""
        return json.loads(self.stdout)

    def ok(self) -> Outcome:
        """Itself; raises AssertionError with all output if the status is not 0."""
        assert self.status == 0, f"exit {self.status}\n{self.stdout.decode()}\n{self.stderr.decode()}"
        return self

    def failed(self, code: int | None = None) -> dict[str, Any]:
        """The error object; raises AssertionError unless the call failed with one (of that code)."""
        assert self.status == 1, f"exit {self.status}\n{self.stdout.decode()}\n{self.stderr.decode()}"
        error = self.json
        assert {"code", "msg"} <= set(error) <= {"code", "msg", "details", "cniVersion"}, error
        assert code is None or error["code"] == code, error
        return dict(error)


class Running:
    """An execution under way; `finish()` gives its outcome."""

    def __init__(self, process: subprocess.Popen[bytes], stdin: bytes) -> None:
        self.process = process
        self._stdin = stdin

    def finish(self, timeout: float = CALL_SECONDS) -> Outcome:
        """Wait for the end; a call that takes longer is killed and raises subprocess.TimeoutExpired."""
        try:
            stdout, stderr = self.process.communicate(self._stdin, timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise
        return Outcome(self.process.returncode, stdout, stderr)


def execute(
    netns: NetNS, executable: Path | str, env: dict[str, str], stdin: bytes, **options: Any
) -> Running:
    """Start an executable in `netns` with exactly this environment; options as for subprocess.Popen."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = netns.popen(executable, env=env, **(pipes | options))
    return Running(process, stdin)


class Call:
    """The plugins of one folder, called from one node's namespace."""

    def __init__(self, bin_dir: Path, host: NetNS) -> None:
        self.bin_dir = bin_dir
        self.host = host

    def __call__(self, plugin: str, verb: str, config: Any, **variables: Any) -> Outcome:
        """Execute to the end; arguments as for `start`."""
        return self.start(plugin, verb, config, **variables).finish()

    def start(
        self,
        plugin: str,
        verb: str,
        config: Any,
        *,
        netns: NetNS | Path | str = "",
        container_id: str = "pod-one",
        ifname: str = "eth0",
        options: dict[str, Any] | None = None,
        **variables: str | None,
    ) -> Running:
        """Start a call without waiting for it.

        `config` is sent as JSON, or as it is if it is bytes. `variables` are further environment variables
        (`CNI_ARGS="MAC=…"`); None removes one of the usual. `options` go to subprocess.Popen.
        """
        usual: dict[str, str | None] = {
            "PATH": SYSTEM_PATH,
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": container_id,
            "CNI_NETNS": str(getattr(netns, "path", netns)),
            "CNI_IFNAME": ifname,
            "CNI_PATH": str(self.bin_dir),
        }
        env = {name: value for name, value in (usual | variables).items() if value is not None}
        stdin = config if isinstance(config, bytes) else json.dumps(config).encode()
        return execute(self.host, self.bin_dir / plugin, env, stdin, **(options or {}))


def clean_environment() -> dict[str, str]:
    """The test process's environment without CNI and NETCONF variables of the developer's."""
    dropped = ("CNI_", "NETCONFPATH", "CAP_ARGS", "PYTHON")
    return {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
