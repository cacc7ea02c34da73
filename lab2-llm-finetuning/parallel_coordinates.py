"""A picture of many trials at once: an upright axis for each hyperparameter, a line for each trial."""

from collections.abc import Mapping, Sequence

import numpy as np

_SHADES = "viridis_r"  # light to dark, also in grey


def parallel_coordinates(
    trials: Sequence[Mapping[str, float]], axes: Mapping[str, str], objective: str, minimize: bool = True
):
    """A matplotlib figure; `trials` map the names of `axes` and `objective` to numbers.

    `axes` maps each hyperparameter to its scale, "linear" or "log"; the objective's axis is the last. Dark lines are
    good trials, the best one is thick. Trials whose objective is not a finite number are left out. Raises ValueError
    when none is left, or for values that a logarithm does not have.
    """
    from matplotlib import colormaps, pyplot

    trials = [trial for trial in trials if np.isfinite(trial[objective])]
    if not trials:
        raise ValueError(f"no trial has a value of {objective}: there is nothing to draw")
    scales = {**axes, objective: "linear"}
    heights = {name: _heights([trial[name] for trial in trials], name, scale) for name, scale in scales.items()}
    values = np.array([trial[objective] for trial in trials])
    order = np.argsort(-values if minimize else values)  # the best is drawn last, above the others
    ranks = np.empty(len(trials))
    ranks[order] = np.linspace(0.15, 1, len(trials)) if len(trials) > 1 else 1.0
    figure, picture = pyplot.subplots(figsize=(1.6 + 1.9 * len(scales), 3.6))
    for index in order:
        best = index == order[-1]
        line = [heights[name][index] for name in scales]
        colour = colormaps[_SHADES](ranks[index])
        picture.plot(range(len(scales)), line, color=colour, linewidth=4 if best else 1.6, marker="o", markersize=5)
    for place, name in enumerate(scales):
        picture.axvline(place, color="#7a8794", linewidth=1, zorder=0)
        seen = sorted({(height, trial[name]) for height, trial in zip(heights[name], trials, strict=True)})
        for height, value in _apart(seen):
            text = {"ha": "right", "va": "center", "fontsize": 8.5, "color": "#333333", "zorder": 3}
            box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1}
            picture.text(place - 0.05, height, _short(value), bbox=box, **text)
    picture.set_xticks(range(len(scales)), list(scales))
    picture.tick_params(axis="x", length=0, labelsize=10)
    picture.set(yticks=[], xlim=(-0.45, len(scales) - 0.85), ylim=(-0.08, 1.08))
    picture.grid(False)
    picture.spines[:].set_visible(False)
    return figure


def _heights(values: Sequence[float], name: str, scale: str) -> np.ndarray:
    """The values between 0 and 1, the lowest and the highest at the ends."""
    numbers = np.asarray(values, float)
    if scale not in ("linear", "log"):
        raise ValueError(f"the scale of {name} is {scale!r}: it is linear or log")
    if scale == "log":
        if (numbers <= 0).any():
            raise ValueError(f"{name} has values that are not above 0: they have no place on a logarithmic axis")
        numbers = np.log(numbers)
    span = numbers.max() - numbers.min()
    return (numbers - numbers.min()) / span if span else np.full(len(numbers), 0.5)


def _apart(places: list[tuple[float, float]], distance: float = 0.07) -> list[tuple[float, float]]:
    """Those of the (height, value) labels that do not cover one another; both ends stay."""
    if not places:
        return []
    last = places[-1]
    kept = [places[0]]
    for place in places[1:-1]:
        if place[0] - kept[-1][0] >= distance and last[0] - place[0] >= distance:
            kept.append(place)
    return kept if last == kept[-1] else [*kept, last]


def _short(value: float) -> str:
    return f"{value:g}" if float(value).is_integer() else f"{value:.2g}" if abs(value) < 0.1 else f"{value:.3g}"
