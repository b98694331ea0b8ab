import pytest


# Their failed assertions show the compared values, as those of test modules do.
pytest.register_assert_rewrite("tests.support")
