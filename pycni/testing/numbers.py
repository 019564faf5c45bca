"""The numbers of rtnetlink that the simulated kernel knows.

Sources: <linux/if_link.h> (IFLA_…), <linux/veth.h>, <linux/if_bridge.h> (struct bridge_vlan_info),
<linux/if_addr.h> (IFA_…), <linux/rtnetlink.h> (RTA_…, RTAX_…),
<linux/net_namespace.h> (NETNSA_…). Written down anew, not taken from
`pycni.kernel`: a wrong number there must not be right here.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from pycni.addresses import IPV4, IPV6

if TYPE_CHECKING:
    from typing import Final

IFINFO: Final = Struct("=BxHiII")
IFADDR: Final = Struct("=BBBBi")
RTMSG: Final = Struct("=BBBBBBBBI")
VLAN: Final = Struct("=HH")

EVERY: Final = range(1 << 14)
"""All attributes are wanted."""

FAMILY: Final = {2: IPV4, 10: IPV6}
NUMBER: Final = {IPV4: 2, IPV6: 10}

ADDRESS, IFNAME, MTU, LINK, MASTER, PROTINFO, TXQLEN = 1, 3, 4, 5, 10, 12, 13
OPERSTATE, LINKINFO, IFALIAS, AF_SPEC, GROUP, NETNS_FD = 16, 18, 20, 26, 27, 28
PROMISCUITY, LINK_NETNSID = 30, 37
INFO_KIND, INFO_DATA, INFO_SLAVE_KIND, INFO_SLAVE_DATA = 1, 2, 4, 5
VETH_PEER, BRIDGE_VLAN_FILTERING = 1, 7
PORT_STATE, PORT_HAIRPIN, PORT_LEARNING, PORT_FLOOD, PORT_ISOLATED = 1, 4, 8, 9, 33
VLAN_INFO, PVID, UNTAGGED, RANGE_BEGIN, RANGE_END = 2, 0x02, 0x04, 0x08, 0x10

LOCAL, LABEL, BROADCAST, FLAGS = 2, 3, 4, 8
SECONDARY, NODAD, PERMANENT = 0x01, 0x02, 0x80

DST, OIF, GATEWAY, PRIORITY, PREFSRC, METRICS, TABLE = 1, 4, 5, 6, 7, 8, 15
RTAX_MTU, RTAX_ADVMSS = 2, 8
TABLE_COMPAT = 252

RTGENMSG = 4
"""Bytes of struct rtgenmsg, padded."""
NSID_NUMBER, NSID_FD = 1, 3
