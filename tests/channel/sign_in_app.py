"""An agent whose users sign in, on files that several may share; also a process of its own, for the test that kills it.

`python -m tests.channel.sign_in_app FOLDER CHANNEL_URL TOKEN_SERVICE_URL` asks the user to sign in, and takes the
exchange.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

from agent_core import AgentApplication, OAuthConnection, TurnContext, TurnState
from agent_core.channel.cloud_adapter import AgentIdentity, CloudAdapter, HttpRequest, HttpResponse
from agent_core.channel.connector_client import ConnectorClient
from agent_core.channel.http_client import HttpClient
from agent_core.channel.url_guard import UrlGuard
from agent_core.channel.user_token_client import UserTokenClient
from agent_core.hosting.sqlite_queue import SqliteQueue
from agent_core.store.sqlite_store import SqliteStore
from agent_core.testing import ManualClock
from tests.serving import anywhere

AGENT_SECRET = "canary-agent-token"


class SignInApp:
    """One instance of the app: its own adapter and connections, and the files that all instances share."""

    def __init__(self, folder: Path, channel_url: str, token_url: str, clock: ManualClock) -> None:
        self.http = HttpClient(allow_address=anywhere, connect_timeout=2, read_timeout=5)
        self.clock = clock
        self.channel_url = channel_url
        self.tokens: list[str] = []
        client = UserTokenClient(
            self.http,
            self._agent_token,
            app_id="app",
            base_url=token_url,
            connections=lambda name: OAuthConnection(name, f"{name}-connection"),
        )
        adapter = CloudAdapter(
            identity=lambda: AgentIdentity(None, None),
            connector=lambda: ConnectorClient(self.http, None, clock.now),
            guard=lambda: UrlGuard(development=True),
            now=clock.now,
            user_tokens=lambda: client,
        )
        self.adapter = adapter
        self.store = SqliteStore(folder / "documents.db", clock.now)
        self.queue = SqliteQueue(folder / "queues.db", "work", now=clock.now)
        self.agent = AgentApplication(adapter, self.store, self.queue)

        @self.agent.message("profile")
        async def profile(context: TurnContext, state: TurnState) -> None:
            self.tokens.append(await context.user_token("graph"))
            await context.send_activity("Hello, you")

    async def _agent_token(self, force_refresh: bool) -> str:
        return AGENT_SECRET

    async def post(self, activity_type: str, **fields: Any) -> HttpResponse:
        """What a client of the user's sends."""
        body = {
            "type": activity_type,
            "id": uuid4().hex,
            "channelId": "msteams",
            "serviceUrl": self.channel_url,
            "conversation": {"id": "c1", "conversationType": "personal"},
            "from": {"id": "29:user"},
            "recipient": {"id": "28:app"},
            **fields,
        }
        headers = {"content-type": "application/json"}
        request = HttpRequest("POST", "http://127.0.0.1:7071/api/messages", headers, json.dumps(body).encode())
        return await self.adapter.process_activity(request, self.agent)

    async def exchange(self, token: str) -> HttpResponse:
        """A client answers the card by itself."""
        value = {"id": "exchange-1", "connectionName": "graph-connection", "token": token}
        return await self.post("invoke", name="signin/tokenExchange", value=value)

    async def work(self) -> None:
        """Do what is due on the queue."""
        while received := await self.queue.receive(10):
            for each in received:
                await self.agent.do_work(each.message)
                await self.queue.complete(each)

    async def close(self) -> None:
        await self.http.close()
        await self.store.close()
        await self.queue.close()


async def main(folder: str, channel_url: str, token_url: str) -> None:
    app = SignInApp(Path(folder), channel_url, token_url, ManualClock())
    await app.post("message", text="profile")
    await app.exchange("client token")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
