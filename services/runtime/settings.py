"""Settings: read once from the environment, with all problems reported together and secrets hidden from every `repr`.

The variable of a setting is the field's name in upper case. A variable with the service's name in front
(`WORKER_LOG_LEVEL`) applies to that service only and takes precedence. A secret may be in a file, which a variable with
the suffix `_FILE` names (`REDIS_URL_FILE`). The text below a field describes the setting in docs/settings.md.
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

from headway.utf8_text import NotUtf8, read_file

Port = Annotated[int, Meta(ge=0, le=65_535)]
Positive = Annotated[int, Meta(ge=1)]
MAX_NUMBER = 1e9  # 31 years, if it is a time; infinity and greater times would fail only when they are used
Seconds = Annotated[float, Meta(gt=0, le=MAX_NUMBER)]
PerSecond = Annotated[float, Meta(gt=0, le=MAX_NUMBER)]
Delay = Annotated[float, Meta(ge=0, le=MAX_NUMBER)]  # seconds
StringList = tuple[str, ...]
T = TypeVar("T")
S = TypeVar("S", bound="Settings")


class Secret(str):
    """A string whose `repr` is hidden."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'********'"


class Origin(str):
    """The origin of a page, as browsers send it: scheme, host, and the port unless it is the scheme's default."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Origin:
        """Parse an origin; raise ValueError if the text is not an origin."""
        parts = urlsplit(text)
        if parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc:
            raise ValueError(f"Expected an origin such as https://www.example.org, got {text!r}")
        return cls.of(text)

    @classmethod
    def of(cls, url: str) -> Origin:
        """Return the origin of an http(s) URL; raise ValueError if the text is not such a URL."""
        parts = urlsplit(url.lower())
        if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or parts.port == 0 or not _is_plain(parts.netloc):
            raise ValueError(f"Expected a URL such as https://www.example.org, got {url!r}")
        return cls(f"{parts.scheme}://{parts.netloc.removesuffix(_DEFAULT_PORTS[parts.scheme])}")


class Url(str):
    """The http(s) URL of a service, to which paths are appended."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Url:
        """Parse a URL; raise ValueError if the text is not an http(s) URL, or has a user, a query or a fragment."""
        Origin.of(text)
        if "@" in urlsplit(text).netloc or "?" in text or "#" in text or not _is_plain(text):
            raise ValueError("Expected a URL without user, query and fragment")
        return cls(text)


class TraceUrl(str):
    """The http(s) URL of a trace in another program, with `{trace_id}` in place of its id."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> TraceUrl:
        """Parse a URL; raise ValueError if the text is not an http(s) URL, has a user, or has no place for the id."""
        host = Origin.of(text).partition("://")[2]
        if "@" in host or "{" in host or "{trace_id}" not in text or not _is_plain(text):
            raise ValueError("Expected a URL such as https://traces.example.org/trace/{trace_id}")
        return cls(text)


def _is_plain(text: str) -> bool:
    """Return whether a text has neither spaces nor control characters."""
    return text.isprintable() and " " not in text


_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
OriginList = tuple[Origin, ...]


class Settings(Struct, frozen=True, kw_only=True):
    """The settings of every service."""

    service: ClassVar[str]

    bind_host: str = "0.0.0.0"  # noqa: S104 - in a container; `make up` binds to 127.0.0.1
    """The address that the listeners bind to."""
    internal_port: Port = 9090
    """The port for probes, metrics and requests of the other services. Never route it from outside."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe lines that are logged."""
    log_format: Literal["auto", "console", "json"] = "auto"
    """`auto` is `console`, with colors, on a terminal, and `json` elsewhere."""
    log_tracebacks: bool = False
    """Whether to log the full tracebacks of your jobs' exceptions. Their messages may contain payloads, so leave it off
    in production: see docs/write-jobs.md#logging."""
    job_ttl_s: Seconds = 7 * 86_400
    """How long a job and its token live: 7 days. The record lives an hour longer."""

    @classmethod
    def validate(cls, values: Mapping[str, Any]) -> list[str]:  # noqa: ARG003
        """Return the problems of settings that depend on each other.

        Args:
            values: the settings that are set, by field name; None stands for an invalid value.
        """
        return []


class SettingsError(Exception):
    """Some settings are missing or invalid; the message has one line per problem."""

    def __init__(self, problems: Iterable[str]) -> None:
        super().__init__("\n".join(problems))


def load(settings_type: type[S], environ: Mapping[str, str]) -> S:
    """Read a service's settings from environment variables; raise SettingsError with all problems."""
    values: dict[str, Any] = {}
    problems: list[str] = []
    for field in msgspec.structs.fields(settings_type):
        name, text = _find(field, settings_type.service, environ)
        if text is None:
            if field.required:
                problems.append(f"{name} is missing")
            continue
        values[field.name] = None
        try:
            if name.endswith("_FILE") and _is_secret(field):
                text = read_file(Path(text))
            values[field.name] = msgspec.convert(
                _split(text, field.type), field.type, strict=False, dec_hook=_decode_hook
            )
        except (msgspec.ValidationError, OSError, NotUtf8) as error:
            problems.append(f"{name}: {error}")
    problems += settings_type.validate(values)
    if problems:
        raise SettingsError(problems)
    return settings_type(**values)


def _find(field: FieldInfo, service: str, environ: Mapping[str, str]) -> tuple[str, str | None]:
    name = field.name.upper()
    names = [name] if field.name.startswith(service) else [f"{service.upper()}_{name}", name]
    if _is_secret(field):
        names = [candidate for variable in names for candidate in (variable, f"{variable}_FILE")]
    found = next((candidate for candidate in names if environ.get(candidate)), None)
    return (found or name, environ[found] if found else None)


def _is_secret(field: FieldInfo) -> bool:
    return field.type is Secret or Secret in get_args(field.type)


def _split(text: str, field_type: Any) -> Any:
    if field_type in (StringList, OriginList):
        return [item.strip() for item in text.split(",") if item.strip()]
    return text.strip()


def _decode_hook(field_type: Any, value: Any) -> Any:
    if field_type in (Origin, Url, TraceUrl):
        return field_type.parse(value)
    if field_type in (Secret, Path):
        return field_type(value)
    raise NotImplementedError(field_type)


class ReloadingFile(Generic[T]):
    """The parsed content of a key file, which is read again after a change: rotating a key needs no restart.

    Raises SettingsError if the file cannot be read or parsed at the start.
    """

    def __init__(self, path: Path, parse: Callable[[str], T]) -> None:
        self._path = path.absolute()  # a job may change the folder
        self._parse = parse
        self._version: tuple[int, int] | None = None  # modification time and inode of the file as parsed
        try:
            self._value = self.value
        except (OSError, ValueError) as error:
            raise SettingsError([f"{path}: {error}"]) from error

    @property
    def value(self) -> T:
        """The current content; the last valid content while the file cannot be read or parsed."""
        try:
            status = os.stat(self._path)  # noqa: PTH116 - on every request; faster than Path.stat
            version = (status.st_mtime_ns, status.st_ino)
            if version != self._version:
                self._value = self._parse(read_file(self._path))
                self._version = version
        except (OSError, ValueError):
            if self._version is None:
                raise
        return self._value


def read_keys(text: str) -> tuple[str, ...]:
    """Parse a key file: one key per line, comments start with `#`. Raise ValueError if there is no key."""
    lines = (line.strip() for line in text.splitlines())
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    if not keys:
        raise ValueError("the key file contains no key")
    return keys


def environment() -> Mapping[str, str]:
    """Return the environment of the process. Nothing else reads it."""
    return os.environ
