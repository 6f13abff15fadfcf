"""Class maps of asymmetric noise: what each class is mistaken for."""

# K classes.

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prunephase import sections
from prunephase.data import SUPERCLASS
from prunephase.errors import UserError


def following(groups: Sequence[int]) -> dict[int, int]:
    """Each class to the next of its group by index, the last to the first; groups: [K] the group of each class.

    >>> following([0, 1, 0, 1, 0])
    {0: 2, 1: 3, 2: 4, 3: 1, 4: 0}
    """
    members = {c: [other for other, group in enumerate(groups) if group == groups[c]] for c in range(len(groups))}
    return {c: same[(same.index(c) + 1) % len(same)] for c, same in members.items()}


# He et al. 2022 (ICML), appendix A.3: pairs of classes that people confuse; the next class of the true superclass.
CONFUSED: Mapping[str, Mapping[int, int]] = {
    "mnist": {2: 7, 3: 8, 5: 6, 6: 5},
    "cifar10": {2: 0, 4: 7, 9: 1, 3: 5, 5: 3},
    "cifar100": following(SUPERCLASS),
}


def class_map(spec: sections.Noise, source: str, classes: int) -> Mapping[int, int]:
    """The class map of asymmetric noise.

    block5 is that of He et al.'s code for CIFAR-100, inherited from other label-noise code: blocks of five classes by
    index, which are not the superclasses, as the classes stand in alphabetical order.
    """
    if spec.map == "block5":
        if classes % 5:
            raise UserError(f"noise.map = 'block5': {classes} classes are not blocks of five; name a map of classes")
        return following([c // 5 for c in range(classes)])
    if spec.map is None:
        if source not in CONFUSED:
            raise UserError(
                f"noise.kind = 'asymmetric': no map is known for data.source = '{source}'; name one, as in map = "
                f'{{ "2" = 7, "3" = 8 }}'
            )
        return CONFUSED[source]
    pairs = {int(c): to for c, to in spec.map.items()}
    for c, to in pairs.items():
        if max(c, to) >= classes:
            raise UserError(f"noise.map: {c} -> {to}, but the classes are 0..{classes - 1}; correct the map")
        if c == to:
            raise UserError(f"noise.map: {c} -> {to} changes nothing; leave class {c} out")
    if not pairs:
        raise UserError("noise.map: is empty; name at least one class, or kind = 'none'")
    return pairs
