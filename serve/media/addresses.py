"""Which addresses a server may fetch pictures from: public ones only.

A URL comes from a client, and this server stands inside a network that the client does not. An address that
only this network reaches (loopback, private, link-local, a cloud's metadata service) is refused, in each of
the forms that hide one address inside another.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address

# The library's `is_global` differs between patch releases of Python, so every special range is listed: IANA's
# IPv4 Special-Purpose Address Registry (RFC 6890), multicast and the reserved rest.
_NOT_PUBLIC = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
        "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24",
        "192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
        "224.0.0.0/4", "240.0.0.0/4",
    )
)  # fmt: skip
_METADATA = frozenset({IPv4Address("168.63.129.16")})
"""Services of a cloud's host at addresses that look public (Azure). The others' are link-local or private."""
_UNICAST = IPv6Network("2000::/3")
_NOT_PUBLIC_6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # Teredo, ORCHID, benchmarks: they hide a v4 address, or are no hosts
        "2001:db8::/32",
        "2002::/16",  # 6to4 hides a v4 address
        "2620:4f:8000::/48",
        "3fff::/20",
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")
"""What DNS64 makes of a v4 address for hosts that have IPv6 only."""


def refusal(address: Address) -> str | None:
    """Returns why this address may not be fetched from, as part of a sentence; None: it may."""
    if isinstance(address, IPv6Address):
        return _refusal_6(address)
    if address in _METADATA or any(address in network for network in _NOT_PUBLIC):
        return "is not a public address"
    return None


def _refusal_6(address: IPv6Address) -> str | None:
    if address.scope_id is not None:
        return "is an address of one network interface"
    if (inside := address.ipv4_mapped) is not None:
        return refusal(inside)
    if address in _NAT64:
        return refusal(IPv4Address(int(address) & 0xFFFFFFFF))
    # ISATAP hides a v4 address behind 0:5efe or 200:5efe.
    if (int(address) >> 32) & 0xFDFFFFFF == 0x00005EFE:
        return "is not a public address"
    if address not in _UNICAST or any(address in network for network in _NOT_PUBLIC_6):
        return "is not a public address"
    return None


def parsed(text: str) -> Address:
    """Returns an address that a resolver named. Raises ValueError."""
    return ip_address(text)
