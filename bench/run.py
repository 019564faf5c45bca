"""Compare pycni's executables with the reference plugins in one interleaved run.

Needs root, the reference plugins (Debian: containernetworking-plugins; REF_BIN names another folder) and
this checkout installed into the interpreter that runs it. See README.md for what is measured and how.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from contestants import OURS, Contestant, Executables, Network, contestant
from goals import REFERENCE
from machine import machine_facts
from node import cover_state, enter_private_namespaces
from report import Measurements, Phase, as_json, markdown, table
from scaling import memory, ports, reservations
from scenarios import MASQUERADE_PODS, bursts, masquerade_bursts, single_calls
from starter import Call, run
from where import floor, phases

RESULTS = Path(__file__).with_name("RESULTS.md")
PARTS = ("single", "bursts", "masq", "scaling", "memory", "where")


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/run.py", description=(__doc__ or "").partition("\n")[0])

    def number(name: str, default: int, what: str) -> None:
        parser.add_argument(name, type=int, default=default, help=f"{what} (default {default})")

    def names(name: str, known: Sequence[str], what: str) -> None:
        parser.add_argument(name, default=",".join(known), help=f"{what}, with commas (default %(default)s)")

    number("--rounds", 50, "single calls of each kind")
    number("--bursts", 5, "bursts of each kind")
    number("--pods", 100, "pods in a burst")
    number("--requests", 2000, "how many an agent serves between the two looks at its memory")
    number("--time-limit", 900, "give up after so many seconds")
    names("--only", tuple(OURS), "which of ours")
    names("--parts", PARTS, "what is measured")
    parser.add_argument("--dual", action="store_true", help="IPv6 too (the reference then waits for DAD)")
    parser.add_argument(
        "--also", action="append", default=[], metavar="NAME=DIR", help="one more folder of executables"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--write", action="store_true", help=f"also write {RESULTS.name} beside this file")
    parser.add_argument("--check", action="store_true", help="exit status 1 if a goal is missed")
    options = parser.parse_args(argv)
    for name, known in (("only", tuple(OURS)), ("parts", PARTS)):
        wanted = [word for word in getattr(options, name).split(",") if word]
        if unknown := set(wanted) - set(known):
            parser.error(f"--{name} knows {', '.join(known)}, not {', '.join(sorted(unknown))}")
        setattr(options, name, wanted)
    if any("=" not in also for also in options.also):
        parser.error("--also wants NAME=DIR")
    if min(options.rounds, options.bursts, options.pods, options.requests) < 1:
        parser.error("counts must be positive")
    return options


def candidates(options: argparse.Namespace, reference: Path) -> list[Executables]:
    """The reference first, then ours, then whoever was named by `--also`."""
    others = (also.partition("=") for also in options.also)
    return [
        Executables(REFERENCE, reference),
        *(OURS[name] for name in options.only),
        *(Executables(name, Path(folder)) for name, _, folder in others),
    ]


def measure(options: argparse.Namespace, reference: Path, into: Measurements) -> list[Phase]:
    """Everything that `--parts` asks for, one part after the other; the phases of an ADD."""
    network = Network(dual=options.dual)
    everybody = candidates(options, reference)
    with ExitStack() as stack:
        pods = max(options.pods, MASQUERADE_PODS)
        contestants = [stack.enter_context(contestant(each, pods)) for each in everybody]
        say(f"comparing {', '.join(who.name for who in contestants)}")
        compare(options, contestants, network, into)
        for who in contestants:
            who.verify_empty()
        # Before the pods are released: the kernel is busy for seconds when hundreds of namespaces end.
        served = next((each for each in everybody if each.agent), None)
        return [] if served is None else measure_agent(options, everybody[0], served, network, into)


def compare(
    options: argparse.Namespace, contestants: Sequence[Contestant], network: Network, into: Measurements
) -> None:
    """What is measured with all contestants, or with those for whom there is a goal."""
    first = [contestants[0], *[who for who in contestants if who.agent][:1]]
    if "single" in options.parts:
        say(f"{options.rounds} rounds of single calls")
        single_calls(contestants, network, options.rounds, into)
    if "bursts" in options.parts:
        say(f"{options.bursts} rounds of bursts of {options.pods} pods")
        bursts(contestants, network, options.bursts, options.pods, into)
    if "masq" in options.parts:
        say(f"{options.bursts} rounds of bursts of {MASQUERADE_PODS} pods with ipMasq")
        masquerade_bursts(first, options.dual, options.bursts, into)
    if "scaling" in options.parts:
        say("a store with many reservations")
        reservations(first, options.dual, options.rounds, into)


def measure_agent(
    options: argparse.Namespace,
    reference: Executables,
    executables: Executables,
    network: Network,
    into: Measurements,
) -> list[Phase]:
    """What needs agents of its own; what leaves the kernel the most to tidy up comes last."""
    found = []
    if "where" in options.parts:
        say("where the time goes")
        found = phases(executables, network, options.rounds)
    if "scaling" in options.parts:
        say("a bridge with many ports")
        ports((reference, executables), network, options.rounds, into)
    if "memory" in options.parts:
        say(f"an agent's memory, {options.requests} requests")
        memory(executables, network, options.requests, into)
    return found


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def bare_starts(rounds: int) -> dict[str, float]:
    """Milliseconds that a process costs which does nothing: the least that any executable can take."""
    found = {}
    for name, argv in (
        ("an empty process", ("/bin/true",)),
        ("a bare Python start", (os.path.realpath(sys.executable), "-I", "-S", "-c", "pass")),
    ):
        times = sorted(run(Call(argv, {})).seconds for _ in range(rounds))
        found[name] = 1000 * times[len(times) // 2]
    return found


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
    facts = machine_facts(reference)
    facts["addresses"] = "IPv4 and IPv6" if options.dual else "IPv4"
    facts["bursts"] = f"{options.pods} pods, {MASQUERADE_PODS} with ipMasq; 10 at once if not said otherwise"
    facts["requests to the agent"] = options.requests
    cover_state()
    starts = bare_starts(max(options.rounds, 10))
    facts |= {name: f"{milliseconds:.1f} ms" for name, milliseconds in starts.items()}
    measurements = Measurements()
    parts_of_add = measure(options, reference, measurements)
    if parts_of_add:
        least = floor(parts_of_add, starts["an empty process"])
        facts["floor of an ADD"] = f"{least:.1f} ms: an empty process and the kernel's netlink work"
    rows = measurements.rows()
    shown = table if not options.json else lambda *what: json.dumps(as_json(*what), indent=2)
    print(shown(rows, parts_of_add, facts))
    if options.write:
        command = shlex.join(["bench/run.py", *sys.argv[1:]])
        RESULTS.write_text(markdown(rows, parts_of_add, facts, command))
    return 1 if options.check and any(row.missed for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
