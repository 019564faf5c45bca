"""CNI plugins in Python: the skeleton library.

What a plugin author needs is here by name: `from pycni import Plugin, Request, Context, Result, …`. Importing
this package loads no third-party package and nothing that a plugin process of some milliseconds can spare;
each name's module is imported when the name is first used.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pycni.addresses import CIDR, DEFAULT_V4, DEFAULT_V6, IP
    from pycni.context import Context, SandboxMissing, Transaction
    from pycni.errors import CNIError
    from pycni.request import Request
    from pycni.skel import Plugin
    from pycni.types import DNS, Interface, IPConfig, Result, Route

__version__ = "0.1.0"

__all__ = [
    "CIDR",
    "DEFAULT_V4",
    "DEFAULT_V6",
    "DNS",
    "IP",
    "CNIError",
    "Context",
    "IPConfig",
    "Interface",
    "Plugin",
    "Request",
    "Result",
    "Route",
    "SandboxMissing",
    "Transaction",
]

_HOMES = {
    "pycni.addresses": ("CIDR", "DEFAULT_V4", "DEFAULT_V6", "IP"),
    "pycni.context": ("Context", "SandboxMissing", "Transaction"),
    "pycni.errors": ("CNIError",),
    "pycni.request": ("Request",),
    "pycni.skel": ("Plugin",),
    "pycni.types": ("DNS", "IPConfig", "Interface", "Result", "Route"),
}


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names:
            __import__(module)
            value: object = getattr(sys.modules[module], name)
            globals()[name] = value
            return value
    raise AttributeError(f"module 'pycni' has no attribute {name!r}")
