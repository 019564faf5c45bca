"""`pycni agent`: serve the node's launchers in the foreground."""

from __future__ import annotations

import json
import logging
import sys
from typing import TYPE_CHECKING

from pycni.attachments import RUN_DIR
from pycni.errors import CNIError

if TYPE_CHECKING:
    import argparse

HELP = "serve the plugins' executables from one warm process"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--run-dir",
        default=RUN_DIR,
        metavar="DIR",
        help="where the socket is made, as told to `pycni install` (default %(default)s)",
    )
    parser.add_argument(
        "--status", action="store_true", help="ask the agent that is running for its state, as JSON"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="log VERSION and STATUS too")


def run(args: argparse.Namespace) -> int:
    from pycni.agent import client, daemon

    try:
        if args.status:
            print(json.dumps(client.state(args.run_dir), indent=2))
            return 0
        logging.basicConfig(
            format="%(asctime)s %(levelname)s %(message)s",
            level=logging.DEBUG if args.verbose else logging.INFO,
        )
        logging.getLogger("asyncio").setLevel(logging.WARNING)
        return daemon.run(args.run_dir)
    except CNIError as error:
        print(f"pycni: {error}", file=sys.stderr)
        return 1
