# SPDX-License-Identifier: Apache-2.0
"""What requests and responses hold; docs/openapi.json is written from it.

We check queries by their model ourselves: by FastAPI a page of one event takes a third
longer. Responses are only described: no event's bytes are to be read and written anew.

Long because it is the whole API in one place, as its readers look it up.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, NotRequired, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
)
from pydantic.json_schema import SkipJsonSchema
from typing_extensions import TypedDict

from sidecar import errors
from sidecar.errors import Problem
from sidecar.model.batch import MAX_BYTES as BATCH_BYTES
from sidecar.model.batch import MAX_EVENTS as BATCH_EVENTS
from sidecar.model.batch import MEDIA_TYPE as SEQUENCE
from sidecar.model.event import CATEGORY, ENTITY_TAG, KEY, MAX_OFFSET
from sidecar.model.producer_key import PASS
from sidecar.services.pages import MAX_BYTES, NEXT, Query


def _written(pattern: str) -> BeforeValidator:
    """Take numbers in one form alone: pydantic would take " 1", 1e1 and 1_0 too."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text, re.ASCII):
            raise ValueError
        return text

    return BeforeValidator(check)


_INTEGER: Final = _written("[0-9]{1,18}")
_DECIMAL: Final = _written(r"[0-9]{1,6}(\.[0-9]{1,6})?")


MAX_EVENTS: Final = 5_000
"""Of one page."""

MAX_WAIT: Final = 60
"""Seconds that a reader may wait at most."""

_Model = TypeVar("_Model", bound=BaseModel)


class EventsQuery(BaseModel):
    """The query of GET /v1/events."""

    model_config = ConfigDict(extra="forbid")

    offset: (
        Annotated[int, Field(ge=0, le=MAX_OFFSET), _INTEGER] | Literal["first", "next"]
    ) = "first"
    limit: Annotated[int, _INTEGER] = Field(Query.limit, ge=1, le=MAX_EVENTS)
    max_bytes: Annotated[int, _INTEGER] = Field(MAX_BYTES, ge=1, le=10**9)
    wait: Annotated[float, _DECIMAL] = Field(Query.wait_seconds, ge=0, le=MAX_WAIT)
    category: (
        Annotated[str, Field(pattern=f"^{CATEGORY.pattern}$")] | SkipJsonSchema[None]
    ) = None


class MatchQuery(BaseModel):
    """The query of POST /v1/match."""

    model_config = ConfigDict(extra="forbid")

    offset: Annotated[int, Field(ge=0, le=MAX_OFFSET), _INTEGER]
    newest: bool = False


def _validate(model: type[_Model], parameters: Mapping[str, str]) -> _Model:
    """Read a query; raise Problem naming the parameter.

    Never its value; nor a name that is none of ours, for it may be one.
    """
    try:
        return model.model_validate(parameters)
    except ValidationError as error:
        name = error.errors(include_url=False)[0]["loc"][0]
        members = {"parameter": name} if name in model.model_fields else {}
        raise Problem(errors.MALFORMED_QUERY, **members) from None


def read_match_query(parameters: Mapping[str, str]) -> MatchQuery:
    """Read the query of POST /v1/match; raise Problem."""
    return _validate(MatchQuery, parameters)


def read_query(parameters: Mapping[str, str]) -> Query:
    """Read the query of GET /v1/events; raise Problem."""
    asked = _validate(EventsQuery, parameters)
    match asked.offset:
        case "first":
            offset = None
        case "next":
            offset = NEXT
        case offset:
            pass
    max_bytes = min(asked.max_bytes, MAX_BYTES)
    return Query(offset, asked.limit, max_bytes, asked.wait, asked.category)


class StoredDocument(BaseModel):
    """The response to an event that is stored, or to the last of a batch."""

    offset: int
    stream: str
    subject: str
    duplicate: bool


class EventDocument(BaseModel):
    """One event of a page; `data` is the stored text, byte for byte."""

    offset: int
    timestamp: str
    category: str
    data: str


class PageDocument(BaseModel):
    """Events in the order of their offsets, and where to go on."""

    events: list[EventDocument]
    next_offset: int
    first_offset: int
    last_offset: int


class ClientDocument(BaseModel):
    """A hermes-client as a sidecar sees it; null for what it does not know.

    `offset`: of the event that it reads next; `behind`: how many events stand from
    there on, null also of one that is stranded; `sidecar`: the host of the one that it
    asks.
    """

    name: str
    sidecar: str
    offset: int | None
    behind: int | None
    last_seen_seconds: float
    state: Literal["reading", "waiting", "silent", "stranded"]


class ClientsDocument(BaseModel):
    """The clients of all sidecars that answer; `reason` says why it may not be all."""

    clients: list[ClientDocument]
    complete: bool
    reason: str | None


class InitsyncDocument(BaseModel):
    """The last complete initsync; `expires` is null where the stream keeps for ever."""

    start_offset: int
    stop_offset: int
    objects: int
    started: str
    stopped: str
    expires: str | None


class StreamDocument(BaseModel):
    """First and last offset of the stream."""

    stream: str
    first_offset: int
    last_offset: int
    next_offset: int
    last_key: str | None
    messages: int
    bytes: int
    created: str
    categories: dict[str, int]
    last_complete_initsync: InitsyncDocument | None
    initsync_known: bool


class PassDocument(BaseModel):
    """A pass of a hermes-server, and what of it its successor may send again.

    Each text of `objects` is `DIGEST OFFSET`: eleven characters of the BLAKE2b of an
    object's type and primary key, keyed by Hermes-Producer, and the offset of its
    newest event.
    """

    start: int | None
    objects: list[str]
    complete: bool
    first_offset: int
    last_offset: int


class MatchDocument(BaseModel):
    """Whether an event is at an offset, whose it is, and where the stream ends."""

    matches: bool
    key: str | None
    first_offset: int
    last_offset: int
    last_key: str | None


class CheckDocument(BaseModel):
    """One check of the health; reason and remedy are null where it passes."""

    name: str
    status: Literal["pass", "warn", "fail"]
    reason: str | None
    remedy: str | None


class HealthDocument(BaseModel):
    """Whether events can flow, and if not why."""

    status: Literal["ready", "not_ready"]
    checks: list[CheckDocument]
    last_offset: int | None
    round_trip_age_seconds: float | None
    acknowledgement_age_seconds: float | None


class LiveDocument(BaseModel):
    """That the process serves requests."""

    status: Literal["live"]


class ProblemDocument(TypedDict):
    """What went wrong and what to do (RFC 9457); some codes have further members."""

    type: str
    title: str
    status: int
    code: str
    remedy: str
    outcome: NotRequired[Literal["stored", "not_stored", "unknown"]]


_Responses = dict[int | str, dict[str, Any]]

_PROBLEM: Final = {
    "application/problem+json": {
        "schema": TypeAdapter(ProblemDocument).json_schema(),
    }
}
_UNAUTHORIZED: Final = "Token missing or wrong."
_BUSY: Final = "Too many requests are in flight; try again after Retry-After."
_WRONG_HOST: Final = "The Host header names another server."


def _problems(descriptions: dict[int | str, str]) -> _Responses:
    """Describe statuses of which the body is a problem document."""
    return {
        status: {"description": description, "content": _PROBLEM}
        for status, description in descriptions.items()
    }


def _stored(description: str) -> dict[str, Any]:
    return {
        "model": StoredDocument,
        "description": f"{description} Without a body if the request says "
        "Prefer: return=minimal.",
        "headers": _header("ETag", "The offset of the event, of a batch the last."),
    }


def _header(name: str, description: str) -> dict[str, Any]:
    return {name: {"description": description, "schema": {"type": "string"}}}


def _field(name: str, description: str, pattern: str | None = None) -> dict[str, Any]:
    """Describe a header field of a request; one with a pattern is required."""
    return {
        "name": name,
        "in": "header",
        "required": pattern is not None,
        "description": description,
        "schema": {"type": "string"} | ({"pattern": f"^{pattern}$"} if pattern else {}),
    }


POST_EVENT: Final[_Responses] = {
    200: _stored("Already stored: same key, same bytes; of a batch every event."),
    201: _stored("Stored."),
    **_problems(
        {
            400: "Malformed JSON, key or precondition; or no key.",
            401: _UNAUTHORIZED,
            403: "The API is off on this listener, or the role is not producer.",
            408: "The body did not arrive in time.",
            409: "The stream ends before If-Match.",
            410: "The next offset is no longer in the stream.",
            412: "Another event is already stored at the next offset.",
            413: "Larger than the limit, including message headers.",
            415: "Neither application/json nor application/json-seq.",
            421: _WRONG_HOST,
            422: "Invalid category, JSON too deep or too wide, the key of another "
            "event, or not a batch.",
            428: "No If-Match.",
            429: _BUSY,
            503: "Not stored, of a batch from index on; try again after Retry-After.",
            504: "The outcome is not known yet; send the same request again.",
        }
    ),
}

GET_EVENTS: Final[_Responses] = {
    200: {
        "model": PageDocument,
        "description": "Events from the offset on; an empty list if there are none "
        "yet.",
        "headers": _header(
            "Link", 'The page that follows, rel="next", while there is one.'
        ),
    },
    **_problems(
        {
            400: "A parameter is unknown or out of range.",
            401: _UNAUTHORIZED,
            403: "The API is off on this listener, or the role is not consumer.",
            409: "The stream ends before this offset.",
            410: "The stream no longer holds this offset.",
            421: _WRONG_HOST,
            429: _BUSY,
            503: "The stream cannot be read now, or an event is missing.",
        }
    ),
}

GET_CLIENTS: Final[_Responses] = {
    200: {
        "model": ClientsDocument,
        "description": "The hermes-clients that read since their sidecar started, by "
        "name and sidecar, at most 256 of each.",
    },
    **_problems(
        {
            401: _UNAUTHORIZED,
            403: "The API is off on this listener.",
            421: _WRONG_HOST,
        }
    ),
}

GET_STREAM: Final[_Responses] = {
    200: {
        "model": StreamDocument,
        "description": "First and last offset of the stream, as its leader reports "
        "them.",
    },
    **_problems(
        {
            401: _UNAUTHORIZED,
            403: "The API is off on this listener.",
            421: _WRONG_HOST,
            503: "The stream does not respond.",
        }
    ),
}

GET_PASS: Final[_Responses] = {
    200: {
        "model": PassDocument,
        "description": "Each object whose newest base event since START was sent by "
        "another process in the pass that began after START. No objects, and complete "
        "false, if more than 100,000 messages follow START and the last init-stop.",
    },
    **_problems(
        {
            401: _UNAUTHORIZED,
            403: "The API is off on this listener, or the role is not producer.",
            404: "START is neither an offset nor last.",
            421: _WRONG_HOST,
            429: _BUSY,
            503: "The stream cannot be read now.",
        }
    ),
}

POST_MATCH: Final[_Responses] = {
    200: {
        "model": MatchDocument,
        "description": "Whether the event at the offset is this one, byte for byte but "
        "for the order of its attributes. Nothing is stored.",
    },
    **_problems(
        {
            400: "The parameter offset is missing or out of range.",
            401: _UNAUTHORIZED,
            403: "The API is off on this listener, or the role is not producer.",
            408: "The body did not arrive in time.",
            413: "Larger than the limit.",
            421: _WRONG_HOST,
            429: _BUSY,
            503: "The stream cannot be read now.",
        }
    ),
}

GET_HEALTH: Final[_Responses] = {
    200: {"model": HealthDocument, "description": "Ready."},
    503: {
        "model": HealthDocument,
        "description": "Not ready; the checks say why.",
    },
}

GET_LIVE: Final[_Responses] = {200: {"model": LiveDocument, "description": "Alive."}}

GET_PAGE_REQUEST: Final[dict[str, Any]] = {
    "parameters": [
        {
            "name": "refresh",
            "in": "query",
            "required": False,
            "description": "off: the page does not refresh itself every 10 seconds.",
            "schema": {"type": "string"},
        }
    ]
}

GET_EVENTS_REQUEST: Final[dict[str, Any]] = {
    "parameters": [
        {"name": name, "in": "query", "required": False, "schema": schema}
        for name, schema in EventsQuery.model_json_schema()["properties"].items()
    ]
}

GET_STREAM_REQUEST: Final[dict[str, Any]] = {
    "parameters": [
        _field(
            "Hermes-Producer",
            "Sent by a producer that begins a pass: the first 24 characters of its "
            "keys, and ;whole if its last pass was of base events and succeeded. Used "
            "only for /health.",
        )
    ]
}

GET_PASS_REQUEST: Final[dict[str, Any]] = {
    "parameters": [
        {
            "name": "start",
            "in": "path",
            "required": True,
            "description": "The offset after which the pass began, as in the keys of "
            "its events; or last, for that of the newest base event.",
            "schema": {"type": "string", "pattern": f"^({PASS.pattern}|last)$"},
        },
        _field(
            "Hermes-Producer",
            "The first 24 characters of the keys of the producer that asks: its own "
            "events are left out, and the digests are keyed by it.",
        ),
    ]
}

POST_MATCH_REQUEST: Final[dict[str, Any]] = {
    "parameters": [
        {"name": name, "in": "query", "required": True, "schema": schema}
        for name, schema in MatchQuery.model_json_schema()["properties"].items()
    ],
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"type": "object"}}},
    },
}

POST_EVENT_REQUEST: Final[dict[str, Any]] = {
    "parameters": [
        _field(
            "Idempotency-Key",
            "A new one for each event or batch; the same when it is repeated.",
            KEY.pattern,
        ),
        _field(
            "If-Match",
            'The last offset the caller knows, "L", or for one event *.',
            rf"({ENTITY_TAG.pattern}|\*)",
        ),
        _field(
            "Prefer",
            "return=minimal: no body; wait=N: how many seconds the caller waits "
            "(RFC 7240).",
        ),
    ],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["evcategory"],
                    "properties": {
                        "evcategory": {
                            "type": "string",
                            "pattern": f"^{CATEGORY.pattern}$",
                        }
                    },
                }
            },
            SEQUENCE.decode(): {
                "schema": {
                    "type": "string",
                    "maxLength": BATCH_BYTES,
                    "description": f"1 to {BATCH_EVENTS} events of category initsync "
                    "and type added, each between RS and LF (RFC 7464).",
                }
            },
        },
    },
}
"""By hand: FastAPI would read the body and check it before our bounds of it hold."""
