"""A node of processes for the tests of agent and launcher: executables, agents, calls and their journal."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from support.calls import Outcome, Running, clean_environment
from support.waiting import until

from pycni import install
from pycni.agent import client

SECONDS = 60
HERE = Path(__file__).parent
FOREIGN = """#!/bin/sh
echo "foreign-$CNI_COMMAND $$ $PPID $(pwd) $(umask) $MARK" >> "{folder}/journal"
trap 'echo "foreign-stopped $$" >> "{folder}/journal"; exit 1' TERM
while [ "$CNI_COMMAND" = ADD ] && [ ! -e "{folder}/go" ]; do sleep 0.01; done
[ "$CNI_COMMAND" = ADD ] && echo '{{"cniVersion":"1.0.0","ips":[]}}'
exit 0
"""


class JournalNode:
    """One run directory with the executables `journal` and `looped` (and `foreign`, no launcher)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run_dir = folder / "run"
        self.bin_dir = folder / "bin"
        self.lib = folder / "lib"
        for made in (self.run_dir, self.bin_dir, self.lib):
            made.mkdir()
        shutil.copy(HERE / "journal_plugin.py", self.lib)
        references = {"journal": "journal_plugin:Journal", "looped": "journal_plugin:Looped"}
        self._register(references)
        texts = {
            name: install.launcher_text(name, ref, paths=[self.lib, *sys.path[1:]], run_dir=self.run_dir)
            for name, ref in references.items()
        }
        install.write_launchers(self.bin_dir, texts)
        foreign = self.bin_dir / "foreign"
        foreign.write_text(FOREIGN.format(folder=folder))
        foreign.chmod(0o755)
        self._started: list[subprocess.Popen[bytes]] = []

    def _register(self, references: dict[str, str]) -> None:
        """A distribution whose entry points the agent finds."""
        info = self.lib / "journal_plugin-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: journal-plugin\nVersion: 1.0\n")
        lines = "".join(f"{name} = {ref}\n" for name, ref in references.items())
        (info / "entry_points.txt").write_text(f"[{install.GROUP}]\n{lines}")

    def agent(self, **options: Any) -> subprocess.Popen[bytes]:
        """Start an agent, and return when it answers."""
        log = (self.folder / "agent.log").open("ab")
        with log:
            process = subprocess.Popen(
                [Path(sys.executable).with_name("pycni"), "agent", "--run-dir", self.run_dir],
                env={**clean_environment(), "PYTHONPATH": str(self.lib)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **options,
            )
        self._started.append(process)
        until(
            lambda: self.state().get("pid") == process.pid or process.poll() is not None, "the agent answers"
        )
        assert process.returncode is None, self.log()
        return process

    def state(self) -> dict[str, Any]:
        """What the agent says of itself, {} if none answers."""
        try:
            return client.state(str(self.run_dir))
        except client.CNIError:
            return {}

    def log(self) -> str:
        return (self.folder / "agent.log").read_text()

    def start(
        self,
        verb: str = "ADD",
        *,
        plugin: str = "journal",
        steps: dict[str, list[str]] | None = None,
        container_id: str = "c1",
        env: dict[str, str] | None = None,
        **options: Any,
    ) -> Running:
        """Start a call; `steps` are the plugin's."""
        config = {"cniVersion": "1.1.0", "name": "net", "folder": str(self.folder), "steps": steps or {}}
        variables = {
            "PATH": "/usr/bin:/bin",
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": container_id,
            "CNI_IFNAME": "eth0",
            "CNI_NETNS": "/nowhere",
            "CNI_PATH": str(self.bin_dir),
        }
        process = subprocess.Popen(
            [self.bin_dir / plugin],
            env=variables | (env or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **options,
        )
        self._started.append(process)
        assert process.stdin is not None
        process.stdin.write(json.dumps(config).encode())
        process.stdin.close()
        process.stdin = None
        return Running(process, b"")

    def call(self, verb: str = "ADD", **arguments: Any) -> Outcome:
        """A call from start to end."""
        return self.start(verb, **arguments).finish()

    def journal(self) -> list[tuple[str, int]]:
        """What was done so far, and by which process."""
        try:
            lines = (self.folder / "journal").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [(line.split()[0], int(line.split()[1])) for line in lines]

    def words(self) -> list[str]:
        return [word for word, _ in self.journal()]

    def await_word(self, word: str) -> None:
        until(lambda: word in self.words(), f"{word} in the journal")

    def go(self) -> None:
        """Let the plugins' steps go on, from now on."""
        (self.folder / "go").touch()

    def held(self) -> list[str]:
        """The attachments that have an intent."""
        try:
            return os.listdir(self.run_dir / "attachments")
        except FileNotFoundError:
            return []

    def close(self) -> None:
        """End what still runs."""
        self.go()
        for process in self._started:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
            process.wait()
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
