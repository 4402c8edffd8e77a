"""The static files, kept in memory and reloaded when one of them changes."""

from __future__ import annotations

import gzip
import hashlib
import time
from contextlib import suppress
from importlib.resources import files
from pathlib import Path

import msgspec
from msgspec import Struct

from .compact import compact

PACKAGE = Path(str(files(__package__)))
BROWSER_CLIENT = (PACKAGE / "browser", PACKAGE.parents[1] / "clients" / "browser")  # in the wheel, and in a clone
FOLDERS = (PACKAGE / "pages", PACKAGE / "dashboard", next(folder for folder in BROWSER_CLIENT if folder.is_dir()))
CHECK_INTERVAL_S = 0.25  # to look at a hundred files takes longer than to answer a request
CONTENT_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}


class Asset(Struct, frozen=True):
    """One file, plain and compressed, with the digest of its content."""

    content_type: str
    body: bytes
    compressed: bytes
    digest: str

    @classmethod
    def from_content(cls, suffix: str, body: bytes) -> Asset:
        """Create an asset with this content."""
        return cls(CONTENT_TYPES[suffix], body, gzip.compress(body, mtime=0), _digest(body))

    @classmethod
    def from_file(cls, path: Path) -> Asset:
        """Create the asset of a file; scripts and style sheets are compact."""
        body = path.read_bytes()
        return cls.from_content(path.suffix, compact(body) if path.suffix in {".css", ".js"} else body)


class AssetBundle(Struct, frozen=True):
    """All files at one time. The digest covers every asset, since modules import each other."""

    files: dict[str, Asset]
    digest: str

    @classmethod
    def from_files(cls, files: dict[str, Asset]) -> AssetBundle:
        """Create the bundle of these files."""
        digests = sorted((name, asset.digest) for name, asset in files.items() if is_asset(name))
        return cls(files, _digest(msgspec.json.encode(digests)))


class Assets:
    """The pages, their assets and the browser client; two modules are generated, which have URLs.

    Args:
        live_url: the notifier's, for `live-url.js`.
        trace_url: that of traces with `{trace_id}`, for `trace-url.js`; None if pages have no link to traces.
    """

    def __init__(self, live_url: str, trace_url: str | None = None) -> None:
        self._generated = {
            "live-url.js": _constant("liveUrl", live_url),
            "trace-url.js": _constant("traceUrl", trace_url),
        }
        self._file_versions = _read_file_versions()
        self._bundle = self._load_bundle()
        self._check_at = 0.0  # monotonic time

    def current(self) -> AssetBundle:
        """Return the files, as they were at most `CHECK_INTERVAL_S` ago; while one is replaced, the previous ones."""
        if time.monotonic() >= self._check_at:
            self._check_at = time.monotonic() + CHECK_INTERVAL_S
            with suppress(FileNotFoundError):
                self._load_changes()
        return self._bundle

    def _load_changes(self) -> None:
        file_versions = _read_file_versions()
        if file_versions != self._file_versions:
            self._bundle = self._load_bundle()
            self._file_versions = file_versions

    def _load_bundle(self) -> AssetBundle:
        return AssetBundle.from_files({path.name: Asset.from_file(path) for path in _asset_paths()} | self._generated)


def _constant(name: str, value: str | None) -> Asset:
    """Create a module that exports a constant."""
    return Asset.from_content(".js", f"export const {name} = ".encode() + msgspec.json.encode(value) + b";\n")


def is_asset(name: str) -> bool:
    """Return whether a file is an asset that pages load, rather than a page."""
    return not name.endswith(".html")


def _asset_paths() -> list[Path]:
    return [path for folder in FOLDERS for path in folder.iterdir() if path.suffix in CONTENT_TYPES]


def _read_file_versions() -> dict[Path, tuple[int, int]]:
    return {path: (status.st_mtime_ns, status.st_ino) for path in _asset_paths() for status in [path.stat()]}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
