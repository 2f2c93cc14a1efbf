# SPDX-License-Identifier: Apache-2.0
"""What docs/openapi.json says of each route beyond what FastAPI sees. Data only."""

from __future__ import annotations

from typing import Any

_PROBLEM: dict[str, Any] = {
    "type": "object",
    "required": ["type", "title", "status", "code", "remedy"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string"},
        "remedy": {"type": "string"},
        "outcome": {"enum": ["stored", "not_stored", "unknown"]},
    },
}


def _problem(description: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {"application/problem+json": {"schema": _PROBLEM}},
    }


def _object(description: str, **properties: str) -> dict[str, Any]:
    """Describe a JSON object by the types of its members; ? means or null."""
    members = {
        name: {"type": [kind.rstrip("?"), "null"] if kind.endswith("?") else kind}
        for name, kind in properties.items()
    }
    schema = {"type": "object", "required": list(members), "properties": members}
    return {
        "description": description,
        "content": {"application/json": {"schema": schema}},
    }


_STORED = {
    "offset": "integer",
    "stream": "string",
    "subject": "string",
    "duplicate": "boolean",
}

_NO_BODY = " Without a body if the request says Prefer: return=minimal."
_ETAG = {
    "headers": {
        "ETag": {"description": 'The offset, "L".', "schema": {"type": "string"}}
    }
}
_LINK = {
    "headers": {
        "Link": {
            "description": 'The page that follows, rel="next", while there is one.',
            "schema": {"type": "string"},
        }
    }
}

POST_EVENT: dict[str, Any] = {
    "parameters": [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "required": True,
            "description": "A new one for each event; the same when it is repeated.",
            "schema": {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,128}$"},
        },
        {
            "name": "If-Match",
            "in": "header",
            "required": True,
            "description": 'The last offset the caller knows, "L", or *.',
            "schema": {"type": "string", "pattern": '^("(0|[1-9][0-9]{0,15})"|\\*)$'},
        },
        {
            "name": "Prefer",
            "in": "header",
            "required": False,
            "description": "return=minimal: no body; wait=N: how many seconds the "
            "caller waits (RFC 7240).",
            "schema": {"type": "string"},
        },
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
                            "pattern": "^[A-Za-z0-9_-]{1,64}$",
                        }
                    },
                }
            }
        },
    },
    "responses": {
        "200": _object("Already stored: same key, same bytes." + _NO_BODY, **_STORED)
        | _ETAG,
        "201": _object("Stored." + _NO_BODY, **_STORED) | _ETAG,
        "400": _problem("Malformed JSON, key or precondition; or no key."),
        "401": _problem("Token missing or wrong."),
        "403": _problem(
            "The API is off on this listener, or the role is not producer."
        ),
        "408": _problem("The body did not arrive in time."),
        "409": _problem("The stream ends before If-Match."),
        "410": _problem("The next offset is no longer in the stream."),
        "412": _problem("Another event is already stored at the next offset."),
        "413": _problem("Larger than the limit, including message headers."),
        "415": _problem("Not application/json."),
        "422": _problem(
            "Invalid category, JSON too deep or too wide, or the key of another event."
        ),
        "421": _problem("The Host header names another server."),
        "428": _problem("No If-Match."),
        "429": _problem(
            "Too many requests are in flight; try again after Retry-After."
        ),
        "503": _problem("Not stored; try again after Retry-After."),
        "504": _problem("The outcome is not known yet; send the same request again."),
    },
}

_QUERY: dict[str, tuple[dict[str, Any], Any]] = {
    "offset": ({"type": "string", "pattern": "^(first|next|[0-9]{1,16})$"}, "first"),
    "limit": ({"type": "integer", "minimum": 1, "maximum": 5000}, 500),
    "max_bytes": ({"type": "integer", "minimum": 1, "maximum": 10**9}, 4 * 1024 * 1024),
    "wait": ({"type": "number", "minimum": 0, "maximum": 60}, 0),
    "category": ({"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"}, None),
}

GET_EVENTS: dict[str, Any] = {
    "parameters": [
        {
            "name": name,
            "in": "query",
            "required": False,
            "schema": schema if default is None else schema | {"default": default},
        }
        for name, (schema, default) in _QUERY.items()
    ],
    "responses": {
        "200": _object(
            "Events from the offset on; an empty list if there are none yet.",
            events="array",
            next_offset="integer",
            first_offset="integer",
            last_offset="integer",
        )
        | _LINK,
        "400": _problem("A parameter is unknown or out of range."),
        "401": _problem("Token missing or wrong."),
        "403": _problem(
            "The API is off on this listener, or the role is not consumer."
        ),
        "409": _problem("The stream ends before this offset."),
        "410": _problem("The stream no longer holds this offset."),
        "421": _problem("The Host header names another server."),
        "429": _problem(
            "Too many requests are in flight; try again after Retry-After."
        ),
        "503": _problem("The stream cannot be read now, or an event is missing."),
    },
}

GET_STREAM: dict[str, Any] = {
    "parameters": [
        {
            "name": "Hermes-Producer",
            "in": "header",
            "required": False,
            "description": "Sent by a producer that begins a pass: the first 24 "
            "characters of its keys, and ;whole if its last pass was of base events "
            "and succeeded. Used only for /health.",
            "schema": {"type": "string"},
        }
    ],
    "responses": {
        "200": _object(
            "First and last offset of the stream, as its leader reports them.",
            stream="string",
            first_offset="integer",
            last_offset="integer",
            next_offset="integer",
            last_key="string?",
            messages="integer",
            bytes="integer",
            created="string",
            categories="object",
            last_complete_initsync="object?",
            initsync_known="boolean",
        ),
        "401": _problem("Token missing or wrong."),
        "403": _problem("The API is off on this listener."),
        "421": _problem("The Host header names another server."),
        "503": _problem("The stream does not respond."),
    },
}

METRICS: dict[str, Any] = {
    "responses": {
        "200": {
            "description": "Prometheus' text format.",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        }
    }
}

PAGE: dict[str, Any] = {
    "responses": {
        "200": {
            "description": "The status page.",
            "content": {"text/html": {"schema": {"type": "string"}}},
        }
    }
}

HEALTH: dict[str, Any] = {
    "responses": {
        "200": _object("Ready.", status="string"),
        "503": _object("Not ready; the checks say why.", status="string"),
    },
}
