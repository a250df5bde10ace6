from lamina.evaluate.sandbox.inside import folder


def test_a_folder_is_over_by_bytes_and_by_files(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(bytes(3000))
    assert not folder.is_over(str(tmp_path), 100_000)
    assert folder.is_over(str(tmp_path), 2000)
    for number in range(folder.NUM_FILES):
        (tmp_path / str(number)).touch()
    assert folder.is_over(str(tmp_path), 1 << 30)


def test_a_sparse_file_counts_as_what_it_says(tmp_path):
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 20)
    assert folder.is_over(str(tmp_path), 1 << 19)


def test_a_folder_deeper_than_any_path_is_removed(tmp_path, monkeypatch):
    top = tmp_path / "top"
    top.mkdir()
    monkeypatch.chdir(top)
    for _ in range(300):
        (inner := top.__class__("d" * 50)).mkdir()
        inner.joinpath("file").touch()
        monkeypatch.chdir(inner)
    monkeypatch.chdir(tmp_path)
    (top / "closed").mkdir(mode=0)
    (top / "link").symlink_to(tmp_path)
    (tmp_path / "kept").touch()
    folder.remove(str(top))
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
