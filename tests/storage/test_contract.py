"""The contract of storages, on every one of them.

Of Google Cloud Storage there are two emulators, of which ``tests.support.gcs`` says what each does
wrong.
"""

import pytest
from pyramid_storage.local import LocalFileStorage

from kinto_attachment.storage.local import LocalStorage
from kinto_attachment.storage.pyramid import PyramidStorage
from kinto_attachment.storage.s3.storage import S3Storage
from tests.support.gcs import gcs_storage
from tests.support.storage_contract import (
    AtomicNames,
    ListsIncompleteUploads,
    ResumableContract,
    StorageContract,
    StoredFiles,
)


class FolderContract(StorageContract):
    @pytest.fixture
    def inside(self, tmp_path):
        return lambda: sorted(
            str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()
        )


class BucketContract(StorageContract):
    @pytest.fixture
    def storage(self, bucket):
        return S3Storage.from_settings(bucket.options, "")

    @pytest.fixture
    def inside(self, bucket):
        return lambda: bucket.keys() + bucket.uploads()


class TestLocalFiles(FolderContract, AtomicNames, ListsIncompleteUploads, ResumableContract):
    @pytest.fixture
    def storage(self, tmp_path):
        storage = LocalStorage(str(tmp_path), "https://example.org/")
        storage.prepare()
        return storage


class TestRealS3(BucketContract, AtomicNames, ListsIncompleteUploads, ResumableContract):
    pass


class TestFakeS3(BucketContract):
    @pytest.fixture
    def bucket(self, fake_bucket):
        return fake_bucket


class GCSContract:
    @pytest.fixture
    def storage(self, bucket):
        return gcs_storage(bucket.options)

    @pytest.fixture
    def inside(self, bucket):
        return bucket.keys


class TestFakeGCSServer(GCSContract, StorageContract, AtomicNames, ResumableContract):
    @pytest.fixture
    def bucket(self, gcs_bucket):
        return gcs_bucket


class TestGCPStorageEmulator(GCSContract, StoredFiles):
    """It ignores preconditions: equal names are tested with the other emulator."""

    @pytest.fixture
    def bucket(self, emulated_bucket):
        return emulated_bucket


class TestFallback(FolderContract):
    @pytest.fixture
    def storage(self, tmp_path):
        return PyramidStorage(LocalFileStorage(str(tmp_path), "https://example.org/"))
