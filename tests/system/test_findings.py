"""A bug report holds no secret and no user's name."""

import getpass

import pytest

from mnv2zoo.system.findings import BROKEN, Finding, shareable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{home}/.cache/x is bad", "~/.cache/x is bad"),
        ("{home}", "~"),
        ("{home}2/x and {home}.old", "{home}2/x and {home}.old"),
        ("/srv/ada/models, /srv/adam", "/srv/USER/models, /srv/adam"),
        ("http://me:s3cret@proxy.example:3128", "http://***@proxy.example:3128"),
        ("the token hf_secret", "the token ***"),
        ("two\nlines", "two lines"),
    ],
)
def test_what_is_shared_is_clean(monkeypatch, tmp_path, text, expected):
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("LOGNAME", "ada")
    assert getpass.getuser() == "ada"
    assert shareable(text.format(home=home)) == expected.format(home=home)
    finding = Finding("x", BROKEN, text.format(home=home), text.format(home=home)).shareable()
    assert (finding.found, finding.fix) == 2 * (expected.format(home=home),)


@pytest.mark.parametrize("home", ["", "/"])
def test_a_user_without_a_home_loses_no_slashes(monkeypatch, home):
    monkeypatch.setenv("HOME", home)
    assert shareable("/etc/x") == "/etc/x"
