"""Every error that a client can get: a stable code, its status, and a title that may be shown to a customer.

Bodies are `application/problem+json` (RFC 9457). `detail` and `errors` are for developers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import orjson

Header = tuple[bytes, bytes]
PROBLEM_JSON: Final = b"application/problem+json"


class Code(NamedTuple):
    """What a code means: HTTP status, and the customer-safe title in Chinese and English."""

    status: int
    zh: str
    en: str


_BAD = ("请求有误，请稍后再试", "The request could not be understood")
_BUSY = ("系统繁忙，请稍后再试", "The service is busy, please try again shortly")
_AWAY = ("服务暂不可用，请稍后再试", "The service is not available right now")
_DENIED = ("没有权限进行此操作", "This is not permitted")
_STATE = ("当前状态不允许此操作", "Not possible as things stand")
_GONE = ("未找到所请求的内容", "What was asked for does not exist")

CODES: Final[dict[str, Code]] = {
    "bad_json": Code(400, *_BAD),
    "bad_length": Code(400, *_BAD),
    "bad_path": Code(400, *_BAD),
    "bad_query": Code(400, *_BAD),
    "unauthorized": Code(401, "请先完成身份验证", "Authentication is needed"),
    "forbidden": Code(403, *_DENIED),
    "same_person": Code(403, *_DENIED),
    "not_found": Code(404, *_GONE),
    "unknown_item": Code(404, *_GONE),
    "unknown_proposal": Code(404, *_GONE),
    "method_not_allowed": Code(405, *_BAD),
    "request_id_reused": Code(409, *_BAD),
    "unreadable_record": Code(409, *_AWAY),
    "wrong_state": Code(409, *_STATE),
    "not_approved": Code(409, *_STATE),
    "body_too_slow": Code(408, *_BAD),
    "stale_revision": Code(
        412, "内容已被他人更新，请刷新后重试", "Somebody changed it meanwhile: look again"
    ),
    "body_too_large": Code(413, "请求内容过大", "The request is too large"),
    "unsupported_media_type": Code(415, *_BAD),
    "invalid_field": Code(422, *_BAD),
    "missing_field": Code(422, *_BAD),
    "unknown_field": Code(422, *_BAD),
    "bad_id": Code(422, *_BAD),
    "missing_subject": Code(422, *_BAD),
    "unknown_surface": Code(422, *_BAD),
    "unknown_slot": Code(422, *_BAD),
    "duplicate_slot": Code(422, *_BAD),
    "no_such_layout": Code(422, *_BAD),
    "too_many": Code(422, "一次提交的内容过多", "Too much was sent at once"),
    "bad_item": Code(422, *_BAD),
    "bad_creative": Code(422, *_BAD),
    "id_mismatch": Code(422, *_BAD),
    "bad_plan": Code(422, *_BAD),
    "bad_principal": Code(422, *_BAD),
    "precondition_needed": Code(428, *_BAD),
    "rate_limited": Code(429, *_BUSY),
    "quota_exceeded": Code(429, *_BUSY),
    "audit_broken": Code(500, *_AWAY),
    "internal": Code(500, "系统出错，请稍后再试", "Something went wrong, please try again"),
    "overloaded": Code(503, *_BUSY),
    "not_ready": Code(503, *_AWAY),
    "store_unavailable": Code(503, *_AWAY),
    "registry_unavailable": Code(503, *_AWAY),
    "identity_unavailable": Code(503, *_AWAY),
    "log_full": Code(503, *_BUSY),
}
_RETRY_AFTER_S: Final = {
    "rate_limited": 1,
    "quota_exceeded": 60,
    "overloaded": 1,
    "not_ready": 2,
    "store_unavailable": 1,
    "log_full": 5,
    "registry_unavailable": 5,
    "identity_unavailable": 5,
}


class FieldError(NamedTuple):
    """One bad field. `field` is a dotted path; `code` one of `CODES`."""

    field: str
    code: str
    detail: str


class Problem(Exception):
    """A request that is refused. `code` is a key of CODES."""

    def __init__(
        self, code: str, detail: str, *, errors: Sequence[FieldError] = (), headers: Sequence[Header] = ()
    ) -> None:
        super().__init__(f"{code}: {detail}")
        self.code, self.detail, self.errors = code, detail, tuple(errors)
        self.extra_headers = tuple(headers)

    @property
    def status(self) -> int:
        return CODES[self.code].status

    @property
    def headers(self) -> tuple[Header, ...]:
        """With the code's own `Retry-After`, unless whoever raised the problem knows better."""
        wait = _RETRY_AFTER_S.get(self.code)
        if wait is None or any(name == b"retry-after" for name, _ in self.extra_headers):
            return self.extra_headers
        return (*self.extra_headers, (b"retry-after", str(wait).encode()))

    def body(self) -> bytes:
        """The problem+json document."""
        known = CODES[self.code]
        document: dict[str, Any] = {
            "type": f"urn:fenliu:problem:{self.code}",
            "title": f"{known.zh} / {known.en}",
            "titles": {"zh-CN": known.zh, "en": known.en},
            "status": known.status,
            "code": self.code,
            "detail": self.detail,
        }
        if self.errors:
            document["errors"] = [error._asdict() for error in self.errors]
        return orjson.dumps(document)
