"""Checks of the settings of a queue, for those that Azure would refuse only with the first request.

Each raises ValueError. The messages contain no part of a connection string, because it contains a secret.
"""

from __future__ import annotations

import base64
import re
from urllib.parse import parse_qs, urlsplit

MIN_NAME_LENGTH = 3
MAX_NAME_LENGTH = 63 - len("-poison")  # Azure's limit, also for the name of the poison queue
NAME = re.compile("[a-z0-9]+(-[a-z0-9]+)*")
API_VERSION = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


def check_queue_name(name: str) -> None:
    """Check the name of a queue and of its poison queue."""
    if not (NAME.fullmatch(name) and MIN_NAME_LENGTH <= len(name) <= MAX_NAME_LENGTH):
        raise ValueError(
            f"Expected {MIN_NAME_LENGTH} to {MAX_NAME_LENGTH} lowercase letters, digits and single hyphens between "
            f"them, got {name!r}"
        )


def check_api_version(version: str) -> None:
    """Check the format of a version of Azure's API."""
    if not API_VERSION.fullmatch(version):
        raise ValueError(f"Expected a date such as 2025-11-05, got {version!r}")


def check_account_url(url: str) -> None:
    """Check the URL of an account, for which the client's identity is the credential."""
    if not url.startswith("https://"):
        raise ValueError("Expected an https URL: the credentials of an identity must not be sent unencrypted")
    if not _is_endpoint(url) or "?" in url or "#" in url:
        raise ValueError("Expected a URL such as https://<account>.queue.core.windows.net, without a signature")


def check_connection_string(text: str) -> None:
    """Check that a connection string has a credential and the endpoint of a queue service."""
    pairs = [pair.partition("=") for pair in text.rstrip(";").split(";")]
    if not all(name and separator for name, separator, _ in pairs):
        raise ValueError("Expected pairs such as AccountName=…, separated by semicolons")
    fields = {name.upper(): value for name, _, value in pairs}
    if fields.get("USEDEVELOPMENTSTORAGE") == "true":
        return
    endpoint = _endpoint(fields)
    _check_credential(fields, endpoint)


def _endpoint(fields: dict[str, str]) -> str:
    name, endpoint = fields.get("ACCOUNTNAME"), fields.get("QUEUEENDPOINT")
    if endpoint is not None:
        if not _is_endpoint(endpoint):
            raise ValueError("QueueEndpoint: expected a URL such as https://<account>.queue.core.windows.net")
        return endpoint
    if not name:
        raise ValueError("AccountName or QueueEndpoint is missing")
    protocol, suffix = fields.get("DEFAULTENDPOINTSPROTOCOL", "https"), fields.get("ENDPOINTSUFFIX", "core.windows.net")
    endpoint = f"{protocol}://{name}.queue.{suffix}"
    if not _is_endpoint(endpoint):
        raise ValueError("AccountName, DefaultEndpointsProtocol or EndpointSuffix is invalid: they do not form a URL")
    return endpoint


def _check_credential(fields: dict[str, str], endpoint: str) -> None:
    key, signature = fields.get("ACCOUNTKEY"), fields.get("SHAREDACCESSSIGNATURE")
    if key is not None and "ACCOUNTNAME" in fields:  # it takes precedence over a signature
        if not fields["ACCOUNTNAME"]:
            raise ValueError("AccountName is empty")
        if not _is_base64(key):
            raise ValueError("AccountKey: expected base64")
    elif signature is not None:
        if "sig" not in parse_qs(signature.lstrip("?")):
            raise ValueError("SharedAccessSignature: expected a query string with a signature, sv=…&sig=…")
    elif "sig" not in parse_qs(urlsplit(endpoint).query):
        missing = "AccountName" if key is not None else "AccountKey or SharedAccessSignature"
        raise ValueError(f"{missing} is missing")


def _is_endpoint(url: str) -> bool:
    """Return whether a text is the http(s) URL of a host."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # an invalid port or IPv6 address
        return False
    is_host = re.fullmatch(r"[\w.:-]+", parts.hostname or "", re.ASCII) is not None
    return is_host and parts.scheme in ("http", "https") and port != 0 and "@" not in parts.netloc


def _is_base64(text: str) -> bool:
    try:
        return bool(base64.b64decode(text, validate=True))
    except ValueError:
        return False
