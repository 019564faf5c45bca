"""`pycni add`, `pycni check`, `pycni del`: one namespace, one network."""

from __future__ import annotations

import argparse
import os
import shlex

from pycni.cli import settings
from pycni.cli.render import add_output_option, print_bytes, print_note
from pycni.cli.running import run_until_signal
from pycni.runtime.call import Attachment
from pycni.runtime.chain import ChainError, Runtime
from pycni.runtime.conflist import NetworkList
from pycni.wire.result import print_result

HELP = "attach, check or detach a network namespace"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("network", help="name of a configured network (see: pycni list)")
    parser.add_argument("netns", help="path of a network namespace, or its name in /run/netns")
    parser.add_argument(
        "-i",
        "--ifname",
        default=os.environ.get("CNI_IFNAME") or "eth0",
        help="interface in the namespace (default: $CNI_IFNAME or eth0)",
    )
    parser.add_argument(
        "--container-id", default="", metavar="ID", help="default: derived from the namespace's path"
    )
    settings.add_cache_option(parser)
    add_output_option(parser)


def run(args: argparse.Namespace) -> int:
    """Do the verb; prints the result of an ADD."""
    env = dict(os.environ)
    network = settings.load_network(env, args.network)
    capability_args = settings.parse_capability_args(env.get("CAP_ARGS", ""))
    pairs = settings.parse_args(env.get("CNI_ARGS", ""))
    netns = settings.netns_path(args.netns) if args.netns else ""
    if not netns and not args.container_id:
        raise settings.UsageError("no network namespace given", "without one, --container-id is needed")
    attachment = Attachment(
        args.container_id or settings.container_id(netns), netns, args.ifname, pairs, capability_args
    )
    runtime = settings.make_runtime(env, args.cache_dir)
    if args.command == "add":
        return _add(runtime, network, attachment, args)
    work = runtime.check if args.command == "check" else runtime.delete
    run_until_signal(work, network, attachment)
    return 0


def _add(runtime: Runtime, network: NetworkList, attachment: Attachment, args: argparse.Namespace) -> int:
    try:
        result = run_until_signal(runtime.add, network, attachment)
    except ChainError as error:
        if error.ran:
            print_note(f"what {', '.join(error.ran)} made is still there; to remove it: {_deletion(args)}")
        raise
    except SystemExit:
        print_note(f"to remove what was made so far: {_deletion(args)}")
        raise
    print_bytes(print_result(result, result.cni_version))
    return 0


def _deletion(args: argparse.Namespace) -> str:
    """The command that removes what this one's ADD left."""
    words = ["pycni", "del", args.network, args.netns, "-i", args.ifname, "--cache-dir", args.cache_dir]
    return shlex.join([*words, "--container-id", args.container_id] if args.container_id else words)
