"""Documents that the Agents SDKs for .NET, JavaScript and Python stored, read as what they mean to us.

Sources, each at its `main` in August 2026: `CosmosDbPartitionedStorage.cs`, `CosmosDBKeyEscape.cs`, `Conversation.cs`,
`AgentState.cs` and `TypeExtensions.cs` of microsoft/Agents-for-net; `cosmosDbPartitionedStorage.ts`,
`cosmosDbKeyEscape.ts`, `conversation.ts`, `turnState.ts` and `agentState.ts` of microsoft/Agents-for-js; `key_ops.py`,
`cosmos_db_storage.py`, `conversation.py` and `turn_state.py` of microsoft/Agents-for-python.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from agent_core.activity.conversation_reference import ConversationReference
from agent_core.errors import BadActivity
from agent_core.proactive.conversation import Conversation
from agent_core.store.document_store import JsonObject, is_storable
from agent_core.turn.claims_identity import PERSISTED_CLAIMS, ClaimsIdentity


@dataclass(frozen=True, slots=True)
class FoundConversation:
    """A conversation that an SDK stored.

    Attributes:
        key: under which the SDK stored it.
        conversation: its service URL was in no token that we validated, so it is not marked as verified.
        written: when the SDK last wrote it, None where the document does not say; `last_seen` is then the time of the
            import.
    """

    key: str
    conversation: Conversation
    written: datetime | None


@dataclass(frozen=True, slots=True)
class FoundState:
    """The state of a conversation, or of a user: either `conversation_id` or `user_id` is given."""

    key: str
    channel_id: str
    conversation_id: str | None
    user_id: str | None
    values: JsonObject


@dataclass(frozen=True, slots=True)
class NotImported:
    """A document that is not taken over.

    Attributes:
        reason: a stable word for programs.
        explanation: a sentence for people.
    """

    key: str
    reason: str
    explanation: str


Found = FoundConversation | FoundState | NotImported

_CONVERSATION_KEYS = ("proactive/conversations/", "conversationreferences/")
# The SDK for JavaScript puts the agent's id between channel and scope, and a namespace, mostly empty, at the end.
_STATE_KEY = re.compile(
    r"(?P<channel>[^/]+)(/(?P<agent>[^/]+))?/(?P<scope>conversations|users)/(?P<id>.+?)/?", re.DOTALL
)
_PRIVATE_STATE_KEY = re.compile(r"[^/]+/conversations/.+/users/.+", re.DOTALL)
_GUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)

# What stands for a forbidden character: its code in hexadecimal digits (.NET, JavaScript) or decimal ones (Python).
_FORBIDDEN = "\\?/#*\t\n\r"
_ESCAPES = {f"*{ord(each):x}": each for each in _FORBIDDEN} | {f"*{ord(each):02x}": each for each in _FORBIDDEN}
_ESCAPES |= {f"*{ord(each)}": each for each in _FORBIDDEN}
_ESCAPE = re.compile("|".join(re.escape(each) for each in sorted(_ESCAPES, key=len, reverse=True)))

# What storage adds to an item, and what belongs to one activity and not to its conversation.
_OF_STORAGE = ("$type", "$typeAssembly", "eTag")
_OF_ONE_ACTIVITY = ("activityId", "deliveryMode", "requestId")


def read_document(item: Mapping[str, Any], *, app_id: str, now: datetime) -> Found:
    """What a document is to us.

    Args:
        item: as it lies in Cosmos DB, `{id, realId, document}`; or the SDK's item alone, as a file may have it.
        app_id: of this agent; what was stored for another one is not imported.
        now: when a conversation was last seen whose document does not say when it was written.
    """
    wrapped = item.get("document")
    document = wrapped if isinstance(wrapped, dict) else item
    key = _key(item)
    if "schemaVersion" in item:
        return NotImported(key, "ours", "it is a document of this library already")
    if "document" in item and not isinstance(wrapped, dict):
        return NotImported(key, "unknown-shape", "its `document` is no JSON object")
    if not key.startswith(_CONVERSATION_KEYS):
        if _PRIVATE_STATE_KEY.fullmatch(key):
            return NotImported(key, "private-state", "this library has no state of one user in one conversation")
        state = _STATE_KEY.fullmatch(key)
        if state is not None and document is wrapped:
            return _state(key, state, document, app_id)
    return _conversation(key, item, document, app_id, now)


def unescaped(key: str) -> str:
    """A key as it was before an SDK made it an id of Cosmos DB; what was cut off at 255 characters is lost."""
    return _ESCAPE.sub(lambda found: _ESCAPES[found[0]], key)


def _key(item: Mapping[str, Any]) -> str:
    for name in ("realId", "key"):
        if isinstance(item.get(name), str) and item[name]:
            return str(item[name])
    return unescaped(item["id"]) if isinstance(item.get("id"), str) else ""


def _conversation(key: str, item: Mapping[str, Any], document: Mapping[str, Any], app_id: str, now: datetime) -> Found:
    if "conversationReference" in document:
        return NotImported(key, "agent-to-agent", "it links a conversation to an agent that this one called")
    found = document.get("conversation_reference", document.get("reference"))
    if found is None and not key.startswith(_CONVERSATION_KEYS) and "conversation" in document:
        found = document  # a reference alone, as the Bot Framework's samples and the Agents Toolkit store it
    if not isinstance(found, dict):
        known = key.startswith(_CONVERSATION_KEYS) or "claims" in document
        if known:
            return NotImported(key, "no-reference", "it has no conversation reference")
        return NotImported(key, "unknown-shape", "it is neither a conversation nor a state of the Agents SDKs")
    try:
        reference = ConversationReference.from_dict(_reference(found))
    except (BadActivity, TypeError) as error:
        return NotImported(key, "damaged", f"its reference cannot be read: {error}")
    fault = _fault(key, reference)
    if fault is not None:
        return fault
    claims = _claims(document.get("claims"))
    agent = reference.agent.id if reference.agent else None
    if "aud" in claims:
        ours = claims["aud"].lower() == app_id.lower()
    else:
        ours = _app_named_by(agent) == app_id.lower()
        if not ours and _app_named_by(agent) is None:
            return NotImported(key, "no-audience", "neither its claims nor its agent's id say which app it belongs to")
        claims["aud"] = app_id
    if not ours:
        return NotImported(key, "other-app", "it belongs to another app")
    written = _written(item, now)
    conversation = Conversation(
        reference=reference, identity=ClaimsIdentity(claims, service_url_verified=False), last_seen=written or now
    )
    return FoundConversation(key, conversation, written)


def _fault(key: str, reference: ConversationReference) -> NotImported | None:
    if not reference.conversation_id:
        return NotImported(key, "no-conversation-id", "its reference names no conversation")
    if not is_storable(reference.conversation_id):
        return NotImported(key, "unstorable-id", "its conversation's id is longer than 1000 characters, or no text")
    if not reference.channel:
        return NotImported(key, "no-channel", "its reference names no channel")
    if not reference.service_url:
        return NotImported(key, "no-service-url", "its reference has no serviceUrl, so nothing can be sent there")
    return None


def _state(key: str, found: re.Match[str], document: Mapping[str, Any], app_id: str) -> Found:
    if found["agent"] is not None and _app_named_by(found["agent"]) not in (None, app_id.lower()):
        return NotImported(key, "other-app", "it belongs to another app")
    if not is_storable(found["id"]):
        return NotImported(key, "unstorable-id", "its id is longer than 1000 characters, or no text")
    values = {name: value for name, value in document.items() if name not in _OF_STORAGE}
    if not values:
        return NotImported(key, "empty-state", "nothing is in it")
    of_users = found["scope"] == "users"
    return FoundState(
        key,
        found["channel"],
        conversation_id=None if of_users else found["id"],
        user_id=found["id"] if of_users else None,
        values=values,
    )


def _reference(found: Mapping[str, Any]) -> JsonObject:
    """The reference in the protocol's words.

    JavaScript says `agent` where the protocol says `bot`; a sample for Python stores its own attributes' names.
    """
    reference: JsonObject = {}
    for name, value in found.items():
        inner = {_camel(each): kept for each, kept in value.items()} if isinstance(value, dict) else value
        reference[_camel(name)] = inner
    agent = reference.pop("agent", None)
    if agent is not None:
        reference.setdefault("bot", agent)
    unwanted = {*_OF_STORAGE, *_OF_ONE_ACTIVITY}
    return {name: value for name, value in reference.items() if value is not None and name not in unwanted}


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest) if first else name


def _claims(found: Any) -> dict[str, str]:
    """The seven that are kept, of all that JavaScript stores; an audience can be a list."""
    claims: dict[str, str] = {}
    for name in PERSISTED_CLAIMS:
        value = found.get(name) if isinstance(found, dict) else None
        if isinstance(value, list) and value:
            value = value[0]
        if isinstance(value, str) and value:
            claims[name] = value
    return claims


def _app_named_by(agent_id: str | None) -> str | None:
    """The app id in an agent's id, which has it on some channels, on Teams with a prefix."""
    named = (agent_id or "").removeprefix("28:")
    return named.lower() if _GUID.fullmatch(named) else None


def _written(item: Mapping[str, Any], now: datetime) -> datetime | None:
    """When Cosmos DB wrote it. Not in the future: until then, no turn would count as newer."""
    seconds = item.get("_ts")
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or seconds < 0:
        return None
    try:
        return min(datetime.fromtimestamp(seconds, UTC), now)
    except (OverflowError, OSError, ValueError):
        return None
