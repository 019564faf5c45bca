"""Garbage collection over recording plugins (pycni.runtime.gc)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest
from chain_recorder import POD, Recorder, network

from pycni.errors import CNIError
from pycni.runtime import Attachment, collect
from pycni.runtime.cache import Entry
from pycni.runtime.gc import Plan, plan

if TYPE_CHECKING:
    from pathlib import Path

ONE = Attachment("one", "/run/netns/one", args=(("A", "1"),), capability_args={"mac": "m"})
TWO = Attachment("two", "/run/netns/two")


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    """Two attachments of net1 and one of another network are remembered."""
    recorder = Recorder(tmp_path)
    for chain, attachment in ((network(), ONE), (network(), TWO), (network(name="other"), TWO)):
        anyio.run(recorder.runtime().add, chain, attachment)
    recorder.forget()
    return recorder


def gc(recorder: Recorder, chain: Any, valid: Any) -> Plan:
    return anyio.run(collect, recorder.runtime(), chain, valid)


@pytest.mark.row("contract", 81)
def test_stale_attachments_are_deleted_as_they_were_added(recorder: Recorder) -> None:
    """Who is not valid gets a DEL chain with its own namespace, arguments and result; the others stay."""
    chain = network({"type": "a", "capabilities": {"mac": True}}, "b")
    done = gc(recorder, chain, [("two", "eth0")])
    assert [entry.container_id for entry in done.stale] == ["one"]
    assert recorder.order == ["b DEL", "a DEL", "a GC", "b GC"]
    env = recorder.calls[0].env
    assert (env["CNI_CONTAINERID"], env["CNI_NETNS"], env["CNI_ARGS"]) == ("one", "/run/netns/one", "A=1")
    assert recorder.calls[0].config["prevResult"]["interfaces"] == [{"name": "b"}]
    assert recorder.cached == ["net1-two-eth0", "other-two-eth0"]


def test_an_attachment_is_deleted_by_the_list_that_made_it(recorder: Recorder) -> None:
    """The list may have changed since: the plugins that worked then undo their work."""
    gc(recorder, network("c"), [("two", "eth0")])
    assert recorder.order == ["b DEL", "a DEL", "c GC"]


@pytest.mark.row("contract", 82)
def test_plugins_are_told_what_stays_under_both_keys(recorder: Recorder) -> None:
    """The spec's key and libcni's, same content, and nothing about an attachment."""
    gc(recorder, network("a"), {("two", "eth0"), ("one", "eth0"), ("unknown", "eth1")})
    stays = [
        {"containerID": "one", "ifname": "eth0"},
        {"containerID": "two", "ifname": "eth0"},
        {"containerID": "unknown", "ifname": "eth1"},
    ]
    assert recorder.calls[0].config == {
        "type": "a",
        "name": "net1",
        "cniVersion": "1.1.0",
        "cni.dev/valid-attachments": stays,
        "cni.dev/attachments": stays,
    }
    assert [call.env["CNI_CONTAINERID"] for call in recorder.calls] == [""]


@pytest.mark.row("contract", 82)
@pytest.mark.parametrize("version", [None, "0.4.0", "1.0.0"])
def test_older_lists_get_the_deletions_only(recorder: Recorder, version: str | None) -> None:
    """The verb exists since 1.1.0, stale attachments in every version."""
    done = gc(recorder, network(version=version), [("two", "eth0")])
    assert recorder.order == ["b DEL", "a DEL"]
    assert not done.ask_plugins


@pytest.mark.row("contract", 83)
def test_it_goes_on_past_errors_and_reports_all(recorder: Recorder) -> None:
    """One failing DEL or GC keeps nothing else from being done; a failed attachment stays remembered."""
    recorder.fail("b", "DEL")
    recorder.fail("a", "GC")
    with pytest.raises(CNIError) as caught:
        gc(recorder, network("a", "zz", "b"), [])
    assert str(caught.value).splitlines() == [
        'failed to delete stale attachment one eth0: plugin type="b" failed (delete): planned; dd',
        'failed to delete stale attachment two eth0: plugin type="b" failed (delete): planned; dd',
        "failed to GC plugin a: planned; dd",
        f'failed to GC plugin zz: failed to find plugin "zz" in path [{recorder.bin}]',
    ]
    assert recorder.order == ["b DEL", "b DEL", "a GC", "b GC"]
    assert "net1-one-eth0" in recorder.cached


@pytest.mark.row("contract", 84)
def test_disabled_it_does_nothing(recorder: Recorder) -> None:
    """With disableGC neither attachments nor plugins are touched."""
    gc(recorder, network(disableGC=True), [])
    assert recorder.order == []
    assert len(recorder.cached) == 3


def test_a_cache_that_cannot_be_listed_is_an_error(recorder: Recorder) -> None:
    """Not knowing what exists is no reason to tell the plugins that nothing does."""
    results = recorder.root / "cache" / "results"
    results.rename(recorder.root / "elsewhere")
    results.write_text("")
    with pytest.raises(CNIError, match="failed to list cache"):
        gc(recorder, network(), [])
    assert recorder.order == []


def test_the_plan_is_pure() -> None:
    """What is stale follows from the entries, the network's name and what is valid, and from nothing else."""
    entries = [Entry("net1", "one", "eth0"), Entry("net1", "one", "eth1"), Entry("other", "one", "eth0")]
    decided = plan(network(), entries, [("one", "eth1")])
    assert [entry.key for entry in decided.stale] == [("net1", "one", "eth0")]
    assert decided.valid == (("one", "eth1"),)


def test_what_the_plugin_folder_supplied_is_called_too(recorder: Recorder) -> None:
    """The remembered bytes lack the folder's plugins: today's are taken for them."""
    anyio.run(recorder.runtime().delete, network(), ONE)
    anyio.run(recorder.runtime().delete, network(), TWO)
    recorder.forget()
    with_folder = network("a").replace(plugins=network("a", "c").plugins, inlined=1)
    anyio.run(recorder.runtime().add, with_folder, POD)
    recorder.forget()
    today = network("b").replace(plugins=network("b", "c").plugins, inlined=1)
    gc(recorder, today, [])
    assert recorder.order == ["c DEL", "a DEL", "b GC", "c GC"]
