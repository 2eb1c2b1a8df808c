"""The schema. Rows and facts about one row; no HTTP, no encryption, no commits."""

from .activity import AuditEvent, CryptoMeta
from .gateways import CatalogEntry, Gateway
from .oauth import ClientRegistration, Connection, Flow, OAuthConfig, ParkedCall
from .people import ApiToken, BrowserSession, SetupCode, Throttle, User

__all__ = [
    "ApiToken",
    "AuditEvent",
    "BrowserSession",
    "CatalogEntry",
    "ClientRegistration",
    "Connection",
    "CryptoMeta",
    "Flow",
    "Gateway",
    "OAuthConfig",
    "ParkedCall",
    "SetupCode",
    "Throttle",
    "User",
]
