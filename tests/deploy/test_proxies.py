"""The timeouts of the proxy of compose.yaml, beside the intervals of the notifier."""

from __future__ import annotations

import re

import msgspec
import pytest

from dev.environment import ROOT
from services.notifier.settings import NotifierSettings
from services.notifier.transports.long_poll import MAX_WAIT_S

PROXY = dict(re.findall(r"^ *timeout (\S+) (\d+)s$", (ROOT / "deploy/compose/haproxy.cfg").read_text(), re.MULTILINE))
DEFAULTS = {field.name: field.default for field in msgspec.structs.fields(NotifierSettings)}


@pytest.mark.parametrize("timeout", ["client", "server", "tunnel"])
def test_proxy_keeps_idle_connections(timeout: str) -> None:
    """A connection may be silent for several pings, and for as long as the longest poll takes."""
    assert int(PROXY[timeout]) >= max(3 * DEFAULTS["ping_s"], MAX_WAIT_S + 10)
