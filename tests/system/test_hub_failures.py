"""Why a request to the Hub failed, told without secrets."""

import pytest

from mnv2zoo.system import hub_failures


def test_tokens_and_passwords_are_taken_out_of_messages(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    text = "Illegal header value b'Bearer hf_secret', at https://user:password@host/x"
    assert hub_failures.without_secrets(text) == "Illegal header value b'Bearer ***', at https://***@host/x"


@pytest.mark.parametrize("password", ["plain", "p@ss", "p%40ss", "a:b"])
def test_passwords_of_any_form_are_taken_out(monkeypatch, password):
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:{password}@proxy:3128")
    text = hub_failures.without_secrets(f"cannot reach http://user:{password}@proxy:3128, with {password}")
    assert text == "cannot reach http://***@proxy:3128, with ***"


def test_the_last_cause_is_found_though_the_client_hides_it():
    def hide():
        try:
            raise PermissionError(13, "Permission denied", "/cache")
        except OSError:
            raise ValueError("check your connection") from None

    with pytest.raises(ValueError, match="connection") as error:
        hide()
    expected = hub_failures.Failure("denied", "PermissionError: Permission denied, /cache")
    assert hub_failures.explain(error.value) == expected


def test_an_error_that_cannot_be_printed_is_explained_all_the_same():
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError

    assert hub_failures.explain(Mute()).kind == "unknown"
