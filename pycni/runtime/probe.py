"""Asking plugins which spec versions they speak, and a list whether its plugins speak its version.

Sources: CNI spec 1.1.0, section 2 "VERSION"; the reference's `pkg/version` for what old plugins answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from pycni.delegate import failure
from pycni.errors import INCOMPATIBLE_VERSION, CNIError
from pycni.runtime.execute import execute
from pycni.versions import NEWEST, OLDEST
from pycni.wire.config import Members
from pycni.wire.json import dumps, loads

if TYPE_CHECKING:
    from pycni.runtime.chain import Runtime
    from pycni.runtime.conflist import NetworkList

_DECODING: Final = "decoding version info: "


async def probe(path: str, env: Mapping[str, str]) -> tuple[str, ...]:
    """The versions that an executable says it supports; raises CNIError for an answer that is none."""
    filler = {"CNI_NETNS": "dummy", "CNI_IFNAME": "dummy", "CNI_PATH": "dummy"}
    call = {**env, "CNI_COMMAND": "VERSION", "CNI_CONTAINERID": "", "CNI_ARGS": "", **filler}
    completed = await execute(path, call, dumps({"cniVersion": NEWEST}))
    if completed.status or completed.failure:
        error = failure(path, completed)
        if error.msg == "unknown CNI_COMMAND: VERSION":
            return (OLDEST,)  # plugins older than the verb
        raise error
    return parse_version_info(completed.stdout)


def parse_version_info(answer: bytes) -> tuple[str, ...]:
    """The answer to VERSION; raises CNIError `decoding version info: …`."""
    try:
        value = loads(answer)
    except ValueError as error:
        raise CNIError(f"{_DECODING}{error}") from None
    members = Members(value if isinstance(value, dict) else {}, prefix=_DECODING)
    own = members.string("cniVersion")
    if not own:
        raise CNIError(f"{_DECODING}missing field cniVersion")
    supported = members.strings("supportedVersions")
    if supported:
        return supported
    if own == "0.2.0":
        return (OLDEST, "0.2.0")
    raise CNIError(f"{_DECODING}missing field supportedVersions")


async def validate(runtime: Runtime, network: NetworkList) -> tuple[str, ...]:
    """The capabilities that the network's plugins declare, sorted, if all plugins can be used.

    Raises one CNIError for everything that is wrong: executables that are missing, do not answer, or do not
    speak the list's version.
    """
    wanted = network.cni_version or OLDEST
    problems: list[str] = []
    for plugin in network.plugins:
        try:
            supported = await probe(runtime.find(plugin.type), runtime.env)
        except CNIError as error:
            problems.append(str(error))
            continue
        if wanted not in supported:
            problems.append(f'plugin {plugin.type} does not support config version "{wanted}"')
    if problems:
        raise CNIError(f"[{' '.join(problems)}]", code=INCOMPATIBLE_VERSION)
    return tuple(sorted(frozenset().union(*(plugin.capabilities for plugin in network.plugins))))
