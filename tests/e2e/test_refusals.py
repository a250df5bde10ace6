"""Bad input: one clear error each, exit code 2, nothing left behind, no input touched."""

import fcntl
import json
import os
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_family as tf

import lamina.weights.place as place


def refused(lamina: Any, home: Path, *arguments: object, says: tuple[str, ...]) -> str:
    """Run, and make sure of everything that a refusal is; returns what it told."""
    before = tf.snapshot(home)
    names = {path.name for path in home.iterdir()}
    told = lamina(*arguments)
    assert told.code == 2, told
    assert told.err.startswith("error: "), told.err
    assert told.err.count("error: ") == 1, told.err
    assert "Traceback" not in told.err, told.err
    for word in says:
        assert word in told.err, (word, told.err)
    assert tf.snapshot(home) == before, "an input was touched or something was left behind"
    assert {path.name for path in home.iterdir()} == names, "something was left behind"
    return told.err


def merge(lamina: Any, home: Path, recipe: str, *options: object, says: tuple[str, ...]) -> str:
    """A merge by a recipe text that must be refused."""
    (home / "recipe.yaml").write_text(recipe)
    return refused(lamina, home, "merge", home / "recipe.yaml", home / "out", *options, says=says)


# The recipe

LATA, ARITHMETIC = tf.LATA, tf.ARITHMETIC
RECIPES: dict[str, tuple[str, tuple[str, ...]]] = {
    "unknown key": (LATA + "fxo: 1\n", ("fxo", "unknown key", "merge_method")),
    "misspelt key": (
        LATA.replace("instruct_model:", "instuct_model:"),
        ("instuct_model", "did you mean `instruct_model`"),
    ),
    "misspelt parameter": (
        LATA.replace("granularity", "granlarity"),
        ("parameters.granlarity", "did you mean `granularity`"),
    ),
    "misspelt key of a model": (
        LATA.replace("{weight: 0.5}", "{wieght: 0.5}"),
        ("models[0].parameters.wieght", "did you mean `weight`"),
    ),
    "unknown method": (LATA.replace(" lata", " latta"), ("`latta`", "did you mean `lata`")),
    "method of mergekit": (LATA.replace(" lata", " model_stock"), ("`model_stock`", "mergekit")),
    "missing method": (LATA.replace("merge_method: lata\n", ""), ("merge_method", "missing")),
    "unknown rule": (
        LATA.replace("linear_drop", "linear_dorp"),
        ("`linear_dorp`", "did you mean `linear_drop`"),
    ),
    "missing rule": (LATA.replace("rule: linear_drop, ", ""), ("rule", "missing", "log_drop")),
    "key of mergekit": (LATA + "tokenizer_source: union\n", ("tokenizer_source", "remove it")),
    "missing weight": (
        LATA.replace("{model: ./math, parameters: {weight: 0.5}}", "{model: ./math}"),
        ("./math", "has no weight", "weight: 0.5"),
    ),
    "no models": (LATA.split("models:")[0] + "parameters: {rule: log_drop}\n", ("models", "list")),
    "path that does not exist": (
        LATA.replace("./math", "./mth"),
        ("./mth does not exist", "looked for"),
    ),
    "weight NaN": (ARITHMETIC.replace("0.25", ".nan"), ("weight", "is nan", "finite")),
    "weight infinite": (ARITHMETIC.replace("0.25", "-.inf"), ("weight", "is -inf", "finite")),
    "weight beyond float32": (ARITHMETIC.replace("0.25", "1e39"), ("weight", "is 1e+39", "finite")),
    "weight NaN in a list": (ARITHMETIC.replace("0.25", "[0.1, .nan]"), ("weight", "is nan")),
    "weight a text": (ARITHMETIC.replace("0.25", "abc"), ("weight", "`abc`", "number")),
    "weights sum to zero": (
        ARITHMETIC.replace("0.25", "-0.5") + "parameters: {normalize: true}\n",
        ("sum to zero", "normalize"),
    ),
    "weights sum to zero in some layers": (
        ARITHMETIC.replace("0.25", "[0.5, -0.5]") + "parameters: {normalize: true}\n",
        ("sum to zero", "normalize", "layers.2"),
    ),
    "linear weights sum to zero": (
        "merge_method: linear\nmodels:\n- {model: ./math, parameters: {weight: 1}}\n"
        "- {model: ./code, parameters: {weight: -1}}\n",
        ("sum to zero", "normalize"),
    ),
    "base is the instruct model": (
        LATA.replace("./base", "./instruct"),
        ("is the base too", "LATA needs"),
    ),
    "density": (
        ARITHMETIC.replace("task_arithmetic", "ties").replace("0.25}", "0.25, density: 1.5}"),
        ("density", "1.5", "at most 1"),
    ),
    "dtype": (LATA.replace("bfloat16", "bfloat61"), ("bfloat61", "did you mean `bfloat16`")),
    "shard size": (LATA + "max_shard_size: big\n", ("max_shard_size", "big")),
    "filter that fits nothing": (
        ARITHMETIC.replace("0.25", "[{filter: mpl, value: 1}, {value: 0.5}]"),
        ("mpl", "mlp"),
    ),
    "empty file": ("", ("is empty", "merge_method")),
    "list at the top": ("- a\n- b\n", ("map of keys",)),
    "YAML bomb": (
        "a: &a [x, x, x, x, x, x, x, x, x]\n"
        + "".join(
            f"{n}: &{n} [{', '.join([f'*{o}'] * 9)}]\n"
            for o, n in zip("abcdefgh", "bcdefghi", strict=True)
        ),
        ("expands", "aliases"),
    ),
    "duplicate key": (LATA + "dtype: float32\n", ("`dtype` stands twice", "line 9")),
    "object tag": (
        LATA + 'x: !!python/object/apply:os.system ["true"]\n',
        ("python/object/apply:os.system", "no objects"),
    ),
    "tab": (LATA.replace("  - {model: ./code", "\t- {model: ./code"), ("tab", "line 6")),
    "two documents": (LATA + "---\n" + LATA, ("document",)),
    "not YAML": (LATA + "x: [1, 2\n", ("line",)),
    "a model named no": (LATA.replace("./math", "no"), ("no does not exist",)),
    "a model named 123": (LATA.replace("./math", "123"), ("`123`", "in quotes: '123'")),
}


@pytest.mark.parametrize(("recipe", "says"), RECIPES.values(), ids=RECIPES)
def test_recipe(recipe: str, says: tuple[str, ...], lamina: Any, home: Path) -> None:
    merge(lamina, home, recipe, says=says)


def test_recipe_not_utf8(lamina: Any, home: Path) -> None:
    (home / "recipe.yaml").write_bytes(LATA.encode() + b"# caf\xe9\n")
    says = ("not UTF-8", "0xe9", "line 9")
    refused(lamina, home, "check", home / "recipe.yaml", says=says)
    refused(lamina, home, "merge", home / "recipe.yaml", home / "out", says=says)


def test_recipe_that_is_no_file(lamina: Any, home: Path) -> None:
    refused(lamina, home, "merge", home / "no.yaml", home / "out", says=("does not exist",))
    refused(lamina, home, "merge", home, home / "out", says=("not a file", "YAML"))


def test_all_problems_of_a_recipe_at_once(lamina: Any, home: Path) -> None:
    text = LATA.replace("linear_drop", "linear_dorp").replace("dtype", "dtpe") + "extra: 1\n"
    says = ("3 problems", "linear_dorp", "`dtype`", "extra")
    merge(lamina, home, text, says=says)


def test_what_looks_wrong_and_is_right(lamina: Any, home: Path) -> None:
    """`1e-5` is a number, `no` a folder's name; the numbers reach the output."""
    shutil.copytree(home / "math", home / "no")
    recipe = ARITHMETIC.replace("./math", "no").replace("0.25", "1e-5")
    (home / "recipe.yaml").write_text(recipe)
    told = lamina("merge", home / "recipe.yaml", home / "out")
    assert told.code == 0, told
    written = json.loads((home / "out" / "manifest.json").read_text())["recipe"]["models"]
    assert [(m["name"], m["parameters"]["weight"]) for m in written] == [
        ("no", 0.5),
        ("code", 1e-5),
    ]


# The model folders


def header_of(file: Path) -> tuple[dict[str, Any], bytes]:
    raw = file.read_bytes()
    begin = 8 + int.from_bytes(raw[:8], "little")
    return json.loads(raw[8:begin]), raw[begin:]


def change_header(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    header, data = header_of(file)
    change(header)
    tf.write_raw(file, header, data)


def change_config(folder: Path, **keys: Any) -> None:
    config = json.loads((folder / "config.json").read_text()) | keys
    (folder / "config.json").write_text(json.dumps(config))


def sharded(folder: Path) -> Path:
    tensors = tf.read_model(folder)
    (folder / "model.safetensors").unlink()
    tf.write_model(folder, tensors, shards=3)
    return folder / "model.safetensors.index.json"


def change_index(folder: Path, name: str) -> None:
    index = sharded(folder)
    table = json.loads(index.read_text())
    first = next(iter(table["weight_map"]))
    table["weight_map"][first] = name
    index.write_text(json.dumps(table))


def no_safetensors(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def disguised_pickle(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"PK\x03\x04" + bytes(200))


def truncated(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 100_000)


def truncated_in_header(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 500)


def almost_empty(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"abc")


def header_too_long(folder: Path) -> None:
    raw = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes((10**6).to_bytes(8, "little") + raw[8:])


def header_absurd(folder: Path) -> None:
    raw = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes((10**12).to_bytes(8, "little") + raw[8:])


def header_no_json(folder: Path) -> None:
    tf.write_raw(folder / "model.safetensors", b"{oh no", b"")


def overlapping(folder: Path) -> None:
    def change(header: dict[str, Any]) -> None:
        header["model.norm.weight"]["data_offsets"] = [0, 2 * tf.HIDDEN]

    change_header(folder / "model.safetensors", change)


def out_of_range(folder: Path) -> None:
    def change(header: dict[str, Any]) -> None:
        header["model.norm.weight"]["data_offsets"] = [10**9, 10**9 + 2 * tf.HIDDEN]

    change_header(folder / "model.safetensors", change)


def duplicate(folder: Path) -> None:
    header, data = header_of(folder / "model.safetensors")
    entry = json.dumps({"model.norm.weight": header["model.norm.weight"]})[1:-1]
    text = json.dumps(header)[:-1] + ", " + entry + "}"
    tf.write_raw(folder / "model.safetensors", text.encode(), data)


def duplicate_over_shards(folder: Path) -> None:
    sharded(folder)
    second = folder / "model-00002-of-00003.safetensors"
    entries = {n: e for n, e in tf.read_raw(folder).items() if n == "lm_head.weight"}
    header, _ = header_of(second)
    mine = {n: e for n, e in tf.read_raw(folder).items() if n in header}
    tf.write_safetensors(second, mine | entries)


def strange_name(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        def rename(header: dict[str, Any]) -> None:
            header[name] = header.pop("model.norm.weight")

        change_header(folder / "model.safetensors", rename)

    return change


def absurd_shape(folder: Path) -> None:
    def change(header: dict[str, Any]) -> None:
        header["model.norm.weight"]["shape"] = [-1, 48]

    change_header(folder / "model.safetensors", change)


def missing_shard(folder: Path) -> None:
    sharded(folder)
    (folder / "model-00002-of-00003.safetensors").unlink()


def link_out(folder: Path) -> None:
    elsewhere = folder.parent / "elsewhere.bin"
    (folder / "model.safetensors").rename(elsewhere)
    (folder / "model.safetensors").symlink_to(elsewhere)


def lfs_pointer(folder: Path) -> None:
    (folder / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 2200119864\n"
    )


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def config_no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def rewritten(change: Callable[[tf.Tensors], None], **config: Any) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        tensors = tf.read_model(folder)
        change(tensors)
        tf.write_model(folder, tensors, config=config)

    return rewrite


def drop_tensor(tensors: tf.Tensors) -> None:
    del tensors["model.layers.1.mlp.up_proj.weight"]


def add_tensor(tensors: tf.Tensors) -> None:
    tensors["model.layers.1.mlp.extra_proj.weight"] = np.ones((4, 4), np.float32)


def other_shape(tensors: tf.Tensors) -> None:
    tensors["model.layers.0.mlp.up_proj.weight"] = np.ones((40, tf.HIDDEN), np.float32)


def fewer_blocks(tensors: tf.Tensors) -> None:
    for name in [n for n in tensors if ".layers.2." in n]:
        del tensors[name]


def tied(tensors: tf.Tensors) -> None:
    del tensors["lm_head.weight"]


def with_dtype(dtype: str, size: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        entries = tf.read_raw(folder)
        _, shape, _ = entries["model.layers.0.mlp.up_proj.weight"]
        raw = bytes(int(np.prod(shape)) * size)
        entries["model.layers.0.mlp.up_proj.weight"] = (dtype, shape, raw)
        tf.write_safetensors(folder / "model.safetensors", entries)

    return change


FOLDERS: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {
    "no safetensors": (no_safetensors, ("no safetensors weights", "model.safetensors")),
    "pickle": (pickle, ("pickle", "pytorch_model.bin", "save_pretrained")),
    "pickle under another name": (disguised_pickle, ("pickle", "save_pretrained")),
    "truncated": (truncated, ("truncated", "100,000")),
    "truncated in the header": (truncated_in_header, ("header", "500")),
    "three bytes": (almost_empty, ("truncated", "3 bytes")),
    "header longer than the file": (header_too_long, ("header", "1,000,000")),
    "absurd header": (header_absurd, ("1,000,000,000,000", "absurd")),
    "header no JSON": (header_no_json, ("header is not JSON",)),
    "overlap": (overlapping, ("overlaps", "problem(s)")),
    "out of range": (out_of_range, ("model.norm.weight", "truncated")),
    "duplicate tensor": (duplicate, ("twice", "model.norm.weight")),
    "duplicate over two files": (duplicate_over_shards, ("two files", "lm_head.weight")),
    "name with ..": (strange_name("model..norm"), ("`..`",)),
    "name with a line break": (strange_name("model\nnorm"), ("control character",)),
    "name with NUL": (strange_name("model\0norm"), ("control character",)),
    "absurd shape": (absurd_shape, ("absurd shape", "[-1, 48]")),
    "index out of the folder": (
        lambda folder: change_index(folder, "../instruct/model.safetensors"),
        ("outside", "../instruct/model.safetensors"),
    ),
    "index with an absolute path": (
        lambda folder: change_index(folder, "/etc/passwd"),
        ("outside", "/etc/passwd"),
    ),
    "link out of the folder": (link_out, ("link out of the model folder", "elsewhere.bin")),
    "missing shard": (missing_shard, ("missing", "model-00002-of-00003.safetensors")),
    "index and files differ": (
        lambda folder: change_index(folder, "model-00003-of-00003.safetensors"),
        ("index", "lm_head.weight"),
    ),
    "LFS pointer": (lfs_pointer, ("Git LFS pointer", "git lfs pull")),
    "config missing": (no_config, ("no config.json",)),
    "config no JSON": (config_no_json, ("config.json", "not JSON")),
    "config of another depth": (
        lambda folder: change_config(folder, num_hidden_layers=7),
        ("config.json", "7 blocks", "3"),
    ),
    "config of another width": (
        lambda folder: change_config(folder, hidden_size=64),
        ("config.json", "width of 64", "48"),
    ),
    "config of another vocabulary": (
        lambda folder: change_config(folder, vocab_size=100),
        ("config.json", "vocabulary of 100", "96"),
    ),
    "missing tensor": (
        rewritten(drop_tensor),
        ("model.layers.1.mlp.up_proj.weight", "missing", "1 thing(s)"),
    ),
    "extra tensor": (rewritten(add_tensor), ("model.layers.1.mlp.extra_proj.weight", "extra")),
    "other shape": (
        rewritten(other_shape),
        ("model.layers.0.mlp.up_proj.weight", "[40, 48]", "[96, 48]"),
    ),
    "fewer blocks": (rewritten(fewer_blocks, num_hidden_layers=2), ("layers.2", "9 thing(s)")),
    "other architecture": (
        lambda folder: change_config(folder, model_type="mistral"),
        ("`mistral`", "`llama`"),
    ),
    "tied against untied": (
        rewritten(tied, tie_word_embeddings=True),
        ("tied", "untied", "tie_word_embeddings"),
    ),
    "integer tensor": (with_dtype("I8", 1), ("mlp.up_proj", "I8", "Float32, float16 or bfloat16")),
    "fp8 tensor": (with_dtype("F8_E4M3", 1), ("mlp.up_proj", "fp8", "dequantised")),
    "float64 tensor": (with_dtype("F64", 8), ("mlp.up_proj", "F64")),
    "a file in place of a folder": (
        lambda folder: (shutil.rmtree(folder), folder.write_text("x")),
        ("is a file", "folder"),
    ),
}


@pytest.mark.parametrize("which", ["math", "instruct"])
@pytest.mark.parametrize(("breaks", "says"), FOLDERS.values(), ids=FOLDERS)
def test_folder(
    breaks: Callable[[Path], Any], says: tuple[str, ...], which: str, lamina: Any, home: Path
) -> None:
    breaks(home / which)
    recipe = "lata.yaml" if which == "math" else "arithmetic.yaml"
    refused(lamina, home, "merge", home / recipe, home / "out", says=says)
    refused(lamina, home, "check", home / recipe, home / "out", says=says)


def test_name_that_the_hub_does_not_give(lamina: Any, home: Path) -> None:
    before = dict(os.environ)
    recipe = LATA.replace("./base", "nobody-of-this-name/no-model")
    merge(lamina, home, recipe, says=("no folder here", "the hub does not give it"))
    assert dict(os.environ) == before, "a setting would follow whatever this process does next"


def test_all_misfits_of_all_models_at_once(lamina: Any, home: Path) -> None:
    rewritten(drop_tensor)(home / "math")
    rewritten(other_shape)(home / "code")
    says = ("./math", "up_proj.weight  missing", "./code", "[40, 48]")
    refused(lamina, home, "merge", home / "lata.yaml", home / "out", says=says)


def larger_vocabulary(folder: Path) -> None:
    tensors = tf.read_model(folder)
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        tensors[name] = np.concatenate([tensors[name], np.ones((8, tf.HIDDEN), np.float32)])
    tf.write_model(folder, tensors, config={"vocab_size": tf.VOCABULARY + 8})


def test_vocabulary_strict_and_common(lamina: Any, home: Path) -> None:
    larger_vocabulary(home / "math")
    says = ("lm_head.weight", "[104, 48]", "[96, 48]", "strict")
    merge(lamina, home, LATA + "vocabulary: strict\n", says=says)
    told = lamina("merge", home / "lata.yaml", home / "out")
    assert told.code == 0, told.err
    assert "The first 96 rows are merged" in told.out.replace("\n", " ")


def test_slerp_needs_one_vocabulary(lamina: Any, home: Path) -> None:
    larger_vocabulary(home / "math")
    recipe = (
        "merge_method: slerp\nbase_model: ./instruct\nmodels: [{model: ./math}]\n"
        "parameters: {t: 0.5}\n"
    )
    merge(lamina, home, recipe, says=("slerp", "one vocabulary", "[104, 48]"))


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "tokenizer.json",
        "LICENSE",
        "additional_chat_templates",
        "additional_chat_templates/a.jinja",
    ],
)
def test_carried_file_that_is_a_link_out(name: str, lamina: Any, home: Path) -> None:
    """What is copied into the output may not come from anywhere on this disk."""
    secret, place = home / "secret", home / "instruct" / name
    if name == "additional_chat_templates":
        secret.mkdir()
        (secret / "a.jinja").write_text("{}")
    else:
        shutil.copy(home / "instruct" / "config.json", secret)
    place.unlink(missing_ok=True)
    place.parent.mkdir(exist_ok=True)
    place.symlink_to(secret)
    says = ("link out of the model folder", name, "secret")
    refused(lamina, home, "check", home / "lata.yaml", says=says)
    refused(lamina, home, "merge", home / "lata.yaml", home / "out", says=says)


def test_carried_file_that_cannot_be_read(
    lamina: Any, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "instruct" / "tokenizer.json").write_text("{}")
    monkeypatch.setattr(
        "lamina.jobs.carried.os.access", lambda file, how: file.name != "tokenizer.json"
    )
    says = ("tokenizer.json cannot be read",)
    refused(lamina, home, "merge", home / "lata.yaml", home / "out", says=says)


def test_carried_files(lamina: Any, home: Path) -> None:
    """Tokenizer and templates come along; links that stay in the folder do no harm."""
    (home / "instruct" / "real.json").write_text('{"a": 1}')
    (home / "instruct" / "tokenizer.json").symlink_to("real.json")
    (home / "instruct" / "additional_chat_templates").mkdir()
    (home / "instruct" / "additional_chat_templates" / "rag.jinja").write_text("{{ x }}")
    assert lamina("merge", home / "lata.yaml", home / "out").code == 0
    assert (home / "out" / "tokenizer.json").read_text() == '{"a": 1}'
    assert not (home / "out" / "tokenizer.json").is_symlink()
    template = home / "out" / "additional_chat_templates" / "rag.jinja"
    assert template.read_text() == "{{ x }}"


# An adapter


def write_adapter(folder: Path, columns: int = tf.HIDDEN, **config: Any) -> None:
    folder.mkdir()
    told = {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["q_proj"],
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(told | config))
    prefix = "base_model.model.model.layers.0.self_attn.q_proj"
    ones = np.full((2, columns), 0.01, np.float32)
    tensors = {f"{prefix}.lora_A.weight": ones, f"{prefix}.lora_B.weight": 0.01 * np.ones((48, 2))}
    entries = {n: ("F32", v.shape, tf.raw_of(v, "F32")) for n, v in tensors.items()}
    tf.write_safetensors(folder / "adapter_model.safetensors", entries)


def test_adapter_that_does_not_fit(lamina: Any, home: Path) -> None:
    write_adapter(home / "lora", columns=64)
    says = ("adapter", "does not fit the base", "q_proj", "48")
    merge(lamina, home, LATA.replace("./math", "./lora"), says=says)


def test_adapter_of_another_kind(lamina: Any, home: Path) -> None:
    write_adapter(home / "lora", use_dora=True)
    says = ("DoRA", "merge_and_unload")
    merge(lamina, home, LATA.replace("./math", "./lora"), says=says)


@pytest.mark.parametrize("key", ["rank_pattern", "alpha_pattern"])
def test_adapter_with_a_pattern_that_is_no_table(key: str, lamina: Any, home: Path) -> None:
    write_adapter(home / "lora", **{key: ["q_proj"]})
    merge(lamina, home, LATA.replace("./math", "./lora"), says=(key, "a table of modules"))


def test_adapter_that_names_another_base_is_told(lamina: Any, home: Path) -> None:
    write_adapter(home / "lora", base_model_name_or_path="../base")
    (home / "recipe.yaml").write_text(LATA.replace("./math", "./lora"))
    told = lamina("check", home / "recipe.yaml")
    assert told.code == 0
    assert "says it was trained on ../base" in told.out
    (home / "lora" / "adapter_config.json").write_text(
        (home / "lora" / "adapter_config.json").read_text().replace("../base", "../copy")
    )
    shutil.copytree(home / "instruct", home / "copy")
    assert "says it was trained on" not in lamina("check", home / "recipe.yaml").out


def test_adapter_as_base(lamina: Any, home: Path) -> None:
    write_adapter(home / "lora")
    merge(lamina, home, LATA.replace("./base", "./lora"), says=("is a LoRA adapter", "whole model"))


def test_adapter_with_nan(lamina: Any, home: Path) -> None:
    write_adapter(home / "lora")
    file = home / "lora" / "adapter_model.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-4:] = np.float32(np.nan).tobytes()
    file.write_bytes(bytes(raw))
    merge(lamina, home, LATA.replace("./math", "./lora"), says=("1 of 96", "lora_B", "NaN"))


# Models that are the same, or have nothing in common


def test_base_and_instruct_the_same_files(lamina: Any, home: Path) -> None:
    shutil.rmtree(home / "base")
    (home / "base").symlink_to(home / "instruct")
    says = ("same weights", "no instruction vector")
    refused(lamina, home, "merge", home / "lata.yaml", home / "out", says=says)


def test_base_is_a_copy_of_instruct(lamina: Any, home: Path) -> None:
    shutil.rmtree(home / "base")
    shutil.copytree(home / "instruct", home / "base")
    says = ("same weights", "no instruction vector")
    refused(lamina, home, "merge", home / "lata.yaml", home / "out", says=says)


@pytest.mark.parametrize("how", ["same folder", "link", "copy"])
def test_expert_that_is_the_instruct_model_is_told(how: str, lamina: Any, home: Path) -> None:
    recipe = LATA
    if how == "same folder":
        recipe = LATA.replace("./code", "./instruct")
    else:
        shutil.rmtree(home / "code")
    if how == "link":
        (home / "code").symlink_to(home / "instruct")
    elif how == "copy":
        shutil.copytree(home / "instruct", home / "code")
    (home / "recipe.yaml").write_text(recipe)
    told = lamina("merge", home / "recipe.yaml", home / "out")
    assert told.code == 0, told.err
    assert "adds nothing" in told.out
    assert "warning" in told.out


def test_unrelated_models(lamina: Any, home: Path) -> None:
    tf.write_model(home / "math", tf.random_model(99))
    says = ("no common ancestor", "math (./math): ", "--allow-unrelated")
    told = refused(lamina, home, "merge", home / "lata.yaml", home / "out", says=says)
    cosine = float(told.split("(./math): ")[1].split()[0])
    assert abs(cosine) < 0.05
    allowed = lamina("merge", home / "lata.yaml", home / "out", "--allow-unrelated")
    assert allowed.code == 0, allowed.err
    assert "no common ancestor" in allowed.out


# Values that are not finite


def put_nan(folder: Path, name: str = "model.layers.1.mlp.up_proj.weight") -> None:
    tensors = tf.read_model(folder)
    tensors[name] = tensors[name].copy()
    tensors[name].flat[5] = np.nan
    tensors[name].flat[7] = np.inf
    tf.write_model(folder, tensors)


@pytest.mark.parametrize("which", ["math", "instruct"])
@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "dare_linear"])
def test_nan_in_a_tensor(method: str, which: str, lamina: Any, home: Path) -> None:
    put_nan(home / which)
    recipe = ARITHMETIC.replace("task_arithmetic", method)
    if method != "task_arithmetic":
        recipe = recipe.replace("0.5}", "0.5, density: 0.9}").replace("0.25}", "0.25, density: 1}")
    says = ("NaN", "model.layers.1.mlp.up_proj.weight: 2 in", f"./{which}", "--allow-nonfinite")
    merge(lamina, home, recipe, says=says)
    allowed = lamina("merge", home / "recipe.yaml", home / "out", "--allow-nonfinite")
    assert allowed.code == 0, allowed.err
    assert "NaN" in allowed.out
    merged = tf.read_model(home / "out")
    assert {n for n, v in merged.items() if not np.isfinite(v).all()} == {
        "model.layers.1.mlp.up_proj.weight"
    }


@pytest.mark.parametrize("which", ["base", "instruct", "math"])
def test_nan_where_layers_are_measured(which: str, lamina: Any, home: Path) -> None:
    put_nan(home / which)
    says = ("NaN", "model.layers.1.mlp.up_proj.weight: 2 in", f"./{which}")
    refused(lamina, home, "merge", home / "lata.yaml", home / "out", says=says)


def test_too_large_for_the_output(lamina: Any, home: Path) -> None:
    tensors = tf.read_model(home / "math")
    tensors["model.norm.weight"] = np.full(tf.HIDDEN, 1e6, np.float32)
    tf.write_model(home / "math", tensors)
    says = ("model.norm.weight: 48 in the output only", "too large for its dtype", "out_dtype")
    merge(lamina, home, ARITHMETIC.replace("bfloat16", "float16"), says=says)


# The output


def test_output_not_empty(lamina: Any, home: Path) -> None:
    (home / "out").mkdir()
    (home / "out" / "mine.txt").write_text("mine")
    lata = ("merge", home / "lata.yaml", home / "out")
    refused(lamina, home, *lata, says=("not empty", "--overwrite"))
    refused(lamina, home, *lata, "--overwrite", says=("not written by lamina", "Remove it"))
    refused(lamina, home, "check", home / "lata.yaml", home / "out", says=("not empty",))


@pytest.mark.parametrize("where", ["math", "math/out", "instruct/deep/out", "."])
def test_output_in_an_input(where: str, lamina: Any, home: Path) -> None:
    says = ("Inputs are never written into",)
    refused(lamina, home, "merge", home / "lata.yaml", home / where, says=says)


def test_output_in_an_input_by_a_link(lamina: Any, home: Path) -> None:
    (home / "way").symlink_to(home / "base")
    says = ("Inputs are never written into",)
    refused(lamina, home, "merge", home / "lata.yaml", home / "way" / "out", says=says)


def test_output_is_a_file(lamina: Any, home: Path) -> None:
    says = ("is a file", "new folder")
    refused(lamina, home, "merge", home / "lata.yaml", home / "arithmetic.yaml", says=says)


def test_output_below_a_file(lamina: Any, home: Path) -> None:
    out = home / "arithmetic.yaml" / "out"
    says = ("arithmetic.yaml is a file",)
    refused(lamina, home, "merge", home / "lata.yaml", out, says=says)
    refused(lamina, home, "check", home / "lata.yaml", out, says=says)


def test_output_below_a_name_that_is_too_long(lamina: Any, home: Path) -> None:
    out = home / ("x" * 300) / "out"
    refused(lamina, home, "merge", home / "lata.yaml", out, says=("too long a name",))


@pytest.mark.parametrize("name", ["run", "journal.jsonl", "manifest.json", "recipe.yaml"])
def test_setting_of_a_sweep_named_as_a_file_of_ours(name: str, lamina: Any, home: Path) -> None:
    sweep = f"sweep: [{{name: {name}, weight: 1}}]\n"
    merge(lamina, home, LATA + sweep, says=("sweep[0].name", "is a file of the output"))


@pytest.mark.parametrize("name", ["instruct", "LATA", "base", "target"])
def test_expert_named_as_another_model(name: str, lamina: Any, home: Path) -> None:
    recipe = LATA.replace("{model: ./math,", f"{{model: ./math, name: {name},")
    merge(lamina, home, recipe, says=(f"`{name}` stands for another model",))


def test_text_in_the_home_of_nobody(lamina: Any, home: Path) -> None:
    recipe = LATA + "heldout: {a: ~nobody_of_this_name/a.txt}\n"
    merge(lamina, home, recipe, "--controls", says=("No such file",))


def test_not_enough_disk(lamina: Any, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(place.shutil, "disk_usage", lambda folder: usage(10**9, 10**9, 1000))
    for verb in ("merge", "check"):
        says = ("needs 14", "1,000 left", "another disk")
        refused(lamina, home, verb, home / "lata.yaml", home / "out", says=says)


def test_two_runs_into_one_output(lamina: Any, home: Path) -> None:
    held = home / ".out.lamina-lock"
    with held.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        says = ("another lamina is writing", "Wait for it")
        refused(lamina, home, "merge", home / "lata.yaml", home / "out", says=says)
    assert held.exists()


# The command line

USAGE: dict[str, tuple[tuple[str, ...], str]] = {
    "unknown verb": (("mrege", "a", "b"), "mrege"),
    "unknown option": (("merge", "a", "b", "--contorls"), "--contorls"),
    "missing argument": (("merge",), "CONFIG"),
    "missing output": (("merge", "a"), "OUT"),
    "one argument too many": (("merge", "a", "b", "c"), "too many arguments: c"),
    "not a number": (("merge", "a", "b", "--threads", "many"), "many"),
    "missing value": (("merge", "a", "b", "--threads"), "--threads"),
}


@pytest.mark.parametrize(("arguments", "says"), USAGE.values(), ids=USAGE)
def test_usage(arguments: tuple[str, ...], says: str, lamina: Any, home: Path) -> None:
    refused(lamina, home, *arguments, says=(says, "--help"))


def test_threads(lamina: Any, home: Path) -> None:
    lata = ("merge", home / "lata.yaml", home / "out")
    refused(lamina, home, *lata, "--threads", "0", says=("--threads is 0",))


def test_controls_without_a_ranking(lamina: Any, home: Path) -> None:
    arithmetic = ("merge", home / "arithmetic.yaml", home / "out", "--controls")
    refused(lamina, home, *arithmetic, says=("--controls", "lata", "task_arithmetic"))
    merge(lamina, home, LATA + "sweep: [{weight: 1}]\n", "--controls", says=("sweep",))


def test_changed_keys(lamina: Any, home: Path) -> None:
    lata = ("merge", home / "lata.yaml", home / "out", "-s")
    refused(lamina, home, *lata, "parameters.rul=log_drop", says=("did you mean `rule`",))
    refused(lamina, home, *lata, "nonsense", says=("-s nonsense", "key=value"))


def test_forgetting_with_a_minus(lamina: Any, home: Path) -> None:
    (home / "recipe.yaml").write_text(LATA.replace("0.5", "-0.5"))
    says = ("-0.5", "forgetting puts the minus there")
    refused(lamina, home, "forget", home / "recipe.yaml", home / "out", says=says)


def test_verify_and_show_of_nothing(lamina: Any, home: Path) -> None:
    refused(lamina, home, "verify", home / "math", says=("manifest.json",))
    refused(lamina, home, "show", home / "math", says=("manifest.json",))
    refused(lamina, home, "check", home / "nothing", says=("does not exist",))


@pytest.mark.parametrize("text", ["[]", "{}", '{"outputs": []}', '{"outputs": {"a": {}}}'])
def test_verify_of_another_manifest(text: str, lamina: Any, home: Path) -> None:
    (home / "math" / "manifest.json").write_text(text)
    refused(lamina, home, "verify", home / "math", says=("not a manifest of lamina's",))


def test_trouble_of_the_system(lamina: Any, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def open_(*_: object) -> int:
        raise PermissionError(13, "Permission denied", "secret")

    monkeypatch.setattr("lamina.jobs.check.open_checkpoint", open_)
    refused(lamina, home, "check", home / "math", says=("secret: Permission denied",))


# As a user meets them: a process of its own


@pytest.mark.e2e
def test_refusal_in_a_process(process: Any, home: Path) -> None:
    (home / "recipe.yaml").write_text(LATA.replace("linear_drop", "linear_dorp"))
    says = ("linear_dorp", "did you mean")
    refused(process, home, "merge", home / "recipe.yaml", home / "out", says=says)
    truncated(home / "math")
    refused(process, home, "merge", home / "lata.yaml", home / "out", says=("truncated",))
    refused(process, home, "merge", home / "lata.yaml", says=("OUT", "--help"))
