"""Which handler answers which activity: the first route that matches, in order of registration."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from agent_core.activity.activity import Activity
from agent_core.turn.turn_state import Handler

# True or the match of a regular expression: this route answers. False or None: ask the next one.
Selector = Callable[[Activity], re.Match[str] | bool | None]


@dataclass(frozen=True, slots=True)
class Route:
    """A handler, and which activities are for it."""

    selects: Selector
    handler: Handler
    long_running: bool = False


class Routes:
    """The agent's routes, in order."""

    def __init__(self) -> None:
        self._routes: list[Route] = []

    def add(self, route: Route) -> None:
        """Append: what was registered before is asked before."""
        self._routes.append(route)

    def find(self, activity: Activity) -> tuple[Route, re.Match[str] | None] | None:
        """The first route that matches, with what its regular expression found; None if there is none."""
        for route in self._routes:
            found = route.selects(activity)
            if found:
                return route, found if isinstance(found, re.Match) else None
        return None


def of_type(activity_type: str) -> Selector:
    """Activities of this type; types are compared exactly (A2011)."""
    return lambda activity: activity.type == activity_type


def message(text: str | re.Pattern[str] | None) -> Selector:
    """Messages that say this and nothing else, in any case; in which the expression is found; or all of them."""

    def selects(activity: Activity) -> re.Match[str] | bool | None:
        if activity.type != "message":
            return False
        said = (activity.text or "").strip()
        if text is None:
            return True
        return said.casefold() == text.casefold() if isinstance(text, str) else text.search(said)

    return selects


def named(activity_type: str, name: str | re.Pattern[str]) -> Selector:
    """Events or invokes of this name."""

    def selects(activity: Activity) -> re.Match[str] | bool | None:
        if activity.type != activity_type:
            return False
        return activity.name == name if isinstance(name, str) else name.search(activity.name or "")

    return selects


def conversation_update(event_type: str | None) -> Selector:
    """Conversation updates, of one kind if it is given."""

    def selects(activity: Activity) -> bool:
        if activity.type != "conversationUpdate" or event_type is None:
            return activity.type == "conversationUpdate"
        return activity.teams_channel_data.event_type == event_type

    return selects


def members(field: str) -> Selector:
    """Conversation updates that add or remove somebody other than the agent itself."""

    def selects(activity: Activity) -> bool:
        agent = activity.recipient.id if activity.recipient else None
        return activity.type == "conversationUpdate" and any(each.id != agent for each in getattr(activity, field))

    return selects


# What to write for an activity that no route answers.
_SUGGESTIONS = {
    "message": '@agent.message("…")',
    "event": "@agent.event({name!r})",
    "invoke": "@agent.invoke({name!r})",
    "command": "@agent.command({name!r})",
    "conversationUpdate": "@agent.conversation_update()",
    "messageReaction": "@agent.reaction",
    "installationUpdate": "@agent.installation",
}


def suggestion(activity: Activity) -> str:
    """The decorator that would have caught this activity."""
    if activity.type == "conversationUpdate" and activity.members_added:
        return "@agent.members_added"
    if activity.type == "conversationUpdate" and activity.members_removed:
        return "@agent.members_removed"
    return _SUGGESTIONS.get(activity.type or "", "@agent.activity({type!r})").format(
        name=activity.name, type=activity.type
    )
