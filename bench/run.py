"""Compare pycni's executables with the reference plugins in one interleaved run.

Needs root, the reference plugins (Debian: containernetworking-plugins; REF_BIN names another folder) and
this checkout installed into the interpreter that runs it. See README.md for what is measured and how.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from contestants import Contestant, contestant, install_launchers
from node import cover_state, enter, enter_private_namespaces
from report import REFERENCE, Measurements, as_json, machine_facts, markdown, table
from starter import Call, Finished, run, run_many

RESULTS = Path(__file__).with_name("RESULTS.md")
WORK = Path("/run/pycni")  # in memory, and gone with the mount namespace
OURS = {"native": ("native", True), "agent": ("python", True), "alone": ("python", False)}
"""Name → kind of launcher, and whether an agent is on the node."""
PAUSE_SECONDS = 0.01
"""Between two calls, so that what a call leaves to the kernel's workers is not charged to the next one."""

_SINGLE = (
    ("ADD", "bridge", "ADD"),
    ("DEL", "bridge", "DEL"),
    ("loopback ADD", "loopback", "ADD"),
    ("loopback DEL", "loopback", "DEL"),
)


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/run.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=30, help="single calls of each kind (default 30)")
    parser.add_argument("--bursts", type=int, default=3, help="bursts of each kind (default 3)")
    parser.add_argument("--pods", type=int, default=100, help="pods in a burst (default 100)")
    parser.add_argument(
        "--at-once", type=int, default=10, help="calls at the same time in a burst (default 10)"
    )
    parser.add_argument(
        "--masq",
        choices=("iptables", "nftables"),
        default="",
        help="switch ipMasq on for all, ours with this backend (Debian's reference has iptables only)",
    )
    parser.add_argument(
        "--dual",
        action="store_true",
        help="IPv6 beside IPv4 (the reference then waits for DAD)",
    )
    parser.add_argument(
        "--only",
        default=",".join(OURS),
        help=f"which of ours, with commas (default {','.join(OURS)})",
    )
    parser.add_argument(
        "--also", action="append", default=[], metavar="NAME=DIR", help="one more folder of executables"
    )
    parser.add_argument(
        "--time-limit", type=int, default=900, help="give up after so many seconds (default 900)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--write", action="store_true", help=f"also write {RESULTS.name} beside this file")
    parser.add_argument("--check", action="store_true", help="exit status 1 if a goal is missed")
    options = parser.parse_args(argv)
    options.only = [name for name in options.only.split(",") if name]
    if unknown := set(options.only) - set(OURS):
        parser.error(f"--only knows {', '.join(OURS)}, not {', '.join(sorted(unknown))}")
    if any("=" not in also for also in options.also):
        parser.error("--also wants NAME=DIR")
    if min(options.rounds, options.pods, options.at_once) < 1 or options.bursts < 0:
        parser.error("counts must be positive")
    return options


def line_up(stack: ExitStack, options: argparse.Namespace, reference: Path) -> list[Contestant]:
    """The reference first, then ours, then whoever was named by `--also`."""
    folders: dict[str, tuple[Path, Path | None]] = {REFERENCE: (reference, None)}
    for name in options.only:
        run_dir = WORK / name
        bin_dir = run_dir / "bin"
        bin_dir.mkdir(parents=True)
        launcher, with_agent = OURS[name]
        install_launchers(bin_dir, run_dir, launcher)
        folders[name] = (bin_dir, run_dir if with_agent else None)
    folders |= {
        name: (Path(folder), None) for name, _, folder in (also.partition("=") for also in options.also)
    }
    return [
        stack.enter_context(
            contestant(
                name,
                bin_dir,
                options.pods,
                agent_dir=agent_dir,
                masquerade=options.masq and (options.masq if name in OURS else "iptables"),
                dual=options.dual,
            )
        )
        for name, (bin_dir, agent_dir) in folders.items()
    ]


def rotated(contestants: Sequence[Contestant], by: int) -> list[Contestant]:
    """Another one begins in every round, so that no one profits from its place."""
    by %= len(contestants)
    return [*contestants[by:], *contestants[:by]]


def one(who: Contestant, call: Call) -> Finished:
    enter(who.node)
    time.sleep(PAUSE_SECONDS)
    return run(call).expect_success()


def warm_up(contestants: Sequence[Contestant]) -> None:
    """One attachment each, unmeasured: bridge made, files in the page cache, modules loaded.

    Raises RuntimeError unless the result has as many addresses as range sets and DEL leaves nothing.
    """
    for who in contestants:
        pod = who.pods[0]
        result = json.loads(one(who, who.call("bridge", "ADD", pod)).stdout)
        if len(result["ips"]) != len(who.ranges()):
            raise RuntimeError(f"{who.name}: expected {len(who.ranges())} addresses, got {result}")
        one(who, who.call("bridge", "DEL", pod))
        who.verify_empty()


def single_calls(contestants: Sequence[Contestant], rounds: int, into: Measurements) -> None:
    """Every operation by everybody in turn, one call at a time."""
    for number in range(rounds):
        for operation, plugin, verb in _SINGLE:
            for who in rotated(contestants, number):
                call = who.call(plugin, verb, who.pods[number % len(who.pods)])
                into.add(operation, who.name, one(who, call).seconds)
        for who in rotated(contestants, number):
            into.add("VERSION", who.name, one(who, who.call("bridge", "VERSION")).seconds)


def bursts(contestants: Sequence[Contestant], rounds: int, at_once: int, into: Measurements) -> None:
    """All pods of one contestant added, then deleted, `at_once` at the same time; seconds by the pod."""
    for number in range(rounds):
        for who in rotated(contestants, number):
            enter(who.node)
            for verb in ("ADD", "DEL"):
                calls = [who.call("bridge", verb, pod) for pod in who.pods]
                seconds, finished = run_many(calls, at_once)
                for each in finished:
                    each.expect_success()
                into.add(f"burst {verb}, a pod", who.name, seconds / len(calls))
            who.verify_empty()
            time.sleep(0.2)


def floors(rounds: int) -> dict[str, str]:
    """What a process costs that does nothing: the least that any executable can take."""
    found = {}
    for name, argv in (
        ("an empty process", ("/bin/true",)),
        ("a bare Python start", (os.path.realpath(sys.executable), "-I", "-S", "-c", "pass")),
    ):
        times = sorted(run(Call(argv, {})).seconds for _ in range(rounds))
        found[name] = f"{1000 * times[len(times) // 2]:.1f} ms"
    return found


def measure(options: argparse.Namespace, reference: Path, say: Callable[[str], None]) -> Measurements:
    measurements = Measurements()
    with ExitStack() as stack:
        contestants = line_up(stack, options, reference)
        say(f"comparing {', '.join(who.name for who in contestants)}")
        warm_up(contestants)
        say(f"{options.rounds} rounds of single calls")
        single_calls(contestants, options.rounds, measurements)
        say(f"{options.bursts} bursts of {options.pods} pods, {options.at_once} at once")
        bursts(contestants, options.bursts, options.at_once, measurements)
        for who in contestants:
            who.verify_empty()
    return measurements


def stop_on_signals(time_limit: int) -> None:
    """SIGTERM, SIGHUP and the time limit end the run as Ctrl-C does: through every clean-up."""

    def stop(number: int, _frame: object) -> None:
        why = "time limit reached" if number == signal.SIGALRM else signal.Signals(number).name
        raise SystemExit(f"bench/run.py: stopped: {why}")

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, stop)
    signal.alarm(time_limit)


def main() -> int:
    options = parse_arguments(sys.argv[1:])
    reference = Path(os.environ.get("REF_BIN", "/usr/lib/cni"))
    if os.geteuid() != 0:
        sys.exit("bench/run.py: needs root: it makes network namespaces")
    if not (reference / "bridge").is_file():
        sys.exit(
            f"bench/run.py: no reference plugins in {reference}: "
            "install containernetworking-plugins or set REF_BIN"
        )
    enter_private_namespaces()
    stop_on_signals(options.time_limit)

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    facts = machine_facts(reference)
    facts["addresses"] = "IPv4 and IPv6" if options.dual else "IPv4"
    facts["ipMasq"] = options.masq or "off"
    cover_state()
    facts |= floors(max(options.rounds, 10))
    rows = measure(options, reference, say).rows()
    print(json.dumps(as_json(rows, facts), indent=2) if options.json else table(rows, facts))
    if options.write:
        RESULTS.write_text(markdown(rows, facts))
    return 1 if options.check and any(row.missed for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
