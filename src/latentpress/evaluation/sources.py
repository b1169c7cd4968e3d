"""Where data sets come from: a path, an id of the hub, or a name, and what the set is called in reports."""

from __future__ import annotations

import dataclasses
import difflib
import importlib.util
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from latentpress.data.records import DATA_SUFFIXES, HUB_ID, hub_stem
from latentpress.errors import InputError

__all__ = [
    "IN_DOMAIN",
    "OUT_OF_DOMAIN",
    "Source",
    "find_source",
    "find_sources",
    "known_names",
    "missing_names",
    "notes",
    "on_hub",
]

IN_DOMAIN = ("SQuAD", "NewsQA", "TriviaQA-web", "SearchQA", "HotpotQA", "NaturalQuestionsShort")
"""MRQA 2019's six sets that have a training part, as its files are called."""
OUT_OF_DOMAIN = ("BioASQ", "DROP", "DuoRC.ParaphraseRC", "RACE", "RelationExtraction", "TextbookQA")
"""MRQA 2019's six sets that have none, as its files are called."""
_SHORT = {
    "triviaqa": "TriviaQA-web",
    "naturalquestions": "NaturalQuestionsShort",
    "nq": "NaturalQuestionsShort",
    "duorc": "DuoRC.ParaphraseRC",
}
_MRQA = {name.casefold(): name for name in (*IN_DOMAIN, *OUT_OF_DOMAIN)} | _SHORT
_MRQA_HUB = "mrqa-workshop/mrqa"  # a question a row; `subset` is the set's name, out-of-domain sets are its test split
_ADVERSARIAL = "AdversarialQA"
_ADVERSARIAL_HUB = "UCLNLP/adversarial_qa@adversarialQA:validation"  # a question a row, of all three of its models
_NAMED = re.compile(r"([\w.-]+)=(.+)")
_NEAREST = 3
POOLED = "pooled"
"""What reports call all sets together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A data set before it is read."""

    name: str
    """What reports and files of predictions call it."""
    place: str
    """File, or id on the hub."""
    hub: bool = False
    """The place is on the hub."""
    subset: str | None = None
    """The rows of the place that are meant, by their field `subset`; None for all."""
    asked: str | None = None
    """What it was asked for by, where a file of the folder has that behind a prefix."""
    known: str | None = None
    """The name that it is known by, where it was asked for by that and is on the hub."""


def find_sources(words: Sequence[str], *, data_dir: str | Path | None = None) -> list[Source]:
    """Finds several data sets, as `find_source` does each.

    Raises:
        InputError: one cannot be found, or two have the same name.
    """
    sources = [find_source(word, data_dir=data_dir) for word in words]
    for name, count in Counter(source.name for source in sources).items():
        if count > 1:
            places = " and ".join(source.place for source in sources if source.name == name)
            raise InputError(f"{count} data sets are called {name!r} ({places}); name one of them: NAME=PATH")
        if name == POOLED:
            raise InputError(f"a data set cannot be called {name!r}, as reports call all sets together; give NAME=PATH")
    return sources


def find_source(word: str, *, data_dir: str | Path | None = None) -> Source:
    """Finds a data set.

    Args:
        word: a path; an id of the hub, "org/name[@configuration][:split]"; either of them with a name of its own,
            "name=path"; or a name, case aside: of a file in `data_dir` without its suffixes, of the only file there
            that has it behind a prefix (`bioasq` of `ood_bioasq.jsonl`), or one of MRQA's twelve sets or AdversarialQA,
            which come from the hub where the folder has no such file.
        data_dir: folder of data sets.

    Raises:
        InputError: there is no such file, set or folder, several files may be meant, or the set is on the hub and the
            package `datasets` missing.
    """
    folder = _folder(data_dir)
    named = None if Path(word).exists() else _NAMED.fullmatch(word)
    name, place = (named[1], named[2]) if named else (None, word)
    if Path(place).is_file() or "\\" in place or place.endswith(DATA_SUFFIXES):
        return Source(name=name or _stem(Path(place)), place=place)
    if "/" in place:
        hub = HUB_ID.fullmatch(place) is not None and not Path(place).parent.is_dir()
        stem = hub_stem(place) if hub else _stem(Path(place))
        return Source(name=name or stem, place=place, hub=hub)
    found = _in_folder(place, folder) or _on_hub(place, folder)
    if found is None:
        raise _unknown(place, folder)
    return dataclasses.replace(found, name=name or found.name)


def missing_names(names: Sequence[str], *, data_dir: str | Path | None = None) -> list[str]:
    """Of names of sets, those that are neither a file of the folder nor, with the package `datasets`, on the hub.

    Raises:
        InputError: the folder does not exist, or several of its files may be meant.
    """
    folder, hub = _folder(data_dir), _reads_hub()
    return [
        name
        for name in names
        if not (Path(name).is_file() or _in_folder(name, folder) is not None or (hub and on_hub(name)))
    ]


def notes(sources: Sequence[Source], data_dir: str | Path | None) -> list[str]:
    """A line for each set that was asked for by name and is not simply the folder's file of that name."""
    lines = []
    for source in sources:
        if data_dir is not None and source.known is not None:
            lines.append(
                f"{source.name}: {data_dir} has no file {source.known}; it is read from the hub, {source.place}"
            )
        elif source.asked is not None:
            lines.append(f"{source.name}: taken for {source.asked}, of which {data_dir} has no file; {source.place}")
    return lines


def on_hub(name: str) -> bool:
    """Whether a name is that of one of MRQA's twelve sets, or short for it, or AdversarialQA."""
    return name.casefold() in _MRQA or name.casefold() == _ADVERSARIAL.casefold()


def known_names(data_dir: str | Path | None = None) -> tuple[str, ...]:
    """Names that `find_source` takes: of the folder's files, then of MRQA's sets, then AdversarialQA.

    Raises:
        InputError: there is no such folder.
    """
    folder = _folder(data_dir)
    names = [] if folder is None else sorted(_stem(file) for file in _data_files(folder))
    return tuple(dict.fromkeys([*names, *IN_DOMAIN, *OUT_OF_DOMAIN, _ADVERSARIAL]))


def _folder(data_dir: str | Path | None) -> Path | None:
    folder = None if data_dir is None else Path(data_dir)
    if folder is not None and not folder.is_dir():
        raise InputError(f"the folder of data sets {str(folder)!r} does not exist; give a folder of data files")
    return folder


def _in_folder(name: str, folder: Path | None) -> Source | None:
    """The folder's file of that name, of the one that MRQA has for it, or the only one that ends in `_` and either."""
    stems = {} if folder is None else {file: _stem(file).casefold() for file in _data_files(folder)}
    names = list(dict.fromkeys([name.casefold(), _MRQA.get(name.casefold(), name).casefold()]))
    ways = [[file for file, stem in stems.items() if stem == called] for called in names]
    ways += [[file for file, stem in stems.items() if stem.endswith(f"_{called}")] for called in names]
    at, found = next(((at, files) for at, files in enumerate(ways) if files), (0, []))
    if len(found) > 1:
        places = " and ".join(sorted(file.name for file in found))
        raise InputError(f"data set {name!r} may be {places} of {folder}; give the path of the one that is meant")
    asked = name if at >= len(names) else None
    return Source(name=_stem(found[0]), place=str(found[0]), asked=asked) if found else None


def _on_hub(name: str, folder: Path | None) -> Source | None:
    """One of MRQA's sets, or AdversarialQA, on the hub."""
    if not on_hub(name):
        return None
    known = _MRQA.get(name.casefold(), _ADVERSARIAL)
    if not _reads_hub():
        where = "no folder of data sets is given" if folder is None else f"{folder} has no {known}.jsonl.gz"
        raise InputError(
            f"data set {known!r}: {where}, and reading it from the hub needs the package `datasets`; "
            f"give {known}=PATH, or pip install 'latentpress[hub]'"
        )
    if known == _ADVERSARIAL:
        return Source(name=known, place=_ADVERSARIAL_HUB, hub=True, known=known)
    split = "validation" if known in IN_DOMAIN else "test"
    return Source(name=known, place=f"{_MRQA_HUB}:{split}", hub=True, subset=known, known=known)


def _reads_hub() -> bool:
    return importlib.util.find_spec("datasets") is not None


def _unknown(name: str, folder: Path | None) -> InputError:
    known = known_names(folder)
    folded = {one.casefold(): one for one in (*_SHORT, *known)}
    nearest = [folded[one] for one in difflib.get_close_matches(name.casefold(), folded, n=_NEAREST)]
    meant = f" (did you mean {' or '.join(nearest)}?)" if nearest else ""
    within = f", nor in {folder}" if folder else ""
    return InputError(
        f"data set {name!r} is no file{within}, and no known name{meant}; give a path, NAME=PATH, an id of the hub "
        f"(org/name[@configuration][:split]) or one of {', '.join(known)}"
    )


def _data_files(folder: Path) -> list[Path]:
    return [file for file in folder.iterdir() if file.name.endswith(DATA_SUFFIXES) and file.is_file()]


def _stem(file: Path) -> str:
    """The file's name without the suffixes of data files: `DuoRC.ParaphraseRC` of `DuoRC.ParaphraseRC.jsonl.gz`."""
    name = file.name
    while name.endswith(DATA_SUFFIXES) and name != Path(name).suffix and Path(name).suffix:
        name = name[: -len(Path(name).suffix)]
    return name
