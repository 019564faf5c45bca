"""The canonical result: the newest spec version's types, for everybody.

No plugin knows about versions; `pycni.wire.result` converts at the edge. Source: CNI spec 1.1.0, section
"Success" (ADD), and the reference's `pkg/types/100`.
"""

from __future__ import annotations

from pycni.addresses import CIDR, IP
from pycni.record import Record


class Interface(Record):
    """An interface that an attachment made or uses; `sandbox` is empty for one on the host.

    `mtu` in bytes, 0 where not told. Nothing here is validated by the contract.
    """

    name: str
    mac: str = ""
    mtu: int = 0
    sandbox: str = ""
    socket_path: str = ""
    pci_id: str = ""


class IPConfig(Record):
    """An address of an interface; `interface` is an index into `Result.interfaces`.

    `version` is the label ("4", "6") of a result of spec 0.3.0 to 0.4.0, kept because conversions between
    those versions copy it; empty for newer ones.
    """

    address: CIDR
    gateway: IP | None = None
    interface: int | None = None
    version: str = ""


class Route(Record):
    """A route of the sandbox; `gw` None means the gateway of the address of its family.

    `mtu` and `advmss` in bytes; `table` and `scope` are the kernel's numbers (rtnetlink(7)), where 0 is a
    value and None is absence.
    """

    dst: CIDR
    gw: IP | None = None
    mtu: int = 0
    advmss: int = 0
    priority: int = 0
    table: int | None = None
    scope: int | None = None


class DNS(Record):
    """What the runtime may write into the sandbox's resolv.conf."""

    nameservers: tuple[str, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.nameservers or self.domain or self.search or self.options)


class Result(Record):
    """What ADD answers and what travels as prevResult.

    `cni_version` is the version that the result was written in; conversion is by `pycni.wire.result`.
    """

    interfaces: tuple[Interface, ...] = ()
    ips: tuple[IPConfig, ...] = ()
    routes: tuple[Route, ...] = ()
    dns: DNS = DNS()
    cni_version: str = ""
