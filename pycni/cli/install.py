"""`pycni install`: write the plugins' executables."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from pycni.attachments import RUN_DIR
from pycni.errors import CNIError, from_exception

if TYPE_CHECKING:
    import argparse

HELP = "write an executable for each registered plugin"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--bin-dir",
        required=True,
        metavar="DIR",
        help="where the runtime looks for plugins, often /opt/cni/bin",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="replace files that pycni did not write, keeping each as NAME.orig",
    )
    parser.add_argument(
        "--run-dir", default=RUN_DIR, metavar="DIR", help="where the agent's socket is (default %(default)s)"
    )
    parser.add_argument(
        "--launcher",
        choices=("auto", "native", "python"),
        default="auto",
        help="a small C program (native), or one that starts Python and needs about 10 ms more for each "
        "call; auto, the default: native where there is a C compiler or a program compiled beforehand",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")


def run(args: argparse.Namespace) -> int:
    from pycni.install import install
    from pycni.native.build import choose

    try:
        compiled, reason = choose(args.launcher)
        if reason:
            print(f"pycni: executables will start Python: {reason}", file=sys.stderr)
        files = install(args.bin_dir, args.run_dir, compiled=compiled, force=args.force, dry_run=args.dry_run)
    except (CNIError, OSError) as error:
        print(f"pycni: {from_exception(error)}", file=sys.stderr)
        return 1
    for file in files:
        kept = f" (the file that was there is now {file.kept})" if file.kept else ""
        print(f"{'would be ' if args.dry_run else ''}{file.what}: {file.path}{kept}")
    return 0
