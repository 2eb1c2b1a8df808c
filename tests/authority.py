"""A CA of the tests' own, with the certificates it signs; and TLS servers that show them."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = timedelta(days=1)


class Certificate:
    """`pem` and `key`, as somebody would paste them."""

    def __init__(self, made: x509.Certificate, private: ec.EllipticCurvePrivateKey) -> None:
        self.made, self.private = made, private
        self.pem = made.public_bytes(serialization.Encoding.PEM).decode()
        self.key = private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode()

    def with_bytes(self, old: bytes, new: bytes) -> str:
        """Its PEM with other bytes at the last place of `old`: the subject's, not the issuer's."""
        der = self.made.public_bytes(serialization.Encoding.DER)
        before, _, after = der.rpartition(old)
        return ssl.DER_cert_to_PEM_cert(before + new + after)

    def locked(self, password: bytes) -> str:
        """Its key under a password."""
        return self.private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(password),
        ).decode()


class Authority(Certificate):
    """A self-signed CA."""

    def __init__(self, name: str = "Test CA", *, since: timedelta = -DAY, until: timedelta = DAY):
        private = ec.generate_private_key(ec.SECP256R1())
        made = _start(name, name, private, since, until)
        made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        super().__init__(made.sign(private, hashes.SHA256()), private)

    def signs(
        self, *names: str, since: timedelta = -DAY, until: timedelta = DAY, client: bool = False
    ) -> Certificate:
        """For hosts: names or addresses; or for a client that is called so."""
        private = ec.generate_private_key(ec.SECP256R1())
        issuer = self.made.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
        made = _start(names[0], str(issuer), private, since, until)
        usage = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
        made = made.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if not client:
            hosts = x509.SubjectAlternativeName([_host(name) for name in names])
            made = made.add_extension(hosts, critical=False)
        return Certificate(made.sign(self.private, hashes.SHA256()), private)


def server(
    shown: Certificate, folder: Path, *, clients_of: Certificate | None = None
) -> ssl.SSLContext:
    """What a server presents; with `clients_of` it serves only those who show one of that CA."""
    path = folder / f"{shown.made.serial_number}.pem"
    path.write_text(shown.pem + shown.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    if clients_of is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=clients_of.pem)
    return context


def _start(
    name: str,
    issuer: str,
    private: ec.EllipticCurvePrivateKey,
    since: timedelta,
    until: timedelta,
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    subject, by = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, n)]) for n in (name, issuer))
    serial = x509.random_serial_number()
    return x509.CertificateBuilder(
        by, subject, private.public_key(), serial, now + since, now + until
    )


def _host(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)
