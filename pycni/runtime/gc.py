"""Garbage collection: remove what belongs to attachments that exist no more.

Stale attachments get a DEL chain, then the plugins are told what stays (GC, since spec 1.1.0). Unlike in
`libcni` the attachments that stay must be told: no list never means "delete everything". Source: CNI spec
1.1.0, section 2 "GC".
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from anyio import to_thread

from pycni.errors import CNIError
from pycni.record import Record
from pycni.runtime.cache import Entry
from pycni.runtime.call import Attachment, check_names
from pycni.runtime.chain import Runtime, is_older
from pycni.runtime.conflist import NetworkList, parse_list
from pycni.versions import VERB_SINCE

if TYPE_CHECKING:
    from pycni.wire.json import JSON

Key = tuple[str, str]
"""Container id and interface: an attachment within its network."""


class Plan(Record):
    """What a collection would do: attachments that get a DEL, and the keys that stay valid.

    `ask_plugins` tells whether the plugins get the verb GC afterwards; its reason is in `unasked` if not.
    """

    stale: tuple[Entry, ...]
    valid: tuple[Key, ...]
    ask_plugins: bool = True
    unasked: str = ""


def plan(network: NetworkList, entries: Iterable[Entry], valid: Collection[Key]) -> Plan:
    """Which of the remembered attachments of the network are stale. Pure."""
    stale = tuple(entry for entry in entries if entry.network == network.name and entry.key[1:] not in valid)
    stays = tuple(sorted(set(valid)))
    if network.disable_gc:
        return Plan((), stays, False, "disableGC is true")
    if is_older(network.cni_version, VERB_SINCE["GC"]):
        version = network.cni_version or "0.1.0"
        return Plan(stale, stays, False, f"cniVersion is {version}, GC exists since {VERB_SINCE['GC']}")
    return Plan(stale, stays)


async def collect(runtime: Runtime, network: NetworkList, valid: Collection[Key]) -> Plan:
    """Plan and carry out; `valid` are all attachments of the network that stay. What was done is returned.

    Raises CNIError if the cache cannot be listed (nothing was done), and afterwards for everything that
    failed on the way, one line each: the rest is done all the same.
    """
    check_names(network.name)
    decided = plan(network, await to_thread.run_sync(runtime.cache.entries), valid)
    await carry_out(runtime, network, decided)
    return decided


async def carry_out(runtime: Runtime, network: NetworkList, decided: Plan) -> None:
    """Do what was planned; raises CNIError at the end for everything that failed, one line each."""
    failures: list[CNIError] = []
    for entry in decided.stale:
        try:
            await runtime.delete(list_of(entry, network), attachment_of(entry))
        except CNIError as error:
            where = f"failed to delete stale attachment {entry.container_id} {entry.ifname}"
            failures.append(CNIError(f"{where}: {error.msg}", error.details, code=error.code))
    stays: list[JSON] = [{"containerID": container, "ifname": ifname} for container, ifname in decided.valid]
    for plugin in network.plugins if decided.ask_plugins else ():
        try:
            await runtime.gc_plugin(network, plugin, stays)
        except CNIError as error:
            where = f"failed to GC plugin {plugin.type}"
            failures.append(CNIError(f"{where}: {error.msg}", error.details, code=error.code))
    if len(failures) == 1:
        raise failures[0]
    if failures:
        raise CNIError("\n".join(map(str, failures)), code=failures[0].code)


def attachment_of(entry: Entry) -> Attachment:
    """The attachment as it was added: with its namespace, arguments and capability arguments."""
    return Attachment(entry.container_id, entry.netns, entry.ifname, entry.args, entry.capability_args)


def list_of(entry: Entry, today: NetworkList) -> NetworkList:
    """The list that the attachment was made by, which may have changed since; today's if it is not known.

    The remembered bytes lack what a plugin folder supplied: that is taken from today's list.
    """
    if entry.config == today.raw:
        return today
    try:
        remembered = parse_list(entry.config)
    except CNIError:
        return today
    if remembered.name != today.name:
        return today
    folder = () if remembered.load_only_inlined else today.plugins[today.inlined :]
    plugins = (*remembered.plugins, *folder)
    return remembered.replace(plugins=plugins) if plugins else today
