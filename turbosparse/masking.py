"""Secrets kept out of sight: what is one is replaced before it reaches a log, an error or a report.

Credentials come from the environment, the machine's own files (AWS profiles, netrc, the hub's token) or a
Prefect Secret block that puts them into the environment. Libraries quote requests and addresses in what
they say; everything that this program passes on of it goes through `mask`.
"""

import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any

HIDDEN = "[hidden]"
SHORTEST_SECRET = 8
"""A shorter value is too common a word to be searched for."""

_SECRET_NAME = re.compile(
    r"(^|[^a-z])(secret|password|passwd|credentials?|authorization"
    r"|(api|access|secret|private|signing)[_-]?key([_-]id)?|auth[_-]?string|(connection|webhook)[_-]url"
    r"|(?<!bos_)(?<!eos_)(?<!unk_)(?<!pad_)token)$",
    re.IGNORECASE,
)
_ADDRESS = re.compile(r"(?<=://)[^/\s'\"@]+@")
"""User and password in front of a URL's host."""
_SIGNATURE = re.compile(
    r"(?<=[?&])((?:x-amz-(?:signature|credential|security-token)|sig|signature|(?:access_)?token|api_?key)=)"
    r"[^&\s'\"]+",
    re.IGNORECASE,
)
_HEADER = re.compile(
    r"(authorization['\"]?\s*[:=]\s*['\"]?\w+ +|\bbearer +(?=\S{16}))[a-z0-9+/=._~-]+", re.IGNORECASE
)
_KNOWN = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bhf_[A-Za-z0-9]{16,}\b|\bpn[ub]_[A-Za-z0-9]{16,}\b")
"""Amazon's key ids, the hub's tokens and Prefect's keys say what they are."""


def names_secret(name: str) -> bool:
    """Returns whether a variable or a field of this name holds a secret: WANDB_API_KEY, `db.password`."""
    return _SECRET_NAME.search(name) is not None


def holds_secret(text: str) -> bool:
    """Returns whether a text shows a secret: one of the environment's, or what looks like one."""
    return mask(text) != text


def mask(text: str) -> str:
    """Returns a text with every secret replaced: the environment's, and what is one by its form."""
    for secret in sorted(_environment_secrets(), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    text = _ADDRESS.sub(f"{HIDDEN}@", text)
    text = _SIGNATURE.sub(rf"\1{HIDDEN}", text)
    text = _HEADER.sub(rf"\1{HIDDEN}", text)
    return _KNOWN.sub(HIDDEN, text)


def mask_value(value: object) -> Any:
    """Returns a value with its texts masked, and with whatever stands under a secret's name hidden."""
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, Mapping):
        return {key: HIDDEN if names_secret(str(key)) else mask_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(mask_value, value)) if type(value) in (list, tuple) else value
    return value


def hide_secrets() -> None:
    """From here on no log record and no last traceback of this process shows a secret."""
    make = logging.getLogRecordFactory()
    if not isinstance(make, _MaskedRecords):
        logging.setLogRecordFactory(_MaskedRecords(make))
        sys.excepthook = _print_masked


class _MaskedRecords:
    """Makes log records as another factory does, masked whoever logs and wherever it goes."""

    def __init__(self, make: Callable[..., logging.LogRecord]) -> None:
        self._make = make

    def __call__(self, *arguments: Any, **options: Any) -> logging.LogRecord:
        record = self._make(*arguments, **options)
        try:
            message = record.getMessage()
        except (TypeError, ValueError):
            return record  # a format that does not fit its arguments: logging itself says so
        if (masked := mask(message)) != message:
            record.msg, record.args = masked, None
        if isinstance(record.exc_info, tuple) and record.exc_info[0] is not None:
            text = "".join(traceback.format_exception(*record.exc_info)).rstrip()
            if (masked := mask(text)) != text:
                record.exc_info, record.exc_text = None, masked
        return record


def _print_masked(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    print(mask("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)


def _environment_secrets() -> Iterator[str]:
    for name, value in os.environ.items():
        if not names_secret(name):
            continue
        # Of a login such as PREFECT_API_AUTH_STRING's `user:password`, the password alone too.
        _, _, password = value.partition(":")
        yield from (secret for secret in (value, password) if len(secret) >= SHORTEST_SECRET)
