"""Addresses of servers as they are typed: "a:8001,b:8001". Knows no channel."""

from __future__ import annotations


def parse_servers(text: str) -> tuple[str, ...]:
    """The addresses, "host:port" each, in their order.

    Raises:
        ValueError: an empty one, one without its port, or one twice; the message names the flag of the command.
    """
    addresses = tuple(part.strip() for part in text.split(","))
    for address in addresses:
        host, colon, port = address.rpartition(":")
        if not (host and colon and port.isdigit()):
            raise ValueError(f'--server {text}: expected "host:port", several of them with commas between, got {address!r}')
        if addresses.count(address) > 1:
            raise ValueError(f"--server {text}: expected each server once, got {address} twice")
    return addresses
