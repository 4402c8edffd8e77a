"""Log records that a log handler may be unable to format."""

from __future__ import annotations

import logging
import os


class Unprintable:
    """An object whose text cannot be read."""

    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__


def log_unusual_records() -> None:
    """Log texts that UTF-8 cannot encode, wrong arguments, unprintable and huge values, and no text at all."""
    log = logging.getLogger("unusual")
    log.warning("surrogate: %s", os.fsdecode(b"caf\xe9"))
    log.warning("%d", "a-secret-argument")
    log.warning("too many", "a-secret-argument")  # noqa: PLE1205
    log.warning("%s", Unprintable())
    log.warning(Unprintable())
    log.warning("extra", extra={"broken": Unprintable(), "surrogate": os.fsdecode(b"\xff"), "huge": "x" * 1_000_000})
    log.warning("huge: %s", "x" * 10_000_000)
    log.warning({"no": "text"})
    log.warning("with an odd error", exc_info=(ValueError, "not an error", None))  # type: ignore[arg-type]
    log.handle(logging.makeLogRecord({"name": "unusual", "msg": "odd", "levelno": 30, "args": 5, "pathname": __file__}))
    log.warning("with a traceback", exc_info=UnicodeError(Unprintable()), stack_info=True)
    log.warning("last")
