"""What people look at in a notebook: tables, charts with alternative text, pictures, generated texts, playgrounds.

Everything works as plain text too: in a terminal, in a headless run, for a screen reader. Charts are PNG in an HTML
<img> element, because that is the one form in which a notebook keeps their alternative text.
"""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from IPython.display import display

from shared.output import Output
from shared.picture_grid import animation, as_picture, picture_grid
from shared.picture_playground import picture_playground

__all__ = [
    "COLOURS",
    "Output",
    "animation",
    "as_picture",
    "completions",
    "line_with_interval",
    "next_token_bars",
    "picture",
    "picture_grid",
    "picture_playground",
    "playground",
    "shares_with_interval",
    "show",
    "stream_text",
    "style",
    "table",
    "visible",
]

# Okabe and Ito's palette, told apart with every kind of colour vision; without its yellow, which is weak on white.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
_GREY = "#8a8a8a"


def style() -> None:
    """Set matplotlib to the labs' look: colour-blind safe, large enough to read, on white in light and dark themes."""
    import matplotlib
    from cycler import cycler

    matplotlib.rcParams.update(
        {
            "axes.prop_cycle": cycler(color=COLOURS),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 11,
            "axes.titlelocation": "left",
            "axes.labelsize": 10,
            "axes.grid": True,
            "axes.grid.axis": "x",
            "axes.axisbelow": True,
            "grid.color": "#e4e4e4",
            "figure.facecolor": "white",
            "figure.constrained_layout.use": True,
            "font.size": 10,
            "legend.frameon": False,
            "lines.linewidth": 2,
            "text.parse_math": False,  # a token such as $x$ is no formula
        }
    )


def table(
    rows: Iterable[Mapping[str, Any] | Sequence[Any]], columns: Sequence[str] | None = None, caption: str = ""
) -> Output:
    """A table of `rows` (mappings, or sequences in the order of `columns`), values escaped, numbers to the right.

    Raises ValueError when a row does not fit the columns.
    """
    rows = list(rows)
    if columns is None:
        if not rows or not isinstance(rows[0], Mapping):
            raise ValueError("name the columns: table(rows, columns=[...])")
        columns = list(rows[0])
    cells = []
    for row in rows:
        values = [row.get(name, "") for name in columns] if isinstance(row, Mapping) else list(row)
        if len(values) != len(columns):
            raise ValueError(f"a row has {len(values)} values for {len(columns)} columns: {row!r}")
        cells.append(values)
    texts = [[_cell(value) for value in values] for values in cells]
    right = [bool(texts) and all(re.fullmatch(r"-?[\d,.]+%?|", row[i]) for row in texts) for i in range(len(columns))]

    def line(tag: str, values: Sequence[str]) -> str:
        aligned = zip(values, right, strict=True)
        style = "white-space:pre-wrap;text-align:"
        cells = (
            f"<{tag} style='{style}{'right' if number else 'left'}'>{html.escape(value)}</{tag}>"
            for value, number in aligned
        )
        return f"<tr>{''.join(cells)}</tr>"

    title = f"<caption style='text-align:left;font-weight:bold'>{html.escape(caption)}</caption>" if caption else ""
    body = "".join(line("td", values) for values in texts)
    markup = f"<table>{title}<thead>{line('th', columns)}</thead><tbody>{body}</tbody></table>"

    texts = [[value.replace("\n", " ⏎ ") for value in values] for values in texts]
    widths = [max([len(columns[i]), *(len(row[i]) for row in texts)]) for i in range(len(columns))]
    lines = [
        "  ".join(v.rjust(w) if r else v.ljust(w) for v, w, r in zip(row, widths, right, strict=True)).rstrip()
        for row in [list(columns), ["-" * width for width in widths], *texts]
    ]
    return Output(markup, "\n".join([caption, *lines] if caption else lines))


def show(figure, alt: str) -> None:
    """Display a matplotlib `figure` as a PNG with the alternative text `alt`, and close it. No alt: ValueError."""
    display(picture(figure, alt))


def picture(figure, alt: str) -> Output:
    """A matplotlib `figure` as a PNG with the alternative text `alt`, to be displayed; closes the figure.

    Raises ValueError without an alt.
    """
    from matplotlib import pyplot

    if not alt.strip():
        raise ValueError("say in alt what the figure shows")
    buffer = io.BytesIO()
    # Twice the pixels of its place in the page, for screens of high density; a palette keeps the file small.
    figure.savefig(buffer, format="png", dpi=160)
    pyplot.close(figure)
    png = _with_palette(buffer.getvalue())
    width = round(figure.get_figwidth() * 80)
    source = base64.b64encode(png).decode("ascii")
    return Output(
        f'<img alt="{html.escape(alt, quote=True)}" width="{width}" style="max-width:100%;height:auto" '
        f'src="data:image/png;base64,{source}">',
        f"[figure: {alt}]",
    )


def next_token_bars(
    distributions: Mapping[str, Sequence[tuple[str, float]]], title: str = "The next token", top: int = 10
) -> None:
    """Bars of the probability of the next token, side by side for each setting.

    `distributions` maps a setting's name to (token, probability from 0 to 1), at most `top` of which are shown. All
    settings show the tokens of the first in its order, then those that only they have, so bars compare by row.
    """
    from matplotlib import pyplot

    if not distributions:
        raise ValueError("next_token_bars needs at least one distribution")
    style()
    tokens = list(dict.fromkeys(token for pairs in distributions.values() for token, _ in list(pairs)[:top]))[:top]
    highest = max((p for pairs in distributions.values() for _, p in pairs), default=1.0)
    count = len(distributions)
    figure, axes = pyplot.subplots(
        1, count, sharey=True, squeeze=False, figsize=(min(1.6 + 2.9 * count, 12), 0.9 + 0.3 * len(tokens))
    )
    for axis, (name, pairs), colour in zip(axes[0], distributions.items(), _cycle(COLOURS), strict=False):
        probabilities = dict(pairs)
        values = [probabilities.get(token, 0.0) for token in tokens]
        axis.barh(range(len(tokens)), values, color=colour, height=0.7)
        for row, value in enumerate(values):
            label = f"{value:.0%}" if value >= 0.01 else ("<1%" if value > 0 else "0")
            axis.text(value, row, f" {label}", va="center", fontsize=8.5, color="#333333" if value else _GREY)
        axis.set(title=name, xlim=(0, highest * 1.18), xlabel="probability")
        axis.set_yticks(range(len(tokens)), [visible(token) for token in tokens], family="monospace")
    axes[0][0].invert_yaxis()
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=11)
    show(figure, alt=f"{title}. " + " ".join(_in_words(name, pairs) for name, pairs in distributions.items()))


def line_with_interval(
    x: Sequence[float],
    series: Mapping[str, tuple[Sequence[float], Sequence[float], Sequence[float]]],
    xlabel: str,
    ylabel: str,
    alt: str,
    title: str = "",
) -> None:
    """Lines with a band around each: `series` maps a name to (values, lower ends, upper ends), each as long as `x`."""
    from matplotlib import pyplot

    style()
    figure, axis = pyplot.subplots(figsize=(6.4, 3.4))
    markers = _cycle("osD^vP")
    for (name, (middle, low, high)), colour, marker in zip(series.items(), _cycle(COLOURS), markers, strict=False):
        axis.plot(x, middle, color=colour, marker=marker, markersize=5, label=name)
        axis.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
    axis.set(xlabel=xlabel, ylabel=ylabel, title=title)
    axis.grid(axis="y")
    if len(series) > 1:
        axis.legend()
    show(figure, alt)


def shares_with_interval(
    shares: Mapping[str, tuple[float, float, float]], title: str = "", xlabel: str = "share right"
) -> None:
    """One dot for each named share, from 0 to 1, with a line for its interval: `shares` gives (share, low, high)."""
    from matplotlib import pyplot

    if not shares:
        raise ValueError("shares_with_interval needs at least one share")
    style()
    names, values = list(shares), list(shares.values())
    figure, axis = pyplot.subplots(figsize=(6.4, 0.9 + 0.32 * len(names)))
    for row, (share, low, high) in enumerate(values):
        axis.plot((low, high), (row, row), color=COLOURS[0], linewidth=5, alpha=0.3, solid_capstyle="butt")
        axis.plot(share, row, "o", color=COLOURS[0], markersize=7)
        axis.text(1.03, row, f"{share:.0%}", va="center", fontsize=9, color="#333333")
    axis.set(xlim=(-0.02, 1.02), ylim=(len(names) - 0.5, -0.5), xlabel=xlabel, title=title)
    axis.set_yticks(range(len(names)), names)
    axis.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"])
    described = (f"{name}: {value:.0%}, from {low:.0%} to {high:.0%}." for name, (value, low, high) in shares.items())
    heading = title or xlabel
    show(figure, alt=" ".join([heading if heading.endswith("?") else f"{heading}.", *described]))


def completions(items: Iterable[Mapping[str, str]]) -> Output:
    """Generated texts to read: each item has `text`, and maybe `prompt` (dimmed before it) and `label` (above it)."""
    blocks, lines = [], []
    for item in items:
        label, prompt, text = item.get("label", ""), item.get("prompt", ""), item["text"]
        heading = f"<div style='font-size:85%;opacity:.75'>{html.escape(label)}</div>" if label else ""
        blocks.append(
            "<div style='border-left:4px solid #0072B2;padding:.3em .9em;margin:.6em 0;max-width:50em'>"
            f"{heading}<div style='white-space:pre-wrap'><span style='opacity:.6'>{html.escape(prompt)}</span>"
            f"<b style='font-weight:600'>{html.escape(text)}</b></div></div>"
        )
        lines.append((f"[{label}] " if label else "") + (f"{prompt}|" if prompt else "") + text)
    return Output("".join(blocks), "\n\n".join(lines))


def stream_text(pieces: Iterable[str]) -> str:
    """Print `pieces` of text as they arrive and return the whole."""
    whole = []
    for piece in pieces:
        print(piece, end="", flush=True)
        whole.append(piece)
    print()
    return "".join(whole)


def playground(
    generate: Callable[..., str],
    prompt: str = "Once upon a time",
    temperature: float = 0.8,
    top_p: float = 1.0,
    top_k: int = 0,
    repetition_penalty: float = 1.0,
    max_new_tokens: int = 40,
    seed: int = 0,
):
    """A widget with a prompt and sliders that calls `generate(prompt, **parameters)` and shows the text.

    The call itself, for those who would rather type, is shown beside the text. Returns the widget; errors of `generate`
    are shown in it.
    """
    import ipywidgets as widgets

    wide = {"style": {"description_width": "11em"}, "layout": widgets.Layout(width="32em")}
    text = widgets.Textarea(value=prompt, description="prompt", rows=3, **wide)
    sliders = {
        "temperature": widgets.FloatSlider(value=temperature, min=0.05, max=2.0, step=0.05, **wide),
        "top_p": widgets.FloatSlider(value=top_p, min=0.05, max=1.0, step=0.05, **wide),
        "top_k": widgets.IntSlider(value=top_k, min=0, max=100, **wide),
        "repetition_penalty": widgets.FloatSlider(value=repetition_penalty, min=1.0, max=2.0, step=0.05, **wide),
        "max_new_tokens": widgets.IntSlider(value=max_new_tokens, min=1, max=200, **wide),
        "seed": widgets.IntSlider(value=seed, min=0, max=99, **wide),
    }
    for name, slider in sliders.items():
        slider.description = name
        slider.continuous_update = False
    button = widgets.Button(description="Generate", button_style="primary", tooltip="Send the prompt to the endpoint")
    result = widgets.HTML()

    def run(_button) -> None:
        button.disabled = True
        parameters = {"do_sample": True} | {name: slider.value for name, slider in sliders.items()}
        if not parameters["top_k"]:
            del parameters["top_k"]
        call = f"generate({text.value!r}, {', '.join(f'{name}={_short(value)}' for name, value in parameters.items())})"
        try:
            answer = generate(text.value, **parameters)
            shown = completions([{"label": call, "prompt": text.value, "text": answer}]).html
        except Exception as error:  # whatever went wrong belongs in front of the person who pressed the button
            shown = f"<pre>{html.escape(f'{type(error).__name__}: {error}')}</pre>"
        finally:
            button.disabled = False
        result.value = shown

    button.on_click(run)
    return widgets.VBox([text, *sliders.values(), button, result])


def visible(token: str) -> str:
    """`token` with its blanks visible: a leading space is half the story of a token."""
    return token.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥") or "(empty)"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, Mapping):
        return "\n".join(f"{key}={item}" for key, item in value.items()) or "(none)"
    return "" if value is None else str(value)


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _cycle(values: Sequence[str]) -> Iterable[str]:
    while True:
        yield from values


def _in_words(name: str, pairs: Sequence[tuple[str, float]]) -> str:
    best = ", ".join(f"{token.strip() or visible(token)} {probability:.0%}" for token, probability in list(pairs)[:3])
    return f"{name}: {best}."


def _with_palette(png: bytes) -> bytes:
    """The same picture with 128 colours at most: charts lose nothing to the eye and shrink to about a third."""
    from PIL import Image

    buffer = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        image.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(buffer, format="png", optimize=True)
    return buffer.getvalue()
