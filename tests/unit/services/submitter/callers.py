"""Callers of the submitter with the API keys `app` and, with the role `operate` and the name `alice`, `ops`."""

from __future__ import annotations

from pathlib import Path

from headway.tokens import TokenVerifier
from services.runtime.settings import ReloadingFile, load
from services.submitter.api_keys import read_api_keys
from services.submitter.caller_auth import CallerAuth
from services.submitter.sessions import SessionAuth
from services.submitter.settings import SubmitterSettings
from tests.unit.services.runtime.test_settings import SUBMITTER


def submitter_settings(folder: Path, **env: str) -> SubmitterSettings:
    """Write the file of API keys; return settings with it, or with open mode if that is set."""
    path = folder / "api-keys"
    path.write_text("app\nops operate name=alice\n")
    keyed = {"SUBMITTER_OPEN": "false", "SUBMITTER_API_KEYS": str(path)}
    return load(SubmitterSettings, {**SUBMITTER, **({} if "SUBMITTER_OPEN" in env else keyed), **env})


def caller_auth(settings: SubmitterSettings) -> CallerAuth:
    """Return the authentication of callers with these settings."""
    path = settings.submitter_api_keys
    return CallerAuth(settings, None if path is None else ReloadingFile(path, read_api_keys))


def session_auth(settings: SubmitterSettings, public_key_file: Path) -> SessionAuth:
    """Return the authentication of callers and of their sessions, with the public half of the signing key."""
    return SessionAuth(caller_auth(settings), ReloadingFile(public_key_file, TokenVerifier))
