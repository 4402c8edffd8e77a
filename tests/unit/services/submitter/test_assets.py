"""The static files of the pages, and how changed files are noticed."""

from __future__ import annotations

import gzip
import os
import time
from pathlib import Path

import pytest

from services.submitter import assets
from services.submitter.assets import Assets


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create the only folder that is served, with two assets and another file."""
    monkeypatch.setattr(assets, "FOLDERS", (tmp_path,))
    monkeypatch.setattr(assets, "CHECK_INTERVAL_S", 0)
    (tmp_path / "index.html").write_text("page")
    (tmp_path / "client.js").write_text("one")
    (tmp_path / "README.md").write_text("not served")
    return tmp_path


def test_assets_include_the_notifier_s_url(folder: Path) -> None:
    """Files of known types are served. The client's module without a URL is replaced by one with the notifier's."""
    (folder / "live-url.js").write_text("export const liveUrl = null;")
    files = Assets('https://live.example/"').current().files
    assert set(files) == {"index.html", "client.js", "live-url.js", "trace-url.js"}
    assert files["live-url.js"].body == b'export const liveUrl = "https://live.example/\\"";\n'
    assert gzip.decompress(files["client.js"].compressed) == files["client.js"].body == b"one"


def test_assets_include_the_url_of_traces(folder: Path) -> None:
    """Without one, the module says so."""
    url = "https://traces.example/{trace_id}?q='a'"
    script = Assets("https://live.example", url).current().files["trace-url.js"].body
    assert script == b"export const traceUrl = \"https://traces.example/{trace_id}?q='a'\";\n"
    assert Assets("https://live.example").current().files["trace-url.js"].body == b"export const traceUrl = null;\n"
    assert folder.is_dir()


def test_the_notifier_s_url_is_never_a_comment(folder: Path) -> None:
    """Comments are only removed from files."""
    script = Assets("https://live.example/?a=(, // b").current().files["live-url.js"].body
    assert script == b'export const liveUrl = "https://live.example/?a=(, // b";\n'
    assert folder.is_dir()


def test_a_changed_file_is_read_again(folder: Path) -> None:
    """A changed, added or removed file leads to a new bundle; without a change, the bundle stays."""
    served = Assets("http://live")
    first = served.current()
    assert served.current() is first
    (folder / "client.js").write_text("two")
    os.utime(folder / "client.js", (1, 1))
    second = served.current()
    assert (second.files["client.js"].body, second.digest == first.digest) == (b"two", False)
    (folder / "more.css").write_text("")
    assert "more.css" in served.current().files
    (folder / "more.css").unlink()
    assert served.current() == second


def test_files_are_not_looked_at_for_every_request(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change is noticed at the first request after the interval."""
    monkeypatch.setattr(assets, "CHECK_INTERVAL_S", 1)
    monkeypatch.setattr(time, "monotonic", lambda: 10.0)
    served = Assets("http://live")
    first = served.current()
    (folder / "client.js").write_text("two")
    os.utime(folder / "client.js", (1, 1))
    monkeypatch.setattr(time, "monotonic", lambda: 10.9)
    assert served.current() is first
    monkeypatch.setattr(time, "monotonic", lambda: 11.0)
    assert served.current().files["client.js"].body == b"two"


def test_the_digest_covers_what_pages_load(folder: Path) -> None:
    """The digest depends on the notifier's URL but not on the pages, and every replica computes the same."""
    digest = Assets("http://live").current().digest
    assert Assets("http://other").current().digest != digest
    (folder / "index.html").write_text("another page")
    assert Assets("http://live").current().digest == digest


def test_an_unreadable_file_does_not_change_the_bundle(folder: Path) -> None:
    """While a file cannot be read, the current bundle is served."""
    served = Assets("http://live")
    first = served.current()
    (folder / "gone.js").symlink_to(folder / "nowhere")
    assert served.current() is first


def test_served_scripts_are_compact(folder: Path) -> None:
    """Comments are removed where they are certain to be comments, so is indentation, and lines keep their numbers."""
    (folder / "client.js").write_text(
        """/** What
 * it does.
 */
// One line.
const url = "https://x"; // where it is
const text = "// not a comment"; // with `backticks`
  /** Indented. */
call(a, // first
  b);
"""
    )
    assert Assets("http://live").current().files["client.js"].body.decode().split("\n") == [
        "",
        "",
        "",
        "",
        'const url = "https://x";',
        'const text = "// not a comment"; // with `backticks`',
        "",
        "call(a,",
        "b);",
        "",
    ]
