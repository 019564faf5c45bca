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
        from pycni_bridge.attach import attach

        return await attach(request, ctx)

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
        """Ready if ADD would take the config and the IPAM is ready; one that cannot be found is code 50."""
        from pycni_bridge.config import parse_config

        config = parse_config(request)
        if not config.ipam_type:
            return
        try:
            await ctx.delegate.status(request, config.ipam_type)
        except CNIError as error:
            if error.msg.startswith("failed to find plugin"):
                raise CNIError(error.msg, error.details, code=NOT_AVAILABLE) from None
            raise
