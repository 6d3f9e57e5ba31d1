"""Fetches what users send along, as each channel keeps it, and shows the agent's token to no address a sender chose.

| channel | where the content is | what is sent along |
|---|---|---|
| Teams, a file | `downloadUrl`, with a permission in it that ends after minutes | nothing |
| Teams, a picture | `…/v3/attachments/{id}/views/{view}` of the verified serviceUrl's server | the agent's token |
| Slack | `files.slack.com` | the Slack token that the app gives, none that an activity names |
| all others | a host of the guard's list | nothing |
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from types import MappingProxyType
from urllib.parse import urljoin

from agent_core.activity.activity import Activity
from agent_core.activity.attachments import Attachment, ContentTypes
from agent_core.activity.received_attachments import FetchedContent, address_of
from agent_core.channel.http_client import HttpClient, HttpStream
from agent_core.channel.url_guard import UrlGuard, same_origin
from agent_core.errors import AttachmentNotAvailable, NoAnswer, NotAllowed, NotSent
from agent_core.turn.claims_identity import ClaimsIdentity

SLACK_FILES = "https://files.slack.com/"

# The one thing of the connector that the agent's token is shown for here; no way out of that path, by dots or in code.
_CONNECTOR_VIEW = re.compile(
    r"https?://[^/]+(?:/[\w~-][\w.~-]*)*/v3/attachments/[\w~-][\w.~-]*/views/[\w~-]+", re.ASCII
)
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class AttachmentDownloader:
    """Fetches the content of attachments.

    Args:
        token: gives the agent's token for the Bot Connector; None in development without an app id.
        max_seconds: for the whole of one fetch, whatever the server does.
    """

    def __init__(
        self,
        http: HttpClient,
        guard: UrlGuard,
        token: Callable[[], Awaitable[str]] | None,
        *,
        max_seconds: float = 60.0,
    ) -> None:
        self._http = http
        self._guard = guard
        self._token = token
        self._max_seconds = max_seconds

    @asynccontextmanager
    async def fetch(
        self,
        activity: Activity,
        identity: ClaimsIdentity,
        attachment: Attachment,
        *,
        slack_token: str | None = None,
        max_redirects: int = 0,
    ) -> AsyncGenerator[FetchedContent, None]:
        """Fetch the content of an attachment of that activity, which that caller sent.

        Raises:
            AttachmentNotAvailable: it may not be fetched, or could not be.
            ChannelError: no token for the connector.
        """
        url = address_of(attachment) or ""
        headers = await self._proof(activity, identity, attachment, url, slack_token)
        if not headers:
            self._check(url)
        redirects_left = 0 if headers else max_redirects
        while True:
            async with self._opened(url, headers) as answer:
                if answer.status not in (301, 302, 303, 307, 308):
                    _check_answer(answer)
                    async with aclosing(_chunks(answer)) as chunks:
                        yield FetchedContent(answer.headers.get("content-type"), chunks)
                    return
                if redirects_left == 0:
                    raise AttachmentNotAvailable(
                        "The content's address leads on to another, which is not followed; where no token is needed, "
                        "max_redirects allows up to 3",
                        code="Redirected",
                        status=answer.status,
                    )
                url = _joined(url, answer.headers.get("location", ""))
            redirects_left -= 1
            self._check(url)

    async def _proof(
        self, activity: Activity, identity: ClaimsIdentity, attachment: Attachment, url: str, slack_token: str | None
    ) -> Mapping[str, str]:
        """The headers that show who is asking, empty where nobody is to know."""
        if slack_token and activity.channel == "slack" and same_origin(url, SLACK_FILES):
            return {"authorization": f"Bearer {slack_token}"}
        if self._token is not None and self._is_connectors(activity, identity, attachment, url):
            return {"authorization": f"Bearer {await self._token()}"}
        return _NO_HEADERS

    def _is_connectors(self, activity: Activity, identity: ClaimsIdentity, attachment: Attachment, url: str) -> bool:
        """Whether the connector, of which a validated token spoke, keeps it: only to whom we would send as well."""
        return (
            activity.channel == "msteams"
            and attachment.content_type != ContentTypes.file_download_info
            and identity.service_url_verified
            and identity.calling_agent is None
            and same_origin(url, activity.service_url)
            and self._guard.may_receive_token(url)
            and _CONNECTOR_VIEW.fullmatch(url) is not None
        )

    def _check(self, url: str) -> None:
        try:
            self._guard.check_fetch_url(url)
        except NotAllowed as error:
            advice = "; files of Slack need slack_token" if same_origin(url, SLACK_FILES) else ""
            raise AttachmentNotAvailable(f"{error}{advice}", code="HostNotAllowed") from error

    @asynccontextmanager
    async def _opened(self, url: str, headers: Mapping[str, str]) -> AsyncGenerator[HttpStream, None]:
        async with AsyncExitStack() as stack:
            stream = self._http.stream(url, headers=headers, max_seconds=self._max_seconds)
            try:
                answer = await stack.enter_async_context(stream)
            except (NotSent, NoAnswer) as error:
                raise _unreachable(str(error)) from error
            yield answer


def _check_answer(answer: HttpStream) -> None:
    status = answer.status
    if status in (401, 403, 404, 410):
        raise AttachmentNotAvailable(
            f"The content is no longer there for the agent (status {status}): links of Teams end after minutes, "
            "others need a token or a permission. Download while the turn is fresh, or ask for it to be sent again.",
            code="Expired",
            status=status,
        )
    if status != 200:
        raise _unreachable(f"status {status}", status)
    if answer.headers.get("content-encoding", "identity").lower() not in ("", "identity"):
        raise AttachmentNotAvailable(
            "The content came compressed, though it was asked for as it is; it could unpack to anything",
            code="Compressed",
            status=status,
        )


async def _chunks(answer: HttpStream) -> AsyncGenerator[bytes, None]:
    try:
        async for chunk in answer.chunks:
            yield chunk
    except NoAnswer as error:
        raise _unreachable(str(error), answer.status) from error


def _unreachable(why: str, status: int | None = None) -> AttachmentNotAvailable:
    return AttachmentNotAvailable(
        f"The content was not fetched to its end ({why}); try again, or ask for it to be sent again",
        code="Unreachable",
        status=status,
    )


def _joined(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError:  # no URL at all, such as https://[
        return ""
