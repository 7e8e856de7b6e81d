"""Signatures of artifacts: who made it, shown by a key that nobody else has (Ed25519, RFC 8032).

    openssl genpkey -algorithm ed25519 -out private.pem          # kept by whoever signs
    openssl pkey -in private.pem -pubout -out public.pem         # given to whoever runs

What is signed is the header of the artifact, behind a word of our own, so that no signature made for something else
fits: the header holds the digest of the manifest, which holds the digests of all the rest. The library that computes
signatures is `cryptography`; it is imported where a signature is made or asked for, and not otherwise.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from specc import artifact
from specc.artifact import Check, Seal, Sign
from specc.diagnostics import error

_PURPOSE = b"specc artifact\0"


def signing(path: str | Path) -> Sign:
    """What seals a header with the private key in the PEM file at `path`; raises S0001 or S0916."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = _key(path, "private", lambda text: load_pem_private_key(text, None), Ed25519PrivateKey)
    public = key.public_key().public_bytes_raw()
    return lambda header: Seal(public, key.sign(_PURPOSE + header))


def required(path: str | Path) -> Check:
    """What holds a seal to the public key in the PEM file at `path`; raises S0001 or S0916.

    The check raises S0914 where there is no seal, and S0915 where it is another's or does not fit the artifact.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    key = _key(path, "public", load_pem_public_key, Ed25519PublicKey)
    trusted = key.public_bytes_raw()

    def check(name: str, header: bytes, seal: Seal | None) -> None:
        if seal is None:
            raise error("S0914", f"{name} is not signed", notes=("nothing in it was executed",))
        if seal.key != trusted:
            said = f"{name} is signed with the key {fingerprint(seal.key)}, not with {fingerprint(trusted)} of {path}"
            raise error("S0915", said, notes=("nothing in it was executed",))
        try:
            key.verify(seal.signature, _PURPOSE + header)
        except InvalidSignature:
            said = f"the signature of {name} is for something else: it was changed after it had been signed"
            raise error("S0915", said, notes=("nothing in it was executed",)) from None

    return check


def sign(path: str | Path, key: str | Path, output: str | Path | None = None) -> bytes:
    """Signs the artifact at `path` with the private key at `key`, in place or to `output`; the public key.

    A seal that is there already is replaced. Raises what `artifact.read` and `signing` raise, and S0002.
    """
    from specc.files import check_writable

    check_writable(output or path, key)
    seal = signing(key)
    artifact.write(output or path, artifact.read(path), seal)
    return seal(b"").key


def fingerprint(key: bytes) -> str:
    """A public key as people compare it: `ed25519:` and its 64 hexadecimal digits."""
    return f"ed25519:{key.hex()}"


def _key(path: str | Path, kind: str, load: Any, expected: type) -> Any:
    from specc.files import check_regular

    try:
        check_regular(path)
        text = Path(path).read_bytes()
    except OSError as problem:
        raise error("S0001", f"{path} cannot be read: {problem.strerror or problem}") from None
    try:
        key = load(text)
    except Exception as problem:  # what a parser of keys raises differs with its release
        words = "it has a password" if isinstance(problem, TypeError) else "it is no such PEM file"
        raise error("S0916", f"{path} holds no {kind} key: {words}") from None
    if not isinstance(key, expected):
        raise error("S0916", f"{path} holds a key of another kind: Ed25519 is needed")
    return key
