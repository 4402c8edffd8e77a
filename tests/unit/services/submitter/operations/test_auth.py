"""Who may act on jobs of other callers, and on which."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from aiohttp.test_utils import make_mocked_request

from headway.contracts import Timestamp
from headway.grants import Grant, ListGrant
from headway.labels import JobFilter, Labels
from headway.tokens import TokenSigner, TokenVerifier, make_keys
from services.runtime.errors import Forbidden, Unauthorized
from services.runtime.settings import ReloadingFile
from services.submitter.api_keys import key_digest
from services.submitter.caller_auth import TooManyRequests
from services.submitter.operations.auth import Operator, OperatorAuth
from tests.unit.services.submitter.callers import caller_auth, submitter_settings

JOB, OTHER = uuid4(), uuid4()
OPERATE = frozenset({"watch", "list", "operate"})
Authenticate = Callable[[str | None], Operator]


@pytest.fixture
def authenticating(tmp_path: Path) -> Callable[..., Authenticate]:
    """Return a function that makes authentication with API keys or other settings."""
    make_keys(tmp_path)

    def authenticating(**env: str) -> Authenticate:
        verifier = ReloadingFile(tmp_path / "token.pub.pem", TokenVerifier)
        auth = OperatorAuth(caller_auth(submitter_settings(tmp_path, **env)), verifier)

        def authenticate(bearer: str | None) -> Operator:
            headers = {} if bearer is None else {"Authorization": f"Bearer {bearer}"}
            return auth.authenticate(make_mocked_request("POST", "/", headers=headers))

        return authenticate

    return authenticating


@pytest.fixture
def sign(tmp_path: Path, authenticating: object) -> Callable[..., str]:
    """Return a function that signs a token for a job or, with a filter, for a list."""
    signer = TokenSigner((tmp_path / "token.pem").read_text())

    def sign(job_filter: JobFilter | None = None, **fields: Any) -> str:
        now = Timestamp.now()
        fields = {"scope": OPERATE, "expires_at": now.after(60), **fields}
        if job_filter is not None:
            return signer.sign(ListGrant(filter=job_filter, issued_at=now, **fields))
        return signer.sign(Grant(job_id=JOB, kind="export", submitted_at=now, **fields))

    return sign


def test_a_key_with_the_role_operates_all_jobs(authenticating: Callable[..., Authenticate]) -> None:
    """Its name is that of the file of API keys, not the key."""
    operator = authenticating()("ops")
    assert operator == Operator("alice")
    operator.authorize(JOB, "export", Labels(owner="user:7"))
    operator.authorize(OTHER, "import", None)


def test_other_callers_are_refused(authenticating: Callable[..., Authenticate]) -> None:
    """A key without the role is forbidden; a missing or an unknown key is unauthorized."""
    authenticate = authenticating()
    with pytest.raises(Forbidden, match="role `operate`"):
        authenticate("app")
    for unknown in (None, "nobody", "a.b", "a.b.c.d"):
        with pytest.raises(Unauthorized, match="Send an API key"):
            authenticate(unknown)


def test_open_operation_needs_no_key(authenticating: Callable[..., Authenticate], sign: Callable[..., str]) -> None:
    """With DASHBOARD_OPEN anyone operates all jobs, also with the token of a proxy; SUBMITTER_OPEN is not enough."""
    authenticate = authenticating(SUBMITTER_OPEN="true", DASHBOARD_OPEN="true")
    for bearer in (None, "anything", "a.b.c", sign(JobFilter(owner="user:7"))):
        assert authenticate(bearer) == Operator("anyone")
    with pytest.raises(Unauthorized, match="SUBMITTER_API_KEYS is not set"):
        authenticating(SUBMITTER_OPEN="true")(None)


def test_a_list_token_operates_the_jobs_of_its_filter(
    authenticating: Callable[..., Authenticate], sign: Callable[..., str]
) -> None:
    """The name of the key that issued it is in the token."""
    operator = authenticating()(sign(JobFilter(owner="user:7", kind="export"), by="alice"))
    assert operator == Operator("alice", JobFilter(owner="user:7", kind="export"), sees_details=False)
    operator.authorize(JOB, "export", Labels(owner="user:7"))
    for kind, labels in (
        ("import", Labels(owner="user:7")),
        ("export", Labels(owner="user:8")),
        ("export", None),
    ):
        with pytest.raises(Forbidden, match="labels of this job"):
            operator.authorize(JOB, kind, labels)


def test_a_token_of_a_job_operates_that_job(
    authenticating: Callable[..., Authenticate], sign: Callable[..., str]
) -> None:
    """Without the name of a key, a digest stands for the token."""
    operator = authenticating()(token := sign())
    assert operator.name.startswith("token:")
    assert operator.name.removeprefix("token:") not in token
    operator.authorize(JOB, "export", None)
    with pytest.raises(Forbidden, match="another job"):
        operator.authorize(OTHER, "export", None)


@pytest.mark.parametrize("job_filter", [None, JobFilter()])
def test_a_token_needs_the_scope(
    authenticating: Callable[..., Authenticate], sign: Callable[..., str], job_filter: JobFilter | None
) -> None:
    """The scopes of a user's token permit no action, and an expired or a forged token nothing at all."""
    authenticate = authenticating()
    with pytest.raises(Forbidden, match="scope `operate`"):
        authenticate(sign(job_filter, scope=frozenset({"watch", "cancel", "list", "details"})))
    with pytest.raises(Unauthorized) as expired:
        authenticate(sign(job_filter, expires_at=Timestamp.now().after(-60)))
    assert expired.value.code == "token_expired"
    with pytest.raises(Unauthorized) as forged:
        authenticate(sign(job_filter)[:-8] + "AAAAAAAA")
    assert forged.value.code == "invalid_token"


def test_operators_have_the_rate_limit_of_callers(authenticating: Callable[..., Authenticate]) -> None:
    """Each request counts, of a key and of an address."""
    authenticate = authenticating(SUBMIT_RATE="0.01", SUBMIT_BURST="1")
    authenticate("ops")
    with pytest.raises(TooManyRequests):
        authenticate("ops")
    with pytest.raises(Unauthorized):
        authenticate(None)
    with pytest.raises(TooManyRequests):
        authenticate("nobody")


def test_a_token_ends_with_its_key(authenticating: Callable[..., Authenticate], sign: Callable[..., str]) -> None:
    """A token names the key that asked for it; without the key, or its role, the token permits nothing."""
    authenticate = authenticating()
    operator = authenticate(sign(JobFilter(), by="alice", key_id=key_digest("ops")[:16]))
    assert (operator.name, operator.filter) == ("alice", JobFilter())
    for key in ("leaked", "app"):
        for job_filter in (None, JobFilter(), JobFilter(owner="user:7")):
            with pytest.raises(Unauthorized):
                authenticate(sign(job_filter, by="alice", key_id=key_digest(key)[:16]))
