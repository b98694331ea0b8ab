import pytest


# Their assertions tell what they compared, as those of test modules do.
pytest.register_assert_rewrite("tests.support.storage_contract", "tests.support.server")
