"""Node agents as tests start and stop them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from support.calls import clean_environment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from support.netns import NetNS

PYCNI = Path(sys.executable).with_name("pycni")
START_SECONDS = 30
STOP_SECONDS = 30


class Agent:
    """A `pycni agent` that lives in a node's namespace; started and listening when made."""

    def __init__(
        self, host: NetNS, run_dir: Path, log: Path, env: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """Start it; raises AssertionError with its log if it does not listen within START_SECONDS.

        `env` are variables beside those of the test process.
        """
        self.run_dir = run_dir
        self.socket = run_dir / "agent.sock"
        self.log = log
        with log.open("wb") as output:
            self.process = host.popen(
                PYCNI,
                "agent",
                "--run-dir",
                run_dir,
                env=clean_environment() | dict(env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._listens():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                self.process.wait()
                raise AssertionError(f"the agent does not listen:\n{self.text()}")
            time.sleep(0.01)

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self.socket))
            except OSError:
                return False
        return True

    def text(self) -> str:
        """Its log so far."""
        return self.log.read_text(errors="replace")

    def served(self) -> int:
        """How many calls it has answered; a launcher that fell back to its own process is not among them."""
        answer = subprocess.run(
            [PYCNI, "agent", "--run-dir", self.run_dir, "--status"],
            env=clean_environment(),
            capture_output=True,
            check=True,
            timeout=START_SECONDS,
        )
        counts = json.loads(answer.stdout)["counts"]
        return sum(count for name, count in counts.items() if name.startswith("served: "))

    def kill(self) -> None:
        """SIGKILL, as the kernel's out-of-memory killer would."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """SIGTERM; raises AssertionError unless it drains, exits 0 and takes its socket with it."""
        if self.process.returncode == -signal.SIGKILL:  # killed by the test
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the agent did not stop on SIGTERM:\n{self.text()}") from None
        assert status == 0, f"the agent's exit status is {status}:\n{self.text()}"
        assert not os.path.lexists(self.socket), "the agent left its socket behind"
