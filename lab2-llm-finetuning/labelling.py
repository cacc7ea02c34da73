"""Asking a person which of two letters they prefer, by buttons or by a plain call."""

import html
from collections.abc import Sequence

from readers import Reader, share_preferring


class Labels:
    """One person's answers to pairs of letters: `answer(number, "A")`, or the buttons of `widget()`.

    `pairs`: (letter A, letter B), whole letters. `answers`: number of the pair to "A" or "B".
    """

    def __init__(self, pairs: Sequence[tuple[str, str]]):
        self.pairs = list(pairs)
        self.answers: dict[int, str] = {}

    def answer(self, number: int, choice: str) -> None:
        """Note that in pair `number` (from 0) letter `choice` is the better one; a second answer replaces the first."""
        if not 0 <= number < len(self.pairs):
            raise ValueError(f"there are the pairs 0 to {len(self.pairs) - 1}, not {number}")
        if choice not in ("A", "B"):
            raise ValueError(f'answer "A" or "B", not {choice!r}')
        self.answers[number] = choice

    def agreement(self, people: Sequence[Reader]) -> float | None:
        """The share of these answers that the majority of `people` would give too; None without answers."""
        if not self.answers:
            return None
        same = 0
        for number, choice in self.answers.items():
            majority = "A" if share_preferring(people, *self.pairs[number]) > 0.5 else "B"
            same += choice == majority
        return same / len(self.answers)

    def widget(self):
        """Both letters of one pair side by side with a button each; an answer brings the next pair."""
        import ipywidgets as widgets

        letters = [widgets.HTML(layout=widgets.Layout(width="48%")) for _ in "AB"]
        buttons = [
            widgets.Button(description=f"{name} is better", tooltip=f"I would rather get letter {name}")
            for name in "AB"
        ]
        status = widgets.HTML()

        def show() -> None:
            number = next((n for n in range(len(self.pairs)) if n not in self.answers), None)
            status.value = f"{len(self.answers)} of {len(self.pairs)} pairs answered"
            for button in buttons:
                button.disabled = number is None
            if number is None:
                return
            for name, view, letter in zip("AB", letters, self.pairs[number], strict=True):
                text = html.escape(letter).replace("\n", "<br>")
                view.value = f"<div style='line-height:1.35;padding:.4em'><b>{name}</b> (pair {number})<br>{text}</div>"

        def chosen(name: str) -> None:
            number = next((n for n in range(len(self.pairs)) if n not in self.answers), None)
            if number is not None:
                self.answer(number, name)
            show()

        for name, button in zip("AB", buttons, strict=True):
            button.on_click(lambda _button, name=name: chosen(name))
        show()
        return widgets.VBox([widgets.HBox(letters), widgets.HBox(buttons), status])
