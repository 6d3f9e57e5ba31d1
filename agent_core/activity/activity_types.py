"""The words of the protocol. Every one of these sets is open: fields hold strings, and unknown ones pass (A2012)."""

from __future__ import annotations

from enum import StrEnum


class ActivityTypes(StrEnum):
    """What an activity is, in `Activity.type`; compared exactly (A2011)."""

    message = "message"
    contact_relation_update = "contactRelationUpdate"
    conversation_update = "conversationUpdate"
    typing = "typing"
    end_of_conversation = "endOfConversation"
    event = "event"
    invoke = "invoke"
    invoke_response = "invokeResponse"
    delete_user_data = "deleteUserData"
    message_update = "messageUpdate"
    message_delete = "messageDelete"
    installation_update = "installationUpdate"
    message_reaction = "messageReaction"
    suggestion = "suggestion"
    trace = "trace"
    handoff = "handoff"
    command = "command"
    command_result = "commandResult"


class CallbackTypes(StrEnum):
    """What an external system says with a callback; in a continuation it is `context.activity.value_type`.

    `failed` means that the work came to nothing: `context.activity.value["error"]` has its `code` and `message`.
    """

    result = "agent.callback.result.v1"
    progress = "agent.callback.progress.v1"
    failed = "agent.callback.failed.v1"
    notification = "agent.notification.v1"


class RoleTypes(StrEnum):
    """Who an account is; compared in any case, and `bot` is what most of the field writes for `agent`."""

    user = "user"
    agent = "agent"
    bot = "bot"
    skill = "skill"
    agentic_app_instance = "agenticAppInstance"
    agentic_user = "agenticUser"
    connector_user = "connectoruser"


class DeliveryModes(StrEnum):
    """How the replies travel; an unknown mode is `normal` (A3111)."""

    normal = "normal"
    notification = "notification"
    expect_replies = "expectReplies"
    ephemeral = "ephemeral"
    stream = "stream"

    @classmethod
    def of(cls, mode: str | None) -> DeliveryModes:
        """The mode that this is to be handled as."""
        return cls(mode) if mode in (cls.expect_replies, cls.stream) else cls.normal


class TextFormatTypes(StrEnum):
    """What `Activity.text` is written in; say it, for the sources disagree on the default."""

    markdown = "markdown"
    plain = "plain"
    xml = "xml"


class AttachmentLayoutTypes(StrEnum):
    """How several attachments are shown."""

    list = "list"
    carousel = "carousel"


class ActivityImportance(StrEnum):
    """How much a message matters."""

    low = "low"
    normal = "normal"
    high = "high"


class InputHints(StrEnum):
    """What the agent waits for after a message.

    These are the words of every SDK; the specification's text says `accepting`, `expecting` and `ignoring`.
    """

    accepting_input = "acceptingInput"
    expecting_input = "expectingInput"
    ignoring_input = "ignoringInput"

    @classmethod
    def of(cls, hint: str | None) -> str | None:
        """The hint in these words, whichever it came in; an unknown one as it is."""
        return f"{hint}Input" if hint in ("accepting", "expecting", "ignoring") else hint


class EndOfConversationCodes(StrEnum):
    """Why a conversation ended."""

    unknown = "unknown"
    completed_successfully = "completedSuccessfully"
    user_cancelled = "userCancelled"
    timed_out = "timedOut"
    issued_invalid_message = "agentIssuedInvalidMessage"
    unrecognized_error = "unrecognizedError"
    channel_failed = "channelFailed"
    error = "error"

    @classmethod
    def of(cls, code: str | None) -> str | None:
        """The code in these words, whichever SDK wrote it (`botTimedOut`, `agentTimedOut`); an unknown one as it is."""
        return _END_CODES.get(code, code) if code else code


_END_CODES: dict[str, str] = {
    "botTimedOut": EndOfConversationCodes.timed_out,
    "agentTimedOut": EndOfConversationCodes.timed_out,
    "botIssuedInvalidMessage": EndOfConversationCodes.issued_invalid_message,
}


class SemanticActionStates(StrEnum):
    """Where a semantic action stands."""

    start = "start"
    continue_ = "continue"
    done = "done"


class ActionTypes(StrEnum):
    """What a button does."""

    open_url = "openUrl"
    im_back = "imBack"
    post_back = "postBack"
    play_audio = "playAudio"
    play_video = "playVideo"
    show_image = "showImage"
    download_file = "downloadFile"
    signin = "signin"
    call = "call"
    message_back = "messageBack"
    open_app = "openApp"


class TeamsEventTypes(StrEnum):
    """What `channelData.eventType` says in Teams of a conversationUpdate, messageUpdate or messageDelete.

    https://learn.microsoft.com/microsoftteams/platform/bots/how-to/conversations/subscribe-to-conversation-events
    """

    channel_created = "channelCreated"
    channel_renamed = "channelRenamed"
    channel_deleted = "channelDeleted"
    channel_restored = "channelRestored"
    team_member_added = "teamMemberAdded"
    team_member_removed = "teamMemberRemoved"
    team_renamed = "teamRenamed"
    team_deleted = "teamDeleted"
    team_hard_deleted = "teamHardDeleted"
    team_restored = "teamRestored"
    team_archived = "teamArchived"
    team_unarchived = "teamUnarchived"
    edit_message = "editMessage"
    undelete_message = "undeleteMessage"
    soft_delete_message = "softDeleteMessage"
