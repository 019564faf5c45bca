from __future__ import annotations
import pytest
from support import observe
from support.in_process import InProcess
pytestmark = pytest.mark.needs_vlan
def test_x(host, pod, bin_dir, run_dir, data_dir):
    call = InProcess(host, bin_dir, run_dir)
    config = {"cniVersion": "1.1.0", "name": "vlannet", "type": "bridge", "bridge": "vbr0", "vlan": 100, "isGateway": True,
       "ipam": {"type": "host-local", "dataDir": str(data_dir), "ranges": [[{"subnet": "10.40.0.0/24"}]]}}
    p = pod()
    out = call("ADD", config, netns=p)
    print(out)
    import subprocess
    print(host.run("bridge","vlan").stdout.decode(), host.run("ip", "-d", "addr").stdout.decode())
    r = out.ok().json
    print(call("CHECK", {**config, "prevResult": r}, netns=p))
    p.ping("10.40.0.1")
    print(call("DEL", config, netns=p).ok())
    print(host.run("bridge","vlan").stdout.decode())
    assert 0
