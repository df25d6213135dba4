"""HTTP proxies between this process and a Tiled server, as the environment names them.

What is on this computer is never reached through a proxy; everything else is reached as httpx reaches it, by
``http_proxy``, ``https_proxy``, ``all_proxy`` and ``no_proxy``.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

__all__ = ["proxy_for", "reaches_loopback"]


def reaches_loopback(uri: str) -> bool:
    """Return whether a URI names this computer by a loopback address.

    Examples
    --------
    >>> [reaches_loopback(f"http://{host}:8000/api/v1") for host in ("127.0.0.1", "localhost", "[::1]", "tiled.site")]
    [True, True, True, False]
    """
    host = (urlsplit(uri).hostname or "").removesuffix(".")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    mapped = getattr(address, "ipv4_mapped", None)
    return address.is_loopback or address.is_unspecified or (mapped is not None and mapped.is_loopback)


def proxy_for(uri: str) -> str | None:
    """Return the proxy through which a URI is reached, without its user and password; None: directly."""
    parts = urlsplit(uri)
    if reaches_loopback(uri) or parts.hostname is None or proxy_bypass(parts.hostname):
        return None
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy:
        return None
    scheme, found, rest = proxy.rpartition("://")
    return f"{scheme or 'http'}{found or '://'}{rest.rpartition('@')[2]}"
