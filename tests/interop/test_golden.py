"""The recordings of the reference plugins, replayed against ours.

`REF_BIN=/usr/lib/cni pytest tests/interop/test_golden.py` replays them against another folder of plugins.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from deviations import DEVIATIONS
from support.golden import RECORDED, Names, Replay, cases, load

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.agents import Agent
    from support.netns import NetNS

REFERENCE = os.environ.get("REF_BIN", "")
# Through an agent, a choice that touches each of its paths; the rest would only repeat the one-shot runs.
AGENT_CASES = (
    "errors/error-interface-exists",
    "errors/error-missing-variables",
    "errors/error-netns-missing",
    "features/bridge-dual-stack-1.1.0",
    "features/guard-own-namespace-bridge",
    "features/host-local-order-and-reuse",
    "features/ipam-error-passed-through",
    "features/ipam-result-of-0.4.0",
    "features/loopback-passes-prevresult",
    "features/macspoofchk-two-pods-fixed-mac",
    "features/masq-iptables-explicit",
    "features/masq-nftables-dual-stack-two-pods",
    "features/route-attributes-1.1.0",
    "version/version-bridge",
)
# What the matcher must call different: a replay that sees nothing proves nothing.
UNEQUAL = (
    ("a", "b"),
    (1, "1"),
    ({"a": 1}, {}),
    ({}, {"a": 1}),
    ([1, 2], [2, 1]),
    ([1], [1, 1]),
    ("$MAC_POD1", "not a mac"),
    ({"x": "$VETH1", "y": "$VETH1"}, {"x": "veth1", "y": "veth2"}),
    ({"rules": ["$VETH1 $BIN"]}, {"rules": ["veth1 /elsewhere"]}),
)
ALL_CASES = cases("features", "errors", "version")


def _replay(
    case: str, bin_dir: Path, host: NetNS, pod: Callable[[], NetNS], folder: Path, *, ours: bool
) -> None:
    recording = load(case)
    replay = Replay(recording, bin_dir, host, pod, folder)
    differences = []
    for number, step in enumerate(recording["steps"], 1):
        deviation = DEVIATIONS.get((recording["case"], number), RECORDED) if ours else RECORDED
        title = f"step {number} ({step.get('plugin', '')} {step.get('env', {}).get('CNI_COMMAND', '')})"
        differences += [f"{title}: {line}" for line in replay.step(number, deviation)]
    if differences:
        pytest.fail("\n".join(differences), pytrace=False)


@pytest.mark.parametrize(("template", "observed"), UNEQUAL)
def test_matcher_sees_differences(template: object, observed: object) -> None:
    """What differs from a recording is reported, also where names stand for values."""
    assert Names(BIN="/bin").match(template, observed, "here")


def test_matcher_binds_names_once() -> None:
    """A name takes the first value met in its place, in keys and values, and stands for it from then on."""
    names = Names(BIN="/bin")
    assert names.match(["$VETH1 in $BIN", "$MAC_POD1"], ["veth9 in /bin", "0a:00:00:00:00:01"], "here") == []
    assert names.match({"$VETH1": "$MAC_POD1"}, {"veth9": "0a:00:00:00:00:01"}, "here") == []


if REFERENCE:

    @pytest.mark.parametrize("case", ALL_CASES)
    def test_reference(case: str, host: NetNS, pod: Callable[[], NetNS], tmp_path: Path) -> None:
        """The executables of REF_BIN do what was recorded."""
        _replay(case, Path(REFERENCE), host, pod, tmp_path, ours=False)

else:

    @pytest.mark.parametrize("case", ALL_CASES)
    def test_one_shot(
        case: str, bin_dir: Path, host: NetNS, pod: Callable[[], NetNS], tmp_path: Path
    ) -> None:
        """Without an agent our executables do what the reference's do, or better as a deviation says."""
        _replay(case, bin_dir, host, pod, tmp_path, ours=True)

    @pytest.mark.parametrize("case", AGENT_CASES)
    def test_agent(
        case: str, agent: Agent, bin_dir: Path, host: NetNS, pod: Callable[[], NetNS], tmp_path: Path
    ) -> None:
        """With an agent our executables do the same, and it is the agent that does it."""
        _replay(case, bin_dir, host, pod, tmp_path, ours=True)
        assert agent.served() == sum("plugin" in step for step in load(case)["steps"])

    def test_deviations_name_steps_that_exist() -> None:
        """No deviation is left over from a recording that is gone."""
        for case, number in DEVIATIONS:
            paths = [name for name in ALL_CASES if name.endswith(f"/{case}")]
            assert len(paths) == 1, case
            assert 1 <= number <= len(load(paths[0])["steps"]), (case, number)
