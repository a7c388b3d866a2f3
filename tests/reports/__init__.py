"""What users reported: one test per report, each asserting the right value, each failing without its fix.

Add a report in minutes: open the module of its area (`test_data`, `test_training`, `test_deploy`, `test_models`,
`test_weights`, `test_cli`), reproduce it with the fixtures of `tests/conftest.py`, and name the test after the
behavior that users expect. Mark it `environment` if it depends on the machine (no home, a read-only cache,
few open files): those tests run once more under such conditions.
"""
