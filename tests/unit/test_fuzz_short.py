"""The fuzzer itself, and a short run of it: `make fuzz` sends a million requests more."""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest

FUZZ = Path(__file__).parents[1] / "fuzz"
if str(FUZZ) not in sys.path:
    sys.path.insert(0, str(FUZZ))

import fuzz  # noqa: E402
import targets  # noqa: E402

from pycni.skel import Reply  # noqa: E402

ADD = {"CNI_COMMAND": "ADD"}
STDIN = b'{"name":"net","cniVersion":"1.0.0"}'


@pytest.mark.parametrize("name", sorted(fuzz.corpus()))
def test_what_was_found_once_is_answered(name: str) -> None:
    """Each request of the corpus gets one answer that the contract allows."""
    case = fuzz.corpus()[name]
    assert case.send(targets.World(Random(name)))
    targets.parse(case.stdin.encode("latin-1"))
    targets.reset(0)


@pytest.mark.parametrize("number", range(8))
def test_random_requests_are_answered(number: int) -> None:
    """Blocks of random requests: no traceback, no hang, nothing but one object on stdout."""
    done, kinds, failure = fuzz.run_block(20, number)
    assert failure is None, str(failure)
    assert done == sum(kinds.values()) == fuzz.BLOCK


def test_a_block_is_the_same_each_time() -> None:
    """What a seed and a number find can be found again."""
    assert fuzz.run_block(7, 3) == fuzz.run_block(7, 3)
    assert fuzz.run_block(7, 3)[1] != fuzz.run_block(7, 4)[1]


@pytest.mark.parametrize(
    "reply",
    [
        Reply(b"", 1),
        Reply(b"{}", 1),
        Reply(b'{"code": 999, "msg": "x"}{"code": 999, "msg": "x"}', 1),
        Reply(b'{"code": "999", "msg": "x"}', 1),
        Reply(b'{"code": -1, "msg": "x"}', 1),
        Reply(b'{"code": 999, "msg": "x", "extra": 1}', 1),
        Reply(b'{"code": 999, "msg": "x", "details": ""}', 1),
        Reply(b'{"code": 999, "msg": "x", "details": "unexpected KeyError"}', 1),
        Reply(b'{"code": 999, "msg": "\xff"}', 1),
        Reply(b'{"code": 999, "msg": "x"}', 2),
        Reply(b'{"code": 999, "msg": "x"}', 1, b"Traceback (most recent call last)"),
        Reply(b"", 0),
        Reply(b'{"cniVersion": "1.1.0"}', 0),
        Reply(b'{"cniVersion": "1.0.0", "ips": [{}]}', 0),
        Reply(b"[]", 0),
    ],
)
def test_the_judge_refuses(reply: Reply) -> None:
    """What is not one answer of the contract is seen."""
    with pytest.raises(Exception):  # noqa: B017 - whichever way it shows
        targets.judge(ADD, STDIN, reply)
    assert targets.judge(ADD, STDIN, Reply(b'{"cniVersion": "1.0.0"}')) == "ADD ok"


def test_a_hang_and_a_mistake_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that never ends is broken off and shown with its text, as is one whose plugin is wrong."""

    class Wrong(targets.Echo):
        async def add(self, request: Any, ctx: Any) -> Any:
            while request.network:
                pass

        async def check(self, request: Any, ctx: Any) -> None:
            raise KeyError("x")

    monkeypatch.setattr(targets, "PLUGINS", {"tuning": Wrong()})
    monkeypatch.setattr(targets, "SECONDS", 0.05)
    monkeypatch.setattr(targets.reset, "__defaults__", (0.05,))
    targets.watch()
    seen = set()
    for number in range(20):
        _, _, failure = fuzz.run_block(1, number)
        if failure is not None:
            assert failure.case is not None
            seen.add((failure.case.env["CNI_COMMAND"], failure.trace.splitlines()[-1].partition(":")[0]))
    assert seen >= {("ADD", "targets.HangError"), ("CHECK", "targets.BrokenError")}
