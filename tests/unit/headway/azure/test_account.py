"""The settings of a queue that Azure would refuse, and those that it accepts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from azure.storage.queue.aio import QueueServiceClient

from headway.azure.account import (
    check_account_url,
    check_api_version,
    check_connection_string,
    check_queue_name,
)
from headway.azure.job_queue import API_VERSION

KEY = "c2VjcmV0LXNlY3JldA=="
SIGNATURE = "sv=2024-11-04&ss=q&sig=c2VjcmV0"
ENDPOINT = "https://account.queue.core.windows.net"


def is_accepted(check: Callable[[str], None], value: str) -> bool:
    """Return whether a check accepts a value; an error must be one line without a secret."""
    problem = None
    try:
        check(value)
    except ValueError as error:
        problem = str(error)
    assert not problem or not ("\n" in problem or "c2VjcmV0" in problem)
    return problem is None


@pytest.mark.parametrize("name", ["job", "jobs", "0-1-2", "a" * 56, "jobs-2015"])
def test_queue_name_is_accepted(name: str) -> None:
    """A name has lowercase letters, digits and single hyphens, and the name of the poison queue has up to 63."""
    assert is_accepted(check_queue_name, name)
    assert len(f"{name}-poison") <= 63


@pytest.mark.parametrize(
    "name",
    [
        "",
        "hj",
        "a" * 57,
        "a" * 63,
        "Jobs",
        "two--hyphens",
        "-jobs",
        "jobs-",
        "a_b",
        "a.b",
        "a b",
        "jobs\n",
        "jöbs",
        "٣٣٣",
    ],
)
def test_queue_name_is_refused(name: str) -> None:
    """Azure would refuse the queue or its poison queue."""
    assert not is_accepted(check_queue_name, name)


@pytest.mark.parametrize(
    "text",
    [
        f"DefaultEndpointsProtocol=https;AccountName=account;AccountKey={KEY};EndpointSuffix=core.windows.net",
        f"AccountName=account;AccountKey={KEY};",
        f"accountname=account;ACCOUNTKEY={KEY}",
        f"AccountName=account;AccountKey={KEY};QueueEndpoint=http://azurite:10001/account",
        f"AccountName=account;AccountKey={KEY};QueueEndpoint=http://[::1]:10001/account;",
        f"AccountName=account;SharedAccessSignature={SIGNATURE}",
        f"QueueEndpoint={ENDPOINT}/;SharedAccessSignature={SIGNATURE}",
        f"QueueEndpoint={ENDPOINT};SharedAccessSignature=?{SIGNATURE}",
        f"BlobEndpoint=https://account.blob.core.windows.net;QueueEndpoint={ENDPOINT};SharedAccessSignature={SIGNATURE}",
        f"QueueEndpoint={ENDPOINT}/?{SIGNATURE}",
        "UseDevelopmentStorage=true",
        "UseDevelopmentStorage=true;",
    ],
)
async def test_connection_string_is_accepted(text: str) -> None:
    """An account key, a signature or the emulator is accepted, by the Azure SDK, too."""
    assert is_accepted(check_connection_string, text)
    await QueueServiceClient.from_connection_string(text, api_version=API_VERSION).close()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "secret",
        "AccountName=account;AccountKey",
        "AccountName=account",
        "AccountName=account;AccountKey=",
        "AccountName=account;AccountKey=c2VjcmV0IQ",
        "AccountName=account;AccountKey=c2VjcmV0!c2VjcmV0",
        f"AccountKey={KEY}",
        f"AccountName=;AccountKey={KEY}",
        f"AccountKey={KEY};QueueEndpoint={ENDPOINT}",
        f"AccountName=;AccountKey={KEY};QueueEndpoint={ENDPOINT}",
        f"AccountName=my account;AccountKey={KEY}",
        f"DefaultEndpointsProtocol=ftp;AccountName=account;AccountKey={KEY}",
        f"AccountName=account;AccountKey={KEY};QueueEndpoint=",
        f"AccountName=account;AccountKey={KEY};QueueEndpoint=azurite:10001/account",
        f"AccountName=account;AccountKey={KEY};QueueEndpoint=http://azurite:port/account",
        f"AccountName=account;AccountKey={KEY};QueueEndpoint=http://azurite:99999/account",
        f"AccountName=account;AccountKey={KEY};QueueEndpoint=http://",
        f"QueueEndpoint={ENDPOINT}",
        f"QueueEndpoint={ENDPOINT};SharedAccessSignature=",
        f"QueueEndpoint={ENDPOINT};SharedAccessSignature=sv=2024-11-04",
        f"BlobEndpoint=https://account.blob.core.windows.net;SharedAccessSignature={SIGNATURE}",
        f"SharedAccessSignature={SIGNATURE}",
        "UseDevelopmentStorage=false",
        f"AccountName=account;; AccountKey={KEY}",
        f"AccountName=account; AccountKey={KEY}",
    ],
)
def test_connection_string_is_refused(text: str) -> None:
    """Without a usable credential or endpoint, the first request would fail."""
    assert not is_accepted(check_connection_string, text)


@pytest.mark.parametrize(
    ("url", "accepted"),
    [
        (ENDPOINT, True),
        (f"{ENDPOINT}/", True),
        ("https://127.0.0.1:10001/devstoreaccount1", True),
        ("http://account.queue.core.windows.net", False),
        ("https://", False),
        ("https://account:port", False),
        ("account.queue.core.windows.net", False),
        (f"{ENDPOINT}?{SIGNATURE}", False),
        ("https://user:c2VjcmV0@account.queue.core.windows.net", False),
        ("https://my account.queue.core.windows.net", False),
    ],
)
def test_account_url_is_checked(url: str, accepted: bool) -> None:
    """An account's URL is https and has no credential, because an identity is the credential."""
    assert is_accepted(check_account_url, url) is accepted


@pytest.mark.parametrize(
    ("version", "accepted"), [(API_VERSION, True), ("latest", False), ("2025-1-5", False), ("", False)]
)
def test_api_version_is_a_date(version: str, accepted: bool) -> None:
    """Azure's versions are dates."""
    assert is_accepted(check_api_version, version) is accepted
