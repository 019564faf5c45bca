"""The runtime's side of the contract: `libcni`'s counterpart, for programs that attach containers.

network, passed_over = load("/etc/cni/net.d", "mynet")
runtime = Runtime("/opt/cni/bin")
result = await runtime.add(network, Attachment("id-1", "/run/netns/pod1"))
await runtime.delete(network, Attachment("id-1", "/run/netns/pod1"))
"""

from __future__ import annotations

from pycni.runtime.cache import Cache, Entry
from pycni.runtime.call import Attachment
from pycni.runtime.chain import ChainError, Runtime
from pycni.runtime.conflist import NetworkList, PluginConf, parse_list
from pycni.runtime.folder import load, scan
from pycni.runtime.gc import collect

__all__ = [
    "Attachment",
    "Cache",
    "ChainError",
    "Entry",
    "NetworkList",
    "PluginConf",
    "Runtime",
    "collect",
    "load",
    "parse_list",
    "scan",
]
