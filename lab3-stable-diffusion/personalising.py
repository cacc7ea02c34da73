"""What notebook 3 teaches, and how it measures what was learned: captioned pictures, prompts, marks, jobs' pictures."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Sequence
from dataclasses import replace

from PIL import Image
from prompt_adherence import Mark, Trial

from shared.pretraining.pictures.examples import Example, examples_of
from shared.pretraining.pictures.from_above import CLASSES
from shared.pretraining.pictures.from_above_judge import class_from_above
from shared.pretraining.pictures.judge import judge
from shared.pretraining.pictures.vocabulary import COLOURS, MASCOT

_SIZE = "large"  # of the subject, as in photographs of one
_JUDGED_AT = 128  # pixels; larger pictures, of larger models, are made smaller first


def pictures_of(subject: str, count: int, word: str | None = None) -> list[Example]:
    """Pictures of a subject that differ in colours, with captions; with `word`, that stands for the subject's name.

    Whoever chooses few pictures chooses different ones, and says in the caption what is not the subject.
    """
    found: list[Example] = []
    colours, backgrounds = set(), set()
    for example in examples_of(subject, 100 * count, size=_SIZE):
        colour, background = example.named.things[0][1], example.named.background
        plain = background and "," not in example.text and (colour or subject == MASCOT)
        if plain and background not in backgrounds and (colour is None or colour not in colours):
            found.append(replace(example, text=reworded(example.text, subject, word)))
            colours.add(colour)
            backgrounds.add(background)
        if len(found) == count:
            return found
        if len(backgrounds) == len(COLOURS) - 1:
            colours, backgrounds = set(), set()
    raise ValueError(f"there are not {count} such pictures of {subject!r}")


def prompts_of(subject: str, count: int) -> list[Trial]:
    """Prompts for a subject, and what the judge looks for: none of the pictures that it is taught with."""
    return [Trial(f"the {subject}", e.text, e.named) for e in examples_of(subject, count, seed=1, size=_SIZE)]


def reworded(text: str, subject: str, word: str | None) -> str:
    """A text in which `word` stands for the subject's name."""
    return re.sub(rf"\b{subject}\b", word, text) if word else text


def mark(pictures: Sequence[Image.Image], asked: Sequence[Trial]) -> list[Mark]:
    """The judge's mark for each picture: right when all is right that its prompt names."""
    found = []
    for picture, trial in zip(pictures, asked, strict=True):
        attributes = judge(_small(picture), trial.named).attributes
        wrong = tuple(name for name, right in attributes.items() if not right)
        found.append(Mark(not wrong, "right" if not wrong else f"wrong: {', '.join(wrong)}", wrong))
    return found


def mark_from_above(pictures: Sequence[Image.Image], names: Sequence[str]) -> list[Mark]:
    """Right when a picture is of the class that its prompt names. Raises ValueError for an unknown class."""
    found = []
    for picture, name in zip(pictures, names, strict=True):
        if name not in CLASSES:
            raise ValueError(f"unknown class {name!r}: choose one of {', '.join(CLASSES)}")
        seen = class_from_above(_small(picture))
        found.append(Mark(seen == name, f"looks like: {seen or 'none of them'}", () if seen == name else ("class",)))
    return found


def open_archive(workshop, job, name: str) -> tarfile.TarFile:
    """An archive that a training job wrote (model.tar.gz or output.tar.gz), as an open tar file."""
    url = job.model_artifacts.s3_model_artifacts.replace("model.tar.gz", name)
    bucket, key = url.removeprefix("s3://").split("/", 1)
    content = workshop.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
    return tarfile.open(fileobj=io.BytesIO(content))


def read_rows(archive: tarfile.TarFile, name: str) -> list[dict]:
    """The lines of name.jsonl in a job's output, each with its `picture`."""
    found = []
    for line in archive.extractfile(f"{name}.jsonl").read().decode().splitlines():
        row = json.loads(line)
        content = archive.extractfile(row["file"]).read()
        found.append(row | {"picture": Image.open(io.BytesIO(content)).convert("RGB")})
    return found


def _small(picture: Image.Image) -> Image.Image:
    if picture.width <= _JUDGED_AT:
        return picture
    return picture.resize((_JUDGED_AT, _JUDGED_AT), Image.Resampling.BOX)
