"""Certificates for the API over TLS: a CA, a server's own, an expired one, one of a foreign CA."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as files."""

    certificate: Path
    key: Path


def _write(folder: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
    pair = Pair(folder / f"{name}.crt", folder / f"{name}.key")
    pair.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    pair.key.touch(mode=0o600)
    pair.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return pair


def _build(
    name: str, issuer: x509.Name | None, days: tuple[int, int], ca: bool
) -> tuple[x509.CertificateBuilder, ec.EllipticCurvePrivateKey]:
    now = datetime.datetime.now(datetime.UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(issuer or subject).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now + days[0] * DAY)
        .not_valid_after(now + days[1] * DAY)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )  # fmt: skip
    if ca:
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        return builder.add_extension(usage, critical=True), key
    names = [x509.DNSName("router.test"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    return builder.add_extension(x509.SubjectAlternativeName(names), critical=False), key


class Authority:
    """A CA in a folder; `issue` makes a server's certificate for 127.0.0.1 and router.test."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        builder, self._key = _build(name, None, (-1000, 1000), ca=True)
        self._certificate = builder.sign(self._key, hashes.SHA256())
        self.folder = folder
        self.file = _write(folder, name, self._certificate, self._key).certificate

    def issue(self, name: str, days: tuple[int, int] = (-1, 30)) -> Pair:
        """A certificate valid from `days[0]` to `days[1]` days from now."""
        builder, key = _build("router.test", self._certificate.subject, days, ca=False)
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return _write(self.folder, name, builder.add_extension(identifier, False).sign(self._key, hashes.SHA256()), key)
