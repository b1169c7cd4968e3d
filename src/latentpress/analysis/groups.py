"""Systems under the names that they are compared by: `mean-pooling=mine,last-tokens=a,last-tokens=b@4/8`.

A group has points, one a size. Of several systems in a group, such as the same method trained with other seeds, each
point is their mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from latentpress.analysis.comparison import Comparison, unknown
from latentpress.errors import InputError
from latentpress.evaluation.systems.base import Size

By = Literal["compressor", "policy"]
FIXED, SELECTOR = "fixed", "selector"
"""Behind an @: all fixed ratios, or the selector at all scales."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """One line of a comparison."""

    name: str
    """What it is called."""
    members: tuple[tuple[str, ...], ...]
    """Labels of each system, one a size, in the same order."""
    sizes: tuple[str, ...]
    """The sizes, as in the labels."""

    @property
    def points(self) -> list[tuple[str, tuple[str, ...]]]:
        """Each size with the labels of all members at it."""
        return list(zip(self.sizes, zip(*self.members, strict=True), strict=True))

    @property
    def labels(self) -> list[str]:
        """Labels of all members."""
        return [label for member in self.members for label in member]


def parse_groups(text: str, comparison: Comparison) -> list[Group]:
    """Reads `NAME=SYSTEM[@SIZES],...`; a name that comes twice has two systems.

    Sizes are `fixed`, `selector`, or single ones as `latentpress eval --with` takes them; without any the fixed ratios,
    or the selector's sizes where there are no fixed ones.

    Raises:
        InputError: the text cannot be read, a system is not there, or has no size of those asked for.
    """
    members: dict[str, list[dict[str, str]]] = {}
    for word in filter(None, (part.strip() for part in text.split(","))):
        name, equals, system = word.partition("=")
        if not equals:
            name, system = word.partition("@")[0], word
        if not name or not system:
            raise InputError(f"group {word!r} has no name or no system; write NAME=SYSTEM, or NAME=SYSTEM@4/8")
        members.setdefault(name, []).append(_labels(system, comparison))
    if not members:
        raise InputError(f"--groups {text!r} names no group; write NAME=SYSTEM,OTHER=SYSTEM")
    return [_group(name, every, comparison) for name, every in members.items()]


def named_groups(comparison: Comparison, called: Mapping[str, str] | None = None) -> list[Group]:
    """A group for each press, at its fixed ratios, or at its selector's sizes where it has none.

    Args:
        comparison: whose presses.
        called: names of groups by fingerprint of a press; those without one are called as in the folder.

    Raises:
        InputError: there is no press.
    """
    presses = [one for one in comparison.systems.values() if one.kind == "press"]
    if not presses:
        raise InputError(
            f"{comparison.place} holds no press; name the systems to compare with --groups NAME=SYSTEM,..."
        )
    names = {one.name: (called or {}).get(str(one.identity.get("press")), one.name) for one in presses}
    made = []
    for system, name in names.items():
        alone = [*names.values()].count(name) == 1
        made.append(_group(name if alone else f"{name} ({system})", [_labels(system, comparison)], comparison))
    return made


def press_words(folders: Sequence[str], by: By) -> dict[str, str]:
    """Compressor or policy of shipped and other presses, by fingerprint.

    Raises:
        PressError: a folder is no press.
    """
    from latentpress.checkpoints.io import read_config
    from latentpress.loading import press_folder, shipped_presses

    words = {}
    for place in [*shipped_presses().values(), *(press_folder(folder, config_only=True) for folder in folders)]:
        config, _, fingerprint = read_config(place)
        words[fingerprint] = config.compressor if by == "compressor" else config.policy
    return words


def _group(name: str, members: Sequence[Mapping[str, str]], comparison: Comparison) -> Group:
    """A group of systems given by their labels by size, at the sizes that all of them have."""
    sizes = [size for size in members[0] if all(size in one for one in members)]
    if not sizes:
        raise InputError(
            f"the systems of group {name!r} have no size in common in {comparison.place}; give them sizes that they "
            "share, or groups of their own"
        )
    return Group(name=name, members=tuple(tuple(one[size] for size in sizes) for one in members), sizes=tuple(sizes))


def _labels(text: str, comparison: Comparison) -> dict[str, str]:
    """Labels of a system by size."""
    name, _, wanted = text.partition("@")
    fixed, chosen = (comparison.labels(name, chosen=choice) for choice in (False, True))
    if wanted in ("", FIXED, SELECTOR):
        found = {FIXED: fixed, SELECTOR: chosen}.get(wanted, fixed or chosen)
        if not found:
            add = ["2", "4", "8"] if wanted == FIXED else ["auto"]
            raise InputError(
                f"{comparison.place} holds no {wanted} sizes of {name!r}; "
                f"add some with `{comparison.command(name, add)}`"
            )
        return {str(comparison.systems[label].size): label for label in found}
    every = {str(comparison.systems[label].size): label for label in (*fixed, *chosen)}
    picked = {}
    for word in wanted.split("/"):
        size = str(Size.parse(word))
        if size not in every:
            raise InputError(
                f"{unknown('size', f'{name}@{word}', list(every), comparison.place)}; "
                f"add it with `{comparison.command(name, [word])}`"
            )
        picked[size] = every[size]
    return picked
