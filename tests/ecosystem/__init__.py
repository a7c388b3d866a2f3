"""What other libraries do with the package's networks and folders, in an environment of their own.

`make ecosystem` runs these tests and writes the table in `docs/ecosystem.md`. Mark each with its library, as pip names
it, and with what it shows: `@pytest.mark.ecosystem("peft", "LoRA trains ...")`.
"""
