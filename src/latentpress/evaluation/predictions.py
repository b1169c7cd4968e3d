"""Files of predictions that can be gone on with: what made them in the first line, then a line for each question.

A prediction is used again only for the question that it answered, by what made it: scores of another press, seed or
data set under a system's name would look like any others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from latentpress.data.lines import ResumableLines, Row, Wording, parse_lines
from latentpress.evaluation.questions import Question

_WORDING = Wording(
    kind="predictions",
    other="answers another question than the data, limit and seed give",
    remedy="give another --out, or remove the file to have its answers made again",
)


class Predictions:
    """The predictions of one system on one set, in a file of their own; see `ResumableLines`.

    Args:
        path: the file, begun if it does not exist.
        made_by: whatever predictions depend on beside their questions; plain data.
        questions: what is to be answered, in order.
        begun: when and where, for the first line of a new file.

    Raises:
        InputError: the file holds other predictions, or none that can be read.
    """

    def __init__(
        self,
        path: Path,
        made_by: Mapping[str, Any],
        questions: Sequence[Question],
        *,
        begun: Mapping[str, Any] | None = None,
    ) -> None:
        self._questions = questions
        digests = [question.digest for question in questions]
        self._lines = ResumableLines(path, made_by, digests, key="question", wording=_WORDING, begun=begun)

    @property
    def rows(self) -> Sequence[Row]:
        """Prediction, its context's tokens, what was kept of them, and the digest of its question."""
        return self._lines.rows

    @property
    def missing(self) -> Sequence[Question]:
        """Questions without a prediction."""
        return self._questions[len(self.rows) :]

    def add(self, rows: Sequence[Row]) -> None:
        """Writes the predictions of the next questions that were missing."""
        self._lines.add([{"id": one.id, **row} for row, one in zip(rows, self.missing, strict=False)])


def parse(path: Path, content: bytes) -> tuple[Row, list[Row]]:
    """Header and rows of whole lines of a file of predictions.

    Raises:
        InputError: a line is no JSON object.
    """
    return parse_lines(path, content, _WORDING.remedy)
