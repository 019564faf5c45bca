"""ADD, CHECK, DEL and STATUS of a list over recording plugins (pycni.runtime.chain)."""

from __future__ import annotations

import fcntl
import json
import os
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from chain_recorder import POD, Recorder, network

from pycni.errors import CNIError
from pycni.runtime import Attachment, ChainError
from pycni.runtime.lock import hold

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path)


def add(recorder: Recorder, *args: Any) -> Any:
    return anyio.run(recorder.runtime().add, *args)


def check(recorder: Recorder, *args: Any) -> None:
    anyio.run(recorder.runtime().check, *args)


def delete(recorder: Recorder, *args: Any) -> None:
    anyio.run(recorder.runtime().delete, *args)


def status(recorder: Recorder, *args: Any) -> bool:
    return anyio.run(recorder.runtime().status, *args)


class TestInput:
    """What a plugin finds in its environment and on standard input."""

    @pytest.mark.row("contract", 71)
    def test_standard_input_is_compact_and_sorted(self, recorder: Recorder) -> None:
        """The plugin's object with the list's name and version, in the reference's spelling to the byte."""
        second = {"type": "b", "capabilities": {"mac": True}, "x": "<y>"}
        pod = POD.replace(capability_args={"mac": "00:11"})
        add(recorder, network("a", second), pod)
        assert recorder.calls[0].stdin == b'{"cniVersion":"1.1.0","name":"net1","type":"a"}'
        assert recorder.calls[1].stdin == (
            rb'{"capabilities":{"mac":true},"cniVersion":"1.1.0","name":"net1",'
            rb'"prevResult":{"cniVersion":"1.1.0","interfaces":[{"name":"a"}]},'
            rb'"runtimeConfig":{"mac":"00:11"},"type":"b","x":"\u003cy\u003e"}'
        )

    @pytest.mark.row("contract", 71)
    def test_the_lists_name_and_version_win(self, recorder: Recorder) -> None:
        """A plugin's own name and version are replaced, in whatever letter case they are written."""
        own = {
            "type": "a",
            "name": "mine",
            "cniVersion": "0.1.0",
            "CNIVersion": "9",
            "NAME": "x",
            "cniversion": "8",
        }
        add(recorder, network(own), POD)
        assert recorder.calls[0].config == {"type": "a", "name": "net1", "cniVersion": "1.1.0"}

    def test_a_list_without_version_tells_plugins_an_empty_one(self, recorder: Recorder) -> None:
        """Plugins read it as 0.1.0."""
        recorder.answer("a", "ADD", """echo '{"ip4":{"ip":"10.0.0.2/24"}}'""")
        result = add(recorder, network("a", version=None), POD)
        assert recorder.calls[0].config["cniVersion"] == ""
        assert result.cni_version == "0.1.0"

    @pytest.mark.row("contract", 71)
    def test_runtime_config_has_what_the_plugin_can(self, recorder: Recorder) -> None:
        """Capability arguments go to plugins that declare them as true, and replace a configured object."""
        plugins = [
            {"type": "a", "capabilities": {"mac": True, "ips": False}, "runtimeConfig": {"old": 1}},
            {"type": "b", "capabilities": {"other": True}, "runtimeConfig": {"old": 1}},
            {"type": "c"},
        ]
        add(recorder, network(*plugins), POD.replace(capability_args={"mac": "m", "ips": ["i"]}))
        assert [call.config.get("runtimeConfig") for call in recorder.calls] == [
            {"mac": "m"},
            {"old": 1},
            None,
        ]

    def test_a_configured_prev_result_reaches_the_first_plugin(self, recorder: Recorder) -> None:
        """It passes through where the runtime has none to put in its place."""
        configured = {"type": "a", "prevResult": {"cniVersion": "1.1.0", "x": 1}}
        add(recorder, network(configured, configured), POD)
        seen = [call.config["prevResult"] for call in recorder.calls]
        assert seen == [
            {"cniVersion": "1.1.0", "x": 1},
            {"cniVersion": "1.1.0", "interfaces": [{"name": "a"}]},
        ]

    def test_large_integers_pass_unharmed(self, recorder: Recorder) -> None:
        """Numbers reach the plugin as they were written, to the last digit."""
        add(recorder, network({"type": "a", "big": 12345678901234567891, "half": 0.5}), POD)
        assert b'"big":12345678901234567891,"cniVersion":"1.1.0","half":0.5' in recorder.calls[0].stdin

    @pytest.mark.row("contract", 89)
    def test_the_six_variables_are_always_set(self, recorder: Recorder) -> None:
        """All else is inherited; what does not apply is set to nothing, whatever the runtime's own had."""
        env = {
            "PATH": "/usr/bin:/bin",
            "CNI_NETNS_OVERRIDE": "1",
            "CNI_ARGS": "old",
            "TRACEPARENT": "t",
            "CNI_IFNAME": "x",
        }
        pod = POD.replace(args=(("K8S_POD", "x=y"), ("B", "2")))
        runtime = recorder.runtime(env=env)
        anyio.run(runtime.add, network("a"), pod)
        anyio.run(runtime.status, network("a"))
        common = {
            "PATH": "/usr/bin:/bin",
            "CNI_NETNS_OVERRIDE": "1",
            "TRACEPARENT": "t",
            "CNI_PATH": str(recorder.bin),
        }
        of_add, of_status = (
            {key: value for key, value in call.env.items() if key not in ("PWD", "OLDPWD", "_", "SHLVL")}
            for call in recorder.calls
        )
        assert of_add == {
            **common,
            "CNI_COMMAND": "ADD",
            "CNI_CONTAINERID": "cid1",
            "CNI_NETNS": "/run/netns/cid1",
            "CNI_IFNAME": "eth0",
            "CNI_ARGS": "K8S_POD=x=y;B=2",
        }
        empty = dict.fromkeys(("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS"), "")
        assert of_status == {**common, "CNI_COMMAND": "STATUS", **empty}


class TestAdd:
    @pytest.mark.row("contract", 71)
    def test_results_travel_in_the_lists_version(self, recorder: Recorder) -> None:
        """A plugin may answer in another version: the next one sees the list's."""
        recorder.answer(
            "a",
            "ADD",
            """echo '{"cniVersion":"0.3.1","ips":[{"version":"4","address":"10.0.0.2/24"}],"unknown":1}'""",
        )
        add(recorder, network(version="1.0.0"), POD)
        assert recorder.calls[1].config["prevResult"] == {
            "cniVersion": "1.0.0",
            "ips": [{"address": "10.0.0.2/24"}],
        }

    def test_the_last_result_is_returned_in_its_own_version(self, recorder: Recorder) -> None:
        """What the last plugin answered is not converted, in the cache neither."""
        recorder.answer("b", "ADD", """echo '{"cniVersion":"0.4.0","dns":{"domain":"d"}}'""")
        result = add(recorder, network(version="1.1.0"), POD)
        assert (result.cni_version, result.dns.domain) == ("0.4.0", "d")
        cached = json.loads(recorder.cache_file("net1-cid1-eth0").read_text())
        assert cached["result"] == {"cniVersion": "0.4.0", "dns": {"domain": "d"}}

    def test_a_result_without_version_is_of_the_lists(self, recorder: Recorder) -> None:
        """A plugin that does not tell its answer's version means the one it was asked in."""
        recorder.answer("a", "ADD", """echo '{"interfaces":[{"name":"x"}]}'""")
        assert add(recorder, network("a", version="0.4.0"), POD).cni_version == "0.4.0"

    @pytest.mark.row("contract", 72, 73)
    def test_the_first_failure_ends_it(self, recorder: Recorder) -> None:
        """Later plugins are not called, nothing is undone or remembered, and the error tells who had run."""
        recorder.fail("b", "ADD")
        with pytest.raises(ChainError) as caught:
            add(recorder, network("a", "b", "c"), POD)
        assert str(caught.value) == 'plugin type="b" failed (add): planned; dd'
        assert (caught.value.code, caught.value.ran) == (7, ("a",))
        assert recorder.order == ["a ADD", "b ADD"]
        assert recorder.cached == []

    @pytest.mark.row("contract", 73)
    def test_a_plugins_own_name_is_in_the_error(self, recorder: Recorder) -> None:
        """Two plugins of one type can be told apart."""
        recorder.fail("b", "ADD")
        with pytest.raises(ChainError, match=r'plugin type="b" name="x" failed \(add\): planned'):
            add(recorder, network("a", {"type": "b", "name": "x"}), POD)

    @pytest.mark.parametrize(
        ("answer", "msg"),
        [
            ("echo boom; exit 1", 'netplugin failed but error parsing its diagnostic message "boom\\n": '),
            ("echo words >&2; exit 1", 'netplugin failed: "words\\n"'),
            ("exit 5", "netplugin failed with no error message: exit status 5"),
            ("kill -9 $$", "netplugin failed with no error message: signal: killed"),
            ("exit 0", "failed to unmarshal raw result: unexpected end of JSON input"),
            ("echo []", "failed to unmarshal raw result: "),
            ("""echo '{"cniVersion":"7.0.0"}'""", 'unsupported CNI result version "7.0.0"'),
        ],
    )
    def test_a_plugin_that_dies_or_babbles_is_a_failure(
        self, recorder: Recorder, answer: str, msg: str
    ) -> None:
        """Whatever a plugin does wrong becomes an error of that plugin, in the reference's words."""
        recorder.answer("a", "ADD", answer)
        with pytest.raises(ChainError) as caught:
            add(recorder, network(), POD)
        assert caught.value.msg.startswith(f'plugin type="a" failed (add): {msg}')

    def test_a_missing_executable_stops_it_before_the_start(self, recorder: Recorder) -> None:
        """No plugin is called if a later one cannot be found."""
        with pytest.raises(ChainError) as caught:
            add(recorder, network("a", "zz"), POD)
        assert (
            caught.value.msg
            == f'plugin type="zz" failed (add): failed to find plugin "zz" in path [{recorder.bin}]'
        )
        assert caught.value.ran == ()
        assert recorder.order == []

    def test_a_program_that_cannot_be_started_is_a_failure(self, recorder: Recorder) -> None:
        """A bad interpreter is told as the system tells it."""
        (recorder.bin / "a").write_text("#!/nonexistent/sh\n")
        with pytest.raises(ChainError, match=r"failed \(add\): .*fork/exec .*/a: no such file or directory"):
            add(recorder, network(), POD)

    def test_a_full_cache_is_told_with_what_has_run(self, recorder: Recorder) -> None:
        """If the result cannot be remembered, the error says so: all is in place and must be deleted."""
        (recorder.root / "cache").write_text("in the way")
        with pytest.raises(ChainError) as caught:
            add(recorder, network(), POD)
        assert caught.value.msg.startswith(
            'failed to set network "net1" cached result: failed to write cache'
        )
        assert caught.value.ran == ("a", "b")

    def test_names_too_long_for_the_cache_are_refused_before_the_start(self, recorder: Recorder) -> None:
        """A container id that could not be remembered is not attached."""
        with pytest.raises(CNIError, match="cache file name is too long: 270 bytes"):
            add(recorder, network(), POD.replace(container_id="c" * 260))
        assert recorder.order == []

    def test_stderr_of_plugins_is_passed_on(self, recorder: Recorder) -> None:
        """What a plugin says there is heard on success, and on failure beside its error object."""
        recorder.answer("a", "ADD", "echo hint >&2; echo '{}'")
        recorder.answer("b", "ADD", """echo why >&2; echo '{"code":11,"msg":"m"}'; exit 1""")
        with pytest.raises(ChainError, match="m"):
            add(recorder, network(), POD)
        assert recorder.stderr == [b"hint\n", b"why\n"]


class TestNames:
    @pytest.mark.parametrize("verb", [add, check, delete])
    @pytest.mark.parametrize(
        ("change", "code", "msg"),
        [
            ({"container_id": ""}, 3, "missing containerID"),
            ({"container_id": "x/../../victim"}, 4, "invalid characters in containerID"),
            ({"container_id": "a\n"}, 4, "invalid characters in containerID"),
            ({"ifname": ""}, 4, "interface name is empty"),
            ({"ifname": "a/b"}, 4, "interface name contains / or : or whitespace characters"),
            ({"ifname": "sixteen-letters-"}, 4, "interface name is too long"),
        ],
    )
    def test_names_are_checked_for_every_verb(
        self, recorder: Recorder, verb: Any, change: dict[str, str], code: int, msg: str
    ) -> None:
        """A name that could be a path reaches neither a plugin nor the file system."""
        victim = recorder.root / "cache" / "victim-eth0"
        victim.parent.mkdir()
        victim.write_text("{}")
        with pytest.raises(CNIError) as caught:
            verb(recorder, network(), POD.replace(**change))
        assert (caught.value.code, caught.value.msg) == (code, msg)
        assert recorder.order == []
        assert victim.exists()

    @pytest.mark.parametrize(
        ("name", "msg"), [("", "missing network name:"), ("../n", "invalid characters found in network name")]
    )
    def test_the_networks_name_too(self, recorder: Recorder, name: str, msg: str) -> None:
        """A list may be read with a bad name, but not used, for no verb."""
        bad = network(name=name)
        for verb in (add, check, delete):
            with pytest.raises(CNIError) as caught:
                verb(recorder, bad, POD)
            assert (caught.value.code, caught.value.msg) == (7, msg)
        with pytest.raises(CNIError):
            status(recorder, bad)
        assert recorder.order == []


class TestCheck:
    def test_all_plugins_see_the_remembered_result(self, recorder: Recorder) -> None:
        """In the list's order, each with the result that ADD ended with, and the runtimeConfig."""
        chain = network({"type": "a", "capabilities": {"mac": True}}, "b")
        pod = POD.replace(capability_args={"mac": "m"})
        add(recorder, chain, pod)
        recorder.forget()
        check(recorder, chain, pod)
        assert recorder.order == ["a CHECK", "b CHECK"]
        last = {"cniVersion": "1.1.0", "interfaces": [{"name": "b"}]}
        assert [call.config["prevResult"] for call in recorder.calls] == [last, last]
        assert recorder.calls[0].config["runtimeConfig"] == {"mac": "m"}

    @pytest.mark.row("contract", 80)
    def test_the_remembered_result_is_converted(self, recorder: Recorder) -> None:
        """A list whose version changed since the ADD gets the result in its present one."""
        recorder.answer(
            "a", "ADD", """echo '{"cniVersion":"0.3.1","ips":[{"version":"4","address":"10.0.0.2/24"}]}'"""
        )
        add(recorder, network("a", version="0.3.1"), POD)
        check(recorder, network("a", version="1.0.0"), POD)
        assert recorder.calls[-1].config["prevResult"] == {
            "cniVersion": "1.0.0",
            "ips": [{"address": "10.0.0.2/24"}],
        }

    @pytest.mark.row("contract", 76)
    @pytest.mark.parametrize("version", [None, "0.1.0", "0.3.1"])
    def test_an_old_list_is_refused_even_with_check_disabled(
        self, recorder: Recorder, version: str | None
    ) -> None:
        """The version is looked at before disableCheck."""
        with pytest.raises(CNIError) as caught:
            check(recorder, network(version=version, disableCheck=True), POD)
        assert caught.value.msg == (
            f'configuration version "{version or "0.1.0"}" does not support the CHECK command'
        )
        assert recorder.order == []

    @pytest.mark.row("contract", 84)
    def test_disabled_it_succeeds_unasked(self, recorder: Recorder) -> None:
        """With disableCheck no plugin is called."""
        check(recorder, network(disableCheck=True), POD)
        assert recorder.order == []

    def test_the_first_error_is_raised_bare(self, recorder: Recorder) -> None:
        """The plugin's error is not wrapped, and later plugins are not asked."""
        add(recorder, network(), POD)
        recorder.forget()
        recorder.fail("a", "CHECK")
        with pytest.raises(CNIError) as caught:
            check(recorder, network(), POD)
        assert (caught.value.code, str(caught.value)) == (7, "planned; dd")
        assert recorder.order == ["a CHECK"]

    @pytest.mark.row("contract", 76)
    def test_without_a_remembered_result_the_plugins_are_asked_and_it_is_said(
        self, recorder: Recorder
    ) -> None:
        """As with libcni they get no prevResult; their complaint is told with the reason."""
        check(recorder, network(), POD)
        assert "prevResult" not in recorder.calls[0].config
        recorder.fail("b", "CHECK")
        with pytest.raises(
            CNIError, match=r"^planned; dd; no cached result of this attachment in .*/results"
        ):
            check(recorder, network(), POD)

    @pytest.mark.row("contract", 79)
    def test_a_broken_memory_is_an_error(self, recorder: Recorder) -> None:
        """A cache file that cannot be read as a result ends it before any plugin."""
        recorder.cache_file("net1-cid1-eth0").write_text("rubbish")
        with pytest.raises(CNIError, match=r'failed to get network "net1" cached result: broken cache file'):
            check(recorder, network(), POD)
        assert recorder.order == []


class TestDelete:
    @pytest.mark.row("contract", 77)
    def test_it_goes_backwards_and_forgets(self, recorder: Recorder) -> None:
        """Reverse order, each with the remembered result; afterwards nothing is remembered."""
        add(recorder, network(), POD)
        recorder.forget()
        delete(recorder, network(), POD)
        assert recorder.order == ["b DEL", "a DEL"]
        last = {"cniVersion": "1.1.0", "interfaces": [{"name": "b"}]}
        assert [call.config["prevResult"] for call in recorder.calls] == [last, last]
        assert recorder.cached == []

    @pytest.mark.row("contract", 77)
    def test_the_first_error_ends_it_and_it_can_be_repeated(self, recorder: Recorder) -> None:
        """Plugins before the failed one are not called, and the attachment stays remembered."""
        add(recorder, network(), POD)
        recorder.fail("b", "DEL")
        recorder.forget()
        with pytest.raises(ChainError, match=r'^plugin type="b" failed \(delete\): planned; dd$'):
            delete(recorder, network(), POD)
        assert recorder.order == ["b DEL"]
        assert recorder.cached == ["net1-cid1-eth0"]
        recorder.recover("b", "DEL")
        delete(recorder, network(), POD)
        assert recorder.cached == []

    def test_an_unknown_attachment_is_deleted_all_the_same(self, recorder: Recorder) -> None:
        """Without memory the plugins are called without prevResult, as often as wanted."""
        for _ in range(2):
            delete(recorder, network(), Attachment("cid1", ""))
        assert recorder.order == ["b DEL", "a DEL"] * 2
        assert all("prevResult" not in call.config for call in recorder.calls)

    @pytest.mark.row("contract", 78)
    @pytest.mark.parametrize(("version", "told"), [("0.3.1", False), ("0.4.0", True)])
    def test_the_result_is_told_since_0_4_0(self, recorder: Recorder, version: str, told: bool) -> None:
        """Older lists get none, although it is remembered."""
        add(recorder, network("a", version=version), POD)
        delete(recorder, network("a", version=version), POD)
        assert ("prevResult" in recorder.calls[-1].config) is told
        assert recorder.cached == []

    def test_an_unreadable_version_stops_it(self, recorder: Recorder) -> None:
        """What cannot be compared with 0.4.0 is refused before any plugin."""
        with pytest.raises(CNIError, match="failed to convert major version part"):
            delete(recorder, network(version="zzz"), POD)
        assert recorder.order == []

    @pytest.mark.row("contract", 79)
    @pytest.mark.parametrize(
        "content", ["rubbish", "[]", '{"cniVersion":"7.0.0"}', '{"cniVersion":"1.1.0","ips":5}']
    )
    def test_a_broken_memory_is_forgotten(self, recorder: Recorder, content: str) -> None:
        """The chain runs without it and a warning says so."""
        file = recorder.cache_file("net1-cid1-eth0")
        file.write_text(content)
        recorder.fail("b", "DEL")
        with pytest.raises(ChainError):
            delete(recorder, network(), POD)
        assert "prevResult" not in recorder.calls[0].config
        assert not file.exists()
        assert "cached result, which cannot be used" in recorder.warnings[0]

    @pytest.mark.parametrize(
        ("content", "told"),
        [
            ('{"cniVersion":"0.4.0","dns":{"domain":"d"}}', {"cniVersion": "1.0.0", "dns": {"domain": "d"}}),
            ('{"x":1}', {"cniVersion": "1.0.0"}),
        ],
    )
    def test_an_older_librarys_memory_is_used(self, recorder: Recorder, content: str, told: Any) -> None:
        """A bare result is converted like any other."""
        recorder.cache_file("net1-cid1-eth0").write_text(content)
        delete(recorder, network("a", version="1.0.0"), POD)
        assert recorder.calls[0].config["prevResult"] == told

    def test_another_attachments_memory_is_left_alone(self, recorder: Recorder) -> None:
        """A file of the same name that belongs to somebody else is neither told nor removed."""
        add(recorder, network(name="a"), Attachment("b-c", "/n"))
        delete(recorder, network(name="a-b"), Attachment("c", "/n"))
        assert "prevResult" not in recorder.calls[-1].config
        assert recorder.cached == ["a-b-c-eth0"]


class TestStatus:
    def test_plugins_are_asked_with_name_and_version_only(self, recorder: Recorder) -> None:
        """In the list's order, with nothing about an attachment."""
        assert status(recorder, network("a", {"type": "b", "x": 1})) is True
        assert [call.config for call in recorder.calls] == [
            {"type": "a", "name": "net1", "cniVersion": "1.1.0"},
            {"type": "b", "x": 1, "name": "net1", "cniVersion": "1.1.0"},
        ]

    @pytest.mark.row("contract", 85)
    def test_the_first_error_keeps_its_code(self, recorder: Recorder) -> None:
        """A plugin that is not available is reported with code 50, and the next one is not asked."""
        recorder.fail("a", "STATUS", '{"code":50,"msg":"no daemon"}')
        with pytest.raises(CNIError, match=r"^no daemon$") as caught:
            status(recorder, network())
        assert caught.value.code == 50
        assert recorder.order == ["a STATUS"]

    @pytest.mark.row("contract", 85)
    @pytest.mark.parametrize("version", [None, "1.0.0", "zzz"])
    def test_older_lists_are_ready_unasked(self, recorder: Recorder, version: str | None) -> None:
        """Nobody is asked for a verb that the version does not have."""
        assert status(recorder, network(version=version)) is False
        assert recorder.order == []


def test_one_attachment_is_worked_on_by_one_at_a_time(recorder: Recorder) -> None:
    """A DEL that comes while the ADD is at work waits for its end; another attachment's ADD does not.

    No lock file stays.
    """
    gate = recorder.root / "gate"
    os.mkfifo(gate)
    recorder.answer("a", "ADD", f'[ "$CNI_CONTAINERID" = cid1 ] && read line < {gate}; echo "{{}}"')
    runtime, chain = recorder.runtime(), network("a")

    async def scenario() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(runtime.add, chain, POD)
            while recorder.order != ["a ADD"]:
                await anyio.sleep(0.002)
            tasks.start_soon(recorder.runtime().delete, chain, POD)
            await runtime.add(chain, POD.replace(container_id="cid2"))
            assert recorder.order == ["a ADD", "a ADD"]
            with open(gate, "w") as writer:
                writer.write("go\n")

    anyio.run(scenario)
    assert recorder.order == ["a ADD", "a ADD", "a DEL"]
    assert recorder.cached == ["net1-cid2-eth0"]
    assert os.listdir(recorder.root / "run" / "chains") == []


def test_where_there_can_be_no_lock_it_goes_on(recorder: Recorder) -> None:
    """A run folder that cannot be used is worth a warning, not a pod that cannot be deleted."""
    (recorder.root / "run").write_text("")
    delete(recorder, network(), POD)
    assert recorder.order == ["b DEL", "a DEL"]
    assert "going on without a lock" in recorder.warnings[0]


def test_many_that_want_one_attachment_take_turns(tmp_path: Path) -> None:
    """However often the lock's file is removed and made again, only one holds it at a time."""
    inside: list[int] = []

    async def work(number: int) -> None:
        for _ in range(20):
            async with hold(str(tmp_path), "net1", "cid1", "eth0"):
                inside.append(number)
                assert inside == [number]
                await anyio.sleep(0)
                inside.remove(number)

    async def scenario() -> None:
        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(work, number)

    anyio.run(scenario)


def test_a_lock_whose_file_was_removed_meanwhile_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening the file and locking it, its holder may remove it and another one make it anew."""
    others: list[int] = []

    def flock(fd: int, kind: int) -> None:
        if not others:
            (path,) = (tmp_path / "chains").iterdir()
            path.unlink()
            others.append(os.open(path, os.O_CREAT | os.O_RDWR))
            real(others[0], kind)
        real(fd, kind)

    real = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", flock)

    async def scenario() -> None:
        with pytest.raises(CNIError, match="is being worked on"):
            async with hold(str(tmp_path), "net1", "cid1", "eth0", patience=0):
                raise AssertionError("two hold it")
        os.close(others[0])

    anyio.run(scenario)


def test_waiting_for_an_attachment_has_an_end(tmp_path: Path) -> None:
    """Who waits for too long is told to try again later."""

    async def scenario() -> None:
        key = ("net1", "cid1", "eth0")
        async with hold(str(tmp_path), *key):
            with pytest.raises(CNIError, match="net1 cid1 eth0 is being worked on") as caught:
                async with hold(str(tmp_path), *key, patience=0.01):
                    raise AssertionError("two hold it")
            assert caught.value.code == 11
        async with hold(str(tmp_path), *key, patience=0):
            pass

    anyio.run(scenario)
