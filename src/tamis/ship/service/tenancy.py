"""`/admin/tenants`: list, add, remove."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from tamis.config import TENANT_NAME
from tamis.ship.service.admin import REFUSALS, administered
from tamis.ship.service.answers import Service, bearer, respond, service_of
from tamis.ship.service.native import ErrorResponse
from tamis.ship.service.schema import documented

PATH = "/admin/tenants"
TENANT: dict[str, Any] = {
    "name": "forum",
    "bundle": "9b1de0a4c3f7",
    "folder": "/srv/bundles/forum",
    "policy": "forum 1.0",
}


class AddRequest(BaseModel):
    """A tenant's name, which requests give as `model`, and the folder of its bundle on the machine that serves."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"name": "forum", "folder": "/srv/bundles/forum"}]}
    )

    name: str = Field(pattern=TENANT_NAME)
    folder: str = Field(min_length=1, max_length=4096)


class RemoveRequest(BaseModel):
    """The name of a tenant that is there."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"name": "forum"}]})

    name: str = Field(min_length=1, max_length=64)


class TenantOut(BaseModel):
    """A tenant and the bundle that decides for it."""

    name: str
    bundle: str
    folder: str
    policy: str


class TenantsResponse(BaseModel):
    """The tenants of the worker that answers."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"tenants": [TENANT]}]})

    tenants: list[TenantOut]


router = APIRouter()


@router.get(
    PATH, response_model=TenantsResponse, responses={401: {"model": ErrorResponse}, 403: {"model": ErrorResponse}}
)
async def list_tenants(request: Request) -> Response:
    """The tenants of the worker that answers."""
    service = service_of(request)
    with service.keyring.admit(bearer(request), "admin"):
        return respond(_told(service))


@router.post(f"{PATH}/add", **documented(AddRequest, TenantsResponse, ErrorResponse, REFUSALS))
async def add_tenant(request: Request) -> Response:
    """Check, load and warm a tenant's bundle; it takes the place of the one it had."""
    return await _change(request, AddRequest, lambda service, asked: service.tenants.add(asked.name, asked.folder))


@router.post(f"{PATH}/remove", **documented(RemoveRequest, TenantsResponse, ErrorResponse, REFUSALS))
async def remove_tenant(request: Request) -> Response:
    """Take a tenant away; requests that are under way are answered."""
    return await _change(request, RemoveRequest, lambda service, asked: service.tenants.remove(asked.name))


async def _change(
    request: Request, model: type[BaseModel], work: Callable[[Service, Any], Awaitable[object]]
) -> Response:
    async def done(service: Service, asked: Any) -> dict[str, Any]:
        async with service.changing:
            await service.tenants.change(service.store, lambda: work(service, asked))
        return _told(service)

    return await administered(request, model, done)


def _told(service: Service) -> dict[str, Any]:
    slots = {name: fleet.slots[0] for name, fleet in service.tenants.fleets.items()}
    return {
        "tenants": [
            {"name": name, "bundle": slot.name, "folder": slot.folder, "policy": slot.policy}
            for name, slot in slots.items()
        ]
    }
