"""One network of the bridge plugin on one node, as a runtime would call it."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from support import observe

if TYPE_CHECKING:
    from pathlib import Path

    from support.calls import Call, Outcome
    from support.netns import NetNS

BRIDGE = "br0"
MASQUERADE = ("inet", "cni_plugins_masquerade", "masq_checks")
SPOOF_CHECK = ("bridge", "nat", "PREROUTING")


def host_local(*subnets: str, **more: Any) -> dict[str, Any]:
    """host-local's config with one range set for each subnet; `Network` adds the store."""
    return {"type": "host-local", "ranges": [[{"subnet": subnet}] for subnet in subnets], **more}


class Network:
    """Calls with one config; keeps each attachment's result for CHECK and DEL."""

    def __init__(self, call: Call, data_dir: Path, *, name: str = "net", **config: Any) -> None:
        """`config` holds the bridge's own keys."""
        self.call = call
        self.host = call.host
        self.store = data_dir / name
        self.data_dir = data_dir
        self.results: dict[tuple[str, str], dict[str, Any]] = {}
        self.config = {"cniVersion": "1.1.0", "name": name, "type": "bridge", "bridge": BRIDGE, **config}
        if isinstance(config.get("ipam"), dict):
            self.config["ipam"] = {**config["ipam"], "dataDir": str(data_dir)}

    def changed(self, **config: Any) -> Network:
        """The same network with some keys changed; None takes one away. Results are shared."""
        other = copy.copy(self)
        other.config = {key: value for key, value in (self.config | config).items() if value is not None}
        return other

    def try_add(self, pod: NetNS, container_id: str = "pod-1", ifname: str = "eth0", **env: Any) -> Outcome:
        """ADD, whatever comes of it."""
        return self.call(
            "bridge", "ADD", self.config, netns=pod, container_id=container_id, ifname=ifname, **env
        )

    def add(
        self, pod: NetNS, container_id: str = "pod-1", ifname: str = "eth0", **env: Any
    ) -> dict[str, Any]:
        """The result of an ADD that must succeed."""
        result: dict[str, Any] = self.try_add(pod, container_id, ifname, **env).ok().json
        self.results[container_id, ifname] = result
        return result

    def refused(self, pod: NetNS, *args: Any, **env: Any) -> dict[str, Any]:
        """The error of an ADD that must fail and leave node, pod and store as they were."""
        before = self.state(pod)
        error = self.try_add(pod, *args, **env).failed()
        after = self.state(pod)
        assert after == before, f"{error}\nbefore: {before}\nafter: {after}"
        return error

    def delete(
        self, pod: NetNS | str, container_id: str = "pod-1", ifname: str = "eth0", *, prev: bool = True
    ) -> Outcome:
        """DEL, with the result of ADD as prevResult if there is one and `prev`."""
        config = self._with_result(container_id, ifname) if prev else self.config
        return self.call("bridge", "DEL", config, netns=pod, container_id=container_id, ifname=ifname)

    def check(
        self, pod: NetNS | str, container_id: str = "pod-1", ifname: str = "eth0", **prev: Any
    ) -> Outcome:
        """CHECK against the result of ADD, with some of its members changed."""
        config = self._with_result(container_id, ifname)
        config["prevResult"] = config["prevResult"] | prev
        return self.call("bridge", "CHECK", config, netns=pod, container_id=container_id, ifname=ifname)

    def gc(self, *valid: tuple[str, str], **keys: Any) -> Outcome:
        """GC with the valid attachments (container id, interface) under the spec's key, or with `keys`."""
        pairs = [{"containerID": container_id, "ifname": ifname} for container_id, ifname in valid]
        lists = keys or {"cni.dev/valid-attachments": pairs}
        return self.call("bridge", "GC", self.config | lists, container_id=None, netns="", ifname=None)

    def status(self) -> Outcome:
        """STATUS."""
        return self.call("bridge", "STATUS", self.config)

    def _with_result(self, container_id: str, ifname: str) -> dict[str, Any]:
        result = self.results.get((container_id, ifname))
        return self.config | ({"prevResult": result} if result is not None else {})

    def host_veth(self, container_id: str = "pod-1", ifname: str = "eth0") -> str:
        """The name of the host side, as ADD reported it."""
        name: str = self.results[container_id, ifname]["interfaces"][1]["name"]
        return name

    def ips(self, container_id: str = "pod-1", ifname: str = "eth0") -> list[str]:
        """The addresses without prefix lengths, as ADD reported them."""
        return [ip["address"].partition("/")[0] for ip in self.results[container_id, ifname].get("ips", ())]

    def reservations(self) -> dict[str, str]:
        """Address → `container id/interface` of this network."""
        files = observe.store(self.store) if self.store.exists() else {}
        return {
            name: content.replace("\r\n", "/")
            for name, content in files.items()
            if not name.startswith(("lock", "last_reserved_ip."))
        }

    def rules(self, place: tuple[str, str, str]) -> list[dict[str, Any]]:
        """The nftables rules of a chain."""
        found = (item["rule"] for item in observe.nft_rules(self.host) if "rule" in item)
        return [rule for rule in found if (rule["family"], rule["table"], rule["chain"]) == place]

    def state(self, *pods: NetNS) -> dict[str, Any]:
        """All that a failed ADD must give back: links, addresses, routes, rules, reservations.

        Not forwarding: another ADD may rely on it by then.
        """
        return {
            "host": observe.snapshot(self.host),
            "pods": [observe.snapshot(pod) for pod in pods],
            "reservations": self.reservations(),
        }
