"""The verbs of the bridge plugin."""

from __future__ import annotations

from pycni.errors import NOT_AVAILABLE, CNIError
from pycni.skel import Plugin

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pycni.context import Context
    from pycni.request import Request
    from pycni.types import Result


class Bridge(Plugin):
    """Connects a sandbox to a Linux bridge by a veth pair; addresses come from an IPAM delegate.

    Each verb imports what it needs: a one-shot process lives for one of them.
    """

    name = "bridge"
    loopless = True

    async def add(self, request: Request, ctx: Context) -> Result:
        from pycni_bridge.attach import Attach

        return await Attach(request, ctx).run()

    async def check(self, request: Request, ctx: Context) -> None:
        from pycni_bridge.inspection import inspect

        await inspect(request, ctx)

    async def delete(self, request: Request, ctx: Context) -> None:
        from pycni_bridge.detach import detach

        await detach(request, ctx)

    async def gc(self, request: Request, ctx: Context) -> None:
        from pycni_bridge.detach import collect

        await collect(request, ctx)

    async def status(self, request: Request, ctx: Context) -> None:
        """Ready if the config can be read and the IPAM is; an IPAM that cannot be found is code 50."""
        ipam = request.members("failed to load netconf: ").object("ipam")
        ipam_type = ipam.string("type") if ipam is not None else ""
        if not ipam_type:
            return
        try:
            await ctx.delegate.status(request, ipam_type)
        except CNIError as error:
            if error.msg.startswith("failed to find plugin"):
                raise CNIError(error.msg, error.details, code=NOT_AVAILABLE) from None
            raise
