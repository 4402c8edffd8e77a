"""The browser client as a packed npm package, and an application with Vite, TypeScript and React that installs it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from dev import node
from dev.environment import ROOT

CLIENT = ROOT / "clients" / "browser"
PACKAGES = ROOT / "tests" / "browser" / "node" / "node_modules"
VITE = PACKAGES / "vite" / "bin" / "vite.js"
RENDER = 'const { render } = await import("./dist/server/server.js"); console.log(render(JSON.parse(process.argv[1])));'


def find_nodejs() -> node.Node:
    """Return the installation of Node.js, which the tests need."""
    nodejs = node.find_node()
    assert nodejs is not None
    return nodejs


def install_client(app: Path) -> Path:
    """Pack the client and install the archive into an application; return the installed package's folder.

    No registry is asked, so the installation fails if the package needs another one.
    """
    npm = find_nodejs().npm
    subprocess.run([*npm, "pack", "--silent", "--pack-destination", app], cwd=CLIENT, check=True)
    (archive,) = app.glob("*.tgz")
    options = ("--offline", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund", "--silent")
    subprocess.run([*npm, "install", *options, archive.name], cwd=app, check=True)
    return app / "node_modules" / "headway-live"


def run_node(
    folder: Path, *arguments: str | Path, stdin: str | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run a script with Node.js in a folder."""
    command = [find_nodejs().node, *arguments]
    env = {**os.environ, **env}
    return subprocess.run(command, cwd=folder, env=env, input=stdin, capture_output=True, text=True)


def create_react_app(folder: Path, component: str, hook: str, jobs_list: str) -> Path:
    """Create the application of `react_app/` from the examples of docs/show-progress.md; return its folder."""
    (folder / "node_modules").symlink_to(PACKAGES)
    app = folder / "app"
    shutil.copytree(Path(__file__).parent / "react_app", app)
    (app / "src" / "Export.tsx").write_text(component)
    (app / "src" / "ExportStatus.tsx").write_text(hook)
    (app / "src" / "Exports.tsx").write_text(jobs_list)
    install_client(app)
    return app


def build(app: Path, mode: str, *options: str) -> str:
    """Build the application with Vite in `dist/<mode>`; return what Vite prints below the level of information."""
    arguments = ("build", "--logLevel", "warn", "--outDir", f"dist/{mode}", *options)
    built = run_node(app, VITE, *arguments, NODE_ENV="development" if mode == "development" else "production")
    assert built.returncode == 0, built.stderr
    return built.stdout + built.stderr


def build_server(app: Path) -> str:
    """Build the part of the application that renders pages on a server; return what Vite prints, as `build` does."""
    return build(app, "server", "--ssr", "src/server.tsx")


def render(app: Path, scene: str) -> str:
    """Return the HTML that the application's server renders for a scene, which is given as JSON."""
    rendered = run_node(app, "--input-type=module", "--eval", RENDER, scene, NODE_ENV="production")
    assert rendered.stderr == ""
    return rendered.stdout.strip()
