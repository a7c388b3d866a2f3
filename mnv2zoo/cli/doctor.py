"""`mnv2zoo doctor`: check the installation, and report what is broken and how to fix it."""

from __future__ import annotations

from dataclasses import asdict

import typer

from mnv2zoo.cli.options import Debug, Json
from mnv2zoo.cli.output import print_json, print_table

EXAMPLE = "\b\nExamples:\n  mnv2zoo doctor\n  mnv2zoo doctor --json > report.json"


def command(as_json: Json = False, debug: Debug = False) -> None:
    """Check the installation and explain how to fix problems.

    Checks Python, the engines, the connection to the Hub, the cache and the index. Changes nothing and downloads no
    weights. The exit status is 1 if anything is broken. The report contains no tokens, passwords or user names, so you
    can paste it into a bug report.
    """
    from mnv2zoo.deploy import health as runtime
    from mnv2zoo.system.findings import BROKEN
    from mnv2zoo.weights import health as weights

    found = [finding.shareable() for room in (runtime, weights) for finding in room.findings()]
    broken = [finding for finding in found if finding.status == BROKEN]
    if as_json:
        verdict = BROKEN if broken else "ok"
        print_json({"verdict": verdict, "checks": [asdict(finding) for finding in found]})
    else:
        print_table(["check", "status", "found"], [[one.check, one.status, one.found] for one in found])
        for one in found:
            if one.fix:
                print(f"\n{one.check}: {one.fix}", end="")
        count = f"{len(broken)} {'check is' if len(broken) == 1 else 'checks are'} broken: "
        print(f"\n\nverdict: {count + ', '.join(one.check for one in broken) if broken else 'all is well'}")
    raise typer.Exit(1 if broken else 0)
