"""Where the time of one ADD goes, from the launcher's start to its end, and what of it nobody could save.

The agent of this measurement carries clocks (`traced_agent.py`), which cost it a few per cent: the sum is a
little above the table's figure.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contestants import WORK, Executables, Network, contestant
from report import Phase
from scenarios import one, warm_up
from starter import Finished

SPENT = ("parse", "print", "lock", "ipam", "netlink", "kernel", "firewall", "hops")
KERNEL = "netlink, in the kernel"


def phases(executables: Executables, network: Network, rounds: int) -> list[Phase]:
    """One ADD after the other on a node of their own; the whole comes last."""
    trace = WORK / "where.trace"
    WORK.mkdir(exist_ok=True)
    agent = (sys.executable, str(Path(__file__).with_name("traced_agent.py")), str(trace))
    calls = []
    with contestant(executables, 1, place="where", agent_command=agent) as who:
        warm_up([who], network)
        for _ in range(rounds):
            calls.append(one(who, who.call("bridge", "ADD", network, who.pods[0])))
            one(who, who.call("bridge", "DEL", network, who.pods[0]))
    lines = trace.read_text().splitlines()[-rounds:]
    if len(lines) != rounds:
        raise RuntimeError(f"the agent served {len(lines)} of {rounds} ADDs: {WORK}/where/agent.log")
    return _medians([_split(call, json.loads(line)) for call, line in zip(calls, lines, strict=True)])


def _split(call: Finished, trace: dict[str, Any]) -> dict[str, float]:
    """Seconds by phase; they add up to the call's."""
    spent = {name: trace.get(name, 0.0) for name in SPENT}
    deciding = trace["served"] - trace["go"] - sum(spent.values())
    return {
        "launcher: start, connect": trace["accepted"] - call.began,
        "socket: request, taken, go": trace["go"] - trace["accepted"],
        "parse and validate": spent["parse"],
        "attachment's lock": spent["lock"],
        "IPAM: the store": spent["ipam"],
        "netlink and sysctls, around it": spent["netlink"],
        KERNEL: spent["kernel"],
        "firewall": spent["firewall"],
        "ways to worker threads and back": spent["hops"],
        "deciding, event loop": deciding,
        "reply": spent["print"] + trace["answered"] - trace["served"],
        "launcher: print, end": call.began + call.seconds - trace["answered"],
    }


def _medians(splits: Sequence[dict[str, float]]) -> list[Phase]:
    whole = statistics.median(sum(split.values()) for split in splits)
    found = {name: statistics.median(split[name] for split in splits) for name in splits[0]}
    return [
        *(Phase(name, 1000 * seconds, seconds / whole) for name, seconds in found.items() if seconds),
        Phase("the whole", 1000 * whole, 1.0),
    ]


def floor(found: Sequence[Phase], empty_process: float) -> float:
    """Milliseconds that stay if all else took no time: a process, and the kernel's own work."""
    return empty_process + sum(phase.median for phase in found if phase.name == KERNEL)
