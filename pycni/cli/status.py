"""`pycni status`: are a network's plugins ready?"""

from __future__ import annotations

import argparse
import os

from pycni.cli import settings
from pycni.cli.render import add_output_option, print_json, print_text
from pycni.cli.running import run_until_signal
from pycni.runtime.cache import DEFAULT_DIR

HELP = "ask a network's plugins whether they are ready"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("network", help="name of a configured network (see: pycni list)")
    add_output_option(parser)


def run(args: argparse.Namespace) -> int:
    """Ask the plugins; a list older than the verb is ready unasked."""
    env = dict(os.environ)
    network = settings.load_network(env, args.network)
    asked = run_until_signal(settings.make_runtime(env, DEFAULT_DIR).status, network)
    if args.output == "json":
        print_json({"network": network.name, "ready": True, "asked": asked})
    elif asked:
        print_text(f"{network.name}: ready")
    else:
        version = network.cni_version or "0.1.0"
        print_text(f"{network.name}: not asked, its cniVersion is {version} and STATUS exists since 1.1.0")
    return 0
