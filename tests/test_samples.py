"""The samples that the repository carries: readable, consistent, and with their licences beside them."""

import json
from pathlib import Path

import latentpress
from latentpress.data.records import read_records

TEST_SAMPLES = Path(__file__).parent / "samples"
DEMO_SAMPLES = Path(latentpress.__file__).parent / "samples"


def test_squad_sample_is_what_its_readme_says() -> None:
    records = read_records(TEST_SAMPLES / "squad_sample.jsonl")
    assert len(records) == 40
    assert sum(len(record.qas) for record in records) == 178
    for record in records:
        assert 1 <= len(record.qas) <= 5
        assert all(answer in record.contexts[0] for qa in record.qas for answer in qa.answers)


def test_teacher_style_sample_has_everything_a_training_row_can_have() -> None:
    records = read_records(TEST_SAMPLES / "teacher_style_sample.jsonl")
    assert [record.lang for record in records] == ["en", "en", "en", "en", "zh"]
    for record in records:
        assert record.summary
        assert record.short_summary
        assert len(record.short_summary) < len(record.contexts[0])
        assert len(record.qas) == 4
        assert all(any(answer in record.contexts[0] for answer in qa.answers) for qa in record.qas)


def test_demo_questions_are_answered_by_the_demo_document() -> None:
    demo = json.loads((DEMO_SAMPLES / "demo_questions.json").read_text(encoding="utf-8"))
    document = (DEMO_SAMPLES / demo["document"]).read_text(encoding="utf-8")
    assert len(document.split("\n\n")) == 21
    assert len({question["id"] for question in demo["questions"]}) == 12
    for question in demo["questions"]:
        assert question["question"].endswith("?")
        assert question["answers"]
        assert all(answer in document for answer in question["answers"]), question


def test_the_demo_article_is_not_in_the_test_sample() -> None:
    document = (DEMO_SAMPLES / "demo_document.txt").read_text(encoding="utf-8")
    assert not any(record.contexts[0] in document for record in read_records(TEST_SAMPLES / "squad_sample.jsonl"))


def test_every_folder_of_samples_names_its_licence() -> None:
    for folder in (TEST_SAMPLES, DEMO_SAMPLES):
        assert (
            "CC BY-SA 4.0" in (text := (folder / "README.md").read_text(encoding="utf-8")) or "ShareAlike 4.0" in text
        )
