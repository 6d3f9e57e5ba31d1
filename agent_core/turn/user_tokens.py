"""Tokens of users: what a turn asks for, and what must be there to give it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from agent_core.activity.cards import TokenExchangeResource, TokenPostResource
from agent_core.activity.conversation_reference import ConversationReference
from agent_core.activity.wire import WireObject

if TYPE_CHECKING:  # a context has one of these
    from agent_core.turn.turn_context import TurnContext


@dataclass(frozen=True, slots=True)
class OAuthConnection:
    """What a name such as `graph` stands for.

    Attributes:
        name: what handlers say.
        connection_name: the OAuth connection of the Azure Bot.
        title: of the button on the card.
        text: of the card.
    """

    name: str
    connection_name: str
    title: str = "Sign in"
    text: str = "Please sign in to go on."


@dataclass(frozen=True, slots=True)
class TokenResponse:
    """A user's token, as the token service gives it. It is for this turn: keep it nowhere, the service keeps it.

    Attributes:
        expiration: when it ends, as the service wrote it; None where it did not.
    """

    connection_name: str
    token: str = field(repr=False)
    expiration: str | None = None


class SignInResource(WireObject):
    """Where and how a user signs in: what the card is made of."""

    sign_in_link: str | None = None
    token_exchange_resource: TokenExchangeResource | None = None
    token_post_resource: TokenPostResource | None = None


class UserTokenService(Protocol):
    """What keeps the users' tokens: the Bot Service's token service, or a double of it.

    A user is named by the channel's id (`from.id`) and the channel without its sub-channel. Every call raises
    ChannelError where the service failed or was not reached, and SettingsError where there is none.
    """

    def connection(self, name: str) -> OAuthConnection:
        """What that name stands for; by default a connection of the same name."""

    async def get_token(
        self, user_id: str, connection_name: str, channel_id: str, *, code: str | None = None
    ) -> TokenResponse | None:
        """The user's token; None if he is not signed in, or the code is wrong."""

    async def get_token_or_sign_in_resource(
        self, user_id: str, connection_name: str, reference: ConversationReference
    ) -> TokenResponse | SignInResource:
        """The user's token, or how he gets one in that conversation."""

    async def exchange_token(
        self, user_id: str, connection_name: str, channel_id: str, *, token: str
    ) -> TokenResponse | None:
        """Sign the user in with a token that his client got; None if it is good for nothing.

        Raises:
            ConsentRequired: the user must first allow it.
        """

    async def sign_out(self, user_id: str, connection_name: str, channel_id: str) -> None:
        """Forget the user's token."""


class UserTokens(Protocol):
    """Where turns get the tokens of their users."""

    async def token(self, context: TurnContext, name: str, user_id: str | None) -> str:
        """See `TurnContext.user_token`."""

    async def sign_out(self, context: TurnContext, name: str) -> None:
        """See `TurnContext.sign_out`."""
