"""Tokens: JWTs, signed with Ed25519, whose bearer may watch one job, or list and watch the jobs of a filter.

The scope of a token says what else its bearer may do. The submitter signs tokens with its private key. Notifiers have
only public keys; during a rotation they have several.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import sys
from contextlib import suppress
from datetime import datetime, timedelta
from functools import lru_cache
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

from headway.contracts import Timestamp
from headway.grants import AUDIENCE, LEEWAY_S, LIST, grant_from_claims
from headway.grants import CANCEL as CANCEL
from headway.grants import WATCH as WATCH
from headway.grants import Grant as Grant
from headway.grants import ListGrant as ListGrant
from headway.timestamp import EPOCH

ALGORITHM = "EdDSA"
JWT_DOTS = 2
CACHED_TOKENS = 512  # verified ones, about 1 kB each: a client that repeats a token pays for one signature check
# `TokenVerifier` checks the expiry itself, so that the error can name the job, and the signature last.
_OPTIONS: Options = {
    "require": ["exp", "iat", "aud", "scope"],
    "verify_signature": False,
    "verify_aud": True,
    "verify_iat": True,
    "verify_nbf": True,
}
_JWS = jwt.PyJWS([ALGORITHM])
INVALID, EXPIRED = "The token is not valid for this service.", "The token has expired."
_PEM_END = "-----END PUBLIC KEY-----"


class InvalidToken(Exception):
    """The token was rejected.

    Attributes:
        code: `invalid_token` or `token_expired`.
        job_id: the job of an expired token, else None.
    """

    def __init__(self, code: str, message: str, job_id: UUID | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.job_id = job_id


class UnknownKey(InvalidToken):
    """The token was signed with a key that the verifier does not have, for example because it was removed."""


class ForgedToken(InvalidToken):
    """The token's signature is not valid. Unlike every other rejection, this one costs a signature check."""


class TokenSigner:
    """Signs tokens with a private key."""

    def __init__(self, private_pem: str) -> None:
        """Load the key.

        Raises:
            ValueError: the text is not an unencrypted Ed25519 private key in PEM.
        """
        try:
            key = load_pem_private_key(private_pem.encode(), password=None)
        except TypeError as error:
            raise ValueError("the token key must not be encrypted with a password") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError("the token key must be an Ed25519 private key in PEM")  # noqa: TRY004
        self._key = key
        self._headers = {"kid": key_id(key.public_key())}

    def sign(self, grant: Grant | ListGrant) -> str:
        """Return a signed token for a grant."""
        return jwt.encode(grant.claims(), self._key, ALGORITHM, headers=self._headers)

    @property
    def public_pem(self) -> str:
        """The public key, in PEM."""
        return self._key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


class TokenVerifier:
    """Verifies tokens with a set of public keys, whose ids are `key_ids`."""

    def __init__(self, public_pems: str) -> None:
        """Load the keys from concatenated PEM blocks.

        Raises:
            ValueError: there is no key, or one is not an Ed25519 public key in PEM.
        """
        blocks = [block + _PEM_END for block in public_pems.split(_PEM_END)[:-1]]
        keys = [load_pem_public_key(block.strip().encode()) for block in blocks]
        if not keys or not all(isinstance(key, Ed25519PublicKey) for key in keys):
            raise ValueError("the token keys must be Ed25519 public keys in PEM")
        self._keys = {key_id(key): key for key in keys if isinstance(key, Ed25519PublicKey)}
        self.key_ids = frozenset(self._keys)
        self._verified = lru_cache(CACHED_TOKENS)(self._verify)

    def verify(self, token: str) -> Grant:
        """Return the grant of a job's token.

        Raises:
            InvalidToken: the token is malformed, signed with an unknown key, expired, does not allow watching, or is a
                list token.
        """
        grant = self.verify_any(token)
        if isinstance(grant, ListGrant):
            raise InvalidToken("invalid_token", "This is a list token; send the token of a job.")
        return grant

    def verify_any(self, token: str) -> Grant | ListGrant:
        """Return the grant of a token for a job or for a list.

        Raises:
            InvalidToken: the token is malformed, signed with an unknown key, expired, or does not allow watching a
                job or listing jobs.
        """
        grant, _key_id = self._verified(token)
        _check_expiry(grant)
        return grant

    def key_id_of(self, token: str) -> str:
        """Return the id of the key that signed a verified token."""
        return self._verified(token)[1]

    def _verify(self, token: str) -> tuple[Grant | ListGrant, str]:
        """Return a token's grant and the id of its key. The signature is checked last, because that is slow."""
        try:
            unverified = jwt.decode_complete(token, options=_OPTIONS, audience=AUDIENCE, leeway=LEEWAY_S)
            signing_key_id = str(unverified["header"]["kid"])
            grant = grant_from_claims(unverified["payload"])
        except (
            jwt.InvalidTokenError,
            KeyError,
            TypeError,
            ValueError,
            AttributeError,
            OverflowError,
            RecursionError,
        ) as error:
            raise InvalidToken("invalid_token", INVALID) from error
        if (key := self._keys.get(signing_key_id)) is None:
            raise UnknownKey("invalid_token", INVALID)
        if isinstance(grant, ListGrant) and not grant.permits(LIST):
            raise InvalidToken("invalid_token", "The token does not have the scope `list`.")
        if isinstance(grant, Grant) and not grant.permits(WATCH):
            raise InvalidToken("invalid_token", "The token does not allow watching.")
        _check_expiry(grant)
        try:
            _JWS.decode(token, key, [ALGORITHM])
        except jwt.InvalidTokenError as error:
            raise ForgedToken("invalid_token", INVALID) from error
        return grant, sys.intern(signing_key_id)  # shared by all tokens of this key


def _check_expiry(grant: Grant | ListGrant) -> None:
    if grant.is_expired(Timestamp.now()):
        raise InvalidToken("token_expired", EXPIRED, grant.job_id if isinstance(grant, Grant) else None)


def is_jwt(text: str) -> bool:
    """Return whether a text has the form of a token; an API key has not."""
    return text.count(".") == JWT_DOTS


def unverified_job_id(token: str) -> UUID | None:
    """Return the job id in an unverified token, or None if the token cannot be decoded.

    Use it only to name the token in an error to its sender.
    """
    try:
        return UUID(_unverified_claims(token)["sub"])
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError):
        return None


def unverified_expiry(token: str) -> datetime:
    """Return the expiry time in an unverified token. Use it only for a token that you got from a submitter.

    Raises:
        ValueError: the token cannot be decoded.
    """
    try:
        return EPOCH + timedelta(seconds=_unverified_claims(token)["exp"])
    except (LookupError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError("the token cannot be decoded") from error


def unverified_rank(token: str) -> tuple[bool, float]:
    """Return a key that sorts the unverified tokens of one job: a better one permits more, or the same for longer."""
    try:
        claims = _unverified_claims(token)
        return CANCEL in claims["scope"].split(), float(claims["exp"])
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError):
        return False, 0.0


def unverified_is_list(token: str) -> bool:
    """Return whether an unverified token is for a list of jobs."""
    return "filter" in _unverified_claims_or_none(token)


def unverified_requires_record(token: str) -> bool:
    """Return whether an unverified token opens only jobs that have a record."""
    return not _unverified_claims_or_none(token).keys().isdisjoint({"filter", "record"})


def _unverified_claims_or_none(token: str) -> dict[str, Any]:
    try:
        return dict(_unverified_claims(token))
    except (LookupError, TypeError, ValueError, RecursionError):
        return {}


def _unverified_claims(token: str) -> Any:
    return json.loads(base64url_decode(token.split(".")[1]))


def key_id(key: Ed25519PublicKey) -> str:
    """Return the id of a public key: the first 16 hexadecimal digits of its SHA-256."""
    raw = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    return hashlib.sha256(raw).hexdigest()[:16]


def make_keys(directory: Path) -> None:
    """Create `token.pem`, `token.pub.pem` and `report.key` in a directory, unless they exist.

    Several processes may call this at the same time; all of them end up with the same keys.
    """
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
    """Create a file with its content, atomically; if the file exists already, keep it."""
    with NamedTemporaryFile(dir=path.parent) as draft:
        draft.write(content)
        draft.flush()
        Path(draft.name).chmod(mode)
        with suppress(FileExistsError):
            os.link(draft.name, path)
