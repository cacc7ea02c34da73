"""A widget to draw with a model: prompt, sliders, seed, and the picture as it comes into being."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator
from typing import Any

from shared.picture_grid import as_picture, image_tag

_WIDTH = 256


def picture_playground(
    draw: Callable[..., Any],
    prompt: str,
    negative_prompt: str = "",
    num_inference_steps: int = 20,
    guidance_scale: float = 4.0,
    seed: int = 0,
):
    """A widget that calls `draw(prompt, **settings)` with what its sliders say, and shows the picture.

    `draw` returns a picture (see `picture_grid`), or an iterator of (step, steps, picture or None), the last of which
    has the finished picture: then a bar and the pictures on the way are shown. The call itself, for those who would
    rather type, stands below. Returns the widget; errors of `draw` are shown in it.
    """
    import ipywidgets as widgets

    wide = {"style": {"description_width": "11em"}, "layout": widgets.Layout(width="36em")}
    text = widgets.Textarea(value=prompt, description="prompt", rows=2, **wide)
    negative = widgets.Text(value=negative_prompt, description="negative prompt", **wide)
    sliders = {
        "num_inference_steps": widgets.IntSlider(value=num_inference_steps, min=1, max=50, **wide),
        "guidance_scale": widgets.FloatSlider(value=guidance_scale, min=0.0, max=15.0, step=0.5, **wide),
        "seed": widgets.IntSlider(value=seed, min=0, max=99, **wide),
    }
    for name, slider in sliders.items():
        slider.description = name
        slider.continuous_update = False
    button = widgets.Button(description="Draw", button_style="primary", tooltip="Send the prompt to the endpoint")
    bar = widgets.IntProgress(value=0, min=0, max=1, description="steps", **wide)
    result = widgets.HTML()

    def run(_button) -> None:
        settings = {name: slider.value for name, slider in sliders.items()}
        if negative.value.strip():
            settings["negative_prompt"] = negative.value
        call = f"draw({text.value!r}, {', '.join(f'{name}={value!r}' for name, value in settings.items())})"
        button.disabled = True
        try:
            for picture in _pictures(draw(text.value, **settings), bar):
                tag = image_tag(as_picture(picture), text.value or "picture of an empty prompt", _WIDTH)
                result.value = f"{tag}<pre style='white-space:pre-wrap'>{html.escape(call)}</pre>"
        except Exception as error:  # whatever went wrong belongs in front of the person who pressed the button
            result.value = f"<pre style='white-space:pre-wrap'>{html.escape(f'{type(error).__name__}: {error}')}</pre>"
        finally:
            button.disabled = False

    button.on_click(run)
    return widgets.VBox([text, negative, *sliders.values(), button, bar, result])


def _pictures(drawn: Any, bar) -> Iterator[Any]:
    """The pictures of one call as they come; the bar shows the steps."""
    if not isinstance(drawn, Iterator):
        yield drawn
        bar.value = bar.max
        return
    for step, steps, picture in drawn:
        bar.max, bar.value = steps, step
        if picture is not None:
            yield picture
