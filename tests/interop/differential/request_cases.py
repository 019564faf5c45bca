"""What every plugin shares: variables, standard input, names, versions, commands."""

from __future__ import annotations

from typing import Any

from differential.case import Call, Case, add, bridge, call, check, delete, ipam

PLUGINS = ("bridge", "host-local", "loopback")
# What one plugin says to all of these, the others say too: the reference has one library for them.
SPELLINGS = ("stdin: ", "container id ", "interface name ")
NOWHERE: dict[str, str | None] = dict.fromkeys(
    ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"), None
)


def good(plugin: str) -> dict[str, Any]:
    """A config that the plugin accepts."""
    return bridge("10.40.0.0/24") if plugin == "bridge" else ipam("10.40.0.0/24")


def _variables(plugin: str) -> dict[str, Call]:
    config = good(plugin)
    calls = {f"{verb} without variables": call(verb, config, **NOWHERE) for verb in ("ADD", "CHECK", "DEL")}
    calls |= {
        f"{verb} without {name}": call(verb, config, **{name: None})
        for verb in ("ADD", "DEL")
        for name in ("CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH")
    }
    calls |= {f"ADD with empty {name}": add(config, **{name: ""}) for name in NOWHERE}
    ids = ("-a", "a/b", "..", "a b", "a\n", "é", "_a", "a:b")
    calls |= {f"container id {text!r}": add(config, CNI_CONTAINERID=text) for text in ids}
    names = (".", "..", "a/b", "a:b", "a b", "a\tb", "sixteen-letters-", "éééééééé", "a\u2003b", "a\u1680b")
    calls |= {f"interface name {text!r}": add(config, CNI_IFNAME=text) for text in names}
    calls |= {
        "bad id wins over what is missing": add(config, **NOWHERE | {"CNI_CONTAINERID": "a/b"}),
        "bad interface name wins over what is missing": add(config, **NOWHERE | {"CNI_IFNAME": "a/b"}),
        "long container id that is bad at its end": add(config, CNI_CONTAINERID="a" * 300 + "/"),
        "bad variables do not matter to VERSION": call("VERSION", b"", **NOWHERE | {"CNI_IFNAME": "a/b"}),
        "no command": call("", config),
        "unknown command": call("FOO", config),
        "command in lower case": call("add", config),
        "unknown command and bad config": call("FOO", b"{"),
    }
    return calls


def _stdin(plugin: str) -> dict[str, Call]:
    config = good(plugin)
    bad: dict[str, bytes] = {
        "empty": b"",
        "blanks": b" \n",
        "cut": b"{",
        "list": b"[]",
        "text": b'"x"',
        "number": b"1",
        "null": b"null",
        "no name": b"{}",
        "empty name": b'{"name": ""}',
        "null name": b'{"name": null}',
        "name is a number": b'{"name": 5}',
        "name is a list": b'{"name": []}',
        "name with a slash": b'{"name": "a/b"}',
        "name with a line feed": b'{"name": "a\\n"}',
        "name of dots": b'{"name": ".."}',
        "two documents": b'{"name": "a"} {"name": "b"}',
        "trailing comma": b'{"name": "a",}',
        "comment": b'{"name": "a" /* b */}',
        "single quotes": b"{'name': 'a'}",
        "leading zero": b'{"name": "a", "mtu": 01}',
        "NaN": b'{"name": "a", "x": NaN}',
        "byte order mark": b'\xef\xbb\xbf{"name": "a"}',
        "raw tab": b'{"name": "a\tb"}',
        "deep": b'{"name": "a", "x": ' + b"[" * 10001 + b"]" * 10001 + b"}",
        "version is a number": b'{"name": "a", "cniVersion": 5}',
        "later name counts": b'{"name": "a", "NAME": "a/b", "cniVersion": "1.0.0"}',
    }
    calls = {f"stdin: {title}": add(text) for title, text in bad.items()}
    calls |= {
        f"version {version!r}": add(config | {"cniVersion": version})
        for version in ("0.0.1", "0.5.0", "1.0", "1.0.1", "v1.0.0", "01.0.0", " 1.0.0", "9.9.9", "abc")
    }
    calls |= {
        f"CHECK in version {version!r}": check(config | {"cniVersion": version})
        for version in ("", "0.1.0", "0.3.1", "0.3.9", "1.0", "abc", "1.x", "1.0.0.0", "2.0.0")
    }
    calls |= {
        f"DEL in version {version!r}": delete(config | {"cniVersion": version}) for version in ("1.0", "abc")
    }
    calls["type is a number"] = add(config | {"type": 5})
    calls["prevResult is a text"] = add(config | {"prevResult": "x"})
    calls["prevResult has a bad address"] = add(
        config | {"prevResult": {"cniVersion": "1.0.0", "ips": [{"address": "banana"}]}}
    )
    return calls


def _cases() -> dict[str, Case]:
    cases = {}
    for plugin in PLUGINS:
        for title, each in (_variables(plugin) | _stdin(plugin)).items():
            if plugin != "bridge" and title.startswith(SPELLINGS):
                continue
            step = Call(**{**vars(each), "plugin": plugin})
            cases[f"{plugin}, {title}"] = Case((step,))
        cases[f"{plugin}, VERSION"] = Case(
            tuple(call("VERSION", text, plugin=plugin) for text in (b"", b"{", b'{"cniVersion":"0.3.1"}'))
        )
        for verb in ("GC", "STATUS"):
            cases[f"{plugin}, {verb} in an old version"] = Case((call(verb, good(plugin), plugin=plugin),))
        cases[f"{plugin}, keys in other spellings"] = Case(
            (
                add(
                    b'{"NAME":"a","Name":"b","CNIVersion":"1.0.0","IPAM":{"SUBNET":"10.40.0.0/24",'
                    b'"TYPE":"host-local","DATADIR":"$DATADIR"},"BRIDGE":"br-a","Isgateway":true}',
                    plugin=plugin,
                ),
            )
        )
    return cases


CASES: dict[str, Case] = _cases()
