# SPDX-License-Identifier: Apache-2.0
"""Everything that can go wrong, each with its HTTP status, code, remedy and outcome.

Rule of this file: title and remedy are constant sentences. What varies is a number or
a valid name in `members`; no payload, header value or secret can reach a response.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus


class Outcome(StrEnum):
    """Whether a posted event was stored."""

    STORED = "stored"
    NOT_STORED = "not_stored"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Cause:
    """One kind of failure, the same for every request that meets it."""

    code: str
    status: HTTPStatus
    title: str
    remedy: str
    retry_after_seconds: int | None = None


class Problem(Exception):  # noqa: N818 - the name RFC 9457 gives it
    """A failure that becomes an RFC 9457 `application/problem+json` response.

    `reason` is reported to the operator: the cause itself, or the cause behind it.
    `faults` are sentences for operators only: they name servers and files.
    """

    def __init__(
        self,
        cause: Cause,
        outcome: Outcome | None = None,
        /,
        **members: int | str | None,
    ) -> None:
        super().__init__(cause.code)
        self.cause = cause
        self.outcome = outcome
        self.members = members
        self.reason = cause
        self.faults: list[str] = []

    def sentences(self) -> str:
        """Say for an operator what happened, to what, and what to do."""
        return " ".join((self.cause.title, *self.faults, self.cause.remedy))

    def document(self) -> dict[str, int | str | None]:
        """Give the members of the problem document."""
        document: dict[str, int | str | None] = {
            "type": f"urn:hermes-nats-sidecar:problem:{self.cause.code}",
            "title": self.cause.title,
            "status": int(self.cause.status),
            "code": self.cause.code,
            "remedy": self.cause.remedy,
        }
        if self.outcome is not None:
            document["outcome"] = self.outcome.value
        return document | self.members


# -- The request -----------------------------------------------------------------------

MALFORMED_JSON = Cause(
    "malformed_json",
    HTTPStatus.BAD_REQUEST,
    "The body is not a JSON object in UTF-8.",
    "Send one Hermes event, as Event.to_json() gives it.",
)
NO_KEY = Cause(
    "no_key",
    HTTPStatus.BAD_REQUEST,
    "The request has no Idempotency-Key.",
    "Send a new Idempotency-Key with each event, and the same key when you repeat that "
    "event.",
)
MALFORMED_KEY = Cause(
    "malformed_key",
    HTTPStatus.BAD_REQUEST,
    "The Idempotency-Key is not 1 to 128 letters, digits or any of . _ : -",
    "Use a UUID.",
)
MALFORMED_PRECONDITION = Cause(
    "malformed_precondition",
    HTTPStatus.BAD_REQUEST,
    "If-Match is neither one quoted offset nor *.",
    'Send If-Match: "L" with the last offset you know: the ETag of /v1/stream.',
)
SLOW_BODY = Cause(
    "slow_body",
    HTTPStatus.REQUEST_TIMEOUT,
    "The body did not arrive in time.",
    "Send the whole body at once.",
)
WRONG_HOST = Cause(
    "wrong_host",
    HTTPStatus.MISDIRECTED_REQUEST,
    "The Host header names another server.",
    "Use the sidecar's IP address or its machine's name, or set SIDECAR_HTTP_NAMES. "
    "Over HTTPS any name is accepted.",
)
BUSY = Cause(
    "busy",
    HTTPStatus.TOO_MANY_REQUESTS,
    "Too many requests are in flight in this sidecar.",
    "Send the same request again later; the check room of /health names the cause.",
    retry_after_seconds=1,
)
UNAUTHORIZED = Cause(
    "unauthorized",
    HTTPStatus.UNAUTHORIZED,
    "The bearer token is missing or wrong.",
    "Send Authorization: Bearer with the token of SIDECAR_TOKEN_FILE; in the plugin "
    "set token_file.",
)
WRONG_ROLE = Cause(
    "wrong_role",
    HTTPStatus.FORBIDDEN,
    "This sidecar's role does not allow this request.",
    "Set SIDECAR_ROLE to both, or use a sidecar that has the right role.",
)
API_OFF = Cause(
    "api_off",
    HTTPStatus.FORBIDDEN,
    "The API is not served on this listener.",
    "Use the Unix socket, or set SIDECAR_TOKEN_FILE or SIDECAR_TCP_API.",
)
NOT_FOUND = Cause(
    "not_found",
    HTTPStatus.NOT_FOUND,
    "Nothing is served at this path.",
    "See docs/http-api.md.",
)
METHOD_NOT_ALLOWED = Cause(
    "method_not_allowed",
    HTTPStatus.METHOD_NOT_ALLOWED,
    "The method is not allowed on this path.",
    "See the Allow header and docs/http-api.md.",
)
EVENT_TOO_LARGE = Cause(
    "event_too_large",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "The event is larger than the limit.",
    "Raise the smallest of these limits: max_payload of the NATS server, account or "
    "user; max_msg_size of the stream; SIDECAR_MAX_EVENT_BYTES, which also raises that "
    "of the embedded server. Its headers count, and JetStream stores at most 32 MB.",
)
UNSUPPORTED_MEDIA_TYPE = Cause(
    "unsupported_media_type",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    "Only application/json and application/json-seq without a Content-Encoding are "
    "accepted.",
    "Send Content-Type: application/json and an uncompressed body.",
)
NOT_A_BATCH = Cause(
    "not_a_batch",
    HTTPStatus.UNPROCESSABLE_ENTITY,
    "A batch is 1 to 1,000 events of category initsync and type added, of 1 MiB at "
    "most, after one offset; before each is an RS, after it an LF.",
    "Send other events alone, as application/json; see docs/http-api.md.",
)
ILLEGAL_CATEGORY = Cause(
    "illegal_category",
    HTTPStatus.UNPROCESSABLE_ENTITY,
    "evcategory is missing or is not 1 to 64 letters, digits, _ or -",
    "Hermes sends base or initsync.",
)
TOO_DEEP = Cause(
    "too_deep",
    HTTPStatus.UNPROCESSABLE_ENTITY,
    "The event's JSON is nested deeper than 100 levels.",
    "Reduce the nesting: clients could not process the event.",
)
TOO_WIDE = Cause(
    "too_wide",
    HTTPStatus.UNPROCESSABLE_ENTITY,
    "The event's JSON needs too much memory to parse.",
    "Write each value on its own line, as Hermes does, or send fewer values.",
)
KEY_REUSED = Cause(
    "key_reused",
    HTTPStatus.UNPROCESSABLE_ENTITY,
    "This Idempotency-Key belongs to another event.",
    "Make a new key for each event.",
)
PRECONDITION_REQUIRED = Cause(
    "precondition_required",
    HTTPStatus.PRECONDITION_REQUIRED,
    "The request has no If-Match.",
    'Send If-Match: "L" with the last offset you know: the ETag of /v1/stream.',
)

MALFORMED_QUERY = Cause(
    "malformed_query",
    HTTPStatus.BAD_REQUEST,
    "A query parameter is unknown or out of range.",
    "See docs/http-api.md for the parameters of /v1/events.",
)

# -- What the stream says --------------------------------------------------------------

PRECONDITION_FAILED = Cause(
    "precondition_failed",
    HTTPStatus.PRECONDITION_FAILED,
    "Another event is already stored at the next offset.",
    "Send the event again with If-Match set to last_offset. If this repeats, a second "
    "producer writes to this stream.",
)
OFFSET_AHEAD = Cause(
    "offset_ahead",
    HTTPStatus.CONFLICT,
    "The stream ends before this offset.",
    "The stream was restored or replaced: run an initsync, see docs/operations.md.",
)
OFFSET_GONE = Cause(
    "offset_gone",
    HTTPStatus.GONE,
    "The stream no longer holds this offset.",
    "The stream was recreated, or the event is older than the retention; "
    "see docs/operations.md.",
)
HOLE = Cause(
    "hole",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "An event inside the stream is missing.",
    "Somebody deleted it, or a disk lost it: run an initsync, see docs/operations.md.",
    retry_after_seconds=5,
)
DISPLACED = Cause(
    "displaced",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "An event is stored at an offset that its precondition did not allow.",
    "A NATS server damaged its replica of the stream: let an intact replica lead and "
    "recreate the others, see docs/operations.md.",
    retry_after_seconds=5,
)
UNREADABLE = Cause(
    "unreadable",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "The message at this offset is not an event: its subject is not UTF-8.",
    "Another program wrote to the stream: remove its permission to publish, and reset "
    "this client, see docs/operations.md.",
    retry_after_seconds=5,
)
UNKNOWN_OUTCOME = Cause(
    "unknown",
    HTTPStatus.GATEWAY_TIMEOUT,
    "It is not known yet whether the event was stored.",
    "Send exactly the same request again until the outcome is known.",
    retry_after_seconds=1,
)
BATCH_UNFINISHED = Cause(
    "batch_unfinished",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "The time of the request was over before all its events were stored.",
    "Send the same request again: it goes on where this one ended. If this repeats, "
    "send fewer events in one request, or wait longer.",
    retry_after_seconds=1,
)

# -- NATS ------------------------------------------------------------------------------

NATS_DOWN = Cause(
    "nats_down",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "There is no connection to NATS.",
    "Start the NATS server, restart it if it hangs, or correct SIDECAR_NATS_URL.",
    retry_after_seconds=1,
)
NATS_REFUSED = Cause(
    "nats_refused",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "The NATS server refused the login.",
    "Correct the SIDECAR_NATS_ credentials or the user on the server.",
    retry_after_seconds=5,
)
NATS_LIMIT = Cause(
    "nats_limit",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "A limit of the NATS server is reached.",
    "Raise the limit that /health names, of the server or of the account.",
    retry_after_seconds=5,
)
NATS_TLS = Cause(
    "nats_tls",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "No TLS connection to the NATS server could be made.",
    "Correct the SIDECAR_NATS_TLS_ settings or the server's certificate.",
    retry_after_seconds=5,
)
NATS_PERMISSION = Cause(
    "nats_permission",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "The NATS user lacks a permission.",
    "Grant the permissions of docs/nats.md to the NATS user.",
    retry_after_seconds=5,
)
CREDENTIALS_UNREADABLE = Cause(
    "credentials_unreadable",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "A credentials file for NATS cannot be read.",
    "Make the files named in the SIDECAR_NATS_ settings readable and well formed.",
    retry_after_seconds=5,
)
JETSTREAM_UNAVAILABLE = Cause(
    "jetstream_unavailable",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "JetStream does not respond for the stream.",
    "Start each NATS server of the stream that does not run, restart one that hangs; "
    "with JetStream disabled, enable it.",
    retry_after_seconds=1,
)
SERVER_TOO_OLD = Cause(
    "server_too_old",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "The NATS server is older than 2.11.11, or its version can lose events.",
    "Upgrade the NATS server; docs/nats.md lists the versions.",
    retry_after_seconds=5,
)
STREAM_MISSING = Cause(
    "stream_missing",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "The stream does not exist.",
    "If it was lost, restore it first, see docs/operations.md. If it never existed, "
    "run hermes-nats-sidecar provision.",
    retry_after_seconds=1,
)
STREAM_UNFIT = Cause(
    "stream_unfit",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "The stream's configuration could lose or change events.",
    "Change this setting with nats stream edit: docs/nats.md says what must be.",
    retry_after_seconds=5,
)
FOREIGN_ANSWER = Cause(
    "foreign_answer",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "Another stream or a subscriber replies on the stream's subjects.",
    "Remove these subjects from the other stream, which may be on a leaf node, or stop "
    "the subscriber.",
    retry_after_seconds=5,
)
STREAM_FULL = Cause(
    "stream_full",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "The stream is full.",
    "Raise or remove max_msgs and max_bytes of the stream.",
    retry_after_seconds=5,
)
STORAGE_FULL = Cause(
    "storage_full",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "The NATS server has no storage left for events.",
    "Free disk space there or raise its JetStream limits.",
    retry_after_seconds=5,
)
PUBLISH_REFUSED = Cause(
    "publish_refused",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "JetStream refused the event.",
    "See jetstream_code in this response, and the NATS server's log.",
    retry_after_seconds=5,
)

# -- The sidecar -----------------------------------------------------------------------

STOPPING = Cause(
    "stopping",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "The sidecar is stopping.",
    "Send the same request again: it is answered after the restart.",
    retry_after_seconds=1,
)
INTERNAL = Cause(
    "internal",
    HTTPStatus.INTERNAL_SERVER_ERROR,
    "The sidecar has an internal error.",
    "Report internal_error in its log. Send the same request again.",
)
