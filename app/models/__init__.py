"""The schema. Rows and facts about one row; no HTTP, no encryption, no commits."""

from .activity import AuditEvent, AuditHead, Chore, CryptoMeta, KeyHolder
from .gateways import CatalogEntry, CheckRun, Gateway, GatewayDraft
from .oauth import ClientRegistration, Connection, Flow, OAuthConfig, ParkedCall, Revocation
from .people import ApiToken, BrowserSession, RateWindow, SetupCode, Throttle, User

__all__ = [
    "ApiToken",
    "AuditEvent",
    "AuditHead",
    "BrowserSession",
    "CatalogEntry",
    "CheckRun",
    "Chore",
    "ClientRegistration",
    "Connection",
    "CryptoMeta",
    "Flow",
    "Gateway",
    "GatewayDraft",
    "KeyHolder",
    "OAuthConfig",
    "ParkedCall",
    "RateWindow",
    "Revocation",
    "SetupCode",
    "Throttle",
    "User",
]
