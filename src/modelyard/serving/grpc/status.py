"""gRPC's status codes, and what an error is told as."""

from __future__ import annotations

from enum import IntEnum
from urllib.parse import quote

from modelyard.serving.problems import HttpProblem

__all__ = ["Headers", "Status", "problem_headers", "status_of"]

Headers = tuple[tuple[bytes, bytes], ...]

LONGEST_MESSAGE = 1024


class Status(IntEnum):
    """Of a call (https://grpc.github.io/grpc/core/md_doc_statuscodes.html)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


_STATUSES = {
    400: Status.INVALID_ARGUMENT,
    401: Status.UNAUTHENTICATED,
    403: Status.PERMISSION_DENIED,
    404: Status.NOT_FOUND,
    408: Status.DEADLINE_EXCEEDED,
    409: Status.FAILED_PRECONDITION,
    413: Status.RESOURCE_EXHAUSTED,
    422: Status.INVALID_ARGUMENT,
    429: Status.RESOURCE_EXHAUSTED,
    501: Status.UNIMPLEMENTED,
    503: Status.UNAVAILABLE,
    504: Status.DEADLINE_EXCEEDED,
}


def status_of(problem: HttpProblem) -> Status:
    """Return gRPC's status for a problem."""
    return _STATUSES.get(problem.status, Status.INVALID_ARGUMENT if problem.status < 500 else Status.INTERNAL)


def problem_headers(problem: HttpProblem) -> Headers:
    """Return the headers that tell of a problem: status, message, and its name as `x-problem`."""
    place = f" ({problem.where})" if problem.where else ""
    # A remedy that is a request of HTTP's is none here.
    remedy = f" {problem.remedy}" if problem.remedy and not problem.remedy.startswith("GET ") else ""
    text = f"{problem.detail}{place}{remedy}"[:LONGEST_MESSAGE]
    message = quote(text, safe=" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~")
    told = [(b"grpc-status", b"%d" % status_of(problem)), (b"grpc-message", message.encode())]
    told.append((b"x-problem", problem.code.encode()))
    for name, value in problem.headers:
        if name == "retry-after" and value.isdigit():
            # What clients with a retry policy read (gRFC A6).
            told.append((b"grpc-retry-pushback-ms", b"%d" % (1000 * int(value))))
    return tuple(told)
