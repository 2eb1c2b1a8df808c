"""Where calls may go: which URLs and addresses. Pure; egress asks before each connection."""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Sequence
from urllib.parse import urlsplit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_LOOPBACK_NAMES = {"localhost", "127.0.0.1", "::1"}


def networks(*texts: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


@functools.lru_cache(4096)  # pure, and on the hot path
def whose(text: str) -> str:
    """What to count a caller's address under: IPv6 by its /64, as who has one has all of them."""
    try:
        ip = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return text
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is None:
            return str(ipaddress.ip_network((ip, 64), strict=False))
        ip = ip.ipv4_mapped  # all of IPv4 would be one caller
    return str(ip)


# Cloud metadata and link-local: no setting opens these.
_NEVER = networks(
    "169.254.0.0/16", "fe80::/10", "168.63.129.16/32", "100.100.100.200/32", "fd00:ec2::254/128"
)
# IPv4 ranges that `is_global` of some Python versions lets through.
_SPECIAL_V4 = networks("100.64.0.0/10", "192.0.0.0/24", "192.88.99.0/24", "198.18.0.0/15")
# IPv6: only global unicast, without tunnels and documentation.
_UNICAST_V6 = networks("2000::/3")
_SPECIAL_V6 = networks("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
# IPv6 ranges whose last 32 bits are an IPv4 address: compatible, mapped, translated, NAT64.
_CARRIES_V4 = networks("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96")


class Blocked(Exception):
    """The URL or address may not be called. Its text is for operators only."""


@functools.lru_cache(4096)  # pure, and on the hot path
def check_url(url: str) -> None:
    """https, or http to loopback; no credentials, no fragment, an ordinary port. Raises Blocked."""
    if re.search(r"[\x00-\x20\x7f\\]", url) or len(url) > 2_048:
        raise Blocked("URL has forbidden characters or is too long")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise Blocked("URL cannot be read") from error
    if not host or parts.username is not None or parts.password is not None or parts.fragment:
        raise Blocked("URL has no host, or has credentials or a fragment")
    if parts.scheme != "https" and not (parts.scheme == "http" and host in _LOOPBACK_NAMES):
        raise Blocked("URL is not https")
    if port is not None and port < 1024 and port not in (80, 443):
        raise Blocked(f"port {port} is reserved")


def check_address(text: str, allow: Sequence[Network] = ()) -> None:
    """A public unicast address, or one in `allow`, the operator's list. Raises Blocked.

    ValueError for a text that is no address.
    """
    address = ipaddress.ip_address(text.partition("%")[0])
    carried = _carried(address)
    if carried is not None:
        check_address(str(carried), allow)
    if _within(address, _NEVER) or not (_within(address, allow) or _is_public(address)):
        raise Blocked(str(address))


def _carried(address: Address) -> ipaddress.IPv4Address | None:
    if (
        isinstance(address, ipaddress.IPv4Address) or int(address) < 2
    ):  # ::1 is loopback, :: is nothing
        return None
    if _within(address, _CARRIES_V4):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.sixtofour or (address.teredo[1] if address.teredo else None)


def _is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        return _within(address, _UNICAST_V6) and not _within(address, _SPECIAL_V6)
    return address.is_global and not address.is_multicast and not _within(address, _SPECIAL_V4)


def _within(address: Address, ranges: Sequence[Network]) -> bool:
    return any(address.version == net.version and address in net for net in ranges)
