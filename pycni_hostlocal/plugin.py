"""host-local: the verbs. Each reads its config, then does its work in one blocking call under one lock."""

from __future__ import annotations

import os

from pycni.addresses import CIDR
from pycni.context import Transaction
from pycni.errors import CNIError
from pycni.grouping import Grouped
from pycni.skel import Plugin
from pycni.types import DNS, IPConfig, Result
from pycni_hostlocal.allocator import Owner, Wanted
from pycni_hostlocal.config import load_config, load_data_dir
from pycni_hostlocal.reservations import (
    Place,
    addresses_of,
    collect,
    give_back,
    leaked,
    probe,
    release,
    release_many,
    reserve,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pycni.context import Context
    from pycni.request import Request
    from pycni_hostlocal.allocator import Pick
    from pycni_hostlocal.config import Config


class HostLocal(Plugin):
    """Addresses from ranges, reservations as files that the Go plugin reads and writes as well."""

    name = "host-local"
    loopless = True
    needs_link = False

    async def add(self, request: Request, ctx: Context) -> Result:
        """One address of each set, all or none; raises CNIError (999, or 11 for a lock that is held)."""
        config = load_config(request)
        place = _place(request, ctx, config.data_dir)
        owner = _owner(request)
        kept: list[Pick] = []
        async with Transaction(ctx) as done:
            done.undo(lambda: ctx.run(give_back, place, owner, kept))
            wanted = Wanted(owner, config.sets, config.requested)
            dns = await ctx.run(_dns, _absolute(ctx, config.resolv_conf)) if config.resolv_conf else DNS()
            await ctx.run(_reserve, place, wanted, kept)
            return _result(config, kept, dns)

    async def check(self, request: Request, ctx: Context) -> None:
        """The attachment holds an address, and those of prevResult that our ranges cover are its own."""
        config = load_config(request)
        held = await ctx.run(addresses_of, _place(request, ctx, config.data_dir), _owner(request))
        if not held:
            raise CNIError(
                f"host-local: Failed to find address added by container {request.container_id}",
                f"no reservation of {request.container_id} {request.ifname} in network {request.network}",
            )
        previous = request.prev_result()
        for address in previous.ips if previous is not None else ():
            ip = address.address.ip
            if str(ip) not in held and any(ranges.find(ip) for ranges in config.sets):
                raise CNIError(
                    f"host-local: {ip} of prevResult is not reserved for container {request.container_id}",
                    f"reserved for {request.container_id} {request.ifname}: {', '.join(held)}",
                )

    async def delete(self, request: Request, ctx: Context) -> None:
        """Free the attachment's addresses; a missing one, or a missing store, is success."""
        place = _place(request, ctx, load_data_dir(request))
        await ctx.run(_release, place, _owner(request))

    async def gc(self, request: Request, ctx: Context) -> None:
        """Free what belongs to no valid attachment; nothing if the runtime did not say which are valid."""
        valid = request.valid_attachments()
        if valid is None:
            return
        place = _place(request, ctx, load_data_dir(request))
        living = valid | await _in_flight(request, ctx)
        suspects = await ctx.run(leaked, place.path, living)
        if not suspects:
            return
        # Whoever began after the first question and had reserved before the look is asked for now.
        freed = await ctx.run(collect, place, living | await _in_flight(request, ctx), suspects)
        if freed:
            ctx.log(f"host-local: network {request.network}: freed {', '.join(freed)}")

    async def status(self, request: Request, ctx: Context) -> None:
        """Raises CNIError: 50 if no address could be given now, 999 for a config that ADD would refuse."""
        config = load_config(request, need_ranges=False)
        await ctx.run(probe, _place(request, ctx, config.data_dir), config.sets)


async def _in_flight(request: Request, ctx: Context) -> frozenset[tuple[str, str]]:
    every = await ctx.in_flight()
    return frozenset((name, ifname) for network, name, ifname in every if network == request.network)


def _dns(resolv_conf: str) -> DNS:
    if not resolv_conf:
        return DNS()
    from pycni_hostlocal.resolvconf import read_resolv_conf

    return read_resolv_conf(resolv_conf)


def _reserve_one(place: Place, wanted: Wanted, kept: list[Pick]) -> None:
    (error,) = reserve(place, [wanted], [kept])
    if error is not None:
        raise error


def _reserve_many(calls: list[tuple[Place, Wanted, list[Pick]]]) -> list[Exception | None]:
    return [*reserve(calls[0][0], [call[1] for call in calls], [call[2] for call in calls])]


def _release_many(calls: list[tuple[Place, Owner]]) -> list[Exception | None]:
    return [*release_many(calls[0][0], [owner for _, owner in calls])]


def _same_store(place: Place, *_rest: object) -> Place:
    return place


_reserve = Grouped("reserve", _reserve_one, _reserve_many, _same_store)
_release = Grouped("release", release, _release_many, _same_store)


def _result(config: Config, picks: list[Pick], dns: DNS) -> Result:
    ips = tuple(IPConfig(CIDR(pick.ip, pick.subnet.prefix), pick.gateway) for pick in picks)
    return Result(ips=ips, routes=config.routes, dns=dns)


def _owner(request: Request) -> Owner:
    return Owner(request.container_id.strip(), request.ifname)


def _absolute(ctx: Context, path: str) -> str:
    """`path` as the caller means it; raises CNIError (999) if it counts from a folder that is gone."""
    if not path or path.startswith("/"):
        return path
    if not ctx.caller.cwd:
        raise CNIError(
            f"open {path}: no such file or directory",
            f"{path} is relative, and the directory that the plugin was started in was removed",
        )
    return os.path.join(ctx.caller.cwd, path)


def _place(request: Request, ctx: Context, data_dir: str) -> Place:
    return Place(os.path.join(_absolute(ctx, data_dir), request.network), ctx.caller.umask)
