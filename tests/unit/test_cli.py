"""The `pycni` command over recording plugins (pycni.cli)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from chain_recorder import Recorder

from pycni import __version__
from pycni.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Callable

PYCNI = str(Path(sys.executable).with_name("pycni"))
NETNS = "/var/run/netns/testing"
CONTAINER = "cnitool-77383ca0a0715733ca6f"
"""What cnitool derives from NETNS."""


class Outcome:
    """What one call of the command left."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status = status
        self.out = out
        self.err = err


@pytest.fixture
def recorder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """Recording plugins, and the environment that makes `pycni` use them; net1 is a → b."""
    recorder = Recorder(tmp_path)
    for name in [name for name in os.environ if name.startswith(("CNI_", "PYCNI_", "CAP_ARGS"))]:
        monkeypatch.delenv(name)
    (tmp_path / "net.d").mkdir()
    monkeypatch.setenv("NETCONFPATH", str(tmp_path / "net.d"))
    monkeypatch.setenv("CNI_PATH", str(recorder.bin))
    monkeypatch.setenv("PYCNI_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PYCNI_RUN_DIR", str(tmp_path / "run"))
    configure(recorder, "10-net1", "net1", "a", "b")
    return recorder


def configure(recorder: Recorder, file: str, name: str, *plugins: Any, version: str = "1.1.0") -> None:
    chain = [{"type": item} if isinstance(item, str) else item for item in plugins]
    document = {"cniVersion": version, "name": name, "plugins": chain}
    (recorder.root / "net.d" / f"{file}.conflist").write_text(json.dumps(document))


@pytest.fixture
def pycni(recorder: Recorder, capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run the command in this process."""

    def run(*arguments: str) -> Outcome:
        try:
            status: object = main(arguments)
        except SystemExit as end:
            status = end.code
        captured = capfd.readouterr()
        assert isinstance(status, int)
        return Outcome(status, captured.out, captured.err)

    return run


class TestAttachment:
    @pytest.mark.row("contract", 88)
    def test_add_prints_the_result_and_del_nothing(
        self, pycni: Callable[..., Outcome], recorder: Recorder
    ) -> None:
        """As cnitool does, but for the line feed at the end."""
        added = pycni("add", "net1", NETNS)
        assert (added.status, added.err) == (0, "")
        assert added.out == (
            '{\n    "cniVersion": "1.1.0",\n    "interfaces": [\n        {\n            "name": "b"\n'
            "        }\n    ]\n}\n"
        )
        for verb in ("check", "del"):
            outcome = pycni(verb, "net1", NETNS)
            assert (outcome.status, outcome.out, outcome.err) == (0, "", "")
        assert recorder.order == ["a ADD", "b ADD", "a CHECK", "b CHECK", "b DEL", "a DEL"]
        assert {call.env["CNI_CONTAINERID"] for call in recorder.calls} == {CONTAINER}
        assert {call.env["CNI_NETNS"] for call in recorder.calls} == {NETNS}
        assert recorder.cached == []

    @pytest.mark.row("contract", 87)
    @pytest.mark.parametrize(
        ("argument", "path", "container"),
        [
            ("/run/netns/testing", "/run/netns/testing", "cnitool-43057b9dcc39fe733071"),
            ("testing", "/run/netns/testing", "cnitool-43057b9dcc39fe733071"),
            ("//var/run/../run/netns//testing/", NETNS, CONTAINER),
        ],
    )
    def test_the_namespace_is_a_path_or_a_name(
        self, pycni: Callable[..., Outcome], recorder: Recorder, argument: str, path: str, container: str
    ) -> None:
        """A plain name is one of `ip netns`; a path is made absolute and clean, and gives cnitool's id."""
        assert pycni("add", "net1", argument).status == 0
        env = recorder.calls[0].env
        assert (env["CNI_NETNS"], env["CNI_CONTAINERID"]) == (path, container)

    def test_a_relative_path_counts_from_here(
        self, pycni: Callable[..., Outcome], recorder: Recorder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What has a slash is a path."""
        monkeypatch.chdir(recorder.root)
        pycni("add", "net1", "./x")
        assert recorder.calls[0].env["CNI_NETNS"] == str(recorder.root / "x")

    @pytest.mark.row("contract", 87)
    @pytest.mark.parametrize(
        ("variable", "flags", "ifname"),
        [
            (None, [], "eth0"),
            ("net5", [], "net5"),
            ("net5", ["-i", "x1"], "x1"),
            (None, ["--ifname=x2"], "x2"),
        ],
    )
    def test_the_interface(
        self,
        pycni: Callable[..., Outcome],
        recorder: Recorder,
        monkeypatch: pytest.MonkeyPatch,
        variable: str | None,
        flags: list[str],
        ifname: str,
    ) -> None:
        """The flag wins over CNI_IFNAME, which wins over eth0."""
        if variable:
            monkeypatch.setenv("CNI_IFNAME", variable)
        pycni("add", *flags, "net1", NETNS)
        assert recorder.calls[0].env["CNI_IFNAME"] == ifname

    @pytest.mark.row("contract", 87)
    def test_arguments_come_from_the_environment(
        self, pycni: Callable[..., Outcome], recorder: Recorder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """CNI_ARGS go to all plugins, CAP_ARGS to those that declare the capability."""
        configure(recorder, "10-net1", "net1", {"type": "a", "capabilities": {"mac": True}}, "b")
        monkeypatch.setenv("CNI_ARGS", "IgnoreUnknown=1;A=b")
        monkeypatch.setenv("CAP_ARGS", '{"mac":"m"}')
        monkeypatch.setenv("CNI_COMMAND", "FOO")
        monkeypatch.setenv("CNI_CONTAINERID", "wrong")
        assert pycni("add", "net1", NETNS).status == 0
        first, second = recorder.calls
        assert (first.env["CNI_ARGS"], first.env["CNI_CONTAINERID"]) == ("IgnoreUnknown=1;A=b", CONTAINER)
        assert first.config["runtimeConfig"] == {"mac": "m"}
        assert "runtimeConfig" not in second.config

    @pytest.mark.parametrize("text", ["A", "A=", "=b", "A=b;", "A=b=c", ";"])
    def test_bad_cni_args_are_a_usage_error(
        self, pycni: Callable[..., Outcome], recorder: Recorder, monkeypatch: pytest.MonkeyPatch, text: str
    ) -> None:
        """Each piece has exactly one `=` with something on both sides."""
        monkeypatch.setenv("CNI_ARGS", text)
        outcome = pycni("add", "net1", NETNS)
        assert (outcome.status, recorder.order) == (2, [])
        assert outcome.err.startswith('pycni: invalid CNI_ARGS pair "')

    @pytest.mark.parametrize("text", ["{", "[]", "5"])
    def test_bad_cap_args_are_a_usage_error(
        self, pycni: Callable[..., Outcome], recorder: Recorder, monkeypatch: pytest.MonkeyPatch, text: str
    ) -> None:
        """CAP_ARGS must be an object."""
        monkeypatch.setenv("CAP_ARGS", text)
        outcome = pycni("add", "net1", NETNS)
        assert (outcome.status, recorder.order) == (2, [])
        assert "CAP_ARGS" in outcome.err

    @pytest.mark.row("contract", 87)
    def test_without_a_namespace_the_container_must_be_named(
        self, pycni: Callable[..., Outcome], recorder: Recorder
    ) -> None:
        """A DEL works when the namespace is gone, if the container is told."""
        assert pycni("del", "net1", "").status == 2
        assert pycni("del", "net1", "", "--container-id", "cid1").status == 0
        assert recorder.calls[0].env["CNI_NETNS"] == ""
        assert recorder.calls[0].env["CNI_CONTAINERID"] == "cid1"

    def test_a_failed_add_says_what_is_left_and_how_to_remove_it(
        self, pycni: Callable[..., Outcome], recorder: Recorder
    ) -> None:
        """Nothing is undone: the error's line, and a line with the command that deletes; which then works."""
        recorder.fail("b", "ADD")
        outcome = pycni("add", "net1", NETNS)
        note, error = outcome.err.splitlines()
        assert (outcome.status, outcome.out) == (1, "")
        assert error == 'pycni: plugin type="b" failed (add): planned; dd'
        words = note.partition("to remove it: pycni ")
        assert words[0] == "pycni: what a made is still there; "
        recorder.forget()
        assert pycni(*words[2].split()).status == 0
        assert recorder.order == ["b DEL", "a DEL"]

    def test_an_add_that_did_nothing_leaves_no_advice(
        self, pycni: Callable[..., Outcome], recorder: Recorder
    ) -> None:
        """If the first plugin fails, there is nothing of others to remove."""
        recorder.fail("a", "ADD")
        assert pycni("add", "net1", NETNS).err == 'pycni: plugin type="a" failed (add): planned; dd\n'

    def test_errors_for_programs(self, pycni: Callable[..., Outcome], recorder: Recorder) -> None:
        """With -o json the contract's error object is on standard output."""
        recorder.fail("a", "DEL", '{"code":11,"msg":"later","details":"d"}')
        outcome = pycni("del", "net1", NETNS, "-o", "json")
        assert outcome.status == 1
        assert json.loads(outcome.out) == {
            "code": 11,
            "msg": 'plugin type="a" failed (delete): later',
            "details": "d",
        }

    def test_a_plugins_text_cannot_steer_the_terminal(
        self, pycni: Callable[..., Outcome], recorder: Recorder
    ) -> None:
        """Control characters in an error are shown, not sent."""
        recorder.fail("a", "ADD", r'{"code":7,"msg":"\\u001b[31mred\\u0007"}')
        assert r"\x1b[31mred\x07" in pycni("add", "net1", NETNS).err

    def test_an_unknown_network(self, pycni: Callable[..., Outcome], recorder: Recorder) -> None:
        """One line that says where it was looked for and what is there."""
        outcome = pycni("add", "nowhere", NETNS)
        assert outcome.status == 1
        where = recorder.root / "net.d"
        assert outcome.err == (
            f'pycni: no net configuration with name "nowhere" in {where}; found there: net1\n'
        )

    def test_a_broken_file_is_noted_and_passed_over(
        self, pycni: Callable[..., Outcome], recorder: Recorder
    ) -> None:
        """The command works on, and says which file is broken."""
        (recorder.root / "net.d" / "05.conflist").write_text("{")
        outcome = pycni("add", "net1", NETNS)
        assert outcome.status == 0
        assert "passed over: " in outcome.err
        assert "05.conflist" in outcome.err

    @pytest.mark.parametrize(("path", "msg"), [("", "no paths provided"), (None, "in path [/opt/cni/bin]")])
    def test_where_plugins_are_looked_for(
        self,
        pycni: Callable[..., Outcome],
        monkeypatch: pytest.MonkeyPatch,
        recorder: Recorder,
        path: str | None,
        msg: str,
    ) -> None:
        """An empty CNI_PATH finds nothing, an unset one means the usual folder."""
        configure(recorder, "10-net1", "net1", "no-such-plugin-there")
        monkeypatch.delenv("CNI_PATH")
        if path is not None:
            monkeypatch.setenv("CNI_PATH", path)
        assert msg in pycni("add", "net1", NETNS).err


class TestStatus:
    def test_ready(self, pycni: Callable[..., Outcome]) -> None:
        """A line for people, an object for programs."""
        assert pycni("status", "net1").out == "net1: ready\n"
        document = json.loads(pycni("status", "net1", "-o", "json").out)
        assert document == {"network": "net1", "ready": True, "asked": True}

    def test_not_ready(self, pycni: Callable[..., Outcome], recorder: Recorder) -> None:
        """The plugin's error, and exit status 1."""
        recorder.fail("b", "STATUS", '{"code":50,"msg":"no daemon"}')
        outcome = pycni("status", "net1")
        assert (outcome.status, outcome.out, outcome.err) == (1, "", "pycni: no daemon\n")
        assert json.loads(pycni("status", "net1", "-o", "json").out)["code"] == 50

    def test_older_lists_are_not_asked(self, pycni: Callable[..., Outcome], recorder: Recorder) -> None:
        """It says so, and that is no failure."""
        configure(recorder, "20-old", "old", "a", version="1.0.0")
        outcome = pycni("status", "old")
        assert outcome.status == 0
        assert "not asked, its cniVersion is 1.0.0" in outcome.out


class TestList:
    def test_what_is_configured(self, pycni: Callable[..., Outcome], recorder: Recorder) -> None:
        """Networks with version, chain, attachments and file, in the order of look-up."""
        configure(recorder, "05-first", "first", "c", version="0.4.0")
        pycni("add", "net1", NETNS)
        outcome = pycni("list")
        where = recorder.root / "net.d"
        assert outcome.status == 0
        assert [line.split() for line in outcome.out.splitlines()] == [
            ["NETWORK", "VERSION", "PLUGINS", "ATTACHED", "FILE"],
            ["first", "0.4.0", "c", "0", f"{where}/05-first.conflist"],
            ["net1", "1.1.0", "a", "→", "b", "1", f"{where}/10-net1.conflist"],
        ]

    def test_what_is_missing_or_broken(self, pycni: Callable[..., Outcome], recorder: Recorder) -> None:
        """A missing executable and a broken file are told, and the exit status is 1."""
        configure(recorder, "20-more", "more", "a", "zz")
        (recorder.root / "net.d" / "30.conflist").write_text("{")
        outcome = pycni("list")
        assert outcome.status == 1
        assert "a → zz (missing)" in outcome.out
        assert 'failed to find plugin "zz"' in outcome.err
        assert "30.conflist: error parsing configuration list" in outcome.err

    def test_for_programs(self, pycni: Callable[..., Outcome], recorder: Recorder) -> None:
        """The same as one document."""
        configure(recorder, "20-more", "more", "zz")
        (recorder.root / "net.d" / "30.conflist").write_text('{"name":"x","plugins":[]}')
        outcome = pycni("list", "-o", "json")
        document = json.loads(outcome.out)
        assert outcome.status == 1
        assert document["networks"][0] == {
            "name": "net1",
            "cniVersion": "1.1.0",
            "file": str(recorder.root / "net.d" / "10-net1.conflist"),
            "plugins": [
                {"type": "a", "path": str(recorder.bin / "a")},
                {"type": "b", "path": str(recorder.bin / "b")},
            ],
            "attachments": 0,
        }
        assert document["networks"][1]["plugins"] == [{"type": "zz", "path": None}]
        assert document["problems"][0]["name"] == "x"
        assert "no plugins in list" in document["problems"][0]["error"]["msg"]

    def test_nothing_is_configured(self, pycni: Callable[..., Outcome], recorder: Recorder) -> None:
        """That is no failure."""
        (recorder.root / "net.d" / "10-net1.conflist").unlink()
        outcome = pycni("list")
        assert (outcome.status, outcome.out) == (0, "")
        assert "no net configurations found in" in outcome.err


class TestGC:
    @pytest.fixture
    def gone(self, pycni: Callable[..., Outcome], recorder: Recorder) -> None:
        """An attachment with a living namespace (this process's), one without a path, one of a plain file."""
        (recorder.root / "file").write_text("")
        for container, netns in (
            ("alive", "/proc/self/ns/net"),
            ("gone", "/n/x"),
            ("file", str(recorder.root / "file")),
        ):
            assert pycni("add", "net1", netns, "--container-id", container).status == 0
        recorder.forget()

    def test_without_yes_nothing_is_done(
        self, pycni: Callable[..., Outcome], recorder: Recorder, gone: None
    ) -> None:
        """The plan is shown: who is gone would be deleted, and how many stay."""
        outcome = pycni("gc", "net1")
        assert outcome.status == 0
        lines = [line.split() for line in outcome.out.splitlines()]
        assert lines[2:4] == [["file", "eth0", str(recorder.root / "file")], ["gone", "eth0", "/n/x"]]
        assert "which 1 stay" in outcome.out
        assert "nothing was changed" in outcome.out
        assert recorder.order == []
        assert len(recorder.cached) == 3

    def test_with_yes_the_plan_is_carried_out(
        self, pycni: Callable[..., Outcome], recorder: Recorder, gone: None
    ) -> None:
        """Those without a namespace get a DEL; plugins are told who is alive."""
        assert pycni("gc", "net1", "--yes").status == 0
        assert recorder.order == ["b DEL", "a DEL"] * 2 + ["a GC", "b GC"]
        stays = [{"containerID": "alive", "ifname": "eth0"}]
        assert recorder.calls[-1].config["cni.dev/valid-attachments"] == stays
        assert recorder.cached == ["net1-alive-eth0"]

    def test_valid_ones_can_be_named(
        self, pycni: Callable[..., Outcome], recorder: Recorder, gone: None
    ) -> None:
        """Then exactly those stay, whatever their namespaces say."""
        assert pycni("gc", "net1", "--valid", "gone:eth0", "--valid", "new:eth1", "--yes").status == 0
        assert recorder.cached == ["net1-gone-eth0"]
        stays = [{"containerID": "gone", "ifname": "eth0"}, {"containerID": "new", "ifname": "eth1"}]
        assert recorder.calls[-1].config["cni.dev/attachments"] == stays

    def test_plugins_are_never_told_that_nothing_lives_by_default(
        self, pycni: Callable[..., Outcome], recorder: Recorder
    ) -> None:
        """An empty folder may be the wrong one: only an explicit word makes the plugins delete everything."""
        outcome = pycni("gc", "net1", "--yes")
        assert recorder.order == []
        assert "not telling the plugins (GC): no attachment is known to be alive" in outcome.out
        assert pycni("gc", "net1", "--none-valid", "--yes").status == 0
        assert recorder.order == ["a GC", "b GC"]
        assert recorder.calls[0].config["cni.dev/valid-attachments"] == []

    def test_an_attachment_of_unknown_namespace_stays(
        self, pycni: Callable[..., Outcome], recorder: Recorder
    ) -> None:
        """Who was added without a path cannot be known to be gone."""
        pycni("add", "net1", "", "--container-id", "cid1")
        document = json.loads(pycni("gc", "net1", "-o", "json").out)
        assert document == {
            "network": "net1",
            "dryRun": True,
            "stale": [],
            "valid": [{"containerID": "cid1", "ifname": "eth0"}],
            "askPlugins": True,
            "unasked": "",
        }

    def test_failures_are_reported_at_the_end(
        self, pycni: Callable[..., Outcome], recorder: Recorder, gone: None
    ) -> None:
        """Each on a line of its own, exit status 1."""
        recorder.fail("b", "DEL")
        outcome = pycni("gc", "net1", "--yes")
        assert outcome.status == 1
        assert outcome.err.count("failed to delete stale attachment") == 2
        assert "a GC" in recorder.order
        outcome = pycni("gc", "net1", "--yes", "-o", "json")
        assert (outcome.status, outcome.err) == (1, "")
        assert json.loads(outcome.out)["error"]["msg"].count("failed to delete stale attachment") == 2

    @pytest.mark.parametrize(
        "arguments", [["--valid", "x"], ["--valid", "a:b:c"], ["--valid", "a:b", "--none-valid"]]
    )
    def test_usage(self, pycni: Callable[..., Outcome], recorder: Recorder, arguments: list[str]) -> None:
        """A malformed attachment, or contradicting words."""
        assert pycni("gc", "net1", "--yes", *arguments).status == 2
        assert recorder.order == []


class TestCommand:
    @pytest.mark.row("contract", 88)
    @pytest.mark.parametrize(
        "arguments",
        [["foo"], ["ADD", "n", "x"], ["add"], ["add", "net1"], ["add", "n", "x", "y"], ["list", "--foo"]],
    )
    def test_usage_errors_are_2(self, pycni: Callable[..., Outcome], arguments: list[str]) -> None:
        """Whatever cannot be understood ends with status 2 and nothing on standard output."""
        outcome = pycni(*arguments)
        assert (outcome.status, outcome.out) == (2, "")
        assert "usage: pycni" in outcome.err

    def test_help_and_version(self, pycni: Callable[..., Outcome]) -> None:
        """Without arguments there is help, with examples; the version is the package's."""
        for arguments in ([], ["--help"]):
            outcome = pycni(*arguments)
            assert outcome.status == 0
            assert "pycni add mynet pod1" in outcome.out
        assert pycni("--version").out == f"pycni {__version__}\n"
        assert "--container-id" in pycni("add", "--help").out

    def test_a_subcommand_loads_only_itself(self) -> None:
        """`pycni add` does not import the agent, nor what only others need."""
        code = "import sys; from pycni.cli.main import build_parser; build_parser('add'); print(*sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        watched = ("pycni.agent", "pycni.cli", "pyroute2", "orjson")
        assert sorted(name for name in done.stdout.split() if name.startswith(watched)) == [
            "pycni.cli",
            "pycni.cli.attachment",
            "pycni.cli.main",
            "pycni.cli.render",
            "pycni.cli.running",
            "pycni.cli.settings",
        ]

    def test_a_full_disk_is_told(self, recorder: Recorder) -> None:
        """A result that cannot be written is a failure."""
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [PYCNI, "add", "net1", NETNS], stdout=full, stderr=subprocess.PIPE, text=True, check=False
            )
        assert done.returncode == 1
        assert done.stderr == "pycni: failed to write standard output: no space left on device\n"

    def test_a_closed_standard_output_is_no_failure(self, recorder: Recorder) -> None:
        """The output vanishes, as with the reference, and reaches no plugin's pipe instead."""
        done = subprocess.run(
            ["/bin/sh", "-c", f"{PYCNI} add net1 {NETNS} <&- >&- 2>&-"], capture_output=True, check=False
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
        assert recorder.order == ["a ADD", "b ADD"]

    def test_a_closed_standard_error_does_not_spoil_the_output(self, recorder: Recorder) -> None:
        """What cannot be told is not told elsewhere."""
        recorder.fail("a", "ADD")
        done = subprocess.run(
            ["/bin/sh", "-c", f"{PYCNI} add net1 {NETNS} 2>&-"], capture_output=True, check=False
        )
        assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_stops_the_plugin_in_order(self, recorder: Recorder, number: signal.Signals) -> None:
        """The plugin gets SIGTERM and is waited for, the next one is not called."""
        ready, end = recorder.root / "ready", recorder.root / "end"
        recorder.answer(
            "a",
            "ADD",
            f"trap 'echo undone > {end}; exit 1' TERM; echo > {ready}; while :; do sleep 0.01; done",
        )
        command = subprocess.Popen([PYCNI, "add", "net1", NETNS], stderr=subprocess.PIPE, text=True)
        while not ready.exists():
            assert command.poll() is None
            time.sleep(0.005)
        command.send_signal(number)
        _, said = command.communicate()
        assert command.returncode == 128 + number
        stopped, advice = said.splitlines()
        assert stopped == f"pycni: stopped by {number.name}"
        assert f"pycni del net1 {NETNS}" in advice
        assert end.read_text() == "undone\n"
        assert recorder.order == ["a ADD"]
        assert recorder.cached == []
