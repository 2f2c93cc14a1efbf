# SPDX-License-Identifier: Apache-2.0
"""The bridge that one would write first: FastAPI, a pydantic model, js.publish."""

import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import nats
from fastapi import FastAPI, Request
from pydantic import BaseModel

STREAM = os.environ["NAIVE_STREAM"]


class Event(BaseModel):
    """A Hermes event."""

    evcategory: str
    eventtype: str
    objtype: str | None
    objpkey: Any
    objattrs: dict[str, Any]
    step: int
    isPartiallyProcessed: bool  # noqa: N815 - Hermes' name


@asynccontextmanager
async def connected(app: FastAPI) -> AsyncIterator[None]:
    connection = await nats.connect(os.environ["NAIVE_NATS_URL"])
    app.state.js = connection.jetstream()
    yield
    await connection.close()


app = FastAPI(lifespan=connected)


@app.post("/events", status_code=201)
async def post_event(event: Event, request: Request) -> dict[str, int]:
    acknowledgement = await request.app.state.js.publish(
        f"{STREAM}.{event.evcategory}",
        event.model_dump_json().encode(),
        stream=STREAM,
        headers={"Nats-Msg-Id": str(uuid.uuid4())},
    )
    return {"offset": acknowledgement.seq}
