"""A data set is found by path, by name or on the hub, and every mistake says what would have been right."""

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest

from latentpress.errors import InputError
from latentpress.evaluation.sources import (
    IN_DOMAIN,
    OUT_OF_DOMAIN,
    Source,
    find_source,
    find_sources,
    known_names,
    missing_names,
    notes,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of data files, which need not be read to be found."""
    for name in ("SQuAD.jsonl.gz", "DuoRC.ParaphraseRC.jsonl.gz", "nq.jsonl.xz", "my-set.json", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "folder.jsonl").mkdir()
    return tmp_path


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """An empty current folder, so that no file has a set's name."""
    monkeypatch.chdir(tmp_path_factory.mktemp("empty"))


@pytest.fixture
def with_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("datasets")
    module.__spec__ = ModuleSpec("datasets", None)
    monkeypatch.setitem(sys.modules, "datasets", module)


@pytest.fixture
def without_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("some/folder/squad.jsonl.xz", "squad"),
        ("DuoRC.ParaphraseRC.jsonl.gz", "DuoRC.ParaphraseRC"),
        ("train-v1.1.json", "train-v1.1"),
        ("my=data/set.jsonl", "my"),
        ("./no-suffix", "no-suffix"),
        (".jsonl", ".jsonl"),
    ],
)
def test_a_path_names_its_set_unless_a_name_is_given(word: str, name: str) -> None:
    assert find_source(word) == Source(name=name, place=word.removeprefix("my="))


def test_a_file_comes_before_a_name_and_before_the_hub() -> None:
    Path("squad").touch()
    Path("org").mkdir()
    Path("org/set").touch()
    Path("a=b").touch()
    assert find_source("squad") == Source(name="squad", place="squad")
    assert find_source("org/set") == Source(name="set", place="org/set")
    assert find_source("a=b") == Source(name="a=b", place="a=b")
    assert not find_source("org/typo").hub


def test_an_id_of_the_hub_is_told_by_its_form() -> None:
    assert find_source("org/set:test") == Source(name="set", place="org/set:test", hub=True)
    assert find_source("dev=org/set:test") == Source(name="dev", place="org/set:test", hub=True)
    assert find_source("org/set@part:test") == Source(name="set", place="org/set@part:test", hub=True)


@pytest.mark.parametrize(
    ("word", "file"),
    [
        ("squad", "SQuAD.jsonl.gz"),
        ("SQuAD", "SQuAD.jsonl.gz"),
        ("duorc", "DuoRC.ParaphraseRC.jsonl.gz"),
        ("DuoRC.ParaphraseRC", "DuoRC.ParaphraseRC.jsonl.gz"),
        ("NQ", "nq.jsonl.xz"),
        ("My-Set", "my-set.json"),
    ],
)
def test_a_name_is_a_file_of_the_folder_case_aside(folder: Path, word: str, file: str) -> None:
    source = find_source(word, data_dir=folder)
    assert source.place == str(folder / file)
    assert source.name == file.partition(".json")[0]
    assert not source.hub


@pytest.mark.usefixtures("with_hub")
@pytest.mark.parametrize("name", [*IN_DOMAIN, *OUT_OF_DOMAIN])
def test_each_of_the_twelve_sets_is_known_and_else_comes_from_the_hub(name: str, tmp_path: Path) -> None:
    split = "validation" if name in IN_DOMAIN else "test"
    expected = Source(name=name, place=f"mrqa-workshop/mrqa:{split}", hub=True, subset=name, known=name)
    assert find_source(name) == find_source(name.upper(), data_dir=tmp_path) == expected
    assert name in known_names()


@pytest.mark.usefixtures("with_hub")
def test_adversarialqa_is_known_and_else_comes_from_the_hub(tmp_path: Path) -> None:
    place = "UCLNLP/adversarial_qa@adversarialQA:validation"
    source = find_source("adversarialqa", data_dir=tmp_path)
    assert (
        source
        == find_source("AdversarialQA")
        == Source(name="AdversarialQA", place=place, hub=True, known="AdversarialQA")
    )
    assert notes([source], tmp_path) == [
        f"AdversarialQA: {tmp_path} has no file AdversarialQA; it is read from the hub, {place}"
    ]
    assert notes([find_source(place)], tmp_path) == []  # asked for by its id
    (tmp_path / "AdversarialQA.jsonl").touch()
    assert not find_source("adversarialqa", data_dir=tmp_path).hub


@pytest.mark.usefixtures("with_hub")
@pytest.mark.parametrize(
    ("word", "name"),
    [("nq", "NaturalQuestionsShort"), ("TriviaQA", "TriviaQA-web"), ("duorc", "DuoRC.ParaphraseRC")],
)
def test_short_names_mean_the_twelve_sets(word: str, name: str) -> None:
    assert find_source(word).subset == name
    assert find_source(f"mine={word}").name == "mine"


@pytest.mark.usefixtures("with_hub")
def test_a_full_name_is_not_taken_for_a_file_of_its_short_one(folder: Path) -> None:
    assert find_source("NaturalQuestionsShort", data_dir=folder).hub  # nq.jsonl.xz may be another selection


@pytest.mark.usefixtures("with_hub")
@pytest.mark.parametrize(
    ("word", "file"),
    [
        ("BioASQ", "ood_bioasq.jsonl.xz"),
        ("xquad", "zh_xquad.jsonl.xz"),
        ("mine=xquad", "zh_xquad.jsonl.xz"),
        ("TriviaQA", "dev_TriviaQA-web.json"),
        ("set_two", "my_set_two.json"),
    ],
)
def test_the_only_file_with_the_name_behind_a_prefix_is_taken(folder: Path, word: str, file: str) -> None:
    for name in ("ood_bioasq.jsonl.xz", "zh_xquad.jsonl.xz", "dev_TriviaQA-web.json", "my_set_two.json"):
        (folder / name).touch()
    source = find_source(word, data_dir=folder)
    assert (source.place, source.hub) == (str(folder / file), False)
    assert source.name == ("mine" if "=" in word else file.partition(".json")[0])
    asked = word.partition("=")[2] or word
    assert notes([source], folder) == [
        f"{source.name}: taken for {asked}, of which {folder} has no file; {folder / file}"
    ]


@pytest.mark.usefixtures("with_hub")
def test_a_file_of_the_name_itself_comes_before_one_with_a_prefix(folder: Path) -> None:
    (folder / "zh_SQuAD.jsonl").touch()
    (folder / "old_DuoRC.jsonl").touch()
    (folder / "xNewsQA.jsonl").touch()
    assert find_source("squad", data_dir=folder).name == "SQuAD"
    assert find_source("duorc", data_dir=folder).name == "DuoRC.ParaphraseRC"
    assert find_source("newsqa", data_dir=folder).hub


@pytest.mark.usefixtures("with_hub")
def test_several_files_with_the_name_behind_a_prefix_are_named(folder: Path) -> None:
    (folder / "ood_bioasq.jsonl.xz").touch()
    (folder / "zh_bioasq.jsonl").touch()
    with pytest.raises(InputError, match=r"'BioASQ' may be ood_bioasq.jsonl.xz and zh_bioasq.jsonl of .*give the path"):
        find_source("BioASQ", data_dir=folder)


@pytest.mark.usefixtures("with_hub")
def test_a_set_that_comes_from_the_hub_although_a_folder_was_given_is_told(folder: Path) -> None:
    sources = find_sources(["squad", "mine=newsqa", "org/set:test"], data_dir=folder)
    assert notes(sources, folder) == [
        f"mine: {folder} has no file NewsQA; it is read from the hub, mrqa-workshop/mrqa:validation"
    ]
    assert notes(find_sources(["newsqa"]), None) == []


def test_names_that_are_neither_in_the_folder_nor_on_the_hub_are_missing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["NQ", "NewsQA", "AdversarialQA", "my-set", "here"]
    Path("here").touch()
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert missing_names(names) == ["NQ", "NewsQA", "AdversarialQA", "my-set"]
    assert missing_names(names, data_dir=folder) == ["NewsQA", "AdversarialQA"]
    module = ModuleType("datasets")
    module.__spec__ = ModuleSpec("datasets", None)
    monkeypatch.setitem(sys.modules, "datasets", module)
    assert missing_names(names) == ["my-set"]
    with pytest.raises(InputError, match="does not exist"):
        missing_names(names, data_dir=folder / "none")


@pytest.mark.usefixtures("without_hub")
def test_a_known_set_that_cannot_be_had_says_what_is_missing(folder: Path) -> None:
    with pytest.raises(InputError, match=r"'NewsQA': no folder of data sets is given.*NewsQA=PATH, or pip install"):
        find_source("newsqa")
    with pytest.raises(InputError, match=r"has no NewsQA.jsonl.gz, and reading it from the hub needs the package"):
        find_source("newsqa", data_dir=folder)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("sqad", "did you mean SQuAD"),
        ("my-sett", "did you mean my-set"),
        ("dourc", "did you mean duorc"),
        ("xyzzy", "no known name; give a path"),
        ("notes", "one of DuoRC.ParaphraseRC, SQuAD, my-set, nq, NewsQA"),
        ("name=sqad", "data set 'sqad'"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_and_all(folder: Path, word: str, expected: str) -> None:
    with pytest.raises(InputError) as caught:
        find_source(word, data_dir=folder)
    assert expected in str(caught.value)


def test_a_folder_that_does_not_exist_and_files_of_one_name_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        find_source("squad", data_dir=folder / "none")
    (folder / "squad.jsonl.xz").touch()
    with pytest.raises(InputError, match=r"may be SQuAD.jsonl.gz and squad.jsonl.xz of .*give the path"):
        find_source("squad", data_dir=folder)


def test_two_sets_of_one_name_are_refused_until_one_is_named() -> None:
    with pytest.raises(InputError, match=r"2 data sets are called 'dev' \(a/dev.jsonl and b/dev.jsonl.gz\).*NAME=PATH"):
        find_sources(["a/dev.jsonl", "b/dev.jsonl.gz", "c/test.jsonl"])
    found = find_sources(["a/dev.jsonl", "other=b/dev.jsonl.gz"])
    assert [source.name for source in found] == ["dev", "other"]


def test_a_name_that_reports_use_themselves_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pooled.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match=r"cannot be called 'pooled'.*NAME=PATH"):
        find_sources([str(tmp_path / "pooled.jsonl")])
    assert find_sources([f"mine={tmp_path / 'pooled.jsonl'}"])[0].name == "mine"
