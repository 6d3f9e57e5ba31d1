"""Which addresses a connection may be made to: a name proves nothing, what it resolves to decides."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_network

IPAddress = IPv4Address | IPv6Address
# Asked with the host of the URL and each address it resolves to, before anything is connected.
AddressCheck = Callable[[str, IPAddress], bool]

# Written down, because what `ipaddress` calls global changes with Python's patch releases.
# https://www.iana.org/assignments/iana-ipv4-special-registry, https://www.iana.org/assignments/iana-ipv6-special-registry
_NOT_PUBLIC = tuple(
    map(
        ip_network,
        (
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",  # carrier-grade NAT
            "127.0.0.0/8",
            "168.63.129.16/32",  # Azure's own: DNS, health and the guest agent, on every virtual machine
            "169.254.0.0/16",  # link-local, with the cloud's metadata at 169.254.169.254
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.88.99.0/24",  # relays of 6to4
            "192.168.0.0/16",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",
            "2001::/23",  # Teredo, which holds an IPv4 address, and other protocols' own
            "2001:db8::/32",
            "2002::/16",  # 6to4: any IPv4 address in another dress
            "3fff::/20",
        ),
    )
)
# All that is given out on the internet. Outside lie loopback, link-local, private and multicast, and every way to write
# an IPv4 address as one of version 6: mapped, compatible, NAT64.
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_PRIVATE = tuple(map(ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")))
_METADATA = IPv6Network("fd00:ec2::/32")


def is_public(address: IPAddress) -> bool:
    """Whether it belongs to the internet, and to nothing near this machine."""
    if isinstance(address, IPv6Address) and (address.scope_id is not None or address not in _GLOBAL_UNICAST):
        return False
    return not any(address in network for network in _NOT_PUBLIC)


def is_private(address: IPAddress) -> bool:
    """Whether it is one of a private network, such as an Azure virtual network; never a cloud's metadata."""
    return any(address in network for network in _PRIVATE) and address not in _METADATA


def public_only(host: str, address: IPAddress) -> bool:
    """The check for whoever has no reason for another."""
    return is_public(address)
