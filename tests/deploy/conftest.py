"""What the tests of the manifests share."""

from __future__ import annotations

from functools import cache

import pytest

from tests.deploy.manifests import Object, WithComponents, render, write_overlay


@pytest.fixture(scope="session")
def with_components(tmp_path_factory: pytest.TempPathFactory) -> WithComponents:
    """Return a function that renders the base with components, in their order, once for all tests."""

    @cache
    def rendered(*components: str, env: str = "") -> list[Object]:
        return render(write_overlay(tmp_path_factory.mktemp("overlay"), env=env, components=components))

    return rendered
