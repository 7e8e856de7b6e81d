"""Signatures: made with a private key, held to a public one, and worth nothing for any other artifact."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from test_artifact import contents

from specc import artifact, model, runtime, signature
from specc.artifact import Seal
from specc.cli import execute
from specc.diagnostics import SpeccError


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "_load_library", lambda _: pytest.fail("the library of an artifact was loaded"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    artifact.write(tmp_path / "toy", contents())
    return tmp_path / "toy"


def keys(folder: Path, name: str) -> tuple[Path, Path]:
    """The files of a new private key and of its public half."""
    key = Ed25519PrivateKey.generate()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


def refused(path: Path, public: Path, code: str) -> str:
    with pytest.raises(SpeccError) as caught:
        artifact.read(path, signature.required(public))
    assert caught.value.diagnostics[0].code == code, str(caught.value)
    return str(caught.value)


def test_what_is_signed_is_read_with_the_right_key_only(tmp_path: Path, file: Path) -> None:
    private, public = keys(tmp_path, "mine")
    assert "is not signed" in refused(file, public, "S0914")
    key = signature.sign(file, private)
    assert artifact.read(file, signature.required(public)).signed_by == key
    assert artifact.read(file).manifest == contents().manifest
    _, other = keys(tmp_path, "other")
    assert signature.fingerprint(key) in refused(file, other, "S0915")


def test_signing_twice_gives_the_same_bytes(tmp_path: Path, file: Path) -> None:
    private, _ = keys(tmp_path, "mine")
    signature.sign(file, private, tmp_path / "signed")
    assert not artifact.read(file).signed_by
    signature.sign(tmp_path / "signed", private, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "signed").read_bytes()


def test_a_seal_fits_no_other_artifact(tmp_path: Path, file: Path) -> None:
    """A forger takes the seal of a signed artifact, and makes every digest right."""
    private, public = keys(tmp_path, "mine")
    key = signature.sign(file, private)
    stolen = file.read_bytes()[-artifact.SEAL_BYTES :]
    seal = Seal(key, stolen[artifact.KEY_BYTES : artifact.KEY_BYTES + artifact.SIGNATURE_BYTES])
    artifact.write(file, contents(network="Forged"), lambda _: seal)
    assert artifact.read(file).manifest.network == "Forged"
    assert "it was changed after it had been signed" in refused(file, public, "S0915")


def test_a_forger_with_a_key_of_his_own_is_noticed(tmp_path: Path, file: Path) -> None:
    _, public = keys(tmp_path, "mine")
    theirs, _ = keys(tmp_path, "theirs")
    signature.sign(file, theirs)
    refused(file, public, "S0915")


def test_the_runtime_refuses_before_it_loads(tmp_path: Path, file: Path) -> None:
    _, public = keys(tmp_path, "mine")
    with pytest.raises(SpeccError, match="is not signed"):
        runtime.open(file, signed_by=public)


def test_keys_that_are_none(tmp_path: Path, file: Path) -> None:
    private, public = keys(tmp_path, "mine")
    (tmp_path / "text").write_text("ssh-ed25519 AAAA")
    other = generate_private_key(SECP256R1())
    (tmp_path / "curve").write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    locked = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    )
    (tmp_path / "locked").write_bytes(locked)
    before = file.read_bytes()
    for name, words in [
        (public.name, "no private key"),
        ("text", "no such PEM file"),
        ("curve", "Ed25519 is needed"),
        ("locked", "password"),
        ("absent", "No such file"),
    ]:
        with pytest.raises(SpeccError, match=words):
            signature.sign(file, tmp_path / name)
    assert "holds no public key" in refused(file, private, "S0916")
    assert file.read_bytes() == before


def test_the_key_is_not_overwritten(tmp_path: Path, file: Path) -> None:
    private, _ = keys(tmp_path, "mine")
    before = private.read_bytes()
    assert execute(["sign", str(file), "--key", str(private), "-o", str(private)]) == 1
    assert private.read_bytes() == before


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl")
def test_the_command_line_with_keys_of_openssl(
    tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands that `specc sign --help` gives, then `sign`, `show` and `unpack`."""
    monkeypatch.chdir(tmp_path)
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", "private.pem"], check=True)
    subprocess.run(["openssl", "pkey", "-in", "private.pem", "-pubout", "-out", "public.pem"], check=True)
    unpack = ["unpack", "toy", "--require-signature", "public.pem", "-o", "folder"]
    assert execute(unpack) == 1
    assert not (tmp_path / "folder").exists()
    assert execute(["sign", "toy", "--key", "private.pem"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("toy is signed with ed25519:")
    assert execute(unpack) == 0
    assert (tmp_path / "folder" / "weights.bin").exists()
