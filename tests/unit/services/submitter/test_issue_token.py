"""`POST /tokens`: who may have which token, and requests that are rejected."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from headway.contracts import Timestamp
from headway.grants import Grant, ListGrant
from headway.labels import JobFilter
from headway.tokens import TokenSigner, TokenVerifier, make_keys
from services.runtime.settings import ReloadingFile
from services.submitter.api_keys import key_digest
from services.submitter.issue_token import IssueTokenHandler
from services.submitter.sessions import MAX_SESSION_S
from tests.unit.services.runtime.http_app import Client, read_problem, serve
from tests.unit.services.submitter.callers import session_auth, submitter_settings
from tests.waiting import wait_until

ID = "d4c0ffee-0000-4000-8000-000000000001"
OWN = {"filter": {"owner": "user:7"}, "scope": "list watch cancel"}
Serve = Callable[..., AbstractAsyncContextManager[Client]]


@pytest.fixture
def verifier(tmp_path: Path) -> TokenVerifier:
    """Create keys; return the verifier of the tokens."""
    make_keys(tmp_path)
    return TokenVerifier((tmp_path / "token.pub.pem").read_text())


@pytest.fixture
def served(tmp_path: Path, verifier: TokenVerifier) -> Serve:
    """Return a function that serves the handler, with API keys or with other settings."""

    @asynccontextmanager
    async def served(**env: str) -> AsyncIterator[Client]:
        signer = ReloadingFile(tmp_path / "token.pem", TokenSigner)
        sessions = session_auth(submitter_settings(tmp_path, **env), tmp_path / "token.pub.pem")
        handler = IssueTokenHandler(signer, sessions)
        async with serve(*handler.routes()) as client:
            yield client

    return served


async def ask(client: Client, body: Any, key: str | None = "app") -> tuple[int, dict[str, Any]]:
    """Ask for a token; return the status and the body of the response."""
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    async with client.post("/tokens", json=body, headers=headers) as response:
        if response.status != 200:
            return response.status, await read_problem(response)
        assert (response.content_type, response.headers["Cache-Control"]) == ("application/json", "no-store")
        return response.status, msgspec.json.decode(await response.read())


async def test_an_application_gets_a_token_for_its_user_s_jobs(served: Serve, verifier: TokenVerifier) -> None:
    """A list token has the filter, the scope and the lifetime of the request; by default it lives an hour."""
    async with served() as client:
        for ttl_s, fields in ((3600, {}), (60, {"ttl_s": 60}), (86_400, {"ttl_s": 86_400}), (0.5, {"ttl_s": 0.5})):
            before = Timestamp.now()
            status, answer = await ask(client, {**OWN, **fields})
            assert (status, set(answer)) == (200, {"token", "expires_at"})
            grant = verifier.verify_any(answer["token"])
            assert isinstance(grant, ListGrant)
            assert grant.filter == JobFilter(owner="user:7")
            assert grant.scope == {"list", "watch", "cancel"}
            assert before.after(ttl_s) <= grant.expires_at <= Timestamp.now().after(ttl_s)
            assert Timestamp.parse(answer["expires_at"]) == grant.expires_at


async def test_a_token_for_a_job_opens_it_only_with_its_record(served: Serve, verifier: TokenVerifier) -> None:
    """It may watch and cancel the job by default, and never stands for a job that was not submitted."""
    async with served() as client:
        for body, scope in (({}, {"watch", "cancel"}), ({"scope": "watch"}, {"watch"})):
            _, answer = await ask(client, {"job": ID, **body})
            grant = verifier.verify_any(answer["token"])
            assert isinstance(grant, Grant)
            assert (str(grant.job_id), set(grant.scope), grant.requires_record) == (ID, scope, True)


OPERATORS_ONLY = (
    ({**OWN, "scope": "list watch details"}, "scope"),
    ({**OWN, "scope": "list operate"}, "scope"),
    ({"job": ID, "scope": "watch details"}, "scope"),
    ({"job": ID, "scope": "operate"}, "scope"),
    ({"filter": {}, "scope": "details"}, "scope"),
    ({"filter": {}, "scope": "list"}, "filter"),
    ({"filter": {"owner": None}, "scope": "list watch"}, "filter"),
)


async def test_details_and_all_jobs_are_for_operators(served: Serve) -> None:
    """Without the role `operate` the answer is 403, which names the field; with the role, the token is issued."""
    async with served() as client:
        for body, field in OPERATORS_ONLY:
            status, problem = await ask(client, body)
            assert (status, problem["code"], problem["field"]) == (403, "forbidden", field)
            assert (await ask(client, body, "ops"))[0] == 200


DASHBOARD = {"filter": {}, "scope": "list watch cancel details operate"}
READER = {"filter": {}, "scope": "list details"}


async def test_every_key_opens_the_dashboard_without_actions(served: Serve, verifier: TokenVerifier) -> None:
    """Exactly the scope `list details` is for every key; it permits watching, but neither cancelling nor operating."""
    async with served() as client:
        assert (await ask(client, READER, None))[0] == 401
        for scope in ("list details", "details list"):
            status, answer = await ask(client, {**READER, "scope": scope})
            grant = verifier.verify_any(answer["token"])
            assert (status, set(grant.scope), grant.by) == (200, {"list", "details"}, key_digest("app")[:8])
            assert [grant.permits(name) for name in ("watch", "cancel", "operate")] == [True, False, False]
        for scope in ("list watch", "list details operate", "list details cancel"):
            assert (await ask(client, {**READER, "scope": scope}))[0] == 403


async def test_a_session_renews_its_token_while_the_key_exists(
    served: Serve, verifier: TokenVerifier, tmp_path: Path
) -> None:
    """The new token has the name of the key and the time of the first one; without the key the answer is 401."""
    async with served() as client:
        for body, key in ((DASHBOARD, "ops"), (READER, "app")):
            token = (await ask(client, body, key))[1]["token"]
            status, answer = await ask(client, {**body, "ttl_s": 60}, token)
            first, renewed = verifier.verify_any(token), verifier.verify_any(answer["token"])
            assert isinstance(first, ListGrant)
            assert isinstance(renewed, ListGrant)
            assert (status, renewed.scope, renewed.by) == (200, first.scope, first.by)
            assert renewed.signed_in_at == first.signed_in_at == first.issued_at
        token = (await ask(client, DASHBOARD, "ops"))[1]["token"]
        (tmp_path / "api-keys").write_text("ops name=alice\n")  # the role is gone
        await wait_until(lambda: refused_status(client, DASHBOARD, token, 403))
        assert (await ask(client, READER, token))[0] == 200
        (tmp_path / "api-keys").write_text("fresh operate name=alice\n")  # in place of a key that has leaked
        await wait_until(lambda: refused_status(client, READER, token, 401))


async def refused_status(client: Client, body: Any, token: str, status: int) -> bool:
    """Return whether a request gets a status; the file of keys is read again after a moment."""
    return (await ask(client, body, token))[0] == status


async def test_a_session_permits_no_more_than_its_token(served: Serve, tmp_path: Path) -> None:
    """It asks for tokens of jobs and owners within its scope; a token that names no key, or one job, asks for none."""
    async with served() as client:
        operator = (await ask(client, DASHBOARD, "ops"))[1]["token"]
        reader = (await ask(client, READER, "ops"))[1]["token"]
        assert [(await ask(client, body, operator))[0] for body in ({"job": ID}, OWN, DASHBOARD)] == [200] * 3
        for body in ({"job": ID}, OWN, DASHBOARD):
            status, problem = await ask(client, body, reader)
            assert (status, problem["field"]) == (403, "scope")
        assert (await ask(client, {"job": ID, "scope": "watch"}, reader))[0] == 200
        for body in ({**DASHBOARD, "scope": "list watch"}, {"job": ID, "scope": "watch details"}, OWN):
            other = (await ask(client, body, "ops"))[1]["token"]
            assert (await ask(client, {"job": ID, "scope": "watch"}, other))[0] == 403
        assert (await ask(client, DASHBOARD, f"{operator}x"))[0] == 401


async def test_an_open_dashboard_has_no_sessions(served: Serve) -> None:
    """Its tokens stand for no key: where it is closed later, or where submitting needs a key, they get nothing."""
    async with served(DASHBOARD_OPEN="true") as client:
        status, answer = await ask(client, DASHBOARD, None)
        assert status == 200
    async with served() as client:
        status, problem = await ask(client, DASHBOARD, answer["token"])
        assert (status, problem["code"]) == (403, "forbidden")


async def test_a_session_ends_after_half_a_day(served: Serve, tmp_path: Path, verifier: TokenVerifier) -> None:
    """Its tokens end with it, except those that only watch; then the code says that it has expired."""
    signer = TokenSigner((tmp_path / "token.pem").read_text())
    scope = frozenset({"list", "watch", "cancel", "details", "operate"})
    now = Timestamp.now()

    def token(age_s: float) -> str:
        grant = ListGrant(filter=JobFilter(), issued_at=now, expires_at=now.after(60), scope=scope)
        return signer.sign(replace(grant, key_id=key_digest("ops")[:16], signed_in_at=now.after(-age_s)))

    async with served() as client:
        old = token(MAX_SESSION_S - 100)
        day = {"ttl_s": 86_400}
        for body in (
            DASHBOARD,
            {**OWN, **day},
            {"job": ID, **day},
            {"filter": {}, "scope": "list watch cancel", **day},
        ):
            grant = verifier.verify_any((await ask(client, body, old))[1]["token"])
            assert grant.expires_at <= now.after(101)
        link = (await ask(client, {"job": ID, "scope": "watch"}, old))[1]["token"]
        assert verifier.verify_any(link).expires_at >= now.after(3600)
        status, problem = await ask(client, DASHBOARD, token(MAX_SESSION_S + 1))
        assert (status, problem["code"]) == (401, "token_expired")


async def test_a_token_needs_an_api_key(served: Serve) -> None:
    """Without a valid key the answer is 401, also where anyone may submit; an open dashboard needs no key."""
    async with served() as client:
        assert [(await ask(client, OWN, key))[0] for key in (None, "wrong", "app operate")] == [401] * 3
    async with served(SUBMITTER_OPEN="true") as client:
        status, problem = await ask(client, OWN)
        assert (status, problem["code"]) == (401, "unauthorized")
        assert "DASHBOARD_OPEN" in problem["detail"]
    for env in ({"SUBMITTER_OPEN": "true"}, {}):
        async with served(DASHBOARD_OPEN="true", **env) as client:
            bodies = [OWN, *(body for body, _ in OPERATORS_ONLY)]
            statuses = [(await ask(client, body, key))[0] for body in bodies for key in (None, "app")]
            assert statuses == [200] * 2 * len(bodies)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "job"),
        ({"scope": "list"}, "job"),
        ({"job": ID, **OWN}, "filter"),
        ({"job": "countdown"}, "job"),
        ({"job": None, **OWN}, "job"),
        ({"job": ID, "scope": "cancel"}, "scope"),
        ({"job": ID, "scope": "list watch"}, "scope"),
        ({"job": ID, "scope": ""}, "scope"),
        ({"filter": {"owner": "user:7"}}, "scope"),
        ({**OWN, "scope": "watch cancel"}, "scope"),
        ({**OWN, "scope": "list everything"}, "scope"),
        ({**OWN, "scope": "list  watch"}, "scope"),
        ({**OWN, "scope": ["list"]}, "scope"),
        ({**OWN, "ttl_s": 0}, "ttl_s"),
        ({**OWN, "ttl_s": 86_400.5}, "ttl_s"),
        ({**OWN, "ttl_s": "60"}, "ttl_s"),
        ({**OWN, "filter": {"owner": "user 7"}}, "filter.owner"),
        ({**OWN, "filter": {"owner": "{7}"}}, "filter.owner"),
        ({**OWN, "filter": {"tag": "t" * 65}}, "filter.tag"),
        ({**OWN, "filter": {"tag": "{t}"}}, "filter.tag"),
        ({**OWN, "filter": {"kind": ""}}, "filter.kind"),
        ({**OWN, "filter": {"status": "failed"}}, "filter.status"),
        ({**OWN, "filter": None}, "filter"),
        ({**OWN, "owner": "user:7"}, "owner"),
    ],
    ids=str,
)
async def test_an_invalid_request_names_the_field(served: Serve, body: dict[str, Any], field: str) -> None:
    """No token is issued for a request that has a mistake, whatever the role of the key."""
    async with served() as client:
        status, problem = await ask(client, body, "ops")
        assert (status, problem["code"], problem["field"]) == (422, "invalid", field)


async def test_tokens_share_the_rate_limit_of_submissions(served: Serve) -> None:
    """Each key has its own burst, then gets 429 with `Retry-After`."""
    async with served(SUBMIT_RATE="0.001", SUBMIT_BURST="2") as client:
        statuses = [(await ask(client, OWN, key))[0] for key in ("app", "ops", None) for _ in range(3)]
        assert statuses == [200, 200, 429, 200, 200, 429, 401, 401, 429]


async def test_keys_and_tokens_are_not_logged(served: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """A log line says that a token was issued, with its scope and without its filter, which may be personal."""
    async with served() as client:
        _, answer = await ask(client, OWN)
        await ask(client, OWN, "hunter2")
    printed = "".join(itertools.chain(capsys.readouterr()))
    assert "token_issued" in printed
    assert not [secret for secret in (answer["token"], "hunter2", "user:7", "Bearer") if secret in printed]
