"""Signed indexes: with `MNV2ZOO_INDEX_PUBKEY`, only what the maintainer signed is used, byte for byte."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import timm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

import mnv2zoo
from mnv2zoo.errors import MissingExtraError
from mnv2zoo.system.installation import install_command
from mnv2zoo.weights import WeightsError, WeightsIndexError, index, schema, signature
from tests.conftest import ROOT, raw_entry

VARIABLE = "MNV2ZOO_INDEX_PUBKEY"


def write_keys(folder, private=None, password=None):
    """A new pair of keys, `key.pem` and `key.pub`, as OpenSSL writes them."""
    folder.mkdir(exist_ok=True)
    private = private or ed25519.Ed25519PrivateKey.generate()
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    pem = serialization.Encoding.PEM
    (folder / "key.pem").write_bytes(private.private_bytes(pem, serialization.PrivateFormat.PKCS8, encryption))
    public = private.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / "key.pub").write_bytes(public)
    return folder


def no_password():
    raise AssertionError("this key has none")


@pytest.fixture
def keys(tmp_path, monkeypatch):
    """The maintainer's keys, of which the public one is demanded."""
    folder = write_keys(tmp_path / "keys")
    monkeypatch.setenv(VARIABLE, str(folder / "key.pub"))
    return folder


@pytest.fixture
def signed(tmp_path, keys):
    """An index that the maintainer signed."""
    path = tmp_path / "index.json"
    path.write_text(json.dumps({"schema_version": 1, "weights": {"mnv2zoo_035.signed": raw_entry()}}))
    assert index.sign(path, keys / "key.pem", no_password) == tmp_path / "index.json.sig"
    return path


def test_what_the_maintainer_signed_is_used(signed):
    assert list(index.Index(signed).entries()) == ["mnv2zoo_035.signed"]


@pytest.mark.parametrize("suffix", ["", ".sig"])
def test_one_changed_byte_of_index_or_signature_is_refused(signed, suffix):
    file = signed.with_name(signed.name + suffix)
    data = bytearray(file.read_bytes())
    for place in range(len(data)) if suffix else (0, data.index(b"70.0"), len(data) - 1):
        file.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(WeightsIndexError, match="the signature does not match"):
            index.read(signed)


def test_the_bytes_that_are_verified_are_the_bytes_that_are_parsed(signed, monkeypatch):
    text = signed.read_text()
    check = signature.check

    def check_and_swap(*args):
        check(*args)
        signed.write_text(text.replace("70.0", "99.0"))

    monkeypatch.setattr(signature, "check", check_and_swap)
    assert index.read(signed)["mnv2zoo_035.signed"].metrics == {"top1": 70.0}
    assert "99.0" in signed.read_text()


def another_key(signed, keys):
    write_keys(keys)


def another_index(signed, keys):
    other = signed.with_name("other.json")
    other.write_text(signed.read_text() + "\n")
    index.sign(other, keys / "key.pem", no_password).replace(signature.path_of(signed))


def no_signature(signed, keys):
    signature.path_of(signed).unlink()


def short_signature(signed, keys):
    signature.path_of(signed).write_bytes(b"\0" * 63)


def long_signature(signed, keys):
    with signature.path_of(signed).open("ab") as file:
        file.write(b"\n")


def no_key(signed, keys):
    (keys / "key.pub").unlink()


def no_pem(signed, keys):
    (keys / "key.pub").write_text("ssh-ed25519 AAAA me@example.org\n")


def private_key(signed, keys):
    (keys / "key.pem").replace(keys / "key.pub")


def key_of_another_kind(signed, keys):
    write_keys(keys, ec.generate_private_key(ec.SECP256R1()))


def huge_key(signed, keys):
    (keys / "key.pub").write_bytes(b" " * 2**17 + (keys / "key.pub").read_bytes())


@pytest.mark.parametrize(
    ("change", "file", "fix"),
    [
        (another_key, r"index\.json\.sig", "make sure that the key is theirs"),
        (another_index, r"index\.json\.sig", "Get the index and its signature again"),
        (no_signature, r"index\.json\.sig", "Get the index and its signature again"),
        (short_signature, r"index\.json\.sig", "Get the index and its signature again"),
        (long_signature, r"index\.json\.sig", "Get the index and its signature again"),
        (no_key, r"key\.pub", f"Correct {VARIABLE}"),
        (no_pem, r"key\.pub", f"Correct {VARIABLE}"),
        (private_key, r"key\.pub", f"Correct {VARIABLE}"),
        (key_of_another_kind, r"key\.pub", f"Correct {VARIABLE}"),
        (huge_key, r"key\.pub", f"Correct {VARIABLE}"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_anything_else_is_an_error_that_names_the_file_and_the_remedy(signed, keys, change, file, fix):
    index.read(signed)
    change(signed, keys)
    with pytest.raises(WeightsIndexError, match=f"(?s){file}.*{fix}"):
        index.read(signed)


def test_the_registry_of_an_unsigned_index_raises_at_the_first_use(signed, keys, monkeypatch):
    no_signature(signed, keys)
    monkeypatch.setattr(index, "INDEX", index.Index(signed))
    for use in (lambda: timm.create_model("mnv2zoo_100"), mnv2zoo.list_models, mnv2zoo.weights.entries):
        with pytest.raises(WeightsIndexError, match=r"index\.json\.sig"):
            use()


@pytest.mark.slow
def test_the_shipped_index_needs_a_signature_too_and_the_import_succeeds(keys, tmp_path):
    # In a package of its own, whose index can be signed: the import reads the variable.
    package = tmp_path / "package"
    shutil.copytree(ROOT / "mnv2zoo", package / "mnv2zoo", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "weights_index.json", package)
    program = (
        "import mnv2zoo\n"
        "try:\n    print(len(mnv2zoo.weights.entries()))\n"
        "except mnv2zoo.weights.WeightsIndexError as error:\n    print(error)\n"
    )

    def imported():
        env = {**os.environ, "PYTHONPATH": str(package)}
        return subprocess.run(
            [sys.executable, "-c", program], cwd=package, env=env, capture_output=True, text=True, check=True
        ).stdout

    assert f"where: {package / 'weights_index.json.sig'}" in imported()
    index.sign(package / "weights_index.json", keys / "key.pem", no_password)
    assert imported() == f"{len(schema.parse((ROOT / 'weights_index.json').read_text(), ROOT))}\n"


@pytest.mark.slow
def test_without_the_variable_signatures_are_not_looked_at_and_nothing_is_imported(signed, monkeypatch):
    no_signature(signed, None)
    monkeypatch.delenv(VARIABLE)
    assert list(index.read(signed)) == ["mnv2zoo_035.signed"]
    program = "import mnv2zoo, sys; print([name for name in sys.modules if name.startswith('cryptography')])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_missing_library_is_an_error_that_names_the_extra(signed, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives", None)
    unchecked = index.Index(signed)  # as at import, which succeeds
    with pytest.raises(MissingExtraError) as error:
        unchecked.entries()
    assert error.value.fix == f"Run: {install_command('signing')}"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_makes_the_keys_and_the_same_signature(signed, keys):
    def openssl(*args):
        subprocess.run(["openssl", *map(str, args)], check=True, capture_output=True)

    openssl("genpkey", "-algorithm", "ed25519", "-out", keys / "key.pem")
    openssl("pkey", "-in", keys / "key.pem", "-pubout", "-out", keys / "key.pub")
    file = index.sign(signed, keys / "key.pem", no_password)
    ours = file.read_bytes()
    openssl("pkeyutl", "-sign", "-rawin", "-inkey", keys / "key.pem", "-in", signed, "-out", file)
    assert file.read_bytes() == ours
    index.read(signed)


def test_a_key_with_a_password_signs_with_that_password_alone(signed, keys):
    write_keys(keys, password=b"open sesame")
    index.sign(signed, keys / "key.pem", lambda: "open sesame")
    index.read(signed)
    with pytest.raises(WeightsError, match="cannot sign with this key"):
        index.sign(signed, keys / "key.pem", lambda: "open barley")


@pytest.mark.parametrize("file", ["key.pub", "text", "other", "huge"])
def test_what_is_no_private_key_of_ours_signs_nothing(signed, keys, file):
    write_keys(keys / "ec", ec.generate_private_key(ec.SECP256R1()))
    (keys / "ec/key.pem").replace(keys / "other")
    (keys / "text").write_text("no key")
    (keys / "huge").write_bytes(b" " * 2**17 + (keys / "key.pem").read_bytes())
    no_signature(signed, keys)
    with pytest.raises(WeightsError, match=f"(?s)cannot sign with this key.*{file}"):
        index.sign(signed, keys / file, no_password)
    assert not signature.path_of(signed).exists()


def test_a_bad_index_is_not_signed(signed, keys):
    signed.write_text("{}")
    no_signature(signed, keys)
    with pytest.raises(WeightsIndexError):
        index.sign(signed, keys / "key.pem", no_password)
    assert not signature.path_of(signed).exists()
