"""Watch tokens: what opens a job, and everything that does not."""

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

from headway.contracts import Timestamp
from headway.tokens import LEEWAY_S, WATCH, Grant, InvalidToken, TokenSigner, TokenVerifier, make_keys

HOUR_S = 3600


def granted(**changes: Any) -> Grant:
    """Return a pass for an hour."""
    now = Timestamp.now()
    fields: dict[str, Any] = {"kind": "countdown", "submitted_at": now, "expires_at": now.after(HOUR_S)}
    return Grant(job_id=uuid4(), **{**fields, **changes})


@pytest.fixture
def signer(keys: Path) -> TokenSigner:
    """Sign with a fresh key."""
    return TokenSigner((keys / "token.pem").read_text())


@pytest.fixture
def verifier(keys: Path) -> TokenVerifier:
    """Verify with that key's public half."""
    return TokenVerifier((keys / "token.pub.pem").read_text())


def encoded(part: dict[str, Any] | bytes) -> str:
    """Write one part of a token."""
    data = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def assert_opens_nothing(verifier: TokenVerifier, token: str) -> None:
    """Check that the token is refused, and that nothing tells whose it was."""
    with pytest.raises(InvalidToken) as refused:
        verifier.verify(token)
    assert (refused.value.code, refused.value.job_id) == ("invalid_token", None)


@pytest.mark.parametrize("delayed", [False, True])
@pytest.mark.parametrize("scope", [frozenset({"watch"}), frozenset({"watch", "cancel"})])
def test_a_token_says_what_was_granted(
    signer: TokenSigner, verifier: TokenVerifier, *, delayed: bool, scope: frozenset[str]
) -> None:
    """What was signed is what is verified, to the millisecond."""
    due_at = Timestamp.now().after(60) if delayed else None
    given = granted(scope=scope, due_at=due_at)
    assert verifier.verify(signer.sign(given)) == given


def test_a_token_is_spelt_as_the_contract_says(signer: TokenSigner) -> None:
    """The claims and the header are the contract's, `due` only when the job is delayed."""
    given = granted()
    token = signer.sign(given)
    header = jwt.get_unverified_header(token)
    assert (header["alg"], len(header["kid"])) == ("EdDSA", 16)
    assert jwt.decode(token, options={"verify_signature": False}) == {
        "sub": str(given.job_id),
        "kind": "countdown",
        "iat": given.submitted_at / 1000,
        "exp": given.expires_at / 1000,
        "aud": "headway-live",
        "scope": "watch cancel",
    }
    delayed = signer.sign(granted(scope=frozenset({WATCH}), due_at=given.expires_at))
    claims = jwt.decode(delayed, options={"verify_signature": False})
    assert (claims["scope"], claims["due"]) == ("watch", given.expires_at / 1000)


def test_an_expired_token_names_its_job(signer: TokenSigner, verifier: TokenVerifier) -> None:
    """A watcher of many jobs learns which of them it can no longer watch."""
    old = granted(expires_at=Timestamp.now().after(-LEEWAY_S - 1))
    with pytest.raises(InvalidToken) as refused:
        verifier.verify(signer.sign(old))
    assert (refused.value.code, refused.value.job_id) == ("token_expired", old.job_id)


def test_clocks_may_differ_a_little(signer: TokenSigner, verifier: TokenVerifier) -> None:
    """A token that has just expired, or comes from a clock that runs ahead, is still good."""
    just_over = granted(expires_at=Timestamp.now().after(-LEEWAY_S / 2))
    ahead = granted(submitted_at=Timestamp.now().after(LEEWAY_S / 2))
    assert verifier.verify(signer.sign(just_over)) == just_over
    assert verifier.verify(signer.sign(ahead)) == ahead


def test_a_foreign_key_opens_nothing(tmp_path: Path, signer: TokenSigner, verifier: TokenVerifier) -> None:
    """A token of another system is refused, also when it claims to be signed by a known key."""
    make_keys(tmp_path / "foreign")
    private = (tmp_path / "foreign/token.pem").read_text()
    assert_opens_nothing(verifier, TokenSigner(private).sign(granted()))
    known = {"kid": jwt.get_unverified_header(signer.sign(granted()))["kid"]}
    key = load_pem_private_key(private.encode(), None)
    assert_opens_nothing(verifier, jwt.encode(granted().claims(), key, "EdDSA", headers=known))  # type: ignore[arg-type]


@pytest.mark.parametrize("part", [0, 1, 2])
def test_an_altered_token_opens_nothing(signer: TokenSigner, verifier: TokenVerifier, part: int) -> None:
    """No part of a token can be changed or left out."""
    token = signer.sign(granted())
    parts, other = token.split("."), signer.sign(granted(kind="other")).split(".")
    changed = encoded({"alg": "EdDSA", "kid": "other"}) if part == 0 else other[part]
    assert_opens_nothing(verifier, ".".join([*parts[:part], changed, *parts[part + 1 :]]))
    assert_opens_nothing(verifier, ".".join([*parts[:part], "", *parts[part + 1 :]]))


def test_no_other_algorithm_is_taken(keys: Path, signer: TokenSigner, verifier: TokenVerifier) -> None:
    """`none`, and HS256 with the public key as its secret, are the classical forgeries."""
    claims, token = granted().claims(), signer.sign(granted())
    kid = jwt.get_unverified_header(token)["kid"]
    assert_opens_nothing(verifier, f"{encoded({'alg': 'none', 'kid': kid})}.{encoded(claims)}.")
    signed = f"{encoded({'alg': 'HS256', 'kid': kid})}.{encoded(claims)}"
    for secret in ((keys / "token.pub.pem").read_bytes(), (keys / "token.pub.pem").read_bytes().strip()):
        mac = hmac.new(secret, signed.encode(), hashlib.sha256).digest()
        assert_opens_nothing(verifier, f"{signed}.{encoded(mac)}")


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
def test_claims_that_do_not_fit_open_nothing(keys: Path, verifier: TokenVerifier, changes: dict[str, Any]) -> None:
    """A good signature under missing or strange claims is refused without a crash."""
    signer = TokenSigner((keys / "token.pem").read_text())
    claims = {name: value for name, value in (granted().claims() | changes).items() if value is not None}
    headers = {"kid": jwt.get_unverified_header(signer.sign(granted()))["kid"]}
    key = load_pem_private_key((keys / "token.pem").read_bytes(), None)
    data = ".".join(encoded(part) for part in ({"alg": "EdDSA", **headers}, claims))
    signature = key.sign(data.encode())  # type: ignore[union-attr, call-arg]
    assert_opens_nothing(verifier, f"{data}.{encoded(signature)}")


@pytest.mark.parametrize("token", ["", ".", "..", "a.b.c", "é.é.é", "eyJhbGciOiJFZERTQSJ9.e30.", "\x00", "x" * 5000])
def test_what_is_no_token_opens_nothing(verifier: TokenVerifier, token: str) -> None:
    """Any text is refused the same way."""
    assert_opens_nothing(verifier, token)


def test_several_keys_are_good_while_one_is_rotated(tmp_path: Path) -> None:
    """A verifier takes the tokens of all its keys and of no other."""
    folders = [tmp_path / name for name in ("old", "new", "gone")]
    for folder in folders:
        make_keys(folder)
    signers = [TokenSigner((folder / "token.pem").read_text()) for folder in folders]
    verifier = TokenVerifier("\n".join((folder / "token.pub.pem").read_text() for folder in folders[:2]))
    for signer in signers[:2]:
        given = granted()
        assert verifier.verify(signer.sign(given)) == given
    assert_opens_nothing(verifier, signers[2].sign(granted()))


def test_keys_of_another_kind_are_refused(keys: Path) -> None:
    """Only Ed25519 keys are taken, so that no weaker one slips in, and a private key is no public one."""
    other = generate_private_key(SECP256R1())
    private = other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    public = other.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    for text in (private, public, (keys / "token.pub.pem").read_text(), "", "nonsense"):
        with pytest.raises(ValueError, match=r"."):
            TokenSigner(text)
    for text in (public, (keys / "token.pub.pem").read_text() + public, (keys / "token.pem").read_text(), ""):
        with pytest.raises(ValueError, match=r"."):
            TokenVerifier(text)


def test_keys_that_exist_are_left_alone(keys: Path) -> None:
    """Making keys again changes nothing: a new key would void every token that is out."""
    before = {path.name: path.read_bytes() for path in keys.iterdir()}
    make_keys(keys)
    assert {path.name: path.read_bytes() for path in keys.iterdir()} == before
    assert set(before) == {"token.pem", "token.pub.pem", "report.key"}


def test_a_missing_key_is_made_to_fit_the_others(keys: Path) -> None:
    """The public key comes from the private one that is there, and never outlives it."""
    public = (keys / "token.pub.pem").read_bytes()
    (keys / "token.pub.pem").unlink()
    make_keys(keys)
    assert (keys / "token.pub.pem").read_bytes() == public
    (keys / "token.pem").unlink()
    make_keys(keys)
    signed = TokenSigner((keys / "token.pem").read_text()).sign(granted())
    assert TokenVerifier((keys / "token.pub.pem").read_text()).verify(signed)


def test_secrets_are_their_owners_alone(keys: Path) -> None:
    """Nobody else on the machine can read the private key or the report key."""
    assert (keys / "token.pem").stat().st_mode & 0o777 == 0o600
    assert (keys / "report.key").stat().st_mode & 0o777 == 0o600
    assert keys.stat().st_mode & 0o077 == 0
    assert len((keys / "report.key").read_text().strip()) >= 32


def test_keys_may_be_made_by_several_at_once(tmp_path: Path) -> None:
    """Each finds whole keys, and all the same; nothing else is left."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: make_keys(tmp_path / "keys"), range(40)))
    assert {path.name for path in (tmp_path / "keys").iterdir()} == {"token.pem", "token.pub.pem", "report.key"}
    now = Timestamp.now()
    given = Grant(job_id=uuid4(), kind="k", submitted_at=now, expires_at=now.after(HOUR_S))
    signer = TokenSigner((tmp_path / "keys/token.pem").read_text())
    assert (
        TokenVerifier((tmp_path / "keys/token.pub.pem").read_text()).verify(signer.sign(given)).job_id == given.job_id
    )


def test_an_encrypted_key_is_refused() -> None:
    """Nobody is there to ask for its password."""
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    with pytest.raises(ValueError, match="encrypted"):
        TokenSigner(pem.decode())
