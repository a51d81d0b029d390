from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from edgeaudio.errors import ConfigError, LimitError
from edgeaudio.pipeline.config import load_config
from edgeaudio.spec import DecisionSpec, Spec
from edgeaudio.spec.limits import RECIPE_BYTES


class FolderData(Spec):
    kind: Literal["folder"]
    root: Path
    folds: tuple[int, ...] = (1, 2)


class SynthData(Spec):
    kind: Literal["synth"]
    clips: int


class TrainSpec(Spec):
    epochs: int = Field(3, ge=1)
    learning_rate: float = 1e-3


class Recipe(Spec):
    name: str
    data: Annotated[FolderData | SynthData, Field(discriminator="kind")]
    train: TrainSpec = TrainSpec()
    decision: DecisionSpec | None = None
    options: dict[str, int] = Field({})


class Anything(Spec):
    value: Any


GOOD = """\
name: kitchen
data:
  kind: folder
  root: sounds/kitchen
"""


def load(tmp_path: Path, text: str, *overrides: str) -> Recipe:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return load_config(path, Recipe, overrides)


def complaint(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, *overrides)
    return str(caught.value).replace(f"{tmp_path}/", "")


def test_a_good_recipe_loads_and_paths_stay_as_written(tmp_path: Path) -> None:
    recipe = load(tmp_path, GOOD)
    assert recipe.data == FolderData(kind="folder", root=Path("sounds/kitchen"))
    assert recipe.train.epochs == 3


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("train:\n  epochz: 3\n", "recipe.yaml:6: train.epochz is not a field. Did you mean 'epochs'?"),
        ("nam: x\n", "recipe.yaml:5: nam is not a field. Did you mean 'name'?"),
        ("decision: {treshold_on: 1}\n", "recipe.yaml:5: decision.treshold_on is not a field. Did you mean"),
        ("train:\n  epochs: ten\n", "recipe.yaml:6: train.epochs is 'ten'; wanted a valid integer"),
        ("train:\n\n  epochs: 0\n", "recipe.yaml:7: train.epochs is 0; wanted greater than or equal to 1"),
        ("train: {learning_rate: .inf}\n", "recipe.yaml:5: train.learning_rate is inf; wanted a finite number"),
        ("train: 3\n", "recipe.yaml:5: train is 3; wanted a mapping of fields"),
        ("options:\n  a: 1\n  b: x\n", "recipe.yaml:7: options.b is 'x'; wanted a valid integer"),
        ("decision:\n  threshold_on: 0.3\n", "recipe.yaml:5: decision: threshold_off 0.4 is above threshold_on 0.3"),
        ("name: again\n", "recipe.yaml:5: name is given twice"),
        ("train:\n  epochs: 1\n  epochs: 2\n", "recipe.yaml:7: train.epochs is given twice"),
        ("options: &a {x: 1}\n", "recipe.yaml:5: anchors and aliases"),
        ("name2: !!python/object/apply:os.system ['true']\n", "recipe.yaml:5: the tag"),
        ("options: {1: 2}\n", "recipe.yaml:5: a field name must be text, given '1'"),
        ("options: [1, 2\n", "recipe.yaml:6: not valid YAML"),
        ("--- \nname: second\n", "recipe.yaml:5: not valid YAML"),
    ],
)
def test_each_complaint_gives_line_field_and_mend(tmp_path: Path, extra: str, message: str) -> None:
    assert complaint(tmp_path, GOOD + extra).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\ndata:\n  kind: folde\n", "recipe.yaml:3: data.kind is 'folde'. Did you mean 'folder'?"),
        ("name: x\ndata:\n  root: a\n", "recipe.yaml:2: data.kind is missing"),
        (
            "name: x\ndata:\n  kind: synth\n  root: a\n",
            "recipe.yaml:2: data.clips is missing; recipe.yaml:4: data.root",
        ),
        ("name: x\n", "recipe.yaml: data is missing"),
        ("", "recipe.yaml: name is missing"),
        ("- name\n", "recipe.yaml:1: a recipe is a mapping"),
        ("\0", "recipe.yaml: not valid YAML"),
    ],
)
def test_wrong_unions_missing_fields_and_other_tops_are_named(tmp_path: Path, text: str, message: str) -> None:
    assert complaint(tmp_path, text).startswith(message)


def test_a_suggestion_inside_a_union_comes_from_the_chosen_kind(tmp_path: Path) -> None:
    text = complaint(tmp_path, "name: x\ndata: {kind: synth, clips: 3, clipz: 4}\n")
    assert text.endswith("data.clipz is not a field. Did you mean 'clips'?")
    assert "Known: clips, kind." in complaint(tmp_path, "name: x\ndata: {kind: synth, clips: 3, q: 4}\n")


def test_a_recipe_for_something_else_does_not_fill_the_screen(tmp_path: Path) -> None:
    text = complaint(tmp_path, "".join(f"field{i}: 1\n" for i in range(50)))
    assert text.count("is not a field") <= 5
    assert text.endswith("and 47 more")


def test_only_true_and_false_are_booleans_and_exponents_are_numbers(tmp_path: Path) -> None:
    assert load(tmp_path, GOOD.replace("kitchen", "no", 1)).name == "no"
    assert load(tmp_path, GOOD.replace("kitchen", "12:30", 1)).name == "12:30"
    assert load(tmp_path, GOOD.replace("kitchen", "2024-01-01", 1)).name == "2024-01-01"
    assert load(tmp_path, GOOD + "train: {learning_rate: 1e-4}\n").train.learning_rate == 1e-4
    assert "wanted a valid string" in complaint(tmp_path, GOOD.replace("kitchen", "true", 1))


def test_overrides_set_fields_lists_and_missing_mappings(tmp_path: Path) -> None:
    recipe = load(tmp_path, GOOD, "train.epochs=7", "data.folds=[3, 4, 5]", "data.folds.1=9", "name='4'")
    assert recipe.train.epochs == 7
    assert isinstance(recipe.data, FolderData)
    assert recipe.data.folds == (3, 9, 5)
    assert recipe.name == "4"


def test_a_value_may_hold_an_equals_sign(tmp_path: Path) -> None:
    assert load(tmp_path, GOOD, "name=a=b").name == "a=b"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epochz=3", "--set train.epochz=3: train.epochz is not a field. Did you mean 'epochs'?"),
        ("train.epochs=ten", "--set train.epochs=ten: train.epochs is 'ten'; wanted a valid integer"),
        ("train.epochs", "--set train.epochs: an override is written field=value"),
        ("=3", "--set =3: an override is written field=value"),
        ("train..epochs=3", "--set train..epochs=3: an override is written field=value"),
        ("name.first=3", "--set name.first=3: name is 'kitchen' and has no fields to set"),
        ("options=[1", "--set options=[1: not valid YAML"),
        ("options=*a", "--set options=*a: anchors and aliases"),
    ],
)
def test_a_wrong_override_is_named_as_it_was_typed(tmp_path: Path, override: str, message: str) -> None:
    assert complaint(tmp_path, GOOD, override).startswith(message)


def test_a_list_index_beyond_the_end_is_refused(tmp_path: Path) -> None:
    text = complaint(tmp_path, GOOD + "  folds: [1, 2]\n", "data.folds.2=7")
    assert "data.folds is a list of 2; give an index from 0 to 1" in text


def test_an_absent_file_brings_the_nearest_one_to_mind(tmp_path: Path) -> None:
    (tmp_path / "esc10.yaml").write_text(GOOD)
    with pytest.raises(ConfigError, match=r"Did you mean 'esc10\.yaml'\?"):
        load_config(tmp_path / "esc1.yaml", Recipe)
    with pytest.raises(ConfigError, match="does not exist either"):
        load_config(tmp_path / "nowhere" / "esc10.yaml", Recipe)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path, Recipe)


def test_hostile_files_are_refused_before_they_cost_anything(tmp_path: Path) -> None:
    with pytest.raises(LimitError):
        load(tmp_path, "#" * (RECIPE_BYTES + 1))
    with pytest.raises(LimitError, match="nesting"):
        load(tmp_path, "a: " + "[" * 100_000)
    with pytest.raises(ConfigError, match="not a number that can be read"):
        load(tmp_path, GOOD + "options: {a: " + "9" * 5_000 + "}\n")
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    with pytest.raises(ConfigError, match="not UTF-8 text at byte 9"):
        load_config(tmp_path / "latin.yaml", Recipe)


_TEXT = st.text(alphabet=st.characters(exclude_categories=("C", "Zl", "Zp")), max_size=8)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(text=st.text(alphabet=st.sampled_from("abc:-[]{}#&*!|>'\"% \n\t0.~,?@`"), max_size=60))
def test_any_text_is_a_recipe_or_one_typed_error(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError):
        load_config(path, Recipe)


@given(value=_VALUES)
def test_any_json_value_survives_the_reader_unchanged(value: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "json.yaml"
    path.write_text(json.dumps({"value": value}, ensure_ascii=False))
    assert load_config(path, Anything).value == value
