"""The scripts that the submitter serves: compact, but otherwise those of the repository."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from services.submitter.assets import FOLDERS, Assets
from tests.browser.npm import PACKAGES, run_node

pytestmark = pytest.mark.browser

# Return the names of the scripts whose syntax trees differ, apart from the positions in their texts.
COMPARE = """
import { readFileSync } from "node:fs";
import { parseAst } from "vite";
const isPosition = (key) => key === "start" || key === "end";
const tree = (text) => JSON.stringify(parseAst(text), (key, value) => (isPosition(key) ? undefined : value));
const pairs = JSON.parse(readFileSync("pairs.json", "utf8"));
console.log(JSON.stringify(Object.keys(pairs).filter((name) => tree(pairs[name][0]) !== tree(pairs[name][1]))));
"""


def test_served_scripts_are_the_same(tmp_path: Path) -> None:
    """The syntax of each script is that of the repository's."""
    served = Assets("http://live").current().files
    sources = {path.name: path.read_text() for folder in FOLDERS for path in folder.glob("*.js")}
    del sources["live-url.js"]  # is generated
    pairs = {name: [text, served[name].body.decode()] for name, text in sources.items()}
    pairs["control"] = ["f(1);", "f(2);"]
    (tmp_path / "node_modules").symlink_to(PACKAGES)
    (tmp_path / "compare.mjs").write_text(COMPARE)
    (tmp_path / "pairs.json").write_text(json.dumps(pairs))
    compared = run_node(tmp_path, "compare.mjs")
    assert compared.stderr == ""
    assert json.loads(compared.stdout) == ["control"]
