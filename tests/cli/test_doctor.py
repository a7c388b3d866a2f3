"""`doctor` is one page with a verdict, and a report without secrets."""

import json

import huggingface_hub
import pytest


@pytest.fixture
def secrets(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_aTokenThatMustNotBeSeen")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LOGNAME", "adalovelace")
    monkeypatch.setenv("https_proxy", "http://adalovelace:s3cret@proxy.example:3128")


def test_all_is_well(run, hub, secrets, tmp_path):
    done = run("doctor")
    assert (done.status, done.err) == (0, "")
    assert done.out.splitlines()[0].split() == ["check", "status", "found"]
    assert done.out.rstrip().splitlines()[-1] == "verdict: all is well"


def test_the_report_holds_no_secret_and_no_name(run, hub, secrets, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "https://adalovelace:s3cret@127.0.0.1:9")
    monkeypatch.setenv("MNV2ZOO_WEIGHTS_URL", "http://adalovelace:s3cret@127.0.0.1:9/{filename}")
    done = run("doctor", "--json")
    report = json.loads(done.out)
    checks = {check["check"]: check for check in report["checks"]}
    assert checks["cache of the Hub"]["found"] == "~/cache is writable"
    for secret in ("hf_aTokenThatMustNotBeSeen", "s3cret", "adalovelace", str(tmp_path)):
        assert secret not in done.out
    assert (done.status, report["verdict"]) == (1, "broken")


def test_what_is_broken_is_named_with_its_fix(run, hub, secrets):
    hub.fail(status=401, match="whoami")
    done = run("doctor")
    assert (done.status, done.err) == (1, "")
    *_, fix, _, verdict = done.out.rstrip().splitlines()
    assert fix == "token: Set HF_TOKEN to a valid token, or run `hf auth login`."
    assert verdict == "verdict: 1 check is broken: token"
    report = json.loads(run("doctor", "--json").out)
    assert [check["check"] for check in report["checks"] if check["status"] == "broken"] == ["token"]
