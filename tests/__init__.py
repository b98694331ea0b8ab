import pytest


# Their assertions tell what they compared, as those of test modules do.
pytest.register_assert_rewrite("tests.storage_contract", "tests.support")
