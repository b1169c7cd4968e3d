"""What of a reply can be used."""

from __future__ import annotations

import json
from typing import Any

import pytest

from latentpress.synthesis.checks import Checked, check, stands_in
from latentpress.synthesis.likeness import asked_in, script_of
from latentpress.synthesis.passages import Passage
from latentpress.synthesis.requests import Request

TEXT = "In 2010 the treaty was signed in Paris by Clara Weiss, after “ten days” of talks. Nobody had expected it."
OTHER = "Clara Weiss was born in Oslo in 1961 and studied law there before she went to sea."
CHINESE = "条约于一九四五年五月一日在巴黎签署，参加者来自十二个国家。"
PROGRAM = "用 PyTorch 训练模型时，DataLoader 负责读取数据，dropout 设为 0.2，激活函数用 ReLU。每轮之后保存一次权重。"


def words(text: str) -> int:
    return len(text.split()) if text.isascii() or " " in text else len(text)


def passage(text: str, lang: str = "en") -> Passage:
    return Passage(id="p", text=text, tokens=words(text), lang=lang, source="s")


def looked_at(
    reply: str | dict[str, Any], task: str = "qa", *texts: str, cut_off: bool = False, lang: str = "en"
) -> Checked:
    texts = texts or (TEXT,)
    passages = tuple(passage(text, lang) for text in texts)
    request = Request(key="k", task=task, record="p", passages=passages, tokens=1)
    said = reply if isinstance(reply, str) else json.dumps(reply)
    return check(request, said, cut_off=cut_off, count=words)


def asked(**row: Any) -> dict[str, Any]:
    return {"questions": [{"question": "Where was the treaty signed?", "answer": "Paris", **row}]}


def reasons(checked: Checked) -> list[str]:
    return [rejection.reason for rejection in checked.rejections]


@pytest.mark.parametrize(
    "reply",
    [
        json.dumps(asked()),
        f"```json\n{json.dumps(asked(), indent=1)}\n```",
        f"Here you are:\n```\n{json.dumps(asked())}\n```\nAnything else?",
        f"Sure! {json.dumps(asked())} I hope this helps.",
        f"<think>\nWhat about {{this}}?\n</think>\n\n{json.dumps(asked())}",
        f'The form is {{"questions": []}}.\n</think>\n```json\n{json.dumps(asked())}\n```',
        f'<think>a</think> or {{"questions": ...}}</think>{json.dumps(asked())}',
        f"<reasoning>{{x}}</reasoning>{json.dumps(asked())}",
        f"{json.dumps(asked())}\n\nNote: {{this}} is short, and {{}} empty.",
        f'{{"questions": []}} is too little, so: {json.dumps(asked())} {{"remarks": []}}',
        json.dumps({"reply": asked()}),
        json.dumps({**asked(), "remarks": {"questions": []}}),
        json.dumps({**asked(), "remarks": "</think>"}),
        f"```json\n{json.dumps(asked())}\n```\nI have closed </think> long before.",
    ],
)
def test_json_is_found_with_fences_and_words_around_it(reply: str) -> None:
    checked = looked_at(reply)
    assert reasons(checked) == []
    assert [(made.question, made.answer, made.in_context) for made in checked.questions] == [
        ("Where was the treaty signed?", "Paris", True)
    ]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("", "empty reply"),
        ("  \n", "empty reply"),
        ("I cannot help with that.", "no JSON object"),
        ('{"questions": [', "no JSON object"),
        ("[1, 2]", "no JSON object"),
        ("{" * 5000, "no JSON object"),
        (json.dumps(asked())[:-1], "no JSON object"),
        (f"{json.dumps(asked())}</think>", "empty reply"),
        ('{"summary": "Which {form}?"}', "no list of questions"),
        ("{}", "no list of questions"),
        ('{"questions": []}', "no questions"),
        ('{"questions": ["Who?"]}', "question that is no object"),
        (json.dumps(asked(question=None)), "no question"),
        (json.dumps(asked(question=" ?! ")), "blank question"),
        (json.dumps(asked(answer="")), "blank answer"),
        (json.dumps(asked(answer="-", in_context=False)), "blank answer"),
        (json.dumps(asked(answer="...", in_context=False)), "blank answer"),
        (json.dumps(asked(answer=["Paris"])), "no answer"),
        (json.dumps(asked(answer="London")), "answer not in the context"),
        (json.dumps(asked(answer="10")), "answer not in the context"),
        (json.dumps(asked(answer="London", in_context=True)), "answer not in the context"),
        (json.dumps(asked(question="条约在哪里签署？")), "other language than its text"),
        (json.dumps(asked(answer="Paris " * 200)), "answer longer than 128 tokens"),
        (json.dumps(asked(question="Where is " * 200)), "question longer than 128 tokens"),
        ('{"questions": [{"question": "Wh\\ud83d?", "answer": "Paris"}]}', "question with half a character"),
    ],
)
def test_what_cannot_be_used_is_rejected_with_its_reason(reply: str, reason: str) -> None:
    checked = looked_at(reply)
    assert reasons(checked) == [reason]
    assert checked.questions == []


def test_a_reply_that_became_too_long_says_so() -> None:
    for end in ('{"questions": [{"question": "Wh', json.dumps(asked())[:-1]):
        assert reasons(looked_at(end, cut_off=True)) == ["cut off before its end"]


def test_an_answer_of_other_words_is_kept_when_the_teacher_says_so() -> None:
    (made,) = looked_at(asked(answer="yes", in_context=False)).questions
    assert not made.in_context
    (made,) = looked_at(asked(answer="2010", in_context=False)).questions
    assert made.in_context  # it is there, whatever the teacher says


def test_good_questions_of_a_reply_are_kept_beside_bad_ones() -> None:
    rows = [
        asked()["questions"][0],
        asked(answer="Rome")["questions"][0],
        asked(question="WHERE was the  treaty signed?"),
    ]
    checked = looked_at({"questions": [*rows[:2], rows[2]["questions"][0]]})
    assert len(checked.questions) == 1
    assert reasons(checked) == ["answer not in the context", "question asked twice"]


@pytest.mark.parametrize(
    ("answer", "text", "stands"),
    [
        ("paris", TEXT, True),
        ("Paris.", TEXT, True),
        ('"ten days"', TEXT, True),
        ("ten\n days”", TEXT, True),
        ("10", TEXT, False),
        ("ar", TEXT, False),
        ("in Paris by", TEXT, True),
        ("巴黎", CHINESE, True),
        ("十二个国家。", CHINESE, True),
        ("Ｐａｒｉｓ", TEXT, True),
        ("...", TEXT, False),
        ("`{}`", "Write `{}` there.", False),
        ("-", "an e-mail - or two", False),
        ("`x_{}`", "Write `x_{}` there.", True),
        ("$1,234.50", "It cost $1,234.50.", True),
        ("1,234.50", "It cost $1,234.50.", True),
        ("234.50", "It cost $1,234.50.", False),
        ("1,234", "It cost $1,234.50.", False),
        ("50", "It cost $1,234.50.", False),
        ("1,234", "Of 1,234, and 50.", True),
        ("e-mail", "He sent an e-mail.", True),
        ("mail", "He sent an e-mail.", False),
        ("-mail", "He sent an e-mail.", False),
        ("e", "He sent an e-mail.", False),
        ("mail", "He sent an e‑mail.", False),
        ("mail", "E-mail is no mail.", True),
        ("1914", "The war (1914-1918) ended.", True),
        ("1918", "The war (1914-1918) ended.", True),
        ("1914-1918", "The war (1914-1918) ended.", True),
        ("Smith", "It was Smith's house.", True),
        ("Smith", "It was Smith’s house.", True),
        ("Smith's", "It was Smith's house.", True),
        ("Smiths", "It was the Smiths' house.", True),
        ("s", "It was Smith's house.", False),
        ("didn", "He didn't.", False),
        ("t", "He didn't.", False),
        ("Brien", "Then O'Brien came.", False),
        ("O", "Then O'Brien came.", False),
        ("été", "Pendant l'été 1914.", True),
        ("Italia", "Il nord dell’Italia.", True),
        ("l", "Pendant l'été 1914.", False),
        ("上海", "从北京-上海的铁路", True),
        ("Ankara", "Ankara'da imzalandı.", True),
        ("Türkiye", "Türkiye’nin başkenti", True),
        ("Agostino", "La città di Sant'Agostino.", True),
        ("Hamas", "the Israel-Hamas talks", True),
        ("NASA", "a NASA-led mission", True),
        ("2", "x in {1,2,3}", True),
        ("234", "It cost 1,234.", False),
        ("กรุงเทพมหานคร", "ลงนามที่กรุงเทพมหานครเมื่อวาน", True),
    ],
)
def test_an_answer_stands_in_a_text_as_whole_words(answer: str, text: str, stands: bool) -> None:
    assert stands_in(answer, text) is stands


@pytest.mark.parametrize("task", ["multi-document", "multi-hop"])
def test_a_question_about_several_passages_names_two_of_them(task: str) -> None:
    def about(numbers: Any) -> Checked:
        return looked_at(
            asked(question="Where was the signer born?", answer="Oslo", passages=numbers), task, TEXT, OTHER
        )

    assert about([1, 2]).questions[0].passages == (1, 2)
    for numbers, reason in (
        (None, "no numbers of passages"),
        ([1, 3], "no numbers of passages"),
        (["1", "2"], "no numbers of passages"),
        ([2, 2], "question of one passage"),
    ):
        assert reasons(about(numbers)) == [reason]


def test_a_summary_is_shorter_than_its_text_and_in_its_language() -> None:
    for task in ("summary", "short-summary"):
        assert looked_at({"summary": " Treaty signed in Paris. "}, task).summary == "Treaty signed in Paris."
        assert reasons(looked_at({"summary": TEXT}, task)) == ["summary not shorter than its text"]
        assert reasons(looked_at({"summary": f"{TEXT} And more."}, task)) == ["summary not shorter than its text"]
        assert reasons(looked_at({"summary": "巴黎条约"}, task)) == ["other language than its text"]
        assert reasons(looked_at({"summary": "--"}, task)) == ["blank summary"]
        assert reasons(looked_at({"text": "Treaty."}, task)) == ["no summary"]
    assert looked_at({"summary": "巴黎条约，十二国"}, "summary", CHINESE).summary == "巴黎条约，十二国"


@pytest.mark.parametrize(
    ("text", "reply", "accepted"),
    [
        (TEXT, "Кто подписал договор?", False),
        (TEXT, "من وقع المعاهدة؟", False),
        (TEXT, "Ποιος υπέγραψε;", False),
        (TEXT, "Who signed the Договор?", True),
        (TEXT, "Wer hat den Vertrag unterzeichnet?", True),  # which a script does not tell
        (TEXT, "1 + 1 = ?", True),
        ("Договор подписали в Париже в 2010 году, после десяти дней переговоров.", "Кто подписал договор?", True),
        ("Договор подписали в Париже в 2010 году, после десяти дней переговоров.", "Who signed it?", False),
        ("조약은 1945년 5월 1일 파리에서 열두 나라가 모인 가운데 서명되었다.", "조약은 어디에서 서명되었나?", True),
        ("조약은 1945년 5월 1일 파리에서 열두 나라가 모인 가운데 서명되었다.", "条约在哪里签署？", False),
        ("条約は一九四五年五月一日にパリで署名された。", "どこで署名された？", True),
        (CHINESE, "Where is 巴黎?", False),
        (CHINESE, "A treaty.", False),
        (PROGRAM, "PyTorch 的 DataLoader 做什么？", True),
        (PROGRAM, "PyTorch, ReLU, dropout 0.2：训练", True),
        (PROGRAM, "What is PyTorch 训练?", False),
        (PROGRAM, "PyTorch DataLoader?", False),
        ("Вызовите torch.utils.data.DataLoader(dataset, batch_size=8) в 2010 году.", "Что вызвать?", True),
    ],
)
def test_questions_and_summaries_are_in_the_script_of_their_text(text: str, reply: str, accepted: bool) -> None:
    wrong = [] if accepted else ["other language than its text"]
    answer = "2010" if "2010" in text else text[:2]
    assert reasons(looked_at(asked(question=reply, answer=answer), "qa", text)) == wrong
    assert reasons(looked_at({"summary": reply}, "summary", text)) == wrong


@pytest.mark.parametrize(
    ("text", "answer", "accepted"),
    [
        (TEXT, "Анна", False),
        (TEXT, "安娜", False),
        (TEXT, "12", True),
        (f"{TEXT} They called it 条约.", "条约", True),
        (CHINESE, "是", True),
        (CHINESE, "12", True),
        (CHINESE, "Paris", False),
        (PROGRAM, "ReLU", True),
        (PROGRAM, "ReLU、DataLoader", True),
        (PROGRAM, "TensorFlow", False),
        (TEXT, "10 Ω", True),
        (CHINESE, "25kg", True),
    ],
)
def test_an_answer_out_of_context_is_in_the_script_of_its_text_or_made_of_its_words(
    text: str, answer: str, accepted: bool
) -> None:
    question = "Where was it signed?" if text.startswith(TEXT) else "在哪里签署？"
    checked = looked_at(asked(question=question, answer=answer, in_context=False), "qa", text)
    assert reasons(checked) == ([] if accepted else ["other language than its text"])


@pytest.mark.parametrize("lang", ["zh", "ZH", "zh-Hant", "zho", "cmn", "yue", "Chinese", "en", "und", ""])
def test_a_chinese_text_has_chinese_questions_whatever_its_tag(lang: str) -> None:
    assert len(looked_at(asked(question="条约在哪里签署？", answer="巴黎"), "qa", CHINESE, lang=lang).questions) == 1
    assert looked_at(asked(answer="巴黎"), "qa", CHINESE, lang=lang).questions == []


def test_a_text_that_is_said_to_be_english_is_asked_about_in_english_with_many_characters_in_it() -> None:
    lesson = "山 means mountain, 水 means water, 火 means fire, 木 means tree, 人 means person."
    assert script_of(lesson, "en") == "LATIN"
    assert asked_in(lesson, "en") == "en"
    assert script_of("山水火木人日月", "en") == "HAN"
