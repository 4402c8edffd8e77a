"""Why a server could not be reached, in words that name its host."""

from __future__ import annotations

import os
import socket
import ssl
from urllib.parse import urlsplit

import aiohttp

# UnicodeError: a part of the host's name is empty or too long
INVALID_URL = (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError, UnicodeError)


def connection_problem(error: BaseException, url: str) -> str:
    """Return why a request to a URL got no response, with the host that cannot be resolved.

    If there is no connection, the text has host and port, unless the URL has them.
    """
    if isinstance(error, aiohttp.ClientConnectorDNSError | socket.gaierror | UnicodeError):
        return f"could not resolve {getattr(error, 'host', None) or urlsplit(url).hostname}"
    if isinstance(error, aiohttp.ClientConnectorError):
        host = f"[{error.host}]" if ":" in error.host else error.host
        address, reason = f"{host}:{error.port}", _os_error_text(error.os_error)
        return reason if address in url else f"could not connect to {address}: {reason}"
    if isinstance(error, aiohttp.InvalidURL | aiohttp.NonHttpUrlClientError):
        return "it is not a valid address"
    if isinstance(error, TimeoutError):
        return "no response in time"
    return _os_error_text(error)


def _os_error_text(error: BaseException) -> str:
    """Return the system's text for an error, which is better than the library's, or the error's own."""
    number = error.errno if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) else None
    return os.strerror(number) if number else str(error) or type(error).__name__
