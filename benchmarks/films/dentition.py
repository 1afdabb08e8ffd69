"""Which teeth a drawn mouth has and where: positions before they are projected on the film.

Millimetres from the middle of the occlusal plane: x to the viewer's right, y down.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from films.tooth import SIZES

#: Quadrant -> the viewer's side (-1: left), and 1 for the upper jaw.
QUADRANTS = {1: (-1, True), 2: (1, True), 3: (1, False), 4: (-1, False)}
State = Literal["healthy", "filled", "crowned", "root"]


@dataclass
class Tooth:
    """A tooth in its place.

    Attributes:
        number: FDI number.
        x, y: the neck's middle.
        lean: angle in radians between the tooth's axis and the vertical; positive: the root points outwards (distal).
        size, short: factors of all lengths and of the root's.
        state: ``root``: only the roots are left.
        treated: its canals are filled.
        impacted: it lies in the bone.
        young: its canals are wide, and it has no caries.
    """

    number: int
    x: float
    y: float
    lean: float
    size: float
    short: float = 1.0
    state: State = "healthy"
    treated: bool = False
    impacted: bool = False
    young: bool = False

    @property
    def unit(self) -> int:
        return self.number % 10

    @property
    def side(self) -> int:
        return QUADRANTS[self.number // 10][0]

    @property
    def upper(self) -> bool:
        return QUADRANTS[self.number // 10][1]


@dataclass
class Mouth:
    """A dentition.

    Attributes:
        teeth: in drawing order.
        implants: x, y and lean of each; pontics: teeth of bridges without roots. Neither is labelled.
        young: no implants and bridges.
        loss: height of the lost bone in mm.
        brackets: teeth carry orthodontic brackets.
    """

    teeth: list[Tooth] = field(default_factory=list)
    implants: list[Tooth] = field(default_factory=list)
    pontics: list[Tooth] = field(default_factory=list)
    young: bool = False
    loss: float = 0.0
    brackets: bool = False


#: Kind of person -> share, mean number of missing teeth, rates of fillings, crowns and treated canals.
_PEOPLE = {
    "young": (0.3, 0.3, 0.06, 0.01, 0.01),
    "braces": (0.12, 0.2, 0.03, 0.0, 0.01),
    "adult": (0.36, 2.5, 0.25, 0.1, 0.1),
    "old": (0.22, 9.0, 0.25, 0.2, 0.16),
}
#: How likely a unit is lost, relative to others: first molars and premolars first, canines last.
_LOST = np.array([0.8, 0.8, 0.3, 1.0, 1.1, 2.2, 1.6, 0.6])


def draw_mouth(rng: np.random.Generator) -> Mouth:
    """Draw a dentition."""
    kind = str(rng.choice(list(_PEOPLE), p=[row[0] for row in _PEOPLE.values()]))
    _, mean, filled, crowned, treated = _PEOPLE[kind]
    mouth = Mouth(young=kind in ("young", "braces"), brackets=kind == "braces")
    mouth.loss = {"adult": rng.gamma(2, 0.4), "old": rng.gamma(3, 0.8)}.get(kind, 0.0)
    extracted = mouth.young and rng.random() < 0.25  # four premolars, for orthodontic reasons; the gaps are closed
    lost = rng.poisson(mean)
    for quadrant in QUADRANTS:
        missing = _missing(rng, lost, rng.random() < (0.35 if kind == "old" else 0.08), kind)
        closing = np.full(8, rng.uniform(0.0, 0.9)) * rng.uniform(0.3, 1, 8)
        if extracted:
            missing[3], closing[3] = True, 1.0
        _fill_quadrant(rng, mouth, quadrant, missing, closing)
    for tooth in mouth.teeth:
        tooth.young = mouth.young
        if tooth.impacted:
            continue
        rate = np.array([0.25, 0.25, 0.25, 0.9, 1.1, 2.0, 1.7, 0.6])[tooth.unit - 1]
        draw = rng.random()
        if draw < crowned * min(rate, 1.3):
            tooth.state = "crowned"
        elif draw < (crowned + filled) * rate:
            tooth.state = "filled"
        elif kind in ("adult", "old") and rng.random() < 0.025:
            tooth.state = "root"
        tooth.treated = rng.random() < treated * rate * (2.5 if tooth.state == "crowned" else 0.7)
    _bridges(rng, mouth)
    order = rng.permutation(len(mouth.teeth))
    mouth.teeth = [mouth.teeth[i] for i in order]
    return mouth


def _missing(rng: np.random.Generator, lost: int, row: bool, kind: str) -> NDArray[np.bool_]:
    """Units of one quadrant that are not there: single ones, and sometimes several in a row."""
    missing = rng.random(8) < np.minimum(lost / 32 * _LOST / _LOST.mean(), 0.95)
    missing[7] |= rng.random() < {"young": 0.45, "braces": 0.6, "adult": 0.45, "old": 0.6}[kind]
    if row:
        first = int(rng.integers(2, 7))
        missing[first : first + int(rng.integers(2, 5))] = True
    return missing


def _fill_quadrant(
    rng: np.random.Generator,
    mouth: Mouth,
    quadrant: int,
    missing: NDArray[np.bool_],
    closing: NDArray[np.float64],
) -> None:
    """Place the teeth of a quadrant from the middle outwards; neighbours drift into gaps and lean into them."""
    side, upper = QUADRANTS[quadrant]
    size = rng.normal(1, 0.05)
    tight = rng.normal(0.1, 0.35) if rng.random() < 0.8 else -0.9
    at = rng.normal(0.2, 0.4)
    drift = 0.0
    for unit in range(1, 9):
        width, crown, _ = SIZES["upper" if upper else "lower"][unit - 1]
        width *= size
        if missing[unit - 1]:
            at += width * (1 - closing[unit - 1])
            drift = max(drift, closing[unit - 1])
            if unit < 8 and closing[unit - 1] < 0.4 and rng.random() < (0.0 if mouth.young else 0.12):
                place = side * (at - width / 2), -crown if upper else crown
                mouth.implants.append(Tooth(quadrant * 10 + unit, *place, rng.normal(0, 0.06), size))
            continue
        lean = {1: 0.02, 2: 0.06, 3: 0.1, 4: 0.06, 5: 0.06, 6: 0.1, 7: 0.16, 8: 0.22}[unit] * (0.7 if upper else 1.1)
        lean += rng.normal(0, 0.055) + (0.3 * drift * rng.uniform(0.2, 1) if unit >= 6 and drift else 0)
        overlap = rng.uniform(0.2, 1.6) if unit in (4, 5) else 0.0
        out = rng.normal(0, 0.7) + (rng.uniform(0, 2.0) if rng.random() < 0.12 else 0)  # some have grown too long
        neck = crown * size + rng.normal(0.4, 0.3) - out
        if unit <= 3:
            neck += 0.4
        tooth = Tooth(quadrant * 10 + unit, side * (at + width / 2 - overlap), -neck if upper else neck, lean, size)
        if unit == 8 and rng.random() < (0.6 if mouth.young else 0.3):
            _impact(rng, tooth, mouth.young)
        elif unit == 3 and upper and rng.random() < 0.02:
            tooth.impacted, tooth.y, tooth.lean = True, -neck - rng.uniform(6, 12), rng.uniform(0.3, 0.9)
        mouth.teeth.append(tooth)
        at += width + rng.normal(tight, 0.35) * (0.6 if unit in (3, 4, 5) else 0.9) - overlap
        drift *= 0.4


def _impact(rng: np.random.Generator, tooth: Tooth, young: bool) -> None:
    """Move a wisdom tooth into the bone: leaning on its neighbour, lying, or upright but deep."""
    tooth.impacted = True
    tooth.short = rng.uniform(0.25, 1) if young else rng.uniform(0.8, 1.1)
    depth = rng.uniform(1, 9)
    tooth.y += -depth if tooth.upper else depth
    tooth.lean += rng.normal(0.6, 0.5) if not tooth.upper else rng.normal(-0.2, 0.4)
    tooth.x += tooth.side * rng.uniform(-1, 4)


def _bridges(rng: np.random.Generator, mouth: Mouth) -> None:
    """Close some gaps of one or two teeth by a bridge between crowned neighbours."""
    if mouth.young:
        return
    taken = {tooth.number for tooth in mouth.implants}
    there = {tooth.number: tooth for tooth in mouth.teeth if not tooth.impacted}
    for quadrant in QUADRANTS:
        units = [unit for unit in range(1, 9) if quadrant * 10 + unit in there]
        for near, far in pairwise(units):
            gap = range(near + 1, far)
            if not 1 <= len(gap) <= 2 or rng.random() > 0.35 or any(quadrant * 10 + unit in taken for unit in gap):
                continue
            ends = there[quadrant * 10 + near], there[quadrant * 10 + far]
            for tooth in ends:
                tooth.state = "crowned"
            for i, unit in enumerate(gap, 1):
                share = i / (len(gap) + 1)
                x, y = (ends[0].x * (1 - share) + ends[1].x * share, ends[0].y * (1 - share) + ends[1].y * share)
                mouth.pontics.append(Tooth(quadrant * 10 + unit, x, y, 0.05, ends[0].size))
