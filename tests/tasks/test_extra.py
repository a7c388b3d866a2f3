"""A package that is missing is named with the extra that installs it."""

import pytest

from mnv2zoo.errors import MissingExtraError
from mnv2zoo.system.installation import install_command
from mnv2zoo.tasks.extra import needs_train_extra


def test_a_missing_package_is_named_with_its_extra():
    with pytest.raises(MissingExtraError) as error, needs_train_extra():
        import no_package_of_this_name  # noqa: F401
    assert error.value.found == "no module no_package_of_this_name"
    assert error.value.fix == f"Run: {install_command('train')}"


def test_another_missing_extra_and_another_error_stay():
    inner = MissingExtraError("Parquet needs pyarrow", fix="Install it.")
    with pytest.raises(MissingExtraError) as error, needs_train_extra():
        raise inner
    assert error.value is inner
    with pytest.raises(ZeroDivisionError), needs_train_extra():
        1 / 0  # noqa: B018
