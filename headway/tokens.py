"""Watch tokens: an Ed25519-signed JWT is the capability to watch, and perhaps to cancel, one job.

The submitter signs with its private key; notifiers hold public keys only, several at once while one is rotated.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any
from uuid import UUID

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from jwt.types import Options
from jwt.utils import base64url_decode
from msgspec import Struct

from headway.contracts import Timestamp

AUDIENCE = "headway-live"
ALGORITHM = "EdDSA"
LEEWAY_S = 30
WATCH = "watch"
CANCEL = "cancel"
# Expiry is checked apart, so that the error can say whose token has expired.
_OPTIONS: Options = {"require": ["sub", "exp", "iat", "aud", "scope"], "verify_exp": False}
_PEM_END = "-----END PUBLIC KEY-----"


class InvalidToken(Exception):
    """The token opens nothing; `code` is `invalid_token` or `token_expired`."""

    def __init__(self, code: str, message: str, job_id: UUID | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.job_id = job_id


class Grant(Struct, frozen=True, kw_only=True):
    """What a token says: which job, for how long, and what its bearer may do."""

    job_id: UUID
    kind: str
    submitted_at: Timestamp
    expires_at: Timestamp
    due_at: Timestamp | None = None
    scope: frozenset[str] = frozenset({WATCH, CANCEL})

    def is_expired(self, now: Timestamp) -> bool:
        """Tell whether its time is over."""
        return self.valid_until < now

    @property
    def valid_until(self) -> Timestamp:
        """The last moment at which it counts: clocks differ a little."""
        return self.expires_at.after(LEEWAY_S)

    def claims(self) -> dict[str, Any]:
        """Spell it as the claims of a JWT."""
        due = {} if self.due_at is None else {"due": self.due_at / 1000}
        scope = " ".join(word for word in (WATCH, CANCEL) if word in self.scope)
        return {
            "sub": str(self.job_id),
            "kind": self.kind,
            "iat": self.submitted_at / 1000,
            "exp": self.expires_at / 1000,
            "aud": AUDIENCE,
            "scope": scope,
            **due,
        }


class TokenSigner:
    """Signs passes with one private key."""

    def __init__(self, private_pem: str) -> None:
        try:
            key = load_pem_private_key(private_pem.encode(), password=None)
        except TypeError as error:
            raise ValueError("the token key must not be encrypted") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError("the token key must be an Ed25519 private key in PEM")  # noqa: TRY004
        self._key = key
        self._headers = {"kid": key_id(key.public_key())}

    def sign(self, grant: Grant) -> str:
        """Return the token for this pass."""
        return jwt.encode(grant.claims(), self._key, ALGORITHM, headers=self._headers)

    @property
    def public_pem(self) -> str:
        """The public half of the key."""
        return self._key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


class TokenVerifier:
    """Verifies tokens against a set of public keys."""

    def __init__(self, public_pems: str) -> None:
        blocks = [block + _PEM_END for block in public_pems.split(_PEM_END)[:-1]]
        keys = [load_pem_public_key(block.strip().encode()) for block in blocks]
        if not keys or not all(isinstance(key, Ed25519PublicKey) for key in keys):
            raise ValueError("the token keys must be Ed25519 public keys in PEM")
        self._keys = {key_id(key): key for key in keys if isinstance(key, Ed25519PublicKey)}

    def verify(self, token: str) -> Grant:
        """Return what the token grants; InvalidToken when it grants nothing."""
        try:
            key = self._keys[jwt.get_unverified_header(token)["kid"]]
            claims = jwt.decode(token, key, [ALGORITHM], options=_OPTIONS, audience=AUDIENCE, leeway=LEEWAY_S)
            grant = _grant_from_claims(claims)
        except (jwt.InvalidTokenError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise InvalidToken("invalid_token", "The token is not valid here.") from error
        if WATCH not in grant.scope:
            raise InvalidToken("invalid_token", "The token does not allow to watch.")
        if grant.is_expired(Timestamp.now()):
            raise InvalidToken("token_expired", "The token has expired.", grant.job_id)
        return grant


def claimed_job(token: str) -> UUID | None:
    """Read which job a token claims to be for, unverified: fit only for telling its sender which token was wrong."""
    try:
        return UUID(json.loads(base64url_decode(token.split(".")[1]))["sub"])
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError):
        return None


def _grant_from_claims(claims: dict[str, Any]) -> Grant:
    due = claims.get("due")
    return Grant(
        job_id=UUID(claims["sub"]),
        kind=str(claims.get("kind", "countdown")).encode().decode(),  # UnicodeError on what cannot be written
        submitted_at=Timestamp.at(claims["iat"]),
        expires_at=Timestamp.at(claims["exp"]),
        due_at=None if due is None else Timestamp.at(due),
        scope=frozenset(str(claims["scope"]).split()),
    )


def key_id(key: Ed25519PublicKey) -> str:
    """Name a public key by the start of its SHA-256."""
    raw = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    return hashlib.sha256(raw).hexdigest()[:16]


def make_keys(directory: Path) -> None:
    """Make what is missing of `token.pem`, `token.pub.pem` and `report.key`; what exists is left alone."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    private, public, report = (directory / name for name in ("token.pem", "token.pub.pem", "report.key"))
    if not private.exists():
        key = Ed25519PrivateKey.generate()
        _write_once(private, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        public.unlink(missing_ok=True)
    if not public.exists():
        key = load_pem_private_key(private.read_bytes(), password=None)  # type: ignore[assignment]
        _write_once(public, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), 0o644)
    if not report.exists():
        _write_once(report, secrets.token_urlsafe(32).encode() + b"\n")


def _write_once(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write a file whole; whoever was first, of several at once, wins."""
    with NamedTemporaryFile(dir=path.parent) as draft:
        draft.write(content)
        draft.flush()
        Path(draft.name).chmod(mode)
        with suppress(FileExistsError):
            os.link(draft.name, path)
