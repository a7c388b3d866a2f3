"""Attacks on what `docs/security.md` promises; `python -m attacks` runs them and counts.

Each module is one attack: its `run(tally, ...)` tries what its docstring says, on the real package, files,
processes and sockets. Nothing leaves this machine.
"""
