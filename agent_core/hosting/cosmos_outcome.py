"""What each of Cosmos DB's errors means to us: an answer to decide on, a service to wait for, or a fault to mend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent_core.errors import StoreError, StoreUnavailable
from agent_core.store.document_store import Container

if TYPE_CHECKING:
    from azure.core.exceptions import AzureError

# https://learn.microsoft.com/rest/api/cosmos-db/http-status-codes-for-cosmosdb, and the SDK's SubStatusCodes.
OWNER_NOT_FOUND = 1003
# Refusals that pass: a region failing over, a replica behind the session, a container not yet there everywhere.
_LATER = {(403, 3), (403, 1008), (404, 1002), (404, 1013)}


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a request.

    Attributes:
        status: 200, or the status of the refusal.
        index: which operation of a batch was refused.
    """

    status: int
    result: Any = None
    index: int = 0


def outcome(error: AzureError, container: Container) -> Answer:
    """The refusal an error stands for, where the caller has to decide: 404, 409, 412, 449, or 429 inside a batch.

    Raises:
        StoreUnavailable: no answer, or one that says later.
        StoreError: an answer that stays: access is denied, the request is too large or wrong.
    """
    from azure.core.exceptions import ClientAuthenticationError
    from azure.cosmos.exceptions import CosmosBatchOperationError, CosmosHttpResponseError

    if isinstance(error, ClientAuthenticationError):
        raise StoreError(f"Cosmos DB: no token for {container.name!r}; check the app's managed identity") from error
    if not isinstance(error, (CosmosBatchOperationError, CosmosHttpResponseError)):
        raise StoreUnavailable(f"Cosmos DB gave no answer about {container.name!r}: {type(error).__name__}") from error
    status, sub_status = error.status_code or 0, error.sub_status or 0
    if status == 449 or (status in (404, 409, 412) and (status, sub_status) not in _LATER):
        return Answer(status, index=_failed_index(error))
    if status == 429 and isinstance(error, CosmosBatchOperationError):
        return Answer(status)
    told = f"{container.name!r} with {status}/{sub_status}"
    if status in (401, 403) and (status, sub_status) not in _LATER:
        raise StoreError(
            f"Cosmos DB refused access to {told}: check the account key, or that the app's identity has the role "
            "Cosmos DB Built-in Data Contributor"
        ) from error
    if status == 413:
        raise StoreError(f"Cosmos DB refused a request to {told}: a document or batch has at most 2 MB") from error
    if status in (0, 408, 410, 429) or status >= 500 or (status, sub_status) in _LATER:
        raise StoreUnavailable(f"Cosmos DB could not answer about {told}") from error
    raise StoreError(f"Cosmos DB refused a request to {told}; the error this came from says why") from error


def _failed_index(error: AzureError) -> int:
    index = getattr(error, "error_index", None)
    return index if isinstance(index, int) else 0
