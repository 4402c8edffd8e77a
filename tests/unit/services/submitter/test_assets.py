"""The files that browsers load, as they change while a developer works on them."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from services.submitter import assets
from services.submitter.assets import Assets


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder with two files, and nothing else to serve."""
    monkeypatch.setattr(assets, "FOLDERS", (tmp_path,))
    (tmp_path / "index.html").write_text("page")
    (tmp_path / "client.js").write_text("one")
    (tmp_path / "README.md").write_text("not served")
    return tmp_path


def test_files_are_served_with_what_names_the_notifier(folder: Path) -> None:
    """Known kinds of files are served, and a module that says where the notifier is."""
    files = Assets('https://live.example/"').current().files
    assert set(files) == {"index.html", "client.js", "live-url.js"}
    assert files["live-url.js"].body == b'export const liveUrl = "https://live.example/\\"";\n'
    assert gzip.decompress(files["client.js"].compressed) == files["client.js"].body == b"one"


def test_a_changed_file_is_read_again(folder: Path) -> None:
    """A file that is written, added or removed makes another release; what has not changed is not read."""
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


def test_the_digest_is_of_all_that_pages_load(folder: Path) -> None:
    """Another notifier makes another digest, another page does not, and every replica computes the same."""
    digest = Assets("http://live").current().digest
    assert Assets("http://other").current().digest != digest
    (folder / "index.html").write_text("another page")
    assert Assets("http://live").current().digest == digest


def test_a_file_that_is_being_replaced_is_served_as_it_was(folder: Path) -> None:
    """A file that is there and cannot be looked at spoils nothing."""
    served = Assets("http://live")
    first = served.current()
    (folder / "gone.js").symlink_to(folder / "nowhere")
    assert served.current() is first
