import sys, random, json, copy, os
sys.path.insert(0,'/work/main/tests/interop'); sys.path.insert(0,'/work/main/tests')
from bad_input_cases import Case
from bad_input_types import KEYS
import test_bad_input as T
from test_bad_input import node, GOOD
import re
VALUES=[None,True,False,0,1,-1,2**31,2**63-1,2**64,1.5,1e999,"","x","a/b","..","\0","\ud800","é"*20,"10.71.0.0/24","10.71.0.5","fd71::/64","::ffff:10.71.0.9","0.0.0.0/0","::/0","255.255.255.255","lo","eth0","iptables","nftables","02:00:00:00:00:05","1.0.0","0.2.0",[],[[]],[None],["x"],[5],{}, {"x":1},{"id":5},[{"id":5}],[{"minID":1,"maxID":4094}],[{"subnet":"10.71.0.0/24"}],[[{"subnet":"10.71.0.0/24"}]],[[{"subnet":"::/0"}]],[[{"subnet":"0.0.0.0/0"}]],[{"dst":"10.0.0.0/8"}],[{"dst":"::/0","gw":"fe80::1"}],[{"dst":"224.0.0.0/4"}],[{"dst":"10.0.0.0/8","mtu":-5,"table":2**33,"scope":999,"priority":2**40}],{"ips":["10.71.0.9"]},{"nameservers":["x"]}]
def setp(doc,path,v):
    parts=re.findall(r"[A-Za-z.\-]+?(?=\.|\[|$)|\[\]",path.replace("[]",".[]"))
    parts=[p for p in re.split(r"\.",path.replace("[]",".[]")) if p]
    cur=doc
    for i,p in enumerate(parts):
        last=i==len(parts)-1
        nxt=None if last else parts[i+1]
        if p=="[]":
            if not isinstance(cur,list): return
            if not cur: cur.append(None)
            if last: cur[0]=v
            else:
                if not isinstance(cur[0],(dict,list)): cur[0]=[] if nxt=="[]" else {}
                cur=cur[0]
        else:
            if not isinstance(cur,dict): return
            if last: cur[p]=v
            else:
                if not isinstance(cur.get(p),(dict,list)): cur[p]=[] if nxt=="[]" else {}
                cur=cur[p]
def test_fuzz(node):
    seed=int(os.environ.get("SEED","1")); r=random.Random(seed); n=int(os.environ.get("N","1500"))
    bad=[]; ok=0; seen=set()
    for i in range(n):
        plugin=r.choice(["bridge","bridge","host-local","loopback"])
        doc=json.loads(json.dumps(node.names.fill(GOOD[plugin])))
        doc["cniVersion"]=r.choice(["1.1.0","1.0.0","0.4.0","0.2.0","0.1.0"])
        if r.random()<0.3: doc.pop("ipam",None)
        keys=list(KEYS["bridge"])+list(KEYS["host-local"])+["prevResult.ips","prevResult.ips[]","prevResult.ips[].address","prevResult.ips[].interface","prevResult.interfaces","prevResult.interfaces[]","prevResult.interfaces[].name","prevResult.interfaces[].sandbox","prevResult.routes","prevResult.cniVersion","cni.dev/valid-attachments","name","cniVersion"]
        for _ in range(r.choice([1,1,2,3])):
            k=r.choice(keys)
            if "cni.dev" in k: doc[k]=copy.deepcopy(r.choice(VALUES))
            else: setp(doc,k,copy.deepcopy(r.choice(VALUES)))
        if isinstance(doc.get("ipam"),dict) and "dataDir" in doc["ipam"] and isinstance(doc["ipam"]["dataDir"],str): doc["ipam"]["dataDir"]=str(node.data_dir)
        verb=r.choice(["ADD","ADD","CHECK","DEL","GC","STATUS"])
        env={}
        if r.random()<0.2: env["CNI_ARGS"]=r.choice(["IP=10.71.0.9","MAC=02:00:00:00:00:09","IP=","MAC=",";","IgnoreUnknown=1;X=2","IP=fd71::5","IP=::ffff:10.71.0.7"])
        if r.random()<0.1: env["CNI_IFNAME"]=r.choice(["all","default","é"*7,"eth0@x","-x","\udcff","...","e%s","a\\b",'"',"a'b","a;b"])
        case=Case("f",0,"…",plugin=plugin,verb=verb,config=json.dumps(doc).encode(),env=env)
        try:
            out=node.in_process(case)
        except BaseException as e:
            bad.append(("RAISED",repr(e),plugin,verb,doc,env)); continue
        if out.status==0: ok+=1
        else:
            m=T._malformed(out)
            err=json.loads(out.stdout)
            text=json.dumps(err)
            if m or "unexpected " in err.get("details","") or b"undo" in out.stderr:
                key=(plugin,verb,err["msg"][:60])
                if key not in seen:
                    seen.add(key); bad.append((m,err,out.stderr,plugin,verb,doc,env))
        if verb=="ADD":
            d=node.in_process(Case("d",0,"",plugin=plugin,verb="DEL",config=json.dumps(doc).encode(),env=env))
            left=[l for l in T._kernel(node.host)["links"] if l.startswith("veth")]+[l for l in T._kernel(node.pod)["links"] if l!="lo"]
            st=[p.name for p in node.data_dir.rglob("*") if p.is_file() and p.name!="lock" and not p.name.startswith("last")]
            rules=node.host.run("nft","list","ruleset").stdout
            if left or st: 
                bad.append(("LEFT",left,st,out.status,plugin,doc,env,d)); 
                for p in list(node.data_dir.rglob("*")):
                    if p.is_file() and p.name!="lock": p.unlink()
                for l in left: node.host.run("ip","link","delete",l,check=False)
            for l in T._kernel(node.host)["links"]:
                if l!="lo" : node.host.run("ip","link","delete",l,check=False)
    print("ok",ok,"of",n)
    for b in bad[:25]: print(b)
