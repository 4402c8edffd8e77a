"""The requests that the services and the client send go where the settings say."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from dev.environment import ROOT

METHODS = frozenset({"get", "post", "put", "patch", "delete", "head", "request"})
MODULES = [path for folder in ("services", "headway") for path in (ROOT / folder).rglob("*.py")]


def is_session_method(node: ast.expr) -> bool:
    """Return whether an expression is a method of an aiohttp session that sends a request, such as `session.post`."""
    if not isinstance(node, ast.Attribute) or node.attr not in METHODS:
        return False
    owner = node.value
    name = owner.attr if isinstance(owner, ast.Attribute) else owner.id if isinstance(owner, ast.Name) else ""
    return name.endswith("session")


def requests(source: str) -> Iterator[ast.Call]:
    """Yield the calls that send a request, or prepare one with `partial`."""
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Call)
            and node.args
            and (is_session_method(node.func) or is_session_method(node.args[0]))
        ):
            yield node


def follows_redirects(call: ast.Call) -> bool:
    """Return whether a request may be redirected."""
    values = [keyword.value for keyword in call.keywords if keyword.arg == "allow_redirects"]
    return not (values and isinstance(values[0], ast.Constant) and values[0].value is False)


def test_no_request_follows_a_redirect() -> None:
    """An answer cannot lead a service to another address, such as one inside the network, with or without its key."""
    sources = {path: path.read_text() for path in MODULES}
    sent = [(path, call) for path, source in sources.items() if "session" in source for call in requests(source)]
    assert len({path for path, _ in sent}) >= 8
    assert [f"{path}:{call.lineno}" for path, call in sent if follows_redirects(call)] == []


@pytest.mark.parametrize(
    "source",
    [
        "session.get(url)",
        "self._session.post(url, data=b'')",
        "partial(session.request, 'GET', url)",
        "session.get(url, allow_redirects=x)",
    ],
)
def test_a_request_that_may_be_redirected_is_found(source: str) -> None:
    """Each way to send a request is found, whatever the session is called."""
    (call,) = requests(source)
    assert follows_redirects(call)
