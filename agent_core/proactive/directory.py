"""The conversations by what an operator knows of them: who is in them, where they are, and whether they are active."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from agent_core.proactive.conversation import Conversation, Status
from agent_core.proactive.conversations import Conversations
from agent_core.store.document_rules import MAX_LIMIT
from agent_core.store.document_store import CONVERSATIONS, DocumentStore, Where


@dataclass(frozen=True, slots=True)
class ConversationPage:
    """Some conversations; `continuation` asks for the rest and is None at the end."""

    conversations: list[Conversation]
    continuation: str | None = None


@dataclass(frozen=True, slots=True)
class ConversationFilter:
    """Which conversations are meant: those that meet everything that is given. Without anything: all.

    What is forgotten is found by `status="forgotten"` and not otherwise.

    Attributes:
        aad_object_id: the user's id in Microsoft Entra; in a group whoever was last heard of.
        user_id: the user's id on the channel, likewise.
        tenant_id: of Microsoft Entra; object ids are unique without it.
        team_id: a team in Teams, `19:…@thread.tacv2`.
        teams_channel_id: a channel of a team, all its threads.
        channel_id: `msteams`, `webchat` …; with or without a sub-channel.
        status: `active`, `suspended` or `forgotten`.
    """

    aad_object_id: str | None = None
    user_id: str | None = None
    tenant_id: str | None = None
    team_id: str | None = None
    teams_channel_id: str | None = None
    channel_id: str | None = None
    status: Status | None = None

    def where(self) -> list[Where]:
        """The conditions of the query, the one that leaves the fewest documents first."""
        wanted = {
            "aadObjectId": self.aad_object_id and self.aad_object_id.lower(),
            "userId": self.user_id,
            "teamsChannelId": self.teams_channel_id,
            "teamId": self.team_id,
            "tenantId": self.tenant_id and self.tenant_id.lower(),
            "kind": "conversation",
            "status": self.status,
            "channel": self.channel_id and self.channel_id.partition(":")[0],
        }
        return [Where(name, "=", value) for name, value in wanted.items() if value is not None]


class ConversationDirectory:
    """Finds, lists, counts and deletes conversations. It asks all partitions, and so is not for the path of a turn."""

    def __init__(self, store: DocumentStore, conversations: Conversations) -> None:
        self._store = store
        self._conversations = conversations

    async def get(self, conversation_id: str, channel_id: str | None = None) -> Conversation | None:
        """The conversation of that id, suspended ones too, or None. Raises ConversationAmbiguous if several channels
        have one of that id."""
        return await self._conversations.get(conversation_id, channel_id)

    async def every(self, which: ConversationFilter = ConversationFilter()) -> AsyncIterator[Conversation]:
        """All of them, read page by page."""
        continuation: str | None = None
        while True:
            page = await self.list(which, page_size=MAX_LIMIT, continuation=continuation)
            for conversation in page.conversations:
                yield conversation
            continuation = page.continuation
            if continuation is None:
                return

    async def find_by_user(self, aad_object_id: str, *, tenant_id: str | None = None) -> list[Conversation]:
        """The conversations of a user, on all channels; in groups those in which the user was last heard of."""
        which = ConversationFilter(aad_object_id=aad_object_id, tenant_id=tenant_id)
        return [conversation async for conversation in self.every(which)]

    async def count(self, which: ConversationFilter = ConversationFilter()) -> int:
        """How many there are. Reads each of them: a store does not count."""
        return sum([1 async for _ in self.every(which)])

    async def delete(self, conversation_id: str, channel_id: str | None = None) -> bool:
        """Delete one with its state; False if there is none. Its messages in Teams and elsewhere are not touched."""
        return await self._conversations.delete(conversation_id, channel_id)

    async def list(
        self,
        which: ConversationFilter = ConversationFilter(),
        *,
        page_size: int = 100,
        continuation: str | None = None,
    ) -> ConversationPage:
        """One page, in no promised order; at most `page_size` (1 to 1000), and maybe fewer though more follow.

        What changes while one pages may be seen or not; what stays is seen once.
        """
        page = await self._store.query(CONVERSATIONS, where=which.where(), limit=page_size, continuation=continuation)
        found = [Conversation.from_document(document) for document in page.documents]
        if which.status is None:
            found = [conversation for conversation in found if conversation.status != "forgotten"]
        return ConversationPage(found, page.continuation)
