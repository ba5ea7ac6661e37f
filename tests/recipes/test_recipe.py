"""A recipe's file: what is read, what is refused; and the options that win over it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from arkinfer.artifact import open_artifact
from arkinfer.compiler.build import build
from arkinfer.compiler.by_recipe import gates_by, model_by, options_by
from arkinfer.compiler.calibration.text import TextOptions
from arkinfer.compiler.options import Asked
from arkinfer.compiler.plan import plan
from arkinfer.errors import GateError, UsageError
from arkinfer.quality.gates import Gates
from arkinfer.recipes import load_recipe, parse_recipe, recipe_names, recipe_text
from arkinfer.testing import make_checkpoint, preset

WHOLE = """\
summary = "a tiny model"
models = ["somebody/tiny", "somebody/other"]
target = "cpu"
quant = "int4-gptq-g32"
embedding = "int8-g64"
dtype = "fp32"
context = 96
chunk = 48
kv = "int8"
activations = "fp32"
requantize = true
[overrides]
"model.layers.*.mlp.down_proj" = "int8-g32"
[calibration]
samples = 4
tokens = 32
seed = 1
[gates]
max_kl = 1
max_ppl_ratio = 1.5
max_size = 20_000_000
"""
SHORT = 'summary = "x"\nmodels = ["a/b"]\ntarget = "cpu"\nquant = "int4"\n'


def written(folder: Path, text: str = WHOLE) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


def test_all_that_a_recipe_says(tmp_path: Path):
    recipe = load_recipe(written(tmp_path))
    assert recipe.name == "mine"
    assert recipe.sha256 == hashlib.sha256(WHOLE.encode()).hexdigest()
    assert recipe.models == ("somebody/tiny", "somebody/other")
    assert recipe.calibration is not None
    assert recipe.calibration.model_dump() == {"samples": 4, "tokens": 32, "seed": 1}
    found = options_by(written(tmp_path), Asked())
    assert (found.target.name, found.quant.name, found.kv) == ("cpu", "int4-gptq-g32", "int8")
    assert found.activations == "fp32"
    assert (found.dtype, found.context, found.chunk) == ("fp32", 96, 48)
    assert found.quant.embedding.name == "int8-g64"
    assert [(p, s.name) for p, s in found.overrides] == [
        ("model.layers.*.mlp.down_proj", "int8-g32")
    ]
    assert found.requantize
    assert found.text == TextOptions(None, 4, 32, 1)
    assert gates_by(found, None) == Gates(1.0, 1.5, 20_000_000)


def test_options_win_over_a_recipe(tmp_path: Path):
    path = written(tmp_path)
    found = options_by(path, Asked(dtype="fp16", context=32, kv="fp32", chunk=8, embedding="none"))
    assert (found.dtype, found.context, found.kv, found.chunk) == ("fp16", 32, "fp32", 8)
    assert found.quant.embedding is None
    assert options_by(path, Asked(activations="int8")).activations == "int8"
    assert found.quant.name == "int4-gptq-g32"
    with pytest.raises(UsageError, match="context cannot be 0"):
        options_by(path, Asked(context=0))
    other = options_by(path, Asked(quant="int8"))
    assert (other.quant.name, other.quant.embedding.name, other.overrides) == (
        "int8", "int8-g128", (),
    )  # fmt: skip
    assert other.text == TextOptions()
    assert options_by(path, Asked(overrides={})).overrides == ()
    assert options_by(path, Asked(calib=TextOptions(seed=5))).text == TextOptions(seed=5)
    assert gates_by(found, Gates(max_kl=2.0)) == Gates(max_kl=2.0)


def test_without_a_recipe_nothing_changes():
    found = options_by(None, Asked())
    assert (found.target.name, found.quant.name, found.kv) == ("cpu", "int4", "auto")
    assert found.recipe is None
    assert gates_by(found, None) == Gates()
    assert model_by(found, None) is None


def test_a_name_without_target_takes_the_one_asked_for():
    assert load_recipe("minicpm4-8b").name == "minicpm4-8b/cpu"
    found = options_by("minicpm4-8b", Asked(target="jetson-orin"))
    assert (found.recipe.name, found.target.name) == ("minicpm4-8b/jetson-orin", "jetson-orin")
    assert options_by("minicpm4-8b/cpu", Asked(target="jetson-orin")).target.name == "jetson-orin"
    board = options_by("minicpm4-8b", Asked(target="jetson-agx-orin-64gb"))
    assert (board.recipe.name, board.target.name) == (found.recipe.name, "jetson-agx-orin-64gb")


def test_a_recipe_names_its_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    found = options_by("minicpm4-8b", Asked())
    assert model_by(found, None) == "openbmb/MiniCPM4-8B"
    assert model_by(found, tmp_path) == str(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert model_by(found, None) is None, "the checkpoint in the current folder"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", 'Reason: summary: field required. Compare it with: arkinfer recipes minicpm4-8b/cpu.'),
        ("a =", "Reason: Invalid value"),
        ("\ud800", "Reason: 'utf-8' codec"),
        ("#" * 40_000, "Reason: it has more than 32,768 bytes"),
        ("a=" + "[" * 9000, "Reason: it is nested too deeply"),
        (SHORT + 'sumary = "x"', 'it has no key "sumary". Did you mean "summary"?'),
        (SHORT + 'name = "x"', 'it has no key "name". Known: activations, calibration'),
        (SHORT + "[gates]\nmax_k = 1", 'it has no key "gates.max_k". Did you mean "max_kl"?'),
        (SHORT + "[calibration]\nseeds = 1", 'no key "calibration.seeds". Did you mean "seed"?'),
        (SHORT + "[gates]\nmax_kl = nan", "gates.max_kl: input should be a finite number"),
        (SHORT + "[gates]\nmax_kl = 0", "gates.max_kl: input should be greater than 0"),
        (SHORT + "[gates]\nmax_size = 1.5", "gates.max_size: input should be a valid integer"),
        (SHORT + "[calibration]\ntokens = 2", "calibration.tokens: input should be greater than"),
        (SHORT + "context = true", "context: input should be a valid integer"),
        (SHORT + "overrides = 1", "overrides: input should be a valid dictionary"),
        (SHORT.replace("cpu", "cpuu"), 'there is no target "cpuu". Did you mean "cpu"?'),
        (SHORT.replace("int4", "int5"), 'there is no quantization "int5"'),
        (SHORT + '[overrides]\nx = "int7-g9"', 'there is no quantization "int7-g9"'),
        (SHORT.replace('["a/b"]', "[]"), "models: tuple should have at least 1 item"),
    ],
)  # fmt: skip
def test_files_that_are_no_recipes(text: str, said: str):
    with pytest.raises(UsageError) as caught:
        parse_recipe("mine", text.encode(errors="surrogatepass"))
    assert str(caught.value).startswith('The recipe "mine" is wrong. Reason: ')
    assert said in str(caught.value)


def test_recipes_that_are_not_there(tmp_path: Path):
    with pytest.raises(UsageError) as caught:
        load_recipe("minicpm4-8/cpu")
    assert str(caught.value).startswith(
        'There is no recipe "minicpm4-8/cpu". Did you mean "minicpm4-8b/cpu"? Known: bitcpm-0.5b/'
    )
    for name in ("../targets/cpu", "minicpm4-8b/../minicpm4-8b/cpu", ""):
        with pytest.raises(UsageError, match="There is no recipe"):
            load_recipe(name)
    with pytest.raises(UsageError, match=r'There is no file ".*none\.toml"\. Check the path\.'):
        load_recipe(tmp_path / "none.toml")


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_are_short_and_say_why(name: str):
    assert load_recipe(name).name == name
    lines = recipe_text(name).decode().splitlines()
    assert len(lines) <= 40
    for key in ("quant", "context", "max_size"):
        at = next(i for i, line in enumerate(lines) if line.startswith(f"{key} = "))
        before = [line for line in lines[:at] if line.strip()]
        assert any(line.startswith("#") for line in before[-4:]), f"{key} without a reason"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(preset("tiny"), 0, tmp_path_factory.mktemp("tiny") / "tiny")


def test_an_artifact_tells_its_recipe(tiny: Path, tmp_path: Path):
    path = written(tmp_path)
    report = build(tiny, recipe=path, output=tmp_path / "m.ark", backend="onnxruntime")
    facts = {"name": "mine", "sha256": hashlib.sha256(WHOLE.encode()).hexdigest()}
    assert report.recipe == facts
    assert (report.context, report.kv, report.quant) == (96, "int8", "int4-gptq-g32")
    assert report.schemes["int8-g32"] == preset("tiny")["num_hidden_layers"]
    with open_artifact(tmp_path / "m.ark") as artifact:
        assert artifact.manifest.get("recipe") == facts
        assert json.loads(artifact.read("report.json"))["recipe"] == facts
    predicted = plan(tiny, recipe=path, backend="onnxruntime")
    assert predicted.recipe == facts
    assert predicted.artifact_bytes == pytest.approx(report.size, rel=0.05)


def test_a_recipes_gates_hold_a_build(tiny: Path, tmp_path: Path):
    path = written(tmp_path, WHOLE.replace("20_000_000", "1000"))
    with pytest.raises(GateError, match="above 1,000"):
        build(tiny, recipe=path, output=tmp_path / "m.ark", backend="onnxruntime")
    assert not (tmp_path / "m.ark").exists()
    assert build(tiny, output=tmp_path / "n.ark", backend="reference").recipe is None
