"""pycni.kernel.nftables: what is said to nftables and how its answers are read. No kernel here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pycni.errors import TRY_AGAIN_LATER, CNIError
from pycni.kernel import nftables, process

RULE = {"family": "inet", "table": "t", "chain": "c", "handle": 4, "expr": [], "comment": "k"}
LISTING = {"nftables": [{"metainfo": {"version": "1"}}, {"chain": {"name": "c"}}, {"rule": RULE}]}
MISSING = "internal:0:0-0: Error: No such file or directory; did you mean chain ‘x’ in table inet ‘t’?\n\n"


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What nftables is told; it answers with what `answer` was given, again and again."""
    texts: list[bytes] = []
    monkeypatch.setattr(nftables, "_executor", lambda: lambda text: (texts.append(text), _answers[-1])[1])
    return texts


_answers: list[tuple[int, str, str]] = []


@pytest.fixture
def answer(said: list[bytes]) -> Any:
    """Set what nftables answers from now on."""
    return lambda status=0, output="", complaint="": _answers.append((status, output, complaint))


def test_a_transaction_is_one_document(said: list[bytes], answer: Any) -> None:
    """All commands go in one text, so that they take effect together or not at all."""
    answer()
    commands = [nftables.add("table", family="inet", name="t"), nftables.flush_chain("inet", "t", "c")]
    assert nftables.run(commands) == []
    assert [json.loads(text) for text in said] == [{"nftables": commands}]


def test_a_listing_yields_the_rules(said: list[bytes], answer: Any) -> None:
    """One chain is asked for, never the ruleset; other rows of the answer are not rules."""
    answer(output=json.dumps(LISTING))
    assert nftables.list_chain("inet", "t", "c") == [RULE]
    assert json.loads(said[0])["nftables"] == [
        {"list": {"chain": {"family": "inet", "table": "t", "name": "c"}}}
    ]


def test_a_missing_chain_is_not_an_error(answer: Any) -> None:
    """It is told from an empty one by those who need to know."""
    answer(1, "", MISSING)
    assert nftables.read_chain("inet", "t", "c") is None
    assert nftables.list_chain("inet", "t", "c") == []


def test_a_refusal_is_raised_in_nfts_words(answer: Any) -> None:
    """The message has nft's sentence without the position, the details have the transaction."""
    answer(1, "", "internal:0:0-0: Error: Could not process rule: Operation not permitted\n")
    with pytest.raises(nftables.NftError) as caught:
        nftables.read_chain("inet", "t", "c")
    assert caught.value.msg == "nftables: Could not process rule: Operation not permitted"
    assert not caught.value.missing
    assert '"table":"t"' in caught.value.details


def test_chain_names_are_those_of_the_table(answer: Any) -> None:
    """nft lists a family's chains whatever table they are in."""
    rows = [{"chain": {"family": "ip", "table": table, "name": name}} for table, name in ("aA", "bB", "aC")]
    answer(output=json.dumps({"nftables": rows}))
    assert nftables.chain_names("ip", "a") == ["A", "C"]


def test_waiting_for_others_of_the_process_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stuck transaction makes the others fail with "try again later"."""
    monkeypatch.setattr(nftables, "WAIT_SECONDS", 0.01)
    with nftables._busy, pytest.raises(CNIError, match="nftables is busy") as caught:
        nftables.run([])
    assert caught.value.code == TRY_AGAIN_LATER


def test_a_lost_race_is_observed_again(said: list[bytes], answer: Any) -> None:
    """If a rule is gone by the time of the commit, the decision is made anew."""
    decisions = iter([["first"], ["second"], []])

    def decide() -> list[Any]:
        answer(1, "", MISSING)
        return next(decisions)

    nftables.transact(decide)
    assert [json.loads(text)["nftables"] for text in said] == [["first"], ["second"]]


def test_a_refusal_is_not_repeated(said: list[bytes], answer: Any) -> None:
    """Only a missing object means that somebody was faster."""
    answer(1, "", "Error: syntax error")
    with pytest.raises(nftables.NftError):
        nftables.transact(lambda: [{"add": {}}])
    assert len(said) == 1


def test_repetition_ends(said: list[bytes], answer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stays missing is tried again and again, and reported when the time is over."""
    monkeypatch.setattr(nftables, "_RACE_SECONDS", 0.02)
    answer(1, "", MISSING)
    with pytest.raises(nftables.NftError) as caught:
        nftables.transact(lambda: [{"add": {}}])
    assert caught.value.missing
    assert len(said) > 1


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node without libnftables."""
    monkeypatch.setattr(nftables, "_library", None)
    monkeypatch.setattr(nftables, "_LIBRARY", "libnothing.so.99")


@pytest.mark.usefixtures("no_library")
def test_without_the_library_nft_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same document goes to `nft -j -f -`, the same answers come back."""
    script = tmp_path / "nft"
    script.write_text(
        f"#!/bin/sh\necho $@ > {tmp_path}/args\ncat > {tmp_path}/stdin\necho '{json.dumps(LISTING)}'\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert not nftables.in_process()
    assert nftables.list_chain("inet", "t", "c") == [RULE]
    assert (tmp_path / "args").read_text() == "-j -a -f -\n"
    assert json.loads((tmp_path / "stdin").read_bytes())["nftables"][0]["list"]["chain"]["name"] == "c"


@pytest.mark.usefixtures("no_library")
def test_a_node_without_nftables_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither library nor executable: an error that names both, and `works` is false."""
    monkeypatch.setattr(process, "find", lambda name: None)
    with pytest.raises(nftables.NftError, match="cannot find") as caught:
        nftables.run([])
    assert "libnothing.so.99" in caught.value.details
    assert "install nftables" in caught.value.details
    assert not nftables.works()
