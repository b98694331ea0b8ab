"""A storage in a bucket on an emulator, whose requests a proxy sees."""

import pytest

from tests.support.gcs import gcs_storage, through


@pytest.fixture
def watched(gcs_bucket, gcs_proxy):
    """The storage on fake-gcs-server."""
    return gcs_storage(through(gcs_bucket, gcs_proxy))


@pytest.fixture
def emulated(emulated_bucket, emulator_proxy):
    """The storage on gcp-storage-emulator."""
    return gcs_storage(through(emulated_bucket, emulator_proxy))
