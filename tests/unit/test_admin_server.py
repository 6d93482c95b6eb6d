"""Who may ask a node's admin interface for what."""

from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request

from sofs.admin.server import AdminServer


class Nothing:
    """Operations of which none is asked for here."""

    def __getattr__(self, name: str) -> Any:
        return lambda *given: None


@pytest.mark.parametrize(("token", "header", "admitted"), [
    ("secret", "Bearer secret", True), ("secret", "Bearer other", False), ("secret", "", False), ("", "", False), ("", "Bearer ", False),
])  # fmt: skip
def test_over_tcp_the_token_decides_and_an_empty_one_is_none(token: str, header: str, admitted: bool) -> None:
    server = AdminServer(Nothing(), token)  # type: ignore[arg-type]
    request = make_mocked_request("POST", "/add_user", headers={"Authorization": header})
    assert server._admitted(request) is admitted
    assert server._admitted(make_mocked_request("GET", "/metrics"))


def test_who_has_hung_up_already_is_not_taken_for_somebody_at_the_unix_socket() -> None:
    server = AdminServer(Nothing(), "secret")  # type: ignore[arg-type]
    request = make_mocked_request("POST", "/add_user")
    request._protocol = None
    assert request.transport is None and not server._admitted(request)
