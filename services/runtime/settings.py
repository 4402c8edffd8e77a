"""Settings: read once from the environment, all problems told at once, secrets kept out of every `repr`.

A setting is its field's name in upper case; with a service's name in front (`WORKER_LOG_LEVEL`) it is that
service's alone and wins. What is secret may stand in a file, which `REDIS_URL_FILE` names.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar, get_args
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import FieldInfo

Port = Annotated[int, Meta(ge=0, le=65_535)]
Positive = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0)]
Delay = Annotated[float, Meta(ge=0)]
StringList = tuple[str, ...]
T = TypeVar("T")
S = TypeVar("S", bound="Settings")


class Secret(str):
    """A string that does not show itself."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'********'"


class Origin(str):
    """The origin of a page, as browsers spell it: scheme, host, and a port that is not the scheme's own."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Origin:
        """Read an origin; ValueError when it is none."""
        parts = urlsplit(text)
        if parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc:
            raise ValueError(f"Expected an origin such as https://www.example.org, got {text!r}")
        return cls.of(text)

    @classmethod
    def of(cls, url: str) -> Origin:
        """Return an address's origin; ValueError when it has none."""
        parts = urlsplit(url.lower())
        if parts.scheme not in _PORTS or not parts.hostname:
            raise ValueError(f"Expected an address such as https://www.example.org, got {url!r}")
        return cls(f"{parts.scheme}://{parts.netloc.removesuffix(_PORTS[parts.scheme])}")


class Url(str):
    """An address that browsers find a service at."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Url:
        """Read an address; ValueError when it is none."""
        Origin.of(text)
        return cls(text)


_PORTS = {"http": ":80", "https": ":443"}
OriginList = tuple[Origin, ...]


class Settings(Struct, frozen=True, kw_only=True):
    """What every service can be told."""

    service: ClassVar[str]

    bind_host: str = "0.0.0.0"  # noqa: S104 - in a container; `make up` binds to 127.0.0.1
    internal_port: Port = 9090
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "console", "json"] = "auto"
    job_ttl_s: Seconds = 7 * 86_400

    @classmethod
    def validate(cls, values: Mapping[str, Any]) -> list[str]:  # noqa: ARG003
        """Name what is wrong between settings; `values` has those that are set, `None` for one that does not fit."""
        return []


class SettingsError(Exception):
    """The environment does not fit; one line for each problem."""

    def __init__(self, problems: Iterable[str]) -> None:
        super().__init__("\n".join(problems))


def load(kind: type[S], environ: Mapping[str, str]) -> S:
    """Read a service's settings; InvalidSettings lists everything that is missing or does not fit."""
    values: dict[str, Any] = {}
    problems: list[str] = []
    for field in msgspec.structs.fields(kind):
        name, text = _find(field, kind.service, environ)
        if text is None:
            if field.required:
                problems.append(f"{name} is missing")
            continue
        values[field.name] = None
        try:
            if name.endswith("_FILE") and _is_secret(field):
                text = Path(text).read_text()
            values[field.name] = msgspec.convert(
                _split(text, field.type), field.type, strict=False, dec_hook=_decode_hook
            )
        except (msgspec.ValidationError, OSError, UnicodeDecodeError) as error:
            problems.append(f"{name}: {error}")
    problems += kind.validate(values)
    if problems:
        raise SettingsError(problems)
    return kind(**values)


def _find(field: FieldInfo, service: str, environ: Mapping[str, str]) -> tuple[str, str | None]:
    name = field.name.upper()
    names = [name] if field.name.startswith(service) else [f"{service.upper()}_{name}", name]
    if _is_secret(field):
        names = [candidate for one in names for candidate in (one, f"{one}_FILE")]
    found = next((candidate for candidate in names if environ.get(candidate)), None)
    return (found or name, environ[found] if found else None)


def _is_secret(field: FieldInfo) -> bool:
    return field.type is Secret or Secret in get_args(field.type)


def _split(text: str, kind: Any) -> Any:
    return (
        [word.strip() for word in text.split(",") if word.strip()] if kind in (StringList, OriginList) else text.strip()
    )


def _decode_hook(kind: Any, value: Any) -> Any:
    if kind in (Origin, Url):
        return kind.parse(value)
    if kind in (Secret, Path):
        return kind(value)
    raise NotImplementedError(kind)


class ReloadingFile(Generic[T]):
    """A key file that is read again when it has changed, so that a rotation needs no restart."""

    def __init__(self, path: Path, parse: Callable[[str], T]) -> None:
        self._path = path
        self._parse = parse
        self._read_at: tuple[int, int] | None = None
        try:
            self._value = self.value
        except (OSError, ValueError) as error:
            raise SettingsError([f"{path}: {error}"]) from error

    @property
    def value(self) -> T:
        """Return what the file says now; once it cannot be read, what it said last."""
        try:
            status = os.stat(self._path)  # noqa: PTH116 - for every request, and faster than the path itself
            stamp = (status.st_mtime_ns, status.st_ino)
            if stamp != self._read_at:
                self._value = self._parse(self._path.read_text())
                self._read_at = stamp
        except (OSError, ValueError):
            if self._read_at is None:
                raise
        return self._value


def read_keys(text: str) -> tuple[str, ...]:
    """Read a file of keys, one a line; ValueError when there is none."""
    keys = tuple(line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#"))
    if not keys:
        raise ValueError("the key file has no key")
    return keys


def environment() -> Mapping[str, str]:
    """Return the process's environment: the only place that reads it."""
    return os.environ
