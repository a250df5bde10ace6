"""Model folders: indexes and links that lead elsewhere, parts that are missing or do not fit."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_family import random_model, write_model

from lamina.core.errors import CheckpointError, LaminaError
from lamina.weights.checkpoint import INDEX, head_name, open_checkpoint, read_license
from lamina.weights.locate import locate, open_model


def refuse(folder: Path, *says: str) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder)
    told = str(caught.value)
    for word in says:
        assert word in told, (word, told)
    return told


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model", random_model())


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return write_model(tmp_path / "sharded", random_model(), shards=3)


def rewrite(file: Path, **changes: Any) -> None:
    read = json.loads(file.read_text())
    file.write_text(json.dumps({**read, **changes}))


def remap(folder: Path, change: Any) -> None:
    weight_map = json.loads((folder / INDEX).read_text())["weight_map"]
    rewrite(folder / INDEX, weight_map=change(weight_map))


def test_a_whole_model(folder: Path, sharded: Path) -> None:
    single, split = open_checkpoint(folder), open_checkpoint(sharded)
    assert set(single.tensors) == set(split.tensors) == set(random_model())
    assert single.num_bytes == split.num_bytes == sum(2 * v.size for v in random_model().values())
    assert (single.architecture, single.layers.num_blocks) == ("LlamaForCausalLM", 3)
    assert len(split.headers) == 3
    assert single.warnings == split.warnings == ()
    assert head_name(single) == "lm_head.weight"


@pytest.mark.parametrize(
    "name",
    [
        "../x.safetensors",
        "/etc/passwd",
        "/x.safetensors",
        "sub/x.safetensors",
        "..",
        "",
        "a\0b.safetensors",
        "a\nb.safetensors",
        "..\\x.safetensors",
        "config.json",
        "pytorch_model.bin",
    ],
)
def test_an_index_that_leads_elsewhere(name: str, sharded: Path) -> None:
    (sharded.parent / "x.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    remap(sharded, lambda m: m | {"lm_head.weight": name})
    told = refuse(sharded, "outside of the model folder", INDEX, repr(name))
    assert "\0" not in told


def test_an_index_with_a_name_that_no_file_can_have(sharded: Path) -> None:
    remap(sharded, lambda m: m | {"lm_head.weight": "x" * 400 + ".safetensors"})
    refuse(sharded, "1 of 4 shards", "missing")


def test_a_missing_shard(sharded: Path) -> None:
    (sharded / "model-00002-of-00003.safetensors").unlink()
    refuse(sharded, "1 of 3 shards", "model-00002-of-00003.safetensors", "Download them again")


def test_a_link_out_of_the_folder(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").rename(tmp_path / "elsewhere")
    (folder / "model.safetensors").symlink_to(tmp_path / "elsewhere")
    refuse(folder, "link out of the model folder", str(tmp_path / "elsewhere"))


@pytest.mark.parametrize("name", ["config.json", INDEX])
def test_a_config_or_index_that_is_a_link_out(name: str, sharded: Path, tmp_path: Path) -> None:
    (sharded / name).rename(tmp_path / "elsewhere")
    (sharded / name).symlink_to(tmp_path / "elsewhere")
    refuse(sharded, "link out of the model folder", name)


def test_a_link_through_a_linked_folder(sharded: Path, tmp_path: Path) -> None:
    shard = "model-00001-of-00003.safetensors"
    (sharded / shard).rename(tmp_path / shard)
    (sharded / shard).symlink_to(Path("..") / shard)
    refuse(sharded, "link out of the model folder", shard)


def test_links_inside_the_folder_are_allowed(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "real.safetensors.1")
    (folder / "model.safetensors").symlink_to("real.safetensors.1")
    assert open_checkpoint(folder).tensors


def test_a_link_to_the_whole_folder_is_allowed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(folder)
    assert open_checkpoint(tmp_path / "alias").tensors


def test_the_hub_cache_is_allowed_and_no_more(sharded: Path, tmp_path: Path) -> None:
    home = tmp_path / "models--org--tiny"
    snapshot, blobs = home / "snapshots" / "abc", home / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(sorted(sharded.iterdir())):
        shutil.copy(file, blobs / f"{number:040}")
        (snapshot / file.name).symlink_to(Path("../../blobs") / f"{number:040}")
    assert set(open_checkpoint(snapshot).tensors) == set(random_model())
    shard = snapshot / "model-00002-of-00003.safetensors"
    shard.unlink()
    shard.symlink_to(sharded / shard.name)
    refuse(snapshot, "link out of the model folder")


def test_a_link_that_goes_round(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("model.safetensors")
    refuse(folder, "model.safetensors", "in a circle")


def test_a_tensor_in_two_shards(sharded: Path) -> None:
    first, second = sorted(sharded.glob("*.safetensors"))[:2]
    second.write_bytes(first.read_bytes())
    refuse(sharded, "stand in two files", first.name, second.name)


def test_index_and_files_disagree(sharded: Path) -> None:
    def change(mapped: dict[str, str]) -> dict[str, str]:
        mapped = dict(mapped)
        del mapped["model.norm.weight"]
        mapped["lm_head.weight"] = "model-00003-of-00003.safetensors"
        return mapped | {"ghost": "model-00001-of-00003.safetensors"}

    remap(sharded, change)
    refuse(
        sharded,
        "index and files do not agree",
        "ghost: in the index, in no file",
        "model.norm.weight: in model-0000",
        "lm_head.weight: the index says model-00003-of-00003.safetensors",
    )


@pytest.mark.parametrize(
    "text", ['{"weight_map": []}', '{"weight_map": {"a": 1}}', "{}", "[1]", "{", '{"a": "\\ud8']
)
def test_an_index_that_is_none(text: str, sharded: Path) -> None:
    (sharded / INDEX).write_text(text)
    refuse(sharded, INDEX)


def test_an_empty_index(sharded: Path) -> None:
    (sharded / INDEX).write_text('{"weight_map": {}}')
    refuse(sharded, "no tensor at all")


def test_single_file_and_index_at_once_reads_as_transformers_does(
    folder: Path, sharded: Path
) -> None:
    for file in sharded.iterdir():
        if file.name != "config.json":
            shutil.copy(file, folder)
    checkpoint = open_checkpoint(folder)
    assert [header.file.name for header in checkpoint.headers] == ["model.safetensors"]
    assert len(checkpoint.warnings) == 1
    assert INDEX in checkpoint.warnings[0]


def test_a_folder_of_pickles_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refuse(folder, "pickled weights (pytorch_model.bin)", "run code", "save_pretrained")


def test_several_safetensors_and_no_index(sharded: Path) -> None:
    (sharded / INDEX).unlink()
    refuse(sharded, "3 safetensors files", INDEX)


def test_one_safetensors_of_another_name_is_taken(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    assert open_checkpoint(folder).tensors


def test_no_weights_no_config_no_folder(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    refuse(folder, "no safetensors weights")
    (folder / "config.json").unlink()
    refuse(folder, "no config.json")
    refuse(folder / "nothing", "does not exist")
    refuse(tmp_path / ("x" * 400), "does not exist")
    (tmp_path / "file").write_text("x")
    refuse(tmp_path / "file", "is a file")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"{", "is not JSON"),
        (b"[]", "holds a list"),
        (b"\xff\xfe", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"", "is not JSON"),
    ],
)
def test_a_config_that_is_none(text: bytes, says: str, folder: Path) -> None:
    (folder / "config.json").write_bytes(text)
    refuse(folder, "config.json", says)


def test_a_config_larger_than_any(folder: Path) -> None:
    with (folder / "config.json").open("r+b") as stream:
        stream.truncate(65_000_000)
    refuse(folder, "larger than")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"num_hidden_layers": 4}, ("it says 4 blocks, the tensors have 3",)),
        ({"vocab_size": 97}, ("a vocabulary of 97", "has 96 rows")),
        ({"hidden_size": 64}, ("a width of 64", "has 48 columns")),
        (
            {"num_hidden_layers": 5, "vocab_size": 1, "hidden_size": 2},
            ("5 blocks", "vocabulary of 1", "width of 2"),
        ),
        ({"text_config": {"num_hidden_layers": 9}}, ("9 blocks",)),
    ],
)
def test_a_config_that_does_not_fit(
    changes: dict[str, Any], says: tuple[str, ...], folder: Path
) -> None:
    rewrite(folder / "config.json", **changes)
    refuse(folder, "config.json does not fit", *says)


@pytest.mark.parametrize(
    "changes",
    [
        {"architectures": []},
        {"architectures": "LlamaForCausalLM"},
        {"architectures": {"a": 1}},
        {"architectures": None, "model_type": None},
        {"vocab_size": "96"},
        {"num_hidden_layers": None},
        {"text_config": []},
        {"tie_word_embeddings": "no"},
    ],
)
def test_an_odd_config_never_breaks_us(changes: dict[str, Any], folder: Path) -> None:
    rewrite(folder / "config.json", **changes)
    try:
        named = open_checkpoint(folder).architecture
    except LaminaError:
        return
    assert named


def test_tied_and_untied_are_told(tmp_path: Path) -> None:
    tensors = random_model()
    headless = {name: v for name, v in tensors.items() if name != "lm_head.weight"}
    tied = open_checkpoint(
        write_model(tmp_path / "a", headless, config={"tie_word_embeddings": True})
    )
    assert head_name(tied) is None
    assert tied.warnings == ()
    both = open_checkpoint(
        write_model(tmp_path / "b", tensors, config={"tie_word_embeddings": True})
    )
    assert "lm_head.weight is in the files although config.json ties it" in both.warnings[0]
    refuse(write_model(tmp_path / "c", headless), "not tied", "no head among the tensors")


def test_fingerprint_follows_the_contents_and_identity_the_files(
    folder: Path, sharded: Path, tmp_path: Path
) -> None:
    before = open_checkpoint(folder)
    copy = open_checkpoint(shutil.copytree(folder, tmp_path / "copy"))
    assert copy.fingerprint == before.fingerprint
    assert copy.identity != before.identity
    assert open_checkpoint(folder).identity == before.identity
    os.utime(folder / "model.safetensors", ns=(1, 1))
    touched = open_checkpoint(folder)
    assert touched.fingerprint == before.fingerprint
    assert touched.identity != before.identity
    other = random_model(seed=5)
    assert open_checkpoint(write_model(folder, other)).fingerprint != before.fingerprint
    assert open_checkpoint(sharded).fingerprint != before.fingerprint


@pytest.mark.parametrize(
    ("card", "found"),
    [
        ("---\nlicense: apache-2.0\n---\n# x", "apache-2.0"),
        ("---\nlicense: other\nlicense_name: llama3\n---\n", "llama3"),
        ('---\nlicense: "mit"\n---\n', "mit"),
        ("---\ntags:\n- x\n---\nlicense: mit\n", None),
        ("license: mit", None),
    ],
)
def test_license_of_the_card(card: str, found: str | None, folder: Path) -> None:
    (folder / "README.md").write_text(card)
    assert read_license(folder) == found
    assert open_checkpoint(folder).license == found


def test_locate_tells_where_it_looked(tmp_path: Path, folder: Path) -> None:
    assert locate("model", tmp_path) == folder
    for text in ("./nothing", str(tmp_path / "nothing"), "~nobody-of-that-name/x", "x" * 400):
        with pytest.raises(CheckpointError, match="does not exist"):
            locate(text, tmp_path)
    with pytest.raises(CheckpointError, match="hub does not give it"):
        locate("org/no-such-model", tmp_path)
    with pytest.raises(CheckpointError, match="does not exist"):
        open_model("model+nothing", tmp_path)
