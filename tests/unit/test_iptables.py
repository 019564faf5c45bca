"""pycni.kernel.iptables: which executable, with which arguments, and how its failures are read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pycni.errors import TRY_AGAIN_LATER, CNIError
from pycni.kernel import iptables, process

Tool = Callable[..., str]


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tool:
    """Put executables into an otherwise empty world; each keeps its arguments and its standard input."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(process, "SYSTEM_FOLDERS", ())

    def make(name: str, text: str = "", link: str = "") -> str:
        path = tmp_path / (link or name)
        path.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/args\n/bin/cat > {tmp_path}/stdin\n{text}\n')
        path.chmod(0o755)
        if link:
            (tmp_path / name).symlink_to(path)
        return str(tmp_path / name)

    return make


def test_a_missing_executable_gives_the_references_text(tool: Tool) -> None:
    """People search for this text."""
    with pytest.raises(CNIError) as caught:
        iptables.locate(6)
    expected = 'failed to locate ip6tables: exec: "ip6tables": executable file not found in $PATH'
    assert caught.value.msg == expected
    assert '"ipMasqBackend": "nftables"' in caught.value.details


def test_the_plain_name_is_the_administrators_choice(tool: Tool) -> None:
    """Without a kind asked for, `iptables` it is, whatever else is installed."""
    plain = tool("iptables", link="xtables-legacy-multi")
    tool("iptables-nft", link="xtables-nft-multi")
    assert iptables.locate(4) == plain
    assert iptables.kind_of(plain) == "legacy"


def test_a_kind_is_found_by_its_full_name_first(tool: Tool) -> None:
    """Both kinds may be installed, and the plain name can stand for only one of them."""
    tool("iptables", link="xtables-legacy-multi")
    nft = tool("iptables-nft", link="xtables-nft-multi")
    assert iptables.find(4, "nft") == nft
    assert iptables.kind_of(nft) == "nft"


def test_the_plain_name_serves_if_it_is_of_the_kind(tool: Tool) -> None:
    """Where only one kind is installed there may be no full names; the other kind is then missing."""
    plain = tool("iptables", link="xtables-nft-multi")
    assert iptables.find(4, "nft") == plain
    assert iptables.find(4, "legacy") is None


def test_a_wrapper_script_may_be_either(tool: Tool) -> None:
    """Some images have a script that decides at run time."""
    plain = tool("iptables", link="iptables-wrapper")
    assert iptables.kind_of(plain) == ""
    assert iptables.find(4, "legacy") == plain


def test_a_chain_is_read_with_a_bounded_wait(tool: Tool, tmp_path: Path) -> None:
    """Rules come as iptables prints them, without the chain's own line."""
    path = tool("iptables", 'echo "-N C"; echo "-A C -j ACCEPT"')
    assert iptables.read_chain(path, "nat", "C") == ["-A C -j ACCEPT"]
    assert (tmp_path / "args").read_text() == "-t nat -S C --wait=5\n"


def test_a_missing_chain_is_not_an_error(tool: Tool) -> None:
    """iptables exits with 1 for it."""
    assert iptables.read_chain(tool("iptables", "exit 1"), "nat", "C") is None


def test_changes_are_one_transaction(tool: Tool, tmp_path: Path) -> None:
    """One execution of iptables-restore, which leaves everything else in the table alone."""
    path = tool("iptables")
    tool("iptables-restore")
    iptables.change(path, "nat", [":C - [0:0]", "-A C -j ACCEPT"])
    assert (tmp_path / "args").read_text() == "--noflush --wait=5\n"
    assert (tmp_path / "stdin").read_text() == "*nat\n:C - [0:0]\n-A C -j ACCEPT\nCOMMIT\n"


def test_a_held_lock_means_try_again_later(tool: Tool) -> None:
    """Legacy iptables gives up after the wait; so do we, with the code for that."""
    words = "Another app is currently holding the xtables lock; still 1s 0us time ahead"
    path = tool("iptables", f'echo "{words}" >&2; exit 4')
    with pytest.raises(CNIError, match="holding the xtables lock") as caught:
        iptables.read_chain(path, "nat", "C")
    assert caught.value.code == TRY_AGAIN_LATER


def test_other_failures_carry_iptables_words(tool: Tool) -> None:
    """Exit status and text in the message, the input in the details."""
    path = tool("iptables")
    tool("iptables-restore", 'echo "line 2 failed" >&2; exit 1')
    with pytest.raises(CNIError) as caught:
        iptables.change(path, "nat", ["-A C"])
    assert caught.value.msg == "running iptables-restore failed: exit status 1: line 2 failed"
    assert "-A C" in caught.value.details


@pytest.mark.parametrize(("status", "works"), [(0, True), (1, True), (3, False)])
def test_it_works_if_the_filter_table_can_be_read(tool: Tool, status: int, works: bool) -> None:
    """Exit status 1 only means that there is no such rule: the reference's test."""
    assert iptables.works(tool("iptables", f"exit {status}")) is works
