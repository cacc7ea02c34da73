"""Tables, charts and texts: escaped, with alternative text, and readable as plain text."""

import base64
import io
import re

import pytest
from PIL import Image

from shared import display

NASTY = '<script>alert("x")</script> & more'


@pytest.fixture
def shown(monkeypatch):
    """What was displayed, in order."""
    outputs = []
    monkeypatch.setattr(display, "display", outputs.append)
    return outputs


def test_table_escapes_and_falls_back_to_text():
    output = display.table([{"name": NASTY, "share": 0.12345}, {"name": "b", "share": 2}], caption="A < B")
    bundle = output._repr_mimebundle_()
    assert "<script>" not in bundle["text/html"] and "&lt;script&gt;" in bundle["text/html"]
    assert "A &lt; B" in bundle["text/html"]
    assert NASTY in bundle["text/plain"] and "0.123" in bundle["text/plain"]
    assert "text-align:right'>0.123<" in bundle["text/html"]


def test_table_takes_sequences_and_refuses_rows_that_do_not_fit():
    assert "2,000" in repr(display.table([("a", 2000.0)], columns=["x", "y"]))
    with pytest.raises(ValueError, match="2 values for 1 columns"):
        display.table([("a", "b")], columns=["x"])
    with pytest.raises(ValueError, match="name the columns"):
        display.table([("a", "b")])


def picture(output):
    alt, data = re.fullmatch(r'<img alt="([^"]*)".*base64,([^"]+)">', output.html).groups()
    return alt, Image.open(io.BytesIO(base64.b64decode(data))), len(data)


def test_next_token_bars_say_in_words_what_they_show(shown):
    display.next_token_bars(
        {"cold": [(" the", 0.9), (" a", 0.05)], "hot": [(" a", 0.3), ("$x^$", 0.2), (NASTY, 0.001), ("\n", 0.0)]},
        title='After "in"',
    )
    alt, image, size = picture(shown[0])
    assert "cold: the 90%, a 5%." in alt and "hot: a 30%, $x^$ 20%" in alt and "<script>" not in alt
    assert image.width > 800 and size < 80_000
    assert shown[0].text.startswith("[figure: After")


def test_next_token_bars_need_something_to_show():
    with pytest.raises(ValueError, match="at least one"):
        display.next_token_bars({})


def test_line_with_interval(shown):
    display.line_with_interval([1, 2], {"a": ([1, 2], [0, 1], [2, 3])}, "x", "y", alt="it rises")
    assert picture(shown[0])[0] == "it rises"


def test_shares_with_interval_say_in_words_what_they_show(shown):
    display.shares_with_interval({"one": (0.5, 0.4, 0.6), "two": (1, 0.9, 1)}, title="Which is right")
    assert picture(shown[0])[0] == (
        "Which is right. one: 50%, from 40% to 60%. two: 100%, from 90% to 100%."
    )
    with pytest.raises(ValueError, match="at least one"):
        display.shares_with_interval({})


def test_a_figure_without_alternative_text_is_refused():
    from matplotlib import pyplot

    figure = pyplot.figure()
    with pytest.raises(ValueError, match="what the figure shows"):
        display.show(figure, alt=" ")
    pyplot.close(figure)


def test_completions_keep_prompt_and_text_apart():
    output = display.completions([{"prompt": "Once <b>", "text": " upon\na time", "label": "T = 1"}, {"text": "x"}])
    assert "Once &lt;b&gt;</span><b" in output.html and "T = 1" in output.html
    assert output.text == "[T = 1] Once <b>| upon\na time\n\nx"


def test_stream_text_prints_and_returns(capsys):
    assert display.stream_text(iter(["a", " b"])) == "a b"
    assert capsys.readouterr().out == "a b\n"


def test_playground_calls_generate_with_what_the_sliders_say():
    calls = []

    def generate(prompt, **parameters):
        calls.append((prompt, parameters))
        if len(calls) == 2:
            raise RuntimeError("endpoint <gone>")
        return "a <text>"

    box = display.playground(generate, prompt="Hello", temperature=0.5, max_new_tokens=7)
    text, *sliders, button, result = box.children
    button.click()
    prompt, parameters = calls[0]
    assert prompt == "Hello" and parameters["temperature"] == 0.5 and parameters["max_new_tokens"] == 7
    assert "top_k" not in parameters  # 0 stands for "all tokens"
    assert "a &lt;text&gt;" in result.value and "generate(&#x27;Hello&#x27;" in result.value
    button.click()
    assert "RuntimeError: endpoint &lt;gone&gt;" in result.value and not button.disabled
