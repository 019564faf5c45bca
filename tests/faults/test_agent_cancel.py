"""Calls that are broken off: undone, in order, wherever they are served."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.waiting import until

if TYPE_CHECKING:
    from journal import JournalNode

PLUGINS = ("journal", "looped")
STEPS = ("block", "wait")


@pytest.fixture(params=["oneshot", "agent"])
def served(request: pytest.FixtureRequest, node: JournalNode) -> str:
    """Where calls are served."""
    if request.param == "agent":
        node.agent()
    return str(request.param)


@pytest.mark.parametrize("plugin", PLUGINS)
def test_killed_launcher(plugin: str, node: JournalNode) -> None:
    """The agent undoes the ADD of a launcher that was killed, and a DEL sent at once waits for that."""
    agent = node.agent()
    call = node.start(plugin=plugin, steps={"ADD": ["block"]})
    node.await_word("ADD")
    call.process.kill()
    call.process.wait()
    delete = node.start("DEL", plugin=plugin)
    until(lambda: node.state()["working"] == 2, "the DEL is at work")
    assert node.words() == ["ADD"]
    node.go()
    delete.finish().ok()
    assert node.words() == ["ADD", "undo", "DEL", "DEL-done"]
    assert {pid for _, pid in node.journal()} == {agent.pid}
    until(lambda: not node.held(), "the attachment is free")
    assert node.state()["counts"]["cancelled"] == 1


def test_killed_launcher_while_it_waits(node: JournalNode) -> None:
    """An await is broken off at once."""
    node.agent()
    call = node.start(steps={"ADD": ["wait"]})
    node.await_word("ADD")
    call.process.kill()
    node.await_word("undo")
    until(lambda: not node.held(), "the attachment is free")
    assert node.words() == ["ADD", "undo"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("plugin", PLUGINS)
@pytest.mark.usefixtures("served")
def test_signal(number: signal.Signals, plugin: str, node: JournalNode) -> None:
    """A launcher that gets a signal waits until its ADD is undone, and prints one error object (code 11)."""
    call = node.start(plugin=plugin, steps={"ADD": ["wait"]})
    node.await_word("ADD")
    call.process.send_signal(number)
    error = call.finish().failed(11)
    assert error["msg"].startswith("cancelled by ")
    assert node.words() == ["ADD", "undo"]
    until(lambda: not node.held(), "the attachment is free")


@pytest.mark.parametrize("plugin", PLUGINS)
@pytest.mark.usefixtures("served")
def test_signal_during_a_blocking_call(plugin: str, node: JournalNode) -> None:
    """What is under way is not abandoned: it ends, and then it is undone, unless it had been answered."""
    call = node.start(plugin=plugin, steps={"ADD": ["block"]})
    node.await_word("ADD")
    call.process.send_signal(signal.SIGTERM)
    node.go()
    outcome = call.finish()
    if outcome.status == 0:  # the call was faster than the signal
        assert node.words() == ["ADD", "ADD-done"]
    else:
        outcome.failed(11)
        assert node.words() in (["ADD", "undo"], ["ADD", "ADD-done", "undo"])
    until(lambda: not node.held(), "the attachment is free")


@pytest.mark.usefixtures("served")
def test_signal_while_waiting_for_another(node: JournalNode) -> None:
    """A call that waits for its turn is broken off without having done anything."""
    first = node.start(steps={"ADD": ["block"]})
    node.await_word("ADD")
    second = node.start("DEL")
    until(lambda: Path(f"/proc/{second.process.pid}/wchan").exists(), "it runs")
    second.process.send_signal(signal.SIGTERM)
    second.finish()
    # Killed, if the signal came before there was a handler.
    assert second.process.returncode in (1, -signal.SIGTERM)
    node.go()
    first.finish().ok()
    assert node.words() == ["ADD", "ADD-done"]
    until(lambda: not node.held(), "the attachment is free")


def test_two_agents_two_launchers_one_order(node: JournalNode) -> None:
    """The order holds between a call in the agent and one that serves itself."""
    agent = node.agent()
    first = node.start(steps={"ADD": ["block"]})
    node.await_word("ADD")
    agent.send_signal(signal.SIGTERM)  # it drains: new calls are no longer its own
    until(lambda: not (node.run_dir / "agent.sock").exists(), "the socket is gone")
    second = node.start("DEL")
    until(lambda: _waits(second.process.pid), "the second call waits")
    assert node.words() == ["ADD"]
    node.go()
    first.finish().ok()
    second.finish().ok()
    assert node.journal() == [
        ("ADD", agent.pid),
        ("ADD-done", agent.pid),
        ("DEL", second.process.pid),
        ("DEL-done", second.process.pid),
    ]
    assert agent.wait(30) == 0


def _waits(pid: int) -> bool:
    """Whether a process has slept more than the waits for its start explain."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    switches = [int(line.split()[1]) for line in lines if line.startswith("voluntary")]
    return switches[0] > 10


@pytest.mark.usefixtures("served")
@pytest.mark.parametrize("plugin", PLUGINS)
def test_foreign_program_is_the_caller_s_child(plugin: str, node: JournalNode, tmp_path: Path) -> None:
    """A foreign delegate runs as the launcher's child: its directory, umask and environment."""
    there = tmp_path / "there"
    there.mkdir()
    node.go()
    call = node.start(plugin=plugin, steps={"ADD": ["foreign"]}, env={"MARK": "a=b"}, cwd=there, umask=0o031)
    call.finish().ok()
    (line,) = [
        line for line in (tmp_path / "journal").read_text().splitlines() if line.startswith("foreign-ADD")
    ]
    _, _, parent, folder, umask, mark = line.split()
    assert (int(parent), folder, umask, mark) == (call.process.pid, str(there), "0031", "a=b")


@pytest.mark.usefixtures("served")
@pytest.mark.parametrize("plugin", PLUGINS)
def test_signal_during_a_foreign_program(plugin: str, node: JournalNode) -> None:
    """The signal is passed on to the foreign program; the clean-up's own program then runs to its end."""
    call = node.start(plugin=plugin, steps={"ADD": ["foreign"]})
    node.await_word("foreign-ADD")
    call.process.send_signal(signal.SIGTERM)
    call.finish().failed(11)
    assert node.words() == ["ADD", "foreign-ADD", "foreign-stopped", "undo", "foreign-DEL"]
    until(lambda: not node.held(), "the attachment is free")


def test_agent_dies_while_a_foreign_program_runs(node: JournalNode) -> None:
    """The launcher holds the attachment until the program has ended, and only then begins anew."""
    agent = node.agent()
    call = node.start(steps={"ADD": ["foreign"]})
    node.await_word("foreign-ADD")
    agent.kill()
    agent.wait()
    other = node.start("DEL")
    until(lambda: _waits(other.process.pid), "the DEL waits")
    assert node.words() == ["ADD", "foreign-ADD"]
    node.go()
    call.finish().ok()
    other.finish().ok()
    words = node.words()
    assert words[:2] == ["ADD", "foreign-ADD"]
    # Either of the two may be next; neither began before the program had ended, and none of their parts mix.
    add = ["DEL", "DEL-done", "ADD", "foreign-ADD", "ADD-done"]
    delete = ["DEL", "DEL-done"]
    assert words[2:] in (add + delete, delete + add, delete + add[2:])
    until(lambda: not node.held(), "the attachment is free")


def test_killed_launcher_and_its_foreign_program(node: JournalNode) -> None:
    """Where nobody is left to run the clean-up's program the attachment waits for the orphan, and for DEL."""
    node.agent()
    call = node.start(steps={"ADD": ["foreign"]})
    node.await_word("foreign-ADD")
    call.process.kill()
    node.await_word("undo")
    until(lambda: node.state()["working"] == 0, "the agent has done what it can")
    other = node.start("DEL")
    until(lambda: node.state()["working"] == 1, "the DEL has begun")
    assert "DEL" not in node.words()
    os.kill(dict(node.journal())["foreign-ADD"], signal.SIGKILL)
    other.finish().ok()
    until(lambda: not node.held(), "the attachment is free")
