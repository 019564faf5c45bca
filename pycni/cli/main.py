"""Entry of the `pycni` command: which subcommands exist, and how a failure ends the process.

A subcommand is a module with `configure(parser)` and `run(args) -> int`, imported only when it is the one
that was asked for, so that `pycni add` does not pay for the agent. Exit status: 0 fine, 1 broken, 2 usage.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final

from pycni import __version__
from pycni.errors import CNIError, from_exception

_COMMANDS: Final = (
    ("add", "pycni.cli.attachment", "attach a network namespace to a network"),
    ("check", "pycni.cli.attachment", "ask the plugins whether an attachment is as it was made"),
    ("del", "pycni.cli.attachment", "detach a network namespace from a network"),
    ("status", "pycni.cli.status", "ask a network's plugins whether they are ready"),
    ("gc", "pycni.cli.gc", "remove what attachments left that exist no more"),
    ("list", "pycni.cli.list", "show the networks that are configured"),
    ("agent", "pycni.cli.agent", "run the node agent"),
    ("install", "pycni.cli.install", "write the plugins' executables into a folder"),
)

_EPILOG: Final = """\
examples:
  ip netns add pod1
  pycni add mynet pod1                 attach /run/netns/pod1 to the network "mynet"
  pycni check mynet pod1
  pycni del mynet pod1
  pycni list                           what is configured, and what is missing
  pycni gc mynet                       show what would be removed; --yes removes it

environment:
  NETCONFPATH      folder of the network configurations (/etc/cni/net.d)
  CNI_PATH         folders of the plugins, separated by colons (/opt/cni/bin)
  CNI_IFNAME       interface in the namespace (eth0)
  CNI_ARGS         arguments for the plugins: KEY=VALUE;KEY=VALUE
  CAP_ARGS         capability arguments: a JSON object
  PYCNI_CACHE_DIR  where attachments are remembered (/var/lib/cni)
  PYCNI_RUN_DIR    where locks are (/run/pycni)
  NO_COLOR         no colour, also on a terminal

exit status: 0 fine, 1 broken, 2 usage
"""


def build_parser(wanted: str) -> argparse.ArgumentParser:
    """The parser of the command line; only the subcommand `wanted` has its arguments."""
    parser = argparse.ArgumentParser(
        prog="pycni",
        description="Attach containers to networks with CNI plugins, and look after a node's networks.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"pycni {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    for name, module, summary in _COMMANDS:
        command = commands.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if name == wanted:
            implementation = import_module(module)
            implementation.configure(command)
            command.set_defaults(run=implementation.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status (raises SystemExit for usage errors and help)."""
    _open_standard_descriptors()
    arguments = sys.argv[1:] if argv is None else list(argv)
    wanted = next((word for word in arguments if not word.startswith("-")), "")
    parser = build_parser(wanted)
    if not arguments:
        parser.print_help()
        return 0
    args = parser.parse_args(arguments)
    try:
        return int(args.run(args))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 1  # the reader of our output is gone, and needs no explanation
    except (CNIError, OSError) as error:
        from pycni.cli.render import print_error
        from pycni.cli.settings import UsageError

        print_error(from_exception(error), getattr(args, "output", "text"))
        return 2 if isinstance(error, UsageError) else 1


def _open_standard_descriptors() -> None:
    """A closed standard descriptor would be given to the next file or pipe: put /dev/null there."""
    fd = os.open(os.devnull, os.O_RDWR)
    while fd <= 2:
        fd = os.open(os.devnull, os.O_RDWR)
    os.close(fd)
    # Python has no stream for a descriptor that was closed at its start.
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
