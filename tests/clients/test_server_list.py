"""How lists of servers are typed, and what is refused."""

from __future__ import annotations

import pytest

from clients.server_list import parse_servers


def test_one_or_several() -> None:
    assert parse_servers("triton:8001") == ("triton:8001",)
    assert parse_servers("a:8001, 10.0.0.2:8001,[::1]:9") == ("a:8001", "10.0.0.2:8001", "[::1]:9")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "got ''"),
        ("a", "got 'a'"),
        ("a:8001,", "got ''"),
        ("a:8001,b:grpc", "got 'b:grpc'"),
        (":8001", "got ':8001'"),
        ("a:1,b:1,a:1", "expected each server once, got a:1 twice"),
    ],
)
def test_what_is_no_address_is_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_servers(text)
