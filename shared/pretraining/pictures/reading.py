"""Reads the shapes of a picture: which, of what colour, how large and where. No network: colours and templates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image
from scipy import ndimage

from shared.pretraining.pictures.canvas import coverage
from shared.pretraining.pictures.colours import lab, nearest, nearest_indices
from shared.pretraining.pictures.mascot import MINT
from shared.pretraining.pictures.mascot_judge import FoundMascot, find_mascot
from shared.pretraining.pictures.outlines import outline
from shared.pretraining.pictures.vocabulary import MASCOT, NEW_SHAPES, SHAPES, SIZES

# Pictures of other sizes are brought to this one.
_SIDE = 128
# A mask is compared at this many pixels a side, in which it has this share of the area.
_GRID, _FILL = 48, 0.25
# A pixel that differs this much (ΔE) from the background belongs to a thing; smaller shares of the picture are specks.
_DIFFERENT, _SPECK = 14.0, 0.0035
_LIMITS = (math.sqrt(SIZES["small"] * SIZES["medium"]), math.sqrt(SIZES["medium"] * SIZES["large"]))


@dataclass(frozen=True)
class SeenThing:
    """A shape that was seen. `overlap` is the intersection over union with the template that fits best; lengths are
    shares of the picture's side; `inside` tells the number of the thing that encloses it."""

    shape: str
    overlap: float
    colour: str
    size: str
    centre: tuple[float, float]
    diameter: float
    inside: int | None = None


@dataclass(frozen=True)
class Seen:
    """What was seen: the background's colour, and the things from the largest to the smallest."""

    background: str
    things: tuple[SeenThing, ...]


def read(picture: Image.Image) -> Seen:
    """The background and the things of a picture of plain shapes. Raises ValueError below 32 pixels a side."""
    if min(picture.size) < 32:
        raise ValueError(f"a picture of {picture.size[0]} × {picture.size[1]} pixels is too small: 32 a side at least")
    if picture.size != (_SIDE, _SIDE):
        picture = picture.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    rgb = np.asarray(picture.convert("RGB"), np.float32)
    frame = np.concatenate([edge.reshape(-1, 3) for edge in (rgb[:3], rgb[-3:], rgb[:, :3], rgb[:, -3:])])
    background = np.median(frame, 0)
    found = []
    taken = np.zeros(rgb.shape[:2], bool)  # on white, the mascot's pupils are regions of their own
    for whole in _connected(rgb, background):
        if taken[whole].all():
            continue
        mascot = find_mascot(rgb, whole)
        if mascot:
            taken |= ndimage.binary_fill_holes(whole)
            found.append((_mascot(mascot), whole.astype(np.float32)))
        else:
            pieces = _pieces(whole, rgb, background)
            found += [(_thing(mask, rgb, core), mask) for mask, core in pieces]
    return Seen(nearest(background), _nested(found))


def size_name(diameter: float) -> str:
    """The named size that a diameter (share of the side) belongs to."""
    return "small" if diameter < _LIMITS[0] else "medium" if diameter < _LIMITS[1] else "large"


def classify(mask: np.ndarray) -> tuple[str, float, tuple[float, float], float]:
    """The shape whose template overlaps a mask (height × width, 0 to 1) best, the overlap, and that shape's centre
    (x, y) and diameter in pixels."""
    area = float(mask.sum())
    ys, xs = np.mgrid[: mask.shape[0], : mask.shape[1]] + 0.5
    cx, cy = float((mask * xs).sum() / area), float((mask * ys).sum() / area)
    # Scaled so that every mask has the same area, with its centroid in the middle.
    step = math.sqrt(area / (_FILL * _GRID**2))
    left, top = cx - _GRID / 2 * step, cy - _GRID / 2 * step
    grey = Image.fromarray(np.ascontiguousarray(mask, np.float32))
    transform = (step, 0, left, 0, step, top)
    normal = np.asarray(grey.transform((_GRID, _GRID), Image.Transform.AFFINE, transform, Image.Resampling.BILINEAR))
    names, templates, centroids, areas = _templates()
    both = np.minimum(templates, normal).sum((1, 2))
    overlaps = both / np.maximum(templates, normal).sum((1, 2))
    best = int(overlaps.argmax())
    diameter = math.sqrt(area / areas[best])
    centre = (cx - centroids[best][0] * diameter, cy - centroids[best][1] * diameter)
    return names[best], float(overlaps[best]), centre, diameter


@cache
def _templates():
    """Names, masks of equal area around their centroids, centroids and areas of the shapes with diameter 1."""
    names = (*SHAPES, *NEW_SHAPES)
    masks, centroids, areas = [], [], []
    side = 256
    ys, xs = (np.mgrid[:side, :side] + 0.5) / side * 1.25 - 0.625

    def pixels(points, scale, centre):
        return [(centre[0] + scale * x, centre[1] + scale * y) for x, y in points]

    for name in names:
        corners, hole = outline(name)
        middle = (side / 2, side / 2)
        fine = coverage(pixels(corners, side / 1.25, middle), (0, 0, side, side), pixels(hole, side / 1.25, middle))
        area = float(fine.sum()) * (1.25 / side) ** 2
        centroid = (float((fine * xs).sum() / fine.sum()), float((fine * ys).sum() / fine.sum()))
        scale = math.sqrt(_FILL * _GRID**2 / area)
        at = (_GRID / 2 - centroid[0] * scale, _GRID / 2 - centroid[1] * scale)
        masks.append(coverage(pixels(corners, scale, at), (0, 0, _GRID, _GRID), pixels(hole, scale, at)))
        centroids.append(centroid)
        areas.append(area)
    return names, np.stack(masks), centroids, areas


def _connected(rgb: np.ndarray, background: np.ndarray) -> list[np.ndarray]:
    """The connected regions (bool) that differ from the background, without specks, the largest first."""
    different = np.linalg.norm(lab(rgb) - lab(background), axis=-1)
    parts, count = ndimage.label(different > _DIFFERENT)
    wholes = sorted((parts == number for number in range(1, count + 1)), key=lambda whole: -whole.sum())
    return [whole for whole in wholes if whole.sum() >= _SPECK * different.size]


def _pieces(whole: np.ndarray, rgb: np.ndarray, background: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each thing in a connected region, the soft mask and the core: the pixels well within that show its colour."""
    cores = _cores(whole, rgb, nearest_indices(rgb), _SPECK * whole.size)
    colours = [np.median(rgb[core], 0) for core in cores]
    # What is as coloured as the outermost belongs to it, such as what is seen of it through an inner ring.
    others = [i for i in range(1, len(cores)) if np.linalg.norm(lab(colours[i]) - lab(colours[0])) > _DIFFERENT]
    cores, colours = ([values[i] for i in (0, *others)] for values in (cores, colours))
    return list(zip(_masks(whole, rgb, background, cores, colours), cores, strict=True))


def _masks(
    whole: np.ndarray, rgb: np.ndarray, background: np.ndarray, cores: list[np.ndarray], colours: list[np.ndarray]
) -> list[np.ndarray]:
    """The soft masks of the pieces of a connected region: those that lie on the outermost, and those that touch it."""

    def against(ground, colour):
        towards = colour - ground
        return np.clip((rgb - ground) @ towards / (towards @ towards), 0, 1)

    filled = ndimage.binary_fill_holes(cores[0])
    enclosed = [(core & filled).sum() > 0.9 * core.sum() for core in cores]
    distance = np.linalg.norm(lab(rgb) - lab(background), axis=-1)
    outermost = np.clip(distance / np.linalg.norm(lab(colours[0]) - lab(background)), 0, 1)
    near = ndimage.binary_dilation(whole, iterations=2)
    masks = []
    for core, colour, within in list(zip(cores, colours, enclosed, strict=True))[1:]:
        wider = ndimage.binary_dilation(core, iterations=3)
        masks.append(np.where(wider, against(colours[0] if within else background, colour), 0).astype(np.float32))
        if within:
            outermost = np.maximum(outermost, wider)
        else:
            near &= ~wider
    return [np.where(near, outermost, 0).astype(np.float32), *masks]


def _cores(whole: np.ndarray, rgb: np.ndarray, names: np.ndarray, speck: float) -> list[np.ndarray]:
    """The connected pieces of one colour in a connected region, the outermost first."""
    # On the edge between two colours lie mixtures that may look like a third one.
    change = np.max(ndimage.maximum_filter(rgb, (3, 3, 1)) - ndimage.minimum_filter(rgb, (3, 3, 1)), -1)
    flat = whole & (change < 40)
    cores = []
    for name in np.unique(names[flat]):
        pieces, count = ndimage.label(flat & (names == name))
        sizes = ndimage.sum_labels(np.ones_like(pieces), pieces, range(1, count + 1))
        cores += [pieces == number + 1 for number, size in enumerate(sizes) if size >= speck / 2]
    if not cores:
        return [whole]
    return sorted(cores, key=lambda core: -np.ptp(np.nonzero(core)[0]) - np.ptp(np.nonzero(core)[1]))


def _thing(mask: np.ndarray, rgb: np.ndarray, core: np.ndarray) -> SeenThing:
    shape, overlap, centre, diameter = classify(mask)
    side = mask.shape[0]
    # The size is that of the outline: of a ring, the hole is part of it.
    return SeenThing(
        shape, overlap, nearest(np.median(rgb[core], 0)), size_name(diameter / side),
        (centre[0] / side, centre[1] / side), diameter / side,
    )  # fmt: skip


def _mascot(found: FoundMascot) -> SeenThing:
    centre = (found.centre[0] / _SIDE, found.centre[1] / _SIDE)
    diameter = found.diameter / _SIDE
    return SeenThing(MASCOT, found.overlap, nearest(MINT), size_name(diameter), centre, diameter)


def _nested(found: list[tuple[SeenThing, np.ndarray]]) -> tuple[SeenThing, ...]:
    """The things, largest first, each with the smallest one whose filled mask holds its middle."""
    found = sorted(found, key=lambda pair: -pair[0].diameter)
    filled = [ndimage.binary_fill_holes(mask > 0.5) for _, mask in found]
    things = []
    for index, (thing, mask) in enumerate(found):
        body = mask > 0.5
        around = [
            other for other in range(index) if body.any() and (filled[other] & body).sum() > 0.95 * body.sum()
        ]
        things.append(SeenThing(**{**thing.__dict__, "inside": around[-1] if around else None}))
    return tuple(things)
