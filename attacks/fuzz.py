"""Fuzzes what reads files of strangers, led by the coverage of the package, and writes `docs/results/fuzz.json`.

python -m attacks.fuzz                     # each target for two minutes; the figures of those not named stay
python -m attacks.fuzz index --seconds 60  # one target for a minute

It needs atheris, which brings libFuzzer and which `make fuzz` installs. That it finds anything is proved first, on a
planted flaw. A finding ends a target's run; the input that caused it stays in `build/fuzz-findings/`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from attacks.machine import machine

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs/results/fuzz.json"
FINDINGS = ROOT / "build/fuzz-findings"
TARGETS = ("index", "safetensors", "config")
SECONDS = 5  # what one input may take
MEGABYTES = 4096  # where libFuzzer ends the process at once; the targets' own bound is closer
LONGEST = 2**16  # bytes of an input


def fuzz(name: str, seconds: int) -> None:
    """Fuzzes a target in this process, which libFuzzer ends."""
    import atheris

    with atheris.instrument_imports(include=["mnv2zoo"]):
        from attacks import fuzz_targets

    target = fuzz_targets.TARGETS[name]

    def mutate(data: bytes, longest: int, seed: int) -> bytes:
        altered = fuzz_targets.alter(data, seed, target.framed) if seed % 3 else None
        return altered if altered is not None and len(altered) <= longest else atheris.Mutate(data, longest)

    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    (folder / "corpus").mkdir()
    for number, data in enumerate(target.seeds()):
        (folder / "corpus" / f"seed-{number}").write_bytes(data)
    words = ("".join(f"\\x{byte:02x}" for byte in word.encode()) for word in fuzz_targets.WORDS if word)
    (folder / "words").write_text("".join(f'"{word}"\n' for word in words if len(word) < 400), encoding="ascii")
    options = {
        "max_total_time": seconds,
        "max_len": LONGEST,
        "timeout": SECONDS,
        "rss_limit_mb": MEGABYTES,
        "dict": folder / "words",
        "artifact_prefix": f"{FINDINGS}/{name}-",
    }
    flags = [f"-{option}={value}" for option, value in options.items()]
    atheris.Setup([sys.argv[0], *flags, str(folder / "corpus")], fuzz_targets.bounded(target), custom_mutator=mutate)
    atheris.Fuzz()


def report(log: str, status: int) -> dict[str, Any]:
    """What libFuzzer's log tells of a run.

    Args:
        log: What it wrote.
        status: The exit status.

    Returns:
        Executions, edges of the package's code that were reached, features, seconds and findings.
    """
    states = re.findall(r"^#(\d+)\s.*?cov: (\d+) ft: (\d+)", log, re.M)
    if not states:
        sys.exit(f"the fuzzer did not start: {log[-2000:]}")
    done = re.search(r"^Done (\d+) runs in (\d+) second", log, re.M)
    executions, edges, features = map(int, states[-1])
    findings = re.findall(r"^ ?=+ Uncaught Python exception: =+\n(.+)", log, re.M)
    findings += re.findall(r"ERROR: libFuzzer: (timeout.*|out-of-memory.*|deadly.*)", log)
    if status and not findings:
        findings = [f"exit status {status}"]
    return {
        "executions": int(done[1]) if done else executions,
        "edges": edges,
        "features": features,
        "seconds": int(done[2]) if done else None,
        "findings": findings,
    }


def run(name: str, seconds: int) -> dict[str, Any]:
    """Fuzzes a target in a process of its own, and shows its log where something was found."""
    FINDINGS.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "attacks.fuzz", "--here", name, "--seconds", str(seconds)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    log = done.stdout.decode(errors="replace")
    found = report(log, done.returncode)
    if found["findings"] and name in TARGETS:
        print(log[-5000:])
    print(name, json.dumps(found), flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"some of {', '.join(TARGETS)}; all by default")
    parser.add_argument("--seconds", type=int, default=120, help="how long each is fuzzed (default: %(default)s)")
    parser.add_argument("--here", metavar="TARGET", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.here:
        fuzz(arguments.here, arguments.seconds)
    if unknown := sorted({*arguments.targets} - {*TARGETS}):
        parser.error(f"no such target: {', '.join(unknown)}")
    planted = run("planted", 60)
    if not any("the planted flaw" in finding for finding in planted["findings"]):
        sys.exit("the planted flaw was not found, so nothing could be told from finding nothing")
    rows = {name: run(name, arguments.seconds) for name in arguments.targets or TARGETS}
    before = json.loads(RESULTS.read_text(encoding="utf-8"))["targets"] if RESULTS.exists() else {}
    document = {
        "machine": machine("atheris", "safetensors", "timm", "torch"),
        "planted": planted["executions"],
        "targets": {name: row for name, row in (before | rows).items() if name in TARGETS},
    }
    RESULTS.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {RESULTS}")
    return 1 if any(row["findings"] for row in rows.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
