"""Verification of tokens, and creation of keys."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from msgspec.structs import replace

from headway import tokens as module
from headway.contracts import Timestamp
from headway.grants import CANCEL, LEEWAY_S, LIST, OPERATE, SCOPES, WATCH, Grant, ListGrant
from headway.labels import JobFilter
from headway.tokens import ForgedToken, InvalidToken, TokenSigner, TokenVerifier, make_keys

HOUR_S = 3600


def make_grant(**changes: Any) -> Grant:
    """Return a grant that is valid for an hour."""
    now = Timestamp.now()
    fields: dict[str, Any] = {"kind": "countdown", "submitted_at": now, "expires_at": now.after(HOUR_S)}
    return Grant(job_id=uuid4(), **{**fields, **changes})


@pytest.fixture
def signer(keys: Path) -> TokenSigner:
    """Return a signer with a new key."""
    return TokenSigner((keys / "token.pem").read_text())


@pytest.fixture
def verifier(keys: Path) -> TokenVerifier:
    """Return a verifier with the signer's public key."""
    return TokenVerifier((keys / "token.pub.pem").read_text())


def encoded(part: dict[str, Any] | bytes) -> str:
    """Encode one part of a token."""
    data = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def assert_rejected(verifier: TokenVerifier, token: str) -> None:
    """Assert that a token is invalid, and that the error names no job."""
    with pytest.raises(InvalidToken) as raised:
        verifier.verify(token)
    assert (raised.value.code, raised.value.job_id) == ("invalid_token", None)


def test_a_token_of_an_operator_names_who_asked_for_it(signer: TokenSigner, verifier: TokenVerifier) -> None:
    """Actions are logged with the name. Tokens for users do not show it."""
    now = Timestamp.now()
    listing = ListGrant(filter=JobFilter(), issued_at=now, expires_at=now.after(HOUR_S))
    for grant in (make_grant(), listing):
        for scope, name in (({WATCH, LIST, OPERATE}, "alice"), ({WATCH, LIST, CANCEL}, None)):
            token = signer.sign(replace(grant, by="alice", scope=frozenset(scope)))
            assert verifier.verify_any(token).by == name


@pytest.mark.parametrize("delayed", [False, True])
@pytest.mark.parametrize("scope", [frozenset({"watch"}), frozenset({"watch", "cancel"})])
def test_a_verified_token_returns_its_grant(
    signer: TokenSigner, verifier: TokenVerifier, *, delayed: bool, scope: frozenset[str]
) -> None:
    """Signing and verifying a grant changes no field; times are exact to the millisecond."""
    due_at = Timestamp.now().after(60) if delayed else None
    grant = make_grant(scope=scope, due_at=due_at)
    assert verifier.verify(signer.sign(grant)) == grant


def test_claims_and_header_match_the_contract(signer: TokenSigner) -> None:
    """A token has the contract's claims and header, with `due` only for a delayed job."""
    grant = make_grant()
    token = signer.sign(grant)
    header = jwt.get_unverified_header(token)
    assert (header["alg"], len(header["kid"])) == ("EdDSA", 16)
    assert jwt.decode(token, options={"verify_signature": False}) == {
        "sub": str(grant.job_id),
        "kind": "countdown",
        "iat": grant.submitted_at / 1000,
        "exp": grant.expires_at / 1000,
        "aud": "headway-live",
        "scope": "watch cancel",
    }
    delayed = signer.sign(make_grant(scope=frozenset({WATCH}), due_at=grant.expires_at))
    claims = jwt.decode(delayed, options={"verify_signature": False})
    assert (claims["scope"], claims["due"]) == ("watch", grant.expires_at / 1000)


def test_an_expired_token_names_its_job(signer: TokenSigner, verifier: TokenVerifier) -> None:
    """The error about an expired token has the job's id, for clients that watch many jobs."""
    old = make_grant(expires_at=Timestamp.now().after(-LEEWAY_S - 1))
    with pytest.raises(InvalidToken) as raised:
        verifier.verify(signer.sign(old))
    assert (raised.value.code, raised.value.job_id) == ("token_expired", old.job_id)


@pytest.fixture
def signature_checks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the tokens whose signature is checked during the test."""
    checked: list[str] = []

    class RecordingJWS(jwt.PyJWS):
        def decode(self, jwt: str | bytes, *args: Any, **kwargs: Any) -> Any:
            checked.append(str(jwt))
            return super().decode(jwt, *args, **kwargs)

    monkeypatch.setattr(module, "_JWS", RecordingJWS())
    return checked


def test_the_signature_is_checked_last(
    tmp_path: Path, signer: TokenSigner, verifier: TokenVerifier, signature_checks: list[str]
) -> None:
    """A token that is malformed, of another key or audience, without a needed claim, or expired, costs no check."""
    make_keys(tmp_path / "foreign")
    foreign = TokenSigner((tmp_path / "foreign/token.pem").read_text())
    key = load_pem_private_key((tmp_path / "foreign/token.pem").read_bytes(), None)
    known = {"kid": jwt.get_unverified_header(signer.sign(make_grant()))["kid"]}
    claims = make_grant().claims()
    wrong = [{**claims, "aud": "other"}, {**claims, "scope": "cancel"}, {**claims, "sub": "7"}, {**claims, "iat": "x"}]
    wrong += [{name: value for name, value in claims.items() if name != missing} for missing in ("exp", "scope", "sub")]
    nested = f"{encoded({**known, 'alg': 'EdDSA'})}.{encoded(b'[' * 3_000 + b']' * 3_000)}.AA"
    for token in (
        *("", "a.b.c", "x" * 4_096, nested, foreign.sign(make_grant())),
        *(jwt.encode(each, key, "EdDSA", headers=known) for each in wrong),  # type: ignore[arg-type]
    ):
        assert_rejected(verifier, token)
    expired = jwt.encode({**claims, "exp": 1}, key, "EdDSA", headers=known)  # type: ignore[arg-type]
    with pytest.raises(InvalidToken, match="expired"):
        verifier.verify(expired)
    assert signature_checks == []
    forged = jwt.encode(claims, key, "EdDSA", headers=known)  # type: ignore[arg-type]
    with pytest.raises(ForgedToken):
        verifier.verify(forged)
    assert signature_checks == [forged]


def test_a_repeated_token_is_checked_once(
    signer: TokenSigner, verifier: TokenVerifier, signature_checks: list[str]
) -> None:
    """A client that sends a token again and again costs nothing; a forged one is never remembered as valid."""
    token = signer.sign(make_grant())
    assert {verifier.verify(token).job_id for _ in range(100)} == {verifier.verify(token).job_id}
    assert verifier.key_id_of(token) == jwt.get_unverified_header(token)["kid"]
    assert signature_checks == [token]
    for _ in range(2):
        assert_rejected(verifier, f"{token[:-20]}{'A' * 20}")


def test_a_remembered_token_expires(
    signer: TokenSigner, verifier: TokenVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The expiry is checked each time."""
    token = signer.sign(make_grant())
    verifier.verify(token)
    later = Timestamp.now().after(HOUR_S + LEEWAY_S + 1)
    monkeypatch.setattr(module, "Timestamp", type("Later", (), {"now": staticmethod(lambda: later)}))
    with pytest.raises(InvalidToken, match="expired"):
        verifier.verify(token)


def test_a_removed_key_is_not_remembered(tmp_path: Path, keys: Path, signer: TokenSigner) -> None:
    """A verifier with other keys starts with no verified tokens."""
    token = signer.sign(make_grant())
    TokenVerifier((keys / "token.pub.pem").read_text()).verify(token)
    make_keys(tmp_path / "new")
    assert_rejected(TokenVerifier((tmp_path / "new/token.pub.pem").read_text()), token)


def test_clocks_may_differ_a_little(signer: TokenSigner, verifier: TokenVerifier) -> None:
    """A token that has just expired, or was issued by a clock that runs ahead, is accepted."""
    just_expired = make_grant(expires_at=Timestamp.now().after(-LEEWAY_S / 2))
    from_the_future = make_grant(submitted_at=Timestamp.now().after(LEEWAY_S / 2))
    assert verifier.verify(signer.sign(just_expired)) == just_expired
    assert verifier.verify(signer.sign(from_the_future)) == from_the_future


def test_a_foreign_key_is_rejected(tmp_path: Path, signer: TokenSigner, verifier: TokenVerifier) -> None:
    """A token of another deployment is rejected, even if its header names a known key."""
    make_keys(tmp_path / "foreign")
    private = (tmp_path / "foreign/token.pem").read_text()
    assert_rejected(verifier, TokenSigner(private).sign(make_grant()))
    known = {"kid": jwt.get_unverified_header(signer.sign(make_grant()))["kid"]}
    key = load_pem_private_key(private.encode(), None)
    assert_rejected(verifier, jwt.encode(make_grant().claims(), key, "EdDSA", headers=known))  # type: ignore[arg-type]


@pytest.mark.parametrize("part", [0, 1, 2])
def test_an_altered_token_is_rejected(signer: TokenSigner, verifier: TokenVerifier, part: int) -> None:
    """A token with a changed or an empty part is rejected."""
    token = signer.sign(make_grant())
    parts, other_parts = token.split("."), signer.sign(make_grant(kind="other")).split(".")
    changed = encoded({"alg": "EdDSA", "kid": "other"}) if part == 0 else other_parts[part]
    assert_rejected(verifier, ".".join([*parts[:part], changed, *parts[part + 1 :]]))
    assert_rejected(verifier, ".".join([*parts[:part], "", *parts[part + 1 :]]))


def test_other_algorithms_are_rejected(keys: Path, signer: TokenSigner, verifier: TokenVerifier) -> None:
    """The algorithm `none`, and HS256 with the public key as its secret, are the classic forgeries."""
    claims, token = make_grant().claims(), signer.sign(make_grant())
    kid = jwt.get_unverified_header(token)["kid"]
    assert_rejected(verifier, f"{encoded({'alg': 'none', 'kid': kid})}.{encoded(claims)}.")
    signed = f"{encoded({'alg': 'HS256', 'kid': kid})}.{encoded(claims)}"
    for secret in ((keys / "token.pub.pem").read_bytes(), (keys / "token.pub.pem").read_bytes().strip()):
        mac = hmac.new(secret, signed.encode(), hashlib.sha256).digest()
        assert_rejected(verifier, f"{signed}.{encoded(mac)}")


@pytest.mark.parametrize(
    "changes",
    [
        *({name: None} for name in ("sub", "exp", "iat", "aud", "scope")),
        {"aud": "headway"},
        {"sub": "no-uuid"},
        {"sub": 7},
        {"exp": "soon"},
        {"exp": [1]},
        {"due": "never"},
        {"iat": 32_503_680_000},
        {"exp": 1e20},
        {"iat": -1e13},
        {"due": 1e15},
        {"scope": ""},
        {"scope": "cancel"},
        {"scope": ["watch"]},
    ],
    ids=str,
)
def test_invalid_claims_are_rejected(keys: Path, verifier: TokenVerifier, changes: dict[str, Any]) -> None:
    """Missing or malformed claims are rejected, even with a valid signature."""
    signer = TokenSigner((keys / "token.pem").read_text())
    claims = {name: value for name, value in (make_grant().claims() | changes).items() if value is not None}
    headers = {"kid": jwt.get_unverified_header(signer.sign(make_grant()))["kid"]}
    key = load_pem_private_key((keys / "token.pem").read_bytes(), None)
    data = ".".join(encoded(part) for part in ({"alg": "EdDSA", **headers}, claims))
    signature = key.sign(data.encode())  # type: ignore[union-attr, call-arg]
    assert_rejected(verifier, f"{data}.{encoded(signature)}")


@pytest.mark.parametrize("token", ["", ".", "..", "a.b.c", "é.é.é", "eyJhbGciOiJFZERTQSJ9.e30.", "\x00", "x" * 5000])
def test_other_text_is_rejected(verifier: TokenVerifier, token: str) -> None:
    """Text that is not a token is rejected with the same code."""
    assert_rejected(verifier, token)


def test_several_keys_are_accepted_during_a_rotation(tmp_path: Path) -> None:
    """A verifier accepts the tokens of all its keys, and no others."""
    folders = [tmp_path / name for name in ("old", "new", "gone")]
    for folder in folders:
        make_keys(folder)
    signers = [TokenSigner((folder / "token.pem").read_text()) for folder in folders]
    verifier = TokenVerifier("\n".join((folder / "token.pub.pem").read_text() for folder in folders[:2]))
    for signer in signers[:2]:
        grant = make_grant()
        assert verifier.verify(signer.sign(grant)) == grant
    assert_rejected(verifier, signers[2].sign(make_grant()))


def test_keys_of_another_type_are_rejected(keys: Path) -> None:
    """A signer accepts only an Ed25519 private key, and a verifier only Ed25519 public keys."""
    key = generate_private_key(SECP256R1())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    for text in (private, public, (keys / "token.pub.pem").read_text(), "", "nonsense"):
        with pytest.raises(ValueError, match=r"."):
            TokenSigner(text)
    for text in (public, (keys / "token.pub.pem").read_text() + public, (keys / "token.pem").read_text(), ""):
        with pytest.raises(ValueError, match=r"."):
            TokenVerifier(text)


def test_existing_keys_are_kept(keys: Path) -> None:
    """Creating keys again changes nothing, because a new key would invalidate every issued token."""
    before = {path.name: path.read_bytes() for path in keys.iterdir()}
    make_keys(keys)
    assert {path.name: path.read_bytes() for path in keys.iterdir()} == before
    assert set(before) == {"token.pem", "token.pub.pem", "report.key"}


def test_a_missing_key_is_created_to_match_the_others(keys: Path) -> None:
    """A missing public key is derived from the private key; a new private key replaces the public key."""
    public = (keys / "token.pub.pem").read_bytes()
    (keys / "token.pub.pem").unlink()
    make_keys(keys)
    assert (keys / "token.pub.pem").read_bytes() == public
    (keys / "token.pem").unlink()
    make_keys(keys)
    signed = TokenSigner((keys / "token.pem").read_text()).sign(make_grant())
    assert TokenVerifier((keys / "token.pub.pem").read_text()).verify(signed)


def test_only_the_owner_can_read_secrets(keys: Path) -> None:
    """The private key, the report key and their directory have no permissions for other users."""
    assert (keys / "token.pem").stat().st_mode & 0o777 == 0o600
    assert (keys / "report.key").stat().st_mode & 0o777 == 0o600
    assert keys.stat().st_mode & 0o077 == 0
    assert len((keys / "report.key").read_text().strip()) >= 32


def test_concurrent_calls_create_one_set_of_keys(tmp_path: Path) -> None:
    """Concurrent calls leave complete, matching keys and no temporary file."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: make_keys(tmp_path / "keys"), range(40)))
    assert {path.name for path in (tmp_path / "keys").iterdir()} == {"token.pem", "token.pub.pem", "report.key"}
    now = Timestamp.now()
    grant = Grant(job_id=uuid4(), kind="k", submitted_at=now, expires_at=now.after(HOUR_S))
    signer = TokenSigner((tmp_path / "keys/token.pem").read_text())
    assert (
        TokenVerifier((tmp_path / "keys/token.pub.pem").read_text()).verify(signer.sign(grant)).job_id == grant.job_id
    )


def test_an_encrypted_key_is_rejected() -> None:
    """A service cannot ask for the password of a key."""
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    with pytest.raises(ValueError, match="encrypted"):
        TokenSigner(pem.decode())


def test_list_token(signer: TokenSigner, verifier: TokenVerifier) -> None:
    """A list token opens the jobs of its filter, for as long as it lives and with its scope; it is no job's token."""
    now = Timestamp.now()
    grant = ListGrant(
        filter=JobFilter(owner="user:7"), issued_at=now, expires_at=now.after(60), scope=frozenset({LIST, WATCH})
    )
    token = signer.sign(grant)
    assert verifier.verify_any(token) == grant
    with pytest.raises(InvalidToken, match="list token"):
        verifier.verify(token)
    job = grant.for_job(uuid4())
    assert (job.requires_record, job.filter, job.scope) == (True, grant.filter, grant.scope)
    assert job.valid_until == grant.valid_until


@pytest.mark.parametrize("scope", ["details", "operate"])
def test_details_and_operate_include_watch_and_list(scope: str, signer: TokenSigner, verifier: TokenVerifier) -> None:
    """Such a token opens its job, or its list and the jobs in it, and has no other scope."""
    now = Timestamp.now()
    listing = ListGrant(filter=JobFilter(), issued_at=now, expires_at=now.after(60), scope=frozenset({scope}))
    for grant in (listing, make_grant(scope=frozenset({scope}))):
        verified = verifier.verify_any(signer.sign(grant))
        assert [name for name in SCOPES if verified.permits(name)] == [WATCH, LIST, scope]


@pytest.mark.parametrize("scope", [{WATCH}, {WATCH, CANCEL}])
def test_list_token_needs_the_scope(scope: set[str], signer: TokenSigner, verifier: TokenVerifier) -> None:
    """A token with a filter but without the scope `list` is refused."""
    now = Timestamp.now()
    grant = ListGrant(filter=JobFilter(), issued_at=now, expires_at=now.after(60), scope=frozenset(scope))
    with pytest.raises(InvalidToken, match="list"):
        verifier.verify_any(signer.sign(grant))


def test_token_of_a_job_that_requires_a_record(signer: TokenSigner, verifier: TokenVerifier) -> None:
    """The claim `record` survives, and only where it is set."""
    for requires_record in (True, False):
        grant = make_grant(requires_record=requires_record)
        assert verifier.verify(signer.sign(grant)) == grant
        assert ("record" in grant.claims()) is requires_record
