"""The resolver's configuration file as a result's DNS (resolv.conf(5))."""

from __future__ import annotations

import os

from pycni.errors import CNIError
from pycni.types import DNS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_LIMIT: Final = 1 << 20
"""Bytes; a file that is larger is no resolver configuration."""


def parse_resolv_conf(text: str) -> DNS:
    """What the lines say: name servers, search domains and options add up, of `domain` the last counts.

    Comments, unknown keywords and keywords without a value are skipped.
    """
    lists: dict[str, list[str]] = {"nameserver": [], "search": [], "options": []}
    domain = ""
    for line in text.split("\n"):
        fields = line.split()
        if len(fields) < 2 or fields[0][0] in "#;":
            continue
        keyword = fields[0]
        if keyword == "domain":
            domain = fields[1]
        elif keyword == "nameserver":
            lists[keyword].append(fields[1])
        elif keyword in lists:
            lists[keyword] += fields[1:]
    return DNS(tuple(lists["nameserver"]), domain, tuple(lists["search"]), tuple(lists["options"]))


def read_resolv_conf(path: str) -> DNS:
    """Parse the file; blocks. Raises CNIError (999) `open PATH: …` or `read PATH: …`."""
    operation = "open"
    try:
        # A FIFO would make a blocking open wait for a writer.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            operation = "read"
            data = b""
            while len(data) < _LIMIT and (chunk := os.read(fd, _LIMIT)):
                data += chunk
        finally:
            os.close(fd)
    except OSError as error:
        raise CNIError(
            f"{operation} {path}: {(error.strerror or str(error)).lower()}",
            f'"ipam.resolvConf" is {path}; it must name a readable file in the form of resolv.conf(5)',
        ) from error
    if len(data) >= _LIMIT:
        raise CNIError(f"read {path}: file too large", f"the limit is {_LIMIT - 1} bytes")
    return parse_resolv_conf(data.decode("utf-8", "replace"))
