"""`pycni list`: the configured networks, their plugins, and what is missing."""

from __future__ import annotations

import argparse
import os
from collections import Counter

from pycni.cli import settings
from pycni.cli.render import add_output_option, error_members, print_json, print_note, print_text, table
from pycni.errors import CNIError
from pycni.runtime.chain import Runtime
from pycni.runtime.conflist import NetworkList
from pycni.runtime.folder import Folder, scan

HELP = "show the networks that are configured"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    settings.add_cache_option(parser)
    add_output_option(parser)


def run(args: argparse.Namespace) -> int:
    """Print the networks in the order of look-up; 1 if a file is broken or an executable missing."""
    env = dict(os.environ)
    folder = scan(settings.conf_dir(env))
    runtime = settings.make_runtime(env, args.cache_dir)
    missing = {
        plugin.type: error
        for network in folder.networks
        for plugin in network.plugins
        if (error := _look_up(runtime, plugin.type)[1])
    }
    attached = Counter(entry.network for entry in runtime.cache.entries())
    if args.output == "json":
        print_json(_document(folder, runtime, attached))
    else:
        _print(folder, missing, attached, settings.conf_dir(env))
    return 1 if missing or folder.problems else 0


def _look_up(runtime: Runtime, plugin: str) -> tuple[str, CNIError | None]:
    try:
        return runtime.find(plugin), None
    except CNIError as error:
        return "", error


def _print(folder: Folder, missing: dict[str, CNIError], attached: Counter[str], where: str) -> None:
    if folder.networks:
        rows = [_row(network, missing, attached) for network in folder.networks]
        print_text(table(("NETWORK", "VERSION", "PLUGINS", "ATTACHED", "FILE"), rows))
    elif not folder.problems:
        print_note(f"no net configurations found in {where}")
    for error in missing.values():
        print_note(str(error))
    for problem in folder.problems:
        print_note(f"broken: {problem.error}")


def _row(network: NetworkList, missing: dict[str, CNIError], attached: Counter[str]) -> tuple[str, ...]:
    chain = " → ".join(
        f"{item.type} (missing)" if item.type in missing else item.type for item in network.plugins
    )
    return (
        network.name,
        network.cni_version or "0.1.0",
        chain,
        str(attached[network.name]),
        network.file,
    )


def _document(folder: Folder, runtime: Runtime, attached: Counter[str]) -> dict[str, object]:
    networks = [
        {
            "name": network.name,
            "cniVersion": network.cni_version,
            "file": network.file,
            "plugins": [
                {"type": plugin.type, "path": _look_up(runtime, plugin.type)[0] or None}
                for plugin in network.plugins
            ],
            "attachments": attached[network.name],
        }
        for network in folder.networks
    ]
    problems = [
        {"file": problem.file, "name": problem.name, "error": error_members(problem.error)}
        for problem in folder.problems
    ]
    return {"networks": networks, "problems": problems}
