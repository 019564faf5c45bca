"""Environment and standard input become one validated request, or the error to print.

Order of checks, codes and texts are the reference skeleton's (`pkg/skel`), from CNI spec 1.1.0,
"Parameters". Nothing here does I/O.
"""

from __future__ import annotations

from pycni.errors import (
    DECODING_FAILURE,
    INVALID_ENVIRONMENT,
    INVALID_NETWORK_CONFIG,
    IO_FAILURE,
    CNIError,
)
from pycni.names import check_container_id, check_interface_name, check_network_name
from pycni.record import Record
from pycni.versions import OLDEST, SUPPORTED, gate
from pycni.wire.config import Members, shown
from pycni.wire.json import kind, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Final

    from pycni.types import Result
    from pycni.wire.json import JSON

VERBS: Final = ("ADD", "CHECK", "DEL", "GC", "STATUS", "VERSION")
STDIN_LIMIT: Final = 16 << 20
"""Bytes; a config of this size or more is refused (and not read to its end)."""

_ATTACHMENT: Final = frozenset(("ADD", "CHECK", "DEL"))
# (variable, verbs that require it), in the order in which the reference walks them.
_REQUIRED: Final = (
    ("CNI_CONTAINERID", _ATTACHMENT),
    ("CNI_NETNS", frozenset(("ADD", "CHECK"))),
    ("CNI_IFNAME", _ATTACHMENT),
    ("CNI_PATH", _ATTACHMENT | {"GC", "STATUS"}),
)


class Request(Record):
    """One call of a plugin, validated.

    `config` is the parsed standard input and `stdin` its bytes (a delegate gets exactly these); `env` is
    the caller's whole environment. `network` is the config's name. `args` is CNI_ARGS as it came.
    """

    verb: str
    network: str
    cni_version: str
    config: Mapping[str, JSON]
    stdin: bytes
    env: Mapping[str, str]
    container_id: str = ""
    netns: str = ""
    ifname: str = ""
    args: str = ""
    path: str = ""

    @property
    def netns_override(self) -> bool:
        """Whether CNI_NETNS_OVERRIDE allows the sandbox to be the caller's own namespace."""
        return self.env.get("CNI_NETNS_OVERRIDE", "").lower() in ("1", "true")

    def members(self, prefix: str = "") -> Members:
        """The config for typed reading; `prefix` opens error messages."""
        return Members(self.config, "", prefix)

    def prev_result(self) -> Result | None:
        """The previous plugin's result, None if there is none.

        Raises CNIError (999) `could not parse prevResult: …`. Parsed by the config's version family, so a
        result of another family is refused as the reference refuses it.
        """
        from pycni.wire.result import parse_prev_result

        return parse_prev_result(self.members().raw("prevResult"), self.cni_version)

    def valid_attachments(self) -> frozenset[tuple[str, str]] | None:
        """GC: the (container id, interface) pairs that stay; None if the runtime did not say.

        Reads `cni.dev/valid-attachments` (spec) and `cni.dev/attachments` (libcni sends both). Raises
        CNIError (7) for a list that is not one of attachments.
        """
        members = self.members()
        for key in ("cni.dev/valid-attachments", "cni.dev/attachments"):
            if key in members:
                pairs = set()
                try:
                    for item in members.objects(key) or ():
                        pairs.add((_needed(item, "containerID"), _needed(item, "ifname")))
                except CNIError as error:
                    raise CNIError(error.msg, error.details, code=INVALID_NETWORK_CONFIG) from None
                return frozenset(pairs)
        return None


def _needed(item: Members, key: str) -> str:
    """A member without which a list of what stays would mean that nothing stays."""
    value = item.string(key)
    if not value:
        raise CNIError(f"{item.path(key)} is missing", "each attachment needs containerID and ifname")
    return value


def check_environment(env: Mapping[str, str]) -> str:
    """The verb, after the checks that need no standard input; raises CNIError (code 4).

    A bad value that is required is reported at once, missing ones together. An unknown verb passes: the
    reference reports it only after the config was found good.
    """
    verb = env.get("CNI_COMMAND", "")
    if not verb:
        raise CNIError("required env variables [CNI_COMMAND] missing", code=INVALID_ENVIRONMENT)
    missing = []
    for name, verbs in _REQUIRED:
        if verb in verbs:
            value = env.get(name, "")
            if not value:
                missing.append(name)
            elif name == "CNI_CONTAINERID":
                check_container_id(value)
            elif name == "CNI_IFNAME":
                _check_ifname(value)
    if missing:
        raise CNIError(
            f"required env variables [{','.join(missing)}] missing",
            f"{verb} needs {' and '.join(missing)} in its environment, not empty",
            code=INVALID_ENVIRONMENT,
        )
    return verb


def _check_ifname(name: str) -> None:
    try:
        check_interface_name(name)
    except CNIError as error:
        from pycni.cni_args import quote

        told = f"{error.details}; " if error.details else ""
        raise CNIError(error.msg, f"{told}CNI_IFNAME is {quote(name)}", code=error.code) from None


def parse_config(stdin: bytes) -> dict[str, JSON]:
    """Standard input as an object with a valid name; raises CNIError (codes 5, 6, 7)."""
    if len(stdin) >= STDIN_LIMIT:
        raise CNIError(
            f"error reading from stdin: config of {len(stdin)} bytes or more",
            f"the limit is {STDIN_LIMIT - 1} bytes",
            code=IO_FAILURE,
        )
    advice = "standard input must be one JSON object, the network config"
    try:
        config = loads(stdin)
        if config is None:
            config = {}
        if not isinstance(config, dict):
            raise ValueError(f"json: cannot unmarshal {kind(config)} into an object with a name")
        members = Members(config)
        name = members.raw("name")
        if name is not None and not isinstance(name, str):
            advice = f'key "name" is {shown(name)}; give a string in quotes'
            raise ValueError(f"json: cannot unmarshal {kind(name)} into field name of type string")
    except ValueError as error:
        raise CNIError(f"error unmarshall network config: {error}", advice, code=DECODING_FAILURE) from None
    check_network_name(name or "")
    return config


def _config_version(members: Members) -> str:
    version = members.raw("cniVersion")
    if version is not None and not isinstance(version, str):
        raise CNIError(
            f"decoding version from network config: json: cannot unmarshal {kind(version)} "
            "into field cniVersion of type string",
            f'key "cniVersion" is {shown(version)}; give one of {", ".join(SUPPORTED)} in quotes',
            code=DECODING_FAILURE,
        )
    return version or OLDEST


def parse_request(env: Mapping[str, str], stdin: bytes, supported: tuple[str, ...] = SUPPORTED) -> Request:
    """The whole contract on input, for every verb but VERSION (which looks at nothing).

    Raises CNIError with the reference's code and text for whatever is wrong first.
    """
    verb = check_environment(env)
    config = parse_config(stdin)
    if verb not in VERBS:
        raise CNIError(
            f"unknown CNI_COMMAND: {verb}", f"known are {', '.join(VERBS)}", code=INVALID_ENVIRONMENT
        )
    members = Members(config)
    version = _config_version(members)
    gate(verb, version, supported)
    attached = verb in _ATTACHMENT
    return Request(
        verb=verb,
        network=members.string("name"),
        cni_version=version,
        config=config,
        stdin=stdin,
        env=env,
        container_id=env.get("CNI_CONTAINERID", "") if attached else "",
        netns=env.get("CNI_NETNS", "") if attached else "",
        ifname=env.get("CNI_IFNAME", "") if attached else "",
        args=env.get("CNI_ARGS", "") if attached else "",
        path=env.get("CNI_PATH", ""),
    )
