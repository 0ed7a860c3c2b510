"""Answers tell a browser to show, run, frame and keep nothing."""

import pytest
from starlette.testclient import TestClient

from tests.search_api.app_harness import AppHarness


@pytest.mark.parametrize("path", ["/courses", "/courses/x/search", "/healthz", "/metrics", "/no/such/path"])
@pytest.mark.parametrize("token", ["t", "wrong"])
def test_data_is_neither_shown_nor_kept(harness: AppHarness, path: str, token: str) -> None:
    with harness.client(internal_token="t", headers={"x-internal-token": token}) as client:
        headers = client.get(path).headers
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("path", ["/", "/static/page.css", "/docs", "/docs/static/swagger-ui.css"])
def test_page_has_one_policy_of_its_own(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    [policy] = headers.get_list("content-security-policy")
    assert "frame-ancestors 'none'" in policy
    assert "style-src 'self'" in policy
    assert headers["cache-control"] == "no-cache"
    assert headers["cross-origin-opener-policy"] == "same-origin"
