"""Ed25519 keys and signatures in minisign's own formats. Knows no artifact and no file.

Reads and writes what the tool `minisign` does, so that either can check the other. Source:
jedisct1.github.io/minisign, "Signature format" and "Secret key format"; prehashed signatures only.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from arkinfer.errors import DeviceError, ResourceError, UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

UNTRUSTED = "untrusted comment: "
TRUSTED = "trusted comment: "
SIGNATURE_COMMENT = "signature of the manifest.json of an arkinfer artifact"
MAX_COMMENT = 1024  # characters of a trusted comment
MAX_FILE = 8192  # bytes of a key file

_ALGORITHM, _PREHASHED, _SCRYPT, _NO_KDF, _CHECKSUM = b"Ed", b"ED", b"Sc", b"\0\0", b"B2"
_PUBLIC = struct.Struct("<2s8s32s")
_SECRET = struct.Struct("<2s2s2s32sQQ104s")
_SEALED = struct.Struct("<8s64s32s")
_SIGNATURE = struct.Struct("<2s8s64s")
_MAX_MEMORY = 1 << 30  # bytes that a key file may ask scrypt to use


class FormatError(Exception):
    """The text is not what minisign writes; says what is wrong with it."""


@dataclass(frozen=True)
class PublicKey:
    """Who may have signed.

    Attributes:
        number: 8 bytes that name the key.
        raw: 32 bytes, Ed25519.
    """

    number: bytes
    raw: bytes

    @property
    def id(self) -> str:
        """The key's number as minisign prints it.

        >>> PublicKey(bytes(range(8)), bytes(32)).id
        '0706050403020100'
        """
        return self.number[::-1].hex().upper()

    def text(self) -> str:
        """The one line that is passed on: 56 characters that begin with RW."""
        return _encoded(_PUBLIC.pack(_ALGORITHM, self.number, self.raw))

    def file(self) -> str:
        return f"{UNTRUSTED}minisign public key {self.id}\n{self.text()}\n"


@dataclass(frozen=True)
class SecretKey:
    """What signs. `seed` is 32 bytes, Ed25519."""

    number: bytes
    seed: bytes

    @classmethod
    def new(cls) -> SecretKey:
        return cls(os.urandom(8), os.urandom(32))

    @property
    def public(self) -> PublicKey:
        return PublicKey(self.number, _private(self.seed).public_key().public_bytes_raw())

    def file(self) -> str:
        """A file without a password, as `minisign -G -W` writes it."""
        sealed = _SEALED.pack(self.number, self.seed + self.public.raw, bytes(32))
        packed = _SECRET.pack(_ALGORITHM, _NO_KDF, _CHECKSUM, bytes(32), 0, 0, sealed)
        return f"{UNTRUSTED}minisign encrypted secret key\n{_encoded(packed)}\n"

    def sign(self, data: bytes, comment: str) -> Signature:
        """A prehashed signature: of BLAKE2b-512 of the data; and one of that and the comment."""
        key = _private(self.seed)
        own = key.sign(hashlib.blake2b(data).digest())
        return Signature(self.number, own, comment, key.sign(own + comment.encode()))


@dataclass(frozen=True)
class Signature:
    """A signature and the comment that it vouches for.

    Attributes:
        number: of the key.
        own: 64 bytes, of the data.
        comment: one line that the signer wrote.
        whole: 64 bytes, of `own` and the comment.
    """

    number: bytes
    own: bytes
    comment: str
    whole: bytes

    @property
    def key_id(self) -> str:
        return PublicKey(self.number, b"").id

    def encode(self) -> bytes:
        """The one form of this signature: `parse_signature` takes no other."""
        own = _encoded(_SIGNATURE.pack(_PREHASHED, self.number, self.own))
        lines = (UNTRUSTED + SIGNATURE_COMMENT, own, TRUSTED + self.comment, _encoded(self.whole))
        return "".join(f"{line}\n" for line in lines).encode()

    def is_by(self, key: PublicKey, data: bytes) -> bool:
        """Whether that key signed the data and the comment.

        Raises:
            DeviceError: the package `cryptography` is missing.
        """
        ed25519 = _ed25519()
        from cryptography.exceptions import InvalidSignature

        try:
            public = ed25519.Ed25519PublicKey.from_public_bytes(key.raw)
            public.verify(self.own, hashlib.blake2b(data).digest())
            public.verify(self.whole, self.own + self.comment.encode())
        except InvalidSignature:
            return False
        return self.number == key.number


def parse_signature(data: bytes) -> Signature:
    """The inverse of `Signature.encode`, strictly: other bytes of the same meaning are refused.

    Raises:
        FormatError: the bytes are not the one form of a signature.
    """
    try:
        _, own, comment, whole, rest = data.decode("ascii").split("\n")
        algorithm, number, signed = _SIGNATURE.unpack(_decoded(own))
        found = Signature(number, signed, comment.removeprefix(TRUSTED), _decoded(whole))
    except (ValueError, struct.error):  # UnicodeDecodeError is a ValueError
        raise FormatError("it is not a signature in minisign's format") from None
    if algorithm != _PREHASHED or rest or len(found.whole) != 64:
        raise FormatError("it is not a prehashed Ed25519 signature")
    if comment_problem(found.comment) or found.encode() != data:
        raise FormatError("it is not in the one form that arkinfer writes")
    return found


def comment_problem(comment: str) -> str:
    """Why `comment` cannot be a trusted comment; "" when it can."""
    if len(comment) > MAX_COMMENT:
        return f"it is longer than {MAX_COMMENT} characters"
    if not all(" " <= c <= "~" for c in comment):
        return "it has a character outside printable ASCII"
    return ""


def parse_public_key(text: str) -> PublicKey:
    """A public key: the line that begins with RW, or a file of it.

    Raises:
        UsageError: it is none.
    """
    lines = [line for line in text.strip().splitlines() if not line.startswith(UNTRUSTED)]
    try:
        algorithm, number, raw = _PUBLIC.unpack(_decoded(lines[0].strip()))
    except (IndexError, ValueError, struct.error):
        algorithm, number, raw = b"", b"", b""
    if algorithm != _ALGORITHM or len(lines) != 1:
        raise UsageError(
            "This is not a public key of minisign",
            "Its line has 56 characters and begins with RW",
            "Give the .pub file that came with the secret key, or its second line",
        )
    return PublicKey(number, raw)


def needs_password(text: str) -> bool:
    """Whether a secret key is encrypted. Raises UsageError as `parse_secret_key`."""
    return _unpacked(text)[1] == _SCRYPT


def parse_secret_key(text: str, password: bytes = b"") -> SecretKey:
    """A secret key from its file's text.

    Raises:
        UsageError: it is no secret key, or the password is wrong.
        ResourceError: the file asks for more memory than is sensible, or than there is.
        DeviceError: the package `cryptography` is missing.
    """
    algorithm, kdf, _, salt, operations, memory, sealed = _unpacked(text)
    if kdf == _SCRYPT:
        stream = _scrypt(password, salt, operations, memory)
        sealed = bytes(a ^ b for a, b in zip(sealed, stream, strict=True))
    number, secret, checksum = _SEALED.unpack(sealed)
    wanted = hashlib.blake2b(algorithm + number + secret, digest_size=32).digest()
    key = SecretKey(number, secret[:32])
    unchecked = kdf == _NO_KDF and checksum == bytes(32)  # what `minisign -G -W` writes
    if (checksum != wanted and not unchecked) or key.public.raw != secret[32:]:
        if kdf == _SCRYPT:
            raise UsageError("The password of the secret key is wrong", fix="Try again")
        raise _no_secret_key()
    return key


def _unpacked(text: str) -> tuple[bytes, bytes, bytes, bytes, int, int, bytes]:
    lines = text.strip().splitlines()
    try:
        found = _SECRET.unpack(_decoded(lines[1].strip()))
    except (IndexError, ValueError, struct.error):
        raise _no_secret_key() from None
    if (found[0], found[2], len(lines)) != (_ALGORITHM, _CHECKSUM, 2) or found[1] not in (
        _SCRYPT,
        _NO_KDF,
    ):
        raise _no_secret_key()
    return found


def _no_secret_key() -> UsageError:
    return UsageError(
        "This is not a secret key of minisign",
        "The file is damaged, or of another tool, or it is the public key",
        'Make one: arkinfer sign --new-key FILE, or "minisign -G -W"',
    )


def _scrypt(password: bytes, salt: bytes, operations: int, memory: int) -> bytes:
    """104 bytes; N, r and p as libsodium's pickparams chooses them."""
    operations, r = max(operations, 32768), 8
    by_operations = operations < memory // 32
    most = operations // (4 * r) if by_operations else memory // (128 * r)
    log_n = next((n for n in range(1, 63) if 1 << n > most // 2), 63)
    p = 1 if by_operations else min(operations // 4 >> log_n, 0x3FFFFFFF) // r
    if (128 * r << log_n) > _MAX_MEMORY or not 1 <= p <= 16:
        raise ResourceError(
            "The secret key asks for an unreasonable amount of work to be opened",
            f"scrypt with N = 2^{log_n}, r = {r}, p = {p}",
            "Check where the key file comes from",
        )
    try:
        return hashlib.scrypt(
            password, salt=salt, n=1 << log_n, r=r, p=p, maxmem=_MAX_MEMORY + (64 << 20), dklen=104
        )
    except (MemoryError, ValueError) as error:
        raise ResourceError(
            "There is not enough memory to open the secret key",
            f"Its password is protected by {128 * r << log_n:,} bytes of work: {error}",
            "Close other programs",
        ) from error


def _private(seed: bytes) -> Ed25519PrivateKey:
    return _ed25519().Ed25519PrivateKey.from_private_bytes(seed)


def _ed25519():
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise DeviceError(
            "Signatures cannot be made or checked here",
            'The Python package "cryptography" is missing',
            'Install it: pip install "arkinfer[sign]"',
        ) from error
    return ed25519


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _decoded(text: str) -> bytes:
    """Raises ValueError unless `text` is exactly what `_encoded` writes."""
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None
    if _encoded(data) != text:
        raise ValueError("base64 with bits to spare")
    return data
