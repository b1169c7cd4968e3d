"""Pure functions that score predicted answers and measure ratios.

Every score lies in [0, 1] and takes the best over the acceptable answers. English answers follow SQuAD v1.1's official
script, Chinese ones CMRC 2018's. Long answers are scored by ROUGE-L, which takes either language, and multiple choice
by the letter.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

__all__ = [
    "choice_accuracy",
    "contains_cjk",
    "correct_only_ratio",
    "em_chinese",
    "exact_match",
    "f1",
    "f1_chinese",
    "normalize_answer",
    "overall_ratio",
    "rouge_l",
    "substring_accuracy",
    "word_tokens",
]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)
_HAN = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_HAN_CHARACTER = re.compile(f"[{_HAN}]")
# A Han character is a token; so is any other word or number, inner marks included ("3.5"); so is any other mark.
_CHINESE_TOKEN = re.compile(rf"[{_HAN}]|[^\W{_HAN}]+(?:[.,'][^\W{_HAN}]+)*|[^\w\s]")
# CMRC's list as its script applies it, a character at a time: "……" is listed there as a pair, so "…" is never removed.
_CMRC_PUNCTUATION = str.maketrans("", "", "-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
_NON_WORD = re.compile(r"\W+")
_WORD = re.compile(rf"[{_HAN}]|[^\W_{_HAN}]+")
# A to H as a word of its own.
_OPTION = re.compile(rf"(?<![^\W{_HAN}])([A-H])(?![^\W{_HAN}]|['’-]\w)")
# "A lecture" starts with an article, "A. lecture", "A) lecture" and "A" with an option; so does "A is right", as no
# noun follows. "A will" and "A can" may be either.
_SMALL_WORD = re.compile("[ \\t]+[a-z]")
_NO_NOUN = re.compile(
    r"[ \t]+(?:is|isn|was|are|were|be|has|had|have|does|doesn|did|do|would|should|could|will be|can be|seems|appears|"
    r"says|states|describes|matches|fits|refers|gives|explains|contains|mentions|follows|answers|because|since|as|for|"
    r"from|in|on|at|of|to|by|with|and|or|but|not|if|so|that|which|while|when|where|then|it|he|she|they|this|these|the)"
    r"(?![\w-])"
)
_NAMES_OPTION = re.compile(
    r"\b(?:answer\s+(?:is|was|(?:would|should|must|will)\s+be)|option|choice|letter)\s+$", re.IGNORECASE
)
_LONE_LETTER = re.compile(r"[\W_]*([A-Za-z])[\W_]*")


def normalize_answer(text: str) -> str:
    """Lower-cases, strips ASCII punctuation, then the articles a, an and the, then surplus white space.

    SQuAD v1.1's official `normalize_answer`. Unicode punctuation stays: "24-10" becomes "2410", "24–10" does not.
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_ASCII_PUNCTUATION)).split())


def contains_cjk(text: str) -> bool:
    """Tells whether a text holds a Chinese character, so that words are no unit to score it by."""
    return _HAN_CHARACTER.search(text) is not None


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """Returns 1.0 if the prediction equals an answer after `normalize_answer`, else 0.0 (SQuAD v1.1, official)."""
    predicted = normalize_answer(prediction)
    return _best(lambda answer: float(predicted == normalize_answer(answer)), answers)


def f1(prediction: str, answers: Sequence[str]) -> float:
    """Returns the F1 of the bags of normalised words, the best over the answers (SQuAD v1.1, official).

    As there, no common word is 0.0, also when both sides normalise to nothing (`exact_match` is 1.0 then).
    """
    predicted = normalize_answer(prediction).split()

    def score(answer: str) -> float:
        expected = normalize_answer(answer).split()
        common = sum((Counter(predicted) & Counter(expected)).values())
        return _harmonic_mean(common, len(predicted), len(expected))

    return _best(score, answers)


def em_chinese(prediction: str, answers: Sequence[str]) -> float:
    """Returns 1.0 if the prediction equals an answer after lower-casing and dropping CMRC's punctuation, else 0.0.

    CMRC 2018's `calc_em_score`. White space inside counts, as there.
    """
    predicted = _without_cmrc_punctuation(prediction)
    return _best(lambda answer: float(predicted == _without_cmrc_punctuation(answer)), answers)


def f1_chinese(prediction: str, answers: Sequence[str]) -> float:
    """Returns the F1 of the longest run of tokens that both sides share; a Chinese character is a token.

    CMRC 2018's `calc_f1_score`: the overlap is one contiguous run, not a bag. Two differences from its script: other
    writing is cut into words by a regular expression, not NLTK's tokenizer (the same for plain words and numbers), and
    Chinese characters are all of Unicode's, not U+4E00 to U+9FA5 alone.
    """
    predicted = _CHINESE_TOKEN.findall(_without_cmrc_punctuation(prediction))

    def score(answer: str) -> float:
        expected = _CHINESE_TOKEN.findall(_without_cmrc_punctuation(answer))
        return _harmonic_mean(_longest_common_run(predicted, expected), len(predicted), len(expected))

    return _best(score, answers)


def substring_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Returns 1.0 if an answer appears in the prediction once every non-word character is stripped from both, else 0.0.

    The metric of the semi-dynamic paper (arXiv 2603.25926), under its name and with its flaw: word borders go too, so
    the answer "10" matches the prediction "2010", and a long prediction matches more. Report exact match and F1 beside
    it. Our choice where we know of none: case is ignored, and an answer without a word character matches nothing.
    """
    predicted = _word_characters(prediction)
    return _best(lambda answer: float(bool(stripped := _word_characters(answer)) and stripped in predicted), answers)


def rouge_l(prediction: str, answers: Sequence[str]) -> float:
    """Returns the F-measure of the longest common subsequence of `word_tokens`, the best over the answers.

    ROUGE-L of one text (Lin 2004, eq. 2 to 4, beta 1), without stemming and without sentence splitting. Nothing in
    common is 0.0, also when both sides hold no word.
    """
    predicted = word_tokens(prediction)

    def score(answer: str) -> float:
        expected = word_tokens(answer)
        return _harmonic_mean(_longest_common_subsequence(predicted, expected), len(predicted), len(expected))

    return _best(score, answers)


def choice_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Returns 1.0 if the first option letter of the prediction is an answer, else 0.0.

    Our choice of what an option letter is: a capital A to H that stands as a word of its own ("C", "(C)", "C. farm
    animals", "The answer is C", "选C"); or a letter of either case that is all there is ("c."). An A before a small
    word is an article ("A treaty was signed"), unless that word is none that an article stands before ("A is right",
    "A because ...") or the A follows "answer is", "option", "choice" or "letter".
    """
    alone = _LONE_LETTER.fullmatch(prediction)
    found = alone or next((one for one in _OPTION.finditer(prediction) if not _is_article(prediction, one)), None)
    letter = found[1].upper() if found else ""
    return _best(lambda answer: float(letter == answer.strip().upper() != ""), answers)


def word_tokens(text: str) -> list[str]:
    """Lower-cased words and numbers without marks; a Chinese character is one. "3.5" is two, as in ROUGE's script."""
    return _WORD.findall(text.lower())


def correct_only_ratio(context_tokens: Sequence[int], latents: Sequence[int], correct: Sequence[bool]) -> float:
    """Returns the paper's average ratio: context tokens over latents, each summed over the correct samples only.

    The three sequences run over the samples. NaN when no sample is correct. Which samples count depends on the
    system under test, so `overall_ratio` belongs beside it (arXiv 2603.25926, Evaluation).
    """
    kept = [(tokens, size) for tokens, size, right in zip(context_tokens, latents, correct, strict=True) if right]
    return overall_ratio([tokens for tokens, _ in kept], [size for _, size in kept])


def overall_ratio(context_tokens: Sequence[int], latents: Sequence[int]) -> float:
    """Returns context tokens over latents, each summed over all samples; NaN when there are none."""
    if len(context_tokens) != len(latents):
        raise ValueError(
            f"{len(context_tokens)} context lengths but {len(latents)} numbers of latents: give one each a sample"
        )
    total_latents = sum(latents)
    return sum(context_tokens) / total_latents if total_latents else float("nan")


def _is_article(text: str, letter: re.Match[str]) -> bool:
    """Whether a capital letter that stands as a word is the article A."""
    if letter[1] != "A" or not _SMALL_WORD.match(text, letter.end()):
        return False
    return not _NO_NOUN.match(text, letter.end()) and not _NAMES_OPTION.search(text[: letter.start()])


def _best(score: Callable[[str], float], answers: Sequence[str]) -> float:
    """Returns the best score over the answers."""
    if isinstance(answers, str):  # a string is a sequence of strings: its characters would be scored as answers
        raise TypeError(f"answers is the string {answers!r}: give a sequence of strings")
    if not answers:
        raise ValueError("answers is empty: a prediction is scored against at least one answer")
    return max(score(answer) for answer in answers)


def _harmonic_mean(common: int, predicted: int, expected: int) -> float:
    """Returns F1 from counts of common, predicted and expected tokens."""
    return 2.0 * common / (predicted + expected) if common else 0.0


def _word_characters(text: str) -> str:
    return _NON_WORD.sub("", text.lower())


def _without_cmrc_punctuation(text: str) -> str:
    return text.lower().strip().translate(_CMRC_PUNCTUATION)


def _longest_common_run(first: Sequence[str], second: Sequence[str]) -> int:
    """Returns the length of the longest contiguous run that two token lists share, row by row of the usual table."""
    longest = 0
    previous = [0] * (len(second) + 1)
    for token in first:
        current = [0]
        for column, other in enumerate(second):
            current.append(previous[column] + 1 if token == other else 0)
        longest = max(longest, *current)
        previous = current
    return longest


def _longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Returns the length of the longest subsequence of two token lists.

    A row of the usual table is one integer, a bit for each token of `second`: zero where the length grows (Hyyrö 2004).
    A few hundred words so take microseconds, not a quadratic loop.
    """
    places: dict[str, int] = {}
    for place, token in enumerate(second):
        places[token] = places.get(token, 0) | 1 << place
    every = (1 << len(second)) - 1
    row = every
    for token in first:
        matched = row & places.get(token, 0)
        row = ((row + matched) | (row - matched)) & every
    return len(second) - row.bit_count()
