"""What the subcommands take from the environment and from common options, as cnitool reads them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from pycni.cli.render import print_note
from pycni.errors import CNIError
from pycni.names import digest
from pycni.runtime.cache import DEFAULT_DIR
from pycni.wire.json import loads

if TYPE_CHECKING:
    from pycni.runtime.chain import Runtime
    from pycni.runtime.conflist import NetworkList
    from pycni.wire.json import JSON

CONF_DIR: Final = "/etc/cni/net.d"
PLUGIN_PATH: Final = "/opt/cni/bin"
NAMESPACES: Final = "/run/netns"
"""Where `ip netns add NAME` puts its namespaces."""


class UsageError(CNIError):
    """The command was called in a wrong way: exit status 2."""


def add_cache_option(parser: argparse.ArgumentParser) -> None:
    """The option `--cache-dir`."""
    parser.add_argument(
        "--cache-dir",
        metavar="DIR",
        default=os.environ.get("PYCNI_CACHE_DIR") or DEFAULT_DIR,
        help="where attachments are remembered (default: $PYCNI_CACHE_DIR or /var/lib/cni)",
    )


def conf_dir(env: Mapping[str, str]) -> str:
    """NETCONFPATH or its default."""
    return env.get("NETCONFPATH") or CONF_DIR


def plugin_path(env: Mapping[str, str]) -> str:
    """CNI_PATH; the usual folder if it is not set, empty (where nothing is found) if it is empty."""
    return env.get("CNI_PATH", PLUGIN_PATH)


def load_network(env: Mapping[str, str], name: str) -> NetworkList:
    """The network from the configuration folder; broken files that were passed over are noted."""
    from pycni.runtime.folder import load

    network, problems = load(conf_dir(env), name)
    for problem in problems:
        print_note(f"passed over: {problem.error}")
    return network


def make_runtime(env: Mapping[str, str], cache_dir: str) -> Runtime:
    """The runtime for this environment."""
    from pycni.runtime.chain import Runtime
    from pycni.runtime.lock import DEFAULT_RUN_DIR

    run_dir = env.get("PYCNI_RUN_DIR") or DEFAULT_RUN_DIR
    return Runtime(plugin_path(env), cache_dir, run_dir=run_dir, env=env, on_warning=print_note)


def netns_path(argument: str) -> str:
    """The namespace's path: a plain name is one of `ip netns`, what has a slash is a path, made absolute."""
    if "/" not in argument:
        return f"{NAMESPACES}/{argument}"
    path = os.path.abspath(argument)
    return path[1:] if path.startswith("//") else path


def container_id(netns: str) -> str:
    """The id that cnitool derives from the namespace's path."""
    return f"cnitool-{digest(netns)[:20]}"


def parse_args(text: str) -> tuple[tuple[str, str], ...]:
    """CNI_ARGS as pairs; stricter than plugins are: no empty key or value, no trailing semicolon."""
    pairs = []
    for piece in text.split(";") if text else ():
        key, equals, value = piece.partition("=")
        if not (key and equals and value) or "=" in value:
            raise UsageError(f'invalid CNI_ARGS pair "{piece}"', "CNI_ARGS is KEY=VALUE;KEY=VALUE")
        pairs.append((key, value))
    return tuple(pairs)


def parse_capability_args(text: str) -> dict[str, JSON] | None:
    """CAP_ARGS, a JSON object; None if it is empty."""
    if not text:
        return None
    try:
        value = loads(text)
    except ValueError as error:
        raise UsageError(f"invalid CAP_ARGS: {error}", "CAP_ARGS is a JSON object") from None
    if value is not None and not isinstance(value, dict):
        raise UsageError(f"invalid CAP_ARGS: {text}", "CAP_ARGS is a JSON object")
    return value
