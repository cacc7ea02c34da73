"""A way to run Lab 3's train.py many times, quickly, each time in a process of its own; pictures to train on."""

from __future__ import annotations

import atexit
import functools
import json
from pathlib import Path

from PIL import Image, ImageDraw

from tests.training_runs import Running, Trainings, metrics, outputs

CAPTIONS = ("a red star on a blue background", "a green star on a white background", "a small star", "a big pink star")


class PictureTrainings(Trainings):
    """Lab 3's trainings, whose results are below `folder` and whose log is beside it."""

    def __init__(self):
        imported = ("fine_tuning", "saved_pipeline", "transformers.models.clip.modeling_clip")
        super().__init__("lab3-stable-diffusion", *imported)

    def start(self, folder: Path, *arguments, **environment: str) -> Running:
        """Start train.py with these flags (name=value pairs come as environment variables)."""
        found = () if "SM_MODEL_DIR" in environment else outputs(folder)
        return super().start(folder.with_suffix(".log"), *found, *arguments, **environment)

    def run(self, folder: Path, *arguments, **environment: str) -> dict:
        """As of other labs, but for the flags of a SageMaker container, whose folders the environment names."""
        running = self.start(folder, *arguments, **environment)
        assert running.wait() == 0, running.log
        return metrics(folder)

    def refuse(self, folder: Path, *arguments, **environment: str) -> str:
        """Start a training that must fail by its input; what it says at the end."""
        running = self.start(folder, *arguments, **environment)
        assert running.wait() == 1, running.log
        last = running.log.splitlines()[-1]
        assert last.startswith("ERROR: ") and "Traceback" not in running.log, running.log
        return last.removeprefix("ERROR: ")


@functools.cache
def trainings_of_this_run() -> PictureTrainings:
    """One server for all test modules."""
    server = PictureTrainings()
    atexit.register(server.close)
    return server


def write_pictures(folder: Path, count: int = 4, captions: bool = True, side: int = 40) -> Path:
    """Small pictures of which no two are the same, with metadata.jsonl beside them if `captions`."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        picture = Image.new("RGB", (side, side + 4 * number), (40 * number % 256, 80, 200))
        ImageDraw.Draw(picture).rectangle((5, 5 + number, 20, 25), fill=(250, 40 * number % 256, 30))
        picture.save(folder / f"{number}.png")
        rows.append({"file_name": f"{number}.png", "text": CAPTIONS[number % len(CAPTIONS)]})
    if captions:
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "metadata.jsonl").write_text(lines, encoding="utf-8")
    return folder
