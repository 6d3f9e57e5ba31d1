"""The app's own HTTP routes, beside the one that channels call."""

from __future__ import annotations

import json
from typing import Any

import azure.functions as func

from agent_core.errors import AgentError
from agent_core.hosting.functions_host import FunctionsHost
from agent_core.hosting.schedule_routes import schedule_routes
from agent_core.store.document_store import CONVERSATIONS


def http_api(host: FunctionsHost) -> func.Blueprint:
    """The routes as a blueprint: `app.register_functions(http_api(host))`.

    `GET /api/health/live` answers 200 while the process runs. `GET /api/health/ready` asks the settings and the store,
    and answers 503 with what is wrong. `/api/schedules` is `agent.notifications` for those who have no Python; it needs
    a function key, see docs/contracts/schedules.md.
    """
    blueprint = func.Blueprint()  # type: ignore[no-untyped-call]  # azure-functions leaves its constructor untyped

    @blueprint.route("health/live", methods=["GET"], auth_level=func.AuthLevel.ANONYMOUS)
    async def live(req: func.HttpRequest) -> func.HttpResponse:
        return _json(200, {"status": "ok"})

    @blueprint.route("health/ready", methods=["GET"], auth_level=func.AuthLevel.ANONYMOUS)
    async def ready(req: func.HttpRequest) -> func.HttpResponse:
        problems = host.services.settings.problems()
        if not problems:
            try:
                await host.services.store.read(CONVERSATIONS, "health", "health")
            except AgentError as error:
                problems = [str(error)]
        if problems:
            return _json(503, {"error": {"code": "NotReady", "message": " ".join(problems)}})
        return _json(200, {"status": "ok"})

    schedule_routes(blueprint, host)
    return blueprint


def _json(status: int, body: dict[str, Any]) -> func.HttpResponse:
    return func.HttpResponse(json.dumps(body), status_code=status, mimetype="application/json")
