"""A folder is ours by its mark, and by nothing else."""

import pytest

from prunelib.errors import PrunelibError
from prunelib.files import read_json
from prunelib.runs import marks


def test_a_mark_is_of_one_kind_and_written_once(tmp_path):
    folder = tmp_path / "deep" / "site"
    assert marks.is_empty(folder) and not marks.is_marked(folder, "site")
    marks.mark(folder, "site")
    assert marks.is_marked(folder, "site") and not marks.is_marked(folder, "run") and not marks.is_empty(folder)
    before = (folder / ".prunelib-site").stat().st_mtime_ns
    marks.mark(folder, "site")
    assert (folder / ".prunelib-site").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="no kind"):
        marks.mark(folder, "sight")


@pytest.mark.parametrize("content", ["", "[]", "null", '{"kind": "site"}', "[" * 100_000, "\\x00"])
def test_another_file_of_that_name_is_no_mark(tmp_path, content):
    (tmp_path / ".prunelib-run").write_text(content)
    assert not marks.is_marked(tmp_path, "run")


def test_a_link_or_a_folder_in_its_place_is_no_mark(tmp_path):
    marks.mark(tmp_path / "ours", "run")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".prunelib-run").symlink_to(tmp_path / "ours" / ".prunelib-run")
    (tmp_path / "b" / ".prunelib-run").mkdir(parents=True)
    assert not marks.is_marked(tmp_path / "a", "run") and not marks.is_marked(tmp_path / "b", "run")


def test_a_file_where_a_folder_should_be_is_one_clear_line(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(PrunelibError, match="cannot write to .*x: Not a directory"):
        marks.is_empty(tmp_path / "x")
    with pytest.raises(PrunelibError, match="File name too long"):
        marks.is_empty(tmp_path / ("x" * 300))
    assert read_json(tmp_path) == {}
