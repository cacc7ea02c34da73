"""From a request to its answer: checks, the engine, and what is done to a picture before it is sent."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass

from picture_canvas import pasted
from picture_engine import Finished, Job, PictureEngine, Progress
from picture_files import Origin, encode_png, encode_preview, to_base64
from picture_request import Abilities, Defaults, Limits, PictureRequest, parse_request
from PIL import Image
from upscaler import Upscaler, upscale
from watermark import add_watermark


@dataclass(frozen=True)
class Pictures:
    """A finished answer: PNG files, the seed of each (None for an enlarged one), and how they were made."""

    files: list[bytes]
    seeds: list[int | None]
    blocked: list[bool]
    mode: str
    model: str
    settings: dict

    def as_dict(self) -> dict:
        """The answer as JSON has it."""
        images = []
        for file, seed, blocked in zip(self.files, self.seeds, self.blocked, strict=True):
            image: dict = {"image": to_base64(file)}
            image |= {} if seed is None else {"seed": seed}
            images.append(image | ({"blocked": True} if blocked else {}))
        return {"images": images, "mode": self.mode, "model": self.model, "settings": self.settings}


class PictureService:
    """What the handlers hold: answers requests from any number of threads.

    Args:
        engine: makes the pictures.
        model: the name that pictures say they were made by.
        upscaler: enlarges pictures, or None.
    """

    def __init__(
        self,
        engine: PictureEngine,
        model: str,
        limits: Limits,
        defaults: Defaults,
        abilities: Abilities,
        upscaler: Upscaler | None,
    ):
        self.engine, self.model = engine, model
        self.limits, self.defaults, self.abilities = limits, defaults, abilities
        self._upscaler, self._upscaling = upscaler, threading.Lock()

    def answer(self, payload) -> "Pictures | PictureStream":
        """The answer to a decoded request body.

        Raises:
            ValueError: for the client; see `parse_request`.
            EngineError: the picture could not be made.
        """
        request = parse_request(payload, self.limits, self.defaults, self.abilities)
        if request.mode == "upscale":
            pictures = self.finish(request, Finished([request.canvas.picture], [False]))
            return PictureStream(self, request, pictures) if request.stream else pictures
        job = self.engine.submit(request)
        if request.stream:
            return PictureStream(self, request, job)
        try:
            return self.finish(request, job.wait())
        except BaseException:
            job.cancel()
            raise

    def finish(self, request: PictureRequest, finished: Finished) -> Pictures:
        """The files of finished pictures: pasted into what was kept, enlarged, marked."""
        files, seeds = [], []
        for number, (picture, blocked) in enumerate(zip(finished.pictures, finished.blocked, strict=True)):
            seed = None if request.mode == "upscale" else request.seed + number
            if request.canvas and not blocked:
                picture = pasted(request.canvas, picture)
            if request.upscale:
                picture = self._enlarged(picture)
            origin = Origin(self.model, request.mode, request.settings(seed))
            files.append(encode_png(add_watermark(picture), origin))
            seeds.append(seed)
        return Pictures(files, seeds, finished.blocked, request.mode, self.model, request.settings())

    def try_out(self) -> None:
        """Make a picture of the smallest size with every network, in one step. Raises what fails."""
        side = self.abilities.multiple * 8
        payload: dict = {"prompt": "a", "width": side, "height": side, "num_inference_steps": 1, "seed": 0, "lora": []}
        if self.abilities.needs_mask:
            grey = to_base64(encode_png(Image.new("RGB", (side, side), "grey"), Origin("", "inpaint", {})))
            white = to_base64(encode_png(Image.new("RGB", (side, side), "white"), Origin("", "inpaint", {})))
            payload |= {"image": grey, "mask": white}
        self.answer(payload)

    def _enlarged(self, picture: Image.Image) -> Image.Image:
        # One at a time: two would fight for the processor with each other and with the engine.
        with self._upscaling:
            return upscale(self._upscaler, picture)


class PictureStream:
    """Iterator over the lines of a streamed answer, dicts: one per reported step, the last one the whole answer.

    Closing it, or dropping it, cancels the request.
    """

    def __init__(self, service: PictureService, request: PictureRequest, made: Job | Pictures):
        self._job = made if isinstance(made, Job) else None
        self._lines = self._make_lines(service, request, made)

    def __iter__(self) -> "PictureStream":
        return self

    def __next__(self) -> dict:
        return next(self._lines)

    def close(self) -> None:
        """Stop making the pictures; nothing happens if they are there."""
        if self._job is not None:
            self._job.cancel()

    __del__ = close

    @staticmethod
    def _make_lines(service: PictureService, request: PictureRequest, made: Job | Pictures) -> Iterator[dict]:
        if isinstance(made, Pictures):
            yield made.as_dict()
            return
        for event in made.events():
            if isinstance(event, Progress):
                previews = [encode_preview(picture) for picture in event.previews]
                yield {"step": event.step, "steps": event.steps, "images": previews}
            else:
                yield service.finish(request, event).as_dict()
