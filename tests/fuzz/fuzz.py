"""Send random and damaged requests through the core, a million by default: `make fuzz`.

    tests/fuzz/fuzz.py --executions 1000000 --seed 7 --jobs 2

The run is made of blocks of requests that share a simulated node; block N of a seed is always the same. What
breaks the contract ends the run with the request's text, which goes into tests/fuzz/corpus once it is
understood; the requests there are sent first in each run.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import mutate
import targets

BLOCK = 50
"""Requests to one simulated node."""
CORPUS = Path(__file__).parent / "corpus"


class Case(NamedTuple):
    """One request; `stdin` as text in Latin-1, so that it can be any bytes."""

    plugin: str
    env: dict[str, str]
    stdin: str

    def send(self, world: targets.World) -> str:
        """The reply's kind; raises BrokenError, HangError, or whatever came out."""
        stdin = self.stdin.encode("latin-1")
        targets.reset()
        reply = targets.serve(world, self.plugin, dict(self.env), stdin)
        kind = targets.judge(self.env, stdin, reply)
        return f"{self.plugin} {kind}"


class Failure(NamedTuple):
    """What broke the contract, and where."""

    block: int
    case: Case | None
    trace: str

    def __str__(self) -> str:
        case = json.dumps(self.case._asdict(), indent=1) if self.case else ""
        return f"block {self.block}: {self.trace}\n{case}"


def corpus() -> dict[str, Case]:
    """The remembered requests by name."""
    return {path.stem: Case(**json.loads(path.read_text())) for path in sorted(CORPUS.glob("*.json"))}


def draw(r: Random) -> Case:
    """A random request to a random plugin, mostly to that of its config."""
    stdin = mutate.standard_input(r)
    named = [name for name in targets.PLUGINS if f'"type":"{name}"'.encode() in stdin]
    plugin = r.choice(named) if named and r.random() < 0.9 else r.choice(list(targets.PLUGINS))
    return Case(plugin, mutate.environment(r), stdin.decode("latin-1"))


def run_block(seed: int, number: int) -> tuple[int, Counter[str], Failure | None]:
    """(executions, replies by kind, what broke) of one block; the same for the same arguments."""
    r = Random(f"{seed} {number}")
    kinds: Counter[str] = Counter()
    case = None
    try:
        world = targets.World(r)
        for _ in range(BLOCK):
            case = draw(r)
            kinds[case.send(world)] += 1
            if r.random() < 0.1:
                targets.parse(case.stdin.encode("latin-1"))
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return sum(kinds.values()), kinds, Failure(number, case, traceback.format_exc())
    finally:
        targets.reset(0)
    return BLOCK, kinds, None


def _begin() -> None:
    targets.watch()


def _run(block: tuple[int, int]) -> tuple[int, Counter[str], Failure | None]:
    return run_block(*block)


def replay() -> Failure | None:
    """Send the corpus, each request to a node of its own."""
    for name, case in corpus().items():
        try:
            case.send(targets.World(Random(name)))
            targets.parse(case.stdin.encode("latin-1"))
        except BaseException:  # noqa: BLE001 - whatever comes out is the finding
            return Failure(-1, case, f"{name}: {traceback.format_exc()}")
        finally:
            targets.reset(0)
    return None


def fuzz(executions: int, seed: int, jobs: int) -> tuple[int, Counter[str], Failure | None]:
    """Replay the corpus, then run blocks until there were `executions`, or one failed."""
    _begin()
    failure = replay()
    done, kinds = 0, Counter[str]()
    if failure is not None:
        return done, kinds, failure
    blocks = [(seed, number) for number in range((executions + BLOCK - 1) // BLOCK)]
    with multiprocessing.Pool(jobs, _begin) as pool:
        results: Any = pool.imap_unordered(_run, blocks, chunksize=4) if jobs > 1 else map(_run, blocks)
        for count, found, failure in results:
            done += count
            kinds += found
            if failure is not None:
                pool.terminate()
                return done, kinds, failure
            if sys.stderr.isatty():
                print(f"\r{done}", end="", file=sys.stderr)
    return done, kinds, None


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--executions", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--block", type=int, help="this block of the seed only")
    options = parser.parse_args()
    begun = time.monotonic()
    if options.block is not None:
        _begin()
        done, kinds, failure = run_block(options.seed, options.block)
    else:
        done, kinds, failure = fuzz(options.executions, options.seed, options.jobs)
    seconds = time.monotonic() - begun
    for kind, count in sorted(kinds.items()):
        print(f"{count:9} {kind}")
    print(f"seed {options.seed}: {done} executions in {seconds:.1f} s, {done / seconds:.0f} a second")
    if failure is not None:
        print(f"FAILED in {failure}")
        print(f"again: {sys.argv[0]} --seed {options.seed} --block {failure.block}")
    return failure is not None


if __name__ == "__main__":
    sys.exit(main())
