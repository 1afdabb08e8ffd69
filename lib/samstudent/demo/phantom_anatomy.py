"""Mean anatomy of the synthetic wrists: outlines of the bones and of the skin, in mm.

Left hand in dorsal view: x increases to the thumb, y to the elbow, z to the palm. The origin is the joint between
capitate and lunate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Bone:
    """Bone of the mean wrist, lengths in mm."""

    #: Corners "x,y x,y ..." of a polygon; the bone's outline is this polygon, smoothed.
    outline: str
    z: float
    #: Extent in z at the thick end.
    depth: float
    #: Share of the hand's tilt against the forearm: 0 forearm, 0.5 first carpal row, 1 hand.
    follows: float
    #: Thickness of the cortical bone.
    shell: float = 0.5
    #: Long bones: thickness of the cortical bone of the shaft (0: not a long bone), width of the shaft, and its begin.
    shaft_shell: float = 0.0
    shaft_width: float = 0.0
    shaft_from: tuple[float, float] = (0.0, 0.0)

    @property
    def points(self) -> NDArray[np.float64]:
        """Corners of the outline, float (n, 2), x and y."""
        return corners(self.outline)


def corners(text: str) -> NDArray[np.float64]:
    """Points float (n, 2) from a text "x,y x,y ..."."""
    return np.array([pair.split(",") for pair in text.split()], float)


def _metacarpal(x0: float, y0: float, x1: float, y1: float, z: float, width: float = 1.0) -> Bone:
    """Metacarpal bone from the middle of its base (x0, y0) to the end of its head (x1, y1)."""
    along, across = np.array([x1 - x0, y1 - y0]), np.array([y0 - y1, x1 - x0])
    across = across / np.hypot(*across) * width
    # (share of the length, half of the width)
    profile = corners("-0.02,4 0,6.2 0.06,6.9 0.14,6 0.3,4.1 0.55,3.9 0.75,4.8 0.9,6.4 1,5")
    base = np.array([x0, y0])
    right = [base + t * along + half * across for t, half in profile]
    left = [base + t * along - half * across for t, half in profile[::-1]]
    start = base + 0.22 * along
    return Bone(
        " ".join(f"{x:.6f},{y:.6f}" for x, y in right + left), z, 12.0 * width, 1.0,
        shell=0.8, shaft_shell=2.0 * width, shaft_width=8.0 * width, shaft_from=(float(start[0]), float(start[1])),
    )  # fmt: skip


#: All bones of the image by name. Only those of ``phantom.NAMES`` are structures of the task: a real radiograph also
#: shows bones that are not segmented.
BONES: dict[str, Bone] = {
    "radius": Bone(
        "-4,12 3,12.5 10,10 17,6.5 22,3 25,5 26,11 24.5,19 21.5,28 18.5,39 17,52 17,99 4,99 3.5,52 1.5,38 "
        "-1,28 -4,20 -5,15",
        z=0, depth=20, follows=0, shaft_shell=2.8, shaft_width=13, shaft_from=(10, 33),
    ),
    "ulna": Bone(
        "-20,8.5 -18,11 -15,14 -10,13.5 -5,16 -3.5,20 -5.5,26 -8,33 -8.5,46 -8.5,99 -18,99 -18,46 -18.5,33 "
        "-21,24 -22,16 -21.5,10",
        z=-3, depth=14, follows=0, shaft_shell=2.4, shaft_width=9.5, shaft_from=(-13, 30),
    ),
    "scaphoid": Bone(
        "4.5,6.5 3.5,2 7,-3.5 11,-8.5 16,-11.5 20.5,-9.5 21.5,-4.5 18.5,1.5 14,6 9.5,8.5",
        z=2, depth=13, follows=0.6,
    ),
    "lunate": Bone(
        "-9.5,3 -8.5,-2.5 -6,-2.5 -1.5,3 3.5,-3.5 6.2,-2 6.5,7.5 2.5,12 -4,12.5 -9,9",
        z=1, depth=15, follows=0.5,
    ),
    "triquetrum": Bone(
        "-22,-3 -18,-8 -12,-6 -8.5,-1 -8.5,5 -13,8 -18.5,5 -22.5,1",
        z=-2, depth=12, follows=0.6,
    ),
    "trapezium": Bone(
        "14.5,-13 17,-9.5 22,-9 27,-12 28.5,-17.5 25.5,-22.5 19.5,-22.5 15,-18.5",
        z=5, depth=13, follows=0.9,
    ),
    "capitate": Bone(
        "-4.5,-4 -2,0.5 2.5,1.5 6.5,-2 7.5,-7 7,-12 8.5,-18 7.5,-23.5 1,-25 -5,-23.5 -6,-16 -6,-10",
        z=-1, depth=17, follows=0.9,
    ),
    "hamate": Bone(
        "-5.5,-2 -4.5,-9 -4.5,-16 -5,-23 -10,-24 -18,-21.5 -19.5,-16.5 -16,-11 -11.5,-5.5 -8,-1",
        z=1, depth=14, follows=0.9,
    ),
    "metacarpal_2": _metacarpal(11.8, -21.8, 19.5, -80.0, -1.0, 1.02),
    "metacarpal_3": _metacarpal(1.8, -25.0, 4.0, -82.0, -2.0, 0.98),
    "metacarpal_4": _metacarpal(-7.8, -24.5, -12.5, -75.0, -1.0, 0.85),
    "metacarpal_5": _metacarpal(-15.9, -22.0, -27.0, -67.0, 1.5, 0.92),
    "metacarpal_1": _metacarpal(25.0, -21.5, 43.0, -58.0, 12.0, 1.05),
    "trapezoid": Bone(
        "7,-12 10,-10 14.5,-11.5 16.5,-16 14.5,-20.5 9,-20.5 7,-17",
        z=0, depth=11, follows=0.9,
    ),
    "pisiform": Bone(
        "-20,-1 -18,-5 -14,-5.5 -11.5,-2 -13,2.5 -17.5,3",
        z=11, depth=8, follows=0.6,
    ),
}  # fmt: skip
#: Outline of the skin, corners as in ``Bone.outline``.
SKIN = "-26,-99 -30,-60 -30,-35 -28,-18 -26,0 -27.5,15 -28,40 -29,99 28,99 31,40 32,15 31,0 33,-15 42,-38 52,-60 62,-99"
