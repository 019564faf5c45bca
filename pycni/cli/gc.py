"""`pycni gc`: remove what attachments left that exist no more; a dry run unless told otherwise."""

from __future__ import annotations

import argparse
import errno
import os
from typing import TYPE_CHECKING

from pycni.cli import settings
from pycni.cli.render import add_output_option, error_members, print_json, print_text, table
from pycni.cli.running import run_until_signal
from pycni.errors import CNIError
from pycni.runtime.gc import Key, Plan, carry_out, plan

if TYPE_CHECKING:
    from pycni.runtime.cache import Entry
    from pycni.runtime.chain import Runtime
    from pycni.runtime.conflist import NetworkList

HELP = "remove what attachments left that exist no more"

_EPILOG = """\
Which attachments stay: those given with --valid, and no others; without it, all remembered ones whose
namespace exists. The others get a DEL, then the plugins are told what stays and remove the rest.
Attachments that another program remembers in another folder must be named, or use its --cache-dir.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = _EPILOG
    parser.add_argument("network", help="name of a configured network (see: pycni list)")
    parser.add_argument(
        "--valid",
        metavar="ID:IFNAME",
        action="append",
        type=_key,
        help="an attachment that stays: container id and interface; may be repeated",
    )
    parser.add_argument("--none-valid", action="store_true", help="no attachment of the network stays")
    parser.add_argument("--yes", action="store_true", help="do it; without this only the plan is shown")
    settings.add_cache_option(parser)
    add_output_option(parser)


def _key(text: str) -> Key:
    # The interface's name cannot contain a colon, and neither can the id.
    container, colon, ifname = text.partition(":")
    if not (container and colon and ifname) or ":" in ifname:
        raise argparse.ArgumentTypeError(f"{text!r} is not ID:IFNAME")
    return container, ifname


def run(args: argparse.Namespace) -> int:
    """Show the plan, and with --yes carry it out."""
    if args.valid and args.none_valid:
        raise settings.UsageError("--valid and --none-valid exclude each other")
    env = dict(os.environ)
    network = settings.load_network(env, args.network)
    runtime = settings.make_runtime(env, args.cache_dir)
    entries = runtime.cache.entries()
    given: list[Key] | None = [] if args.none_valid else args.valid
    decided = plan(network, entries, given) if given is not None else plan_by_namespaces(network, entries)
    if args.output == "text":
        print_text(_describe(network, decided, args.yes))
    failure = _carry_out(runtime, network, decided) if args.yes else None
    if args.output == "json":
        print_json(_document(network, decided, args.yes, failure))
    elif failure is not None:
        raise failure
    return 1 if failure else 0


def _carry_out(runtime: Runtime, network: NetworkList, decided: Plan) -> CNIError | None:
    try:
        run_until_signal(carry_out, runtime, network, decided)
    except CNIError as error:
        return error
    return None


def plan_by_namespaces(network: NetworkList, entries: tuple[Entry, ...]) -> Plan:
    """The plan if nobody says what stays: whatever has a namespace, or is not known to have lost it.

    If no remembered attachment is alive, the plugins are not asked: an empty list would make them delete
    everything, and what is empty may be the wrong folder.
    """
    alive = [entry.key[1:] for entry in entries if entry.network == network.name and not is_gone(entry.netns)]
    decided = plan(network, entries, alive)
    if alive or not decided.ask_plugins:
        return decided
    return decided.replace(
        ask_plugins=False,
        unasked="no attachment is known to be alive; --none-valid says that there is none",
    )


def is_gone(netns: str) -> bool:
    """Whether the path is surely no namespace any more: it does not exist, or is a plain file's.

    `ip netns` mounts namespaces on empty files, which are what is left after an unmount.
    """
    if not netns:
        return False
    try:
        namespace = os.stat(netns).st_dev == os.stat("/proc/self/ns/net").st_dev
    except OSError as error:
        return error.errno in (errno.ENOENT, errno.ENOTDIR)
    return not namespace


def _describe(network: NetworkList, decided: Plan, done: bool) -> str:
    lines = []
    if decided.stale:
        lines.append(f"{network.name}: {'deleting' if done else 'would delete'}")
        rows = [(entry.container_id, entry.ifname, entry.netns or "-") for entry in decided.stale]
        lines.append(table(("CONTAINER", "INTERFACE", "NAMESPACE"), rows))
    else:
        lines.append(f"{network.name}: no remembered attachment is stale")
    names = ", ".join(plugin.type for plugin in network.plugins)
    if decided.ask_plugins:
        would = "telling" if done else "would tell"
        lines.append(f"{would} {names} which {len(decided.valid)} stay (GC)")
    else:
        lines.append(f"not telling the plugins (GC): {decided.unasked}")
    if not done:
        lines.append("nothing was changed; --yes does it")
    return "\n".join(lines)


def _document(network: NetworkList, decided: Plan, done: bool, failure: CNIError | None) -> dict[str, object]:
    document: dict[str, object] = {
        "network": network.name,
        "dryRun": not done,
        "stale": [
            {"containerID": entry.container_id, "ifname": entry.ifname, "netns": entry.netns}
            for entry in decided.stale
        ],
        "valid": [{"containerID": container, "ifname": ifname} for container, ifname in decided.valid],
        "askPlugins": decided.ask_plugins,
        "unasked": decided.unasked,
    }
    return document | {"error": error_members(failure)} if failure else document
