"""What a picture shows, exactly, and what of it a caption names."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Thing:
    """One shape. `centre` (x, y) and `diameter` are shares of the picture's side; `tint` is added to the colour."""

    shape: str
    colour: str
    size: str
    centre: tuple[float, float]
    diameter: float
    tint: tuple[int, int, int] = (0, 0, 0)


@dataclass(frozen=True)
class Single:
    """One shape on a plain background. `position` is None when it has none of the named ones."""

    thing: Thing
    background: str
    position: str | None
    tint: tuple[int, int, int] = (0, 0, 0)


@dataclass(frozen=True)
class Pair:
    """Two shapes: `first` is left of, right of, above, below or inside `second`."""

    first: Thing
    second: Thing
    relation: str
    background: str
    tint: tuple[int, int, int] = (0, 0, 0)


@dataclass(frozen=True)
class Scene:
    """A landscape. `places` and `scales` belong to `parts`; `colours` names the colour of parts that come in several.

    `sky` says whether the sun (at night, the moon) is seen, at `sky_place`. `ridge` in 0 to 1 varies the ground's line.
    """

    time: str
    ground: str
    parts: tuple[str, ...]
    colours: tuple[str | None, ...]
    places: tuple[float, ...]
    scales: tuple[float, ...]
    sky: bool
    sky_place: tuple[float, float]
    horizon: float
    ridge: float


Description = Single | Pair | Scene


@dataclass(frozen=True)
class Named:
    """What a caption names; what is None or empty it leaves open, and any picture satisfies it.

    `things` has (size, colour, shape) of each thing; `parts` has (part, colour) of each part of a scene.
    """

    kind: str
    things: tuple[tuple[str | None, str | None, str], ...] = ()
    background: str | None = None
    position: str | None = None
    relation: str | None = None
    time: str | None = None
    ground: str | None = None
    parts: tuple[tuple[str, str | None], ...] = ()
    sky: str | None = None


def as_dict(description: Description) -> dict:
    """The attributes as plain values, with `kind`: single, pair or scene."""
    return {"kind": type(description).__name__.lower(), **asdict(description)}
