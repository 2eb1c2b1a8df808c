"""The schema. Rows and facts about one row; no HTTP, no encryption, no commits."""

from .activity import AuditEvent, AuditHead, Chore, CryptoMeta, KeyHolder
from .gateways import CatalogEntry, Gateway
from .oauth import ClientRegistration, Connection, Flow, OAuthConfig, ParkedCall, Revocation
from .people import ApiToken, BrowserSession, RateWindow, SetupCode, Throttle, User

__all__ = [
    "ApiToken",
    "AuditEvent",
    "AuditHead",
    "BrowserSession",
    "CatalogEntry",
    "Chore",
    "ClientRegistration",
    "Connection",
    "CryptoMeta",
    "Flow",
    "Gateway",
    "KeyHolder",
    "OAuthConfig",
    "ParkedCall",
    "RateWindow",
    "Revocation",
    "SetupCode",
    "Throttle",
    "User",
]
