"""Files that are whole at every moment."""

import pytest

from keras_robust import files

pytestmark = pytest.mark.once


def test_a_failed_write_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    files.write_atomically(path, "old")

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        files.write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["metrics.json"]


def test_content_may_be_written_by_a_function_and_makes_its_folder(tmp_path):
    path = tmp_path / "new" / "array.bin"
    files.write_atomically(path, lambda file: file.write(b"abc"))
    assert path.read_bytes() == b"abc"
