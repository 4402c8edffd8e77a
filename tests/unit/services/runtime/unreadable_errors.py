"""Exceptions whose attributes raise or lie."""

from __future__ import annotations

from typing import Any, NoReturn

from headway import Retry


class UnreadableText(str):
    """A text that cannot be used."""

    __slots__ = ()

    def __len__(self) -> NoReturn:
        raise SystemExit

    def encode(self, *_: Any) -> NoReturn:
        raise SystemExit


def _raise(_self: object) -> NoReturn:
    raise SystemExit


def _attribute(name: str, value: Any) -> dict[str, Any]:
    return {name: property(lambda _self: value)}


UNREADABLE: dict[str, tuple[type, type[BaseException], dict[str, Any]]] = {
    "RaisingClass": (type, Exception, {"__class__": property(_raise)}),
    "LyingClass": (type, Exception, _attribute("__class__", BaseExceptionGroup)),
    "RaisingName": (type("Unreadable", (type,), {"__name__": property(_raise)}), Exception, {}),
    "NumberAsName": (type("Numbered", (type,), _attribute("__name__", 42)), Exception, {}),
    "RaisingTraceback": (type, Exception, {"__traceback__": property(_raise)}),
    "LyingTraceback": (type, Exception, _attribute("__traceback__", 42)),
    "RaisingCause": (type, Exception, {"__cause__": property(_raise)}),
    "LyingCause": (type, Exception, _attribute("__cause__", 42)),
    "RaisingGroup": (type, BaseExceptionGroup, {"exceptions": property(_raise)}),
    "RaisingAttribute": (type, Exception, {"__getattribute__": lambda _self, _name: _raise(None)}),
    "RaisingDelay": (type, Retry, {"after_s": property(_raise, lambda *_: None)}),
    "OddText": (type, Exception, {"__str__": lambda _self: UnreadableText("text")}),
}


def unreadable(name: str) -> BaseException:
    """Return an exception of the type with this name."""
    metaclass, base, attributes = UNREADABLE[name]
    error_type = metaclass(name, (base,), attributes)
    error: BaseException = (
        error_type("text", [ValueError(), KeyError()]) if base is BaseExceptionGroup else error_type("text")
    )
    return error
