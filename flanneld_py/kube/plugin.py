"""Tokens from a credential plugin of a kubeconfig: lightkube runs it, and what goes wrong with it is named here."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import httpx2
from lightkube.config.client_adapter import ExecAuth
from lightkube.config.models import UserExec
from lightkube.core.exceptions import ConfigError as LightkubeConfigError

from flanneld_py.errors import UsageError


class PluginAuth(ExecAuth):
    """Raises UsageError where the plugin cannot be run, fails, or prints no token. What it prints may be a secret, and
    is not quoted."""

    def __init__(self, plugin: UserExec) -> None:
        super().__init__(plugin)
        self._command = plugin.command

    async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        async with aclosing(super().async_auth_flow(request)) as flow:
            try:
                outgoing = await anext(flow)
                while True:
                    response = yield outgoing
                    outgoing = await flow.asend(response)
            except StopAsyncIteration:
                return
            except OSError as error:
                reason = error.strerror or "it cannot be run"
            except LightkubeConfigError as error:
                reason = str(error).partition(":")[0]  # after that comes what it printed
            except (ValueError, LookupError, TypeError):
                reason = "it prints no ExecCredential with a token, which is JSON"
        raise UsageError(
            f"credential plugin {self._command!r} of the kubeconfig: {reason}", hint="try: kubectl get nodes"
        )
