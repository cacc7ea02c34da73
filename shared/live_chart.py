"""A chart that grows in place while a job runs.

One output, updated at most every `INTERVAL` seconds: the saved notebook keeps the last picture only, and the page does
not jump, because each picture has the same size. Outside a notebook's kernel only the last one is shown.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from IPython import get_ipython
from IPython.display import display

from shared.display import COLOURS, Output, picture, style

INTERVAL = 2.0
_MARKERS = "osD^vP"
_SIZE = (6.4, 3.2)  # inches

Points = Sequence[tuple[float, float]]


class LiveChart:
    """Lines over training steps. Makes its place in the output at once, so that what is printed stands below."""

    def __init__(self, xlabel: str = "step", ylabel: str = "loss"):
        self._labels = {"xlabel": xlabel, "ylabel": ylabel}
        self._drawn = 0.0
        self._last: dict[str, list[tuple[float, float]]] = {}
        self._output: Output | None = None
        self._handle = None
        if getattr(get_ipython(), "kernel", None) is not None:
            self._handle = display(_in_place("<i>The chart appears with the first numbers.</i>", ""), display_id=True)

    def draw(self, series: Mapping[str, Points], last_step: float | None = None, final: bool = False) -> None:
        """Draw `series`, (step, value) by name, unless nothing is new or the last picture is younger than INTERVAL.

        `last_step` fixes the end of the axis. With `final` the picture is drawn however young the last one is.
        """
        current = {name: list(points) for name, points in series.items() if points}
        if not current or current == self._last or not (final or time.monotonic() - self._drawn >= INTERVAL):
            return
        self._output = _chart(current, last_step, self._labels)
        self._last = current
        self._drawn = time.monotonic()
        if self._handle is not None:
            self._handle.update(_in_place(self._output.html, self._output.text))

    def close(self) -> None:
        """Show the last picture where no place was made for it; take the place back if there was no picture."""
        if self._handle is None and self._output is not None:
            display(self._output)
        elif self._handle is not None and self._output is None:
            self._handle.update(Output("<i>The job gave no numbers to draw.</i>", "(no chart: no numbers)"))


def _in_place(html: str, text: str) -> Output:
    """With the chart's height reserved, so that nothing below moves when the picture is exchanged."""
    return Output(f"<div style='min-height:{round(_SIZE[1] * 80) + 8}px'>{html}</div>", text)


def _chart(series: Mapping[str, Points], last_step: float | None, labels: Mapping[str, str]) -> Output:
    from matplotlib import pyplot

    style()
    figure, axis = pyplot.subplots(figsize=_SIZE)
    for index, (name, points) in enumerate(series.items()):
        steps, values = zip(*points, strict=True)
        few = len(points) <= 30
        axis.plot(
            steps, values, color=COLOURS[index % len(COLOURS)], label=name, markersize=4,
            marker=_MARKERS[index % len(_MARKERS)] if few else None,
        )  # fmt: skip
    axis.set(**labels)
    if last_step:
        axis.set_xlim(0, last_step * 1.02)
    axis.grid(axis="y")
    axis.legend()
    ends = (f"{name} from {points[0][1]:.3g} to {points[-1][1]:.3g}" for name, points in series.items())
    steps = [step for points in series.values() for step, _ in points]
    return picture(figure, alt=f"{labels['ylabel']} by {labels['xlabel']} up to {max(steps):g}: {'; '.join(ends)}.")
