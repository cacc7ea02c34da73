"""One thread runs the networks for all requests: those that fit together share every step, whenever they came."""

import atexit
import queue
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from picture_request import PictureRequest
from picture_sampling import PictureSampler, Sample, batch_key
from PIL import Image


class EngineError(RuntimeError):
    """A picture could not be made, for a reason that is not the client's."""


@dataclass(frozen=True)
class Progress:
    """A step that is done, of `steps`, and its previews, one for each picture (none where none are asked for)."""

    step: int
    steps: int
    previews: list[Image.Image]


@dataclass(frozen=True)
class Finished:
    """The pictures of a request, and of each whether the safety checker blackened it."""

    pictures: list[Image.Image]
    blocked: list[bool]


class Job:
    """A request on its way through the engine."""

    def __init__(self, request: PictureRequest):
        self.request = request
        self.key = batch_key(request)
        self.samples: list[Sample] = []
        self.cancelled = False
        self._events: queue.SimpleQueue[Progress | Finished | BaseException] = queue.SimpleQueue()

    def events(self) -> Iterator[Progress | Finished]:
        """Each `Progress` of a streamed request as it comes, then `Finished`.

        Raises:
            ValueError: the request cannot be done; for the client.
            EngineError: it could have been, and failed.
        """
        while True:
            event = self._events.get()
            if isinstance(event, (ValueError, EngineError)):
                raise event
            if isinstance(event, BaseException):
                raise EngineError(f"Making the picture failed: {event}") from event
            yield event
            if isinstance(event, Finished):
                return

    def wait(self) -> Finished:
        """Block until the pictures are there; raises as `events` does."""
        *_, finished = self.events()
        return finished

    def cancel(self) -> None:
        """Have the engine drop the request before its next step."""
        self.cancelled = True

    def put(self, event: Progress | Finished | BaseException) -> None:
        """Hand over what happened (engine thread only)."""
        self._events.put(event)


class PictureEngine:
    """Makes pictures for requests from any number of threads.

    Args:
        sampler: what runs the networks; used by the engine's thread only.
        max_batch_size: pictures that share a step; a request of more is done alone.
        max_waiting: requests that may wait; more are refused.
        log: gets a traceback when something fails.
    """

    def __init__(
        self,
        sampler: PictureSampler,
        *,
        max_batch_size: int = 8,
        max_waiting: int = 64,
        log: Callable[[str], None] = print,
    ):
        self._sampler, self._log = sampler, log
        self._max_batch_size, self._max_waiting = max_batch_size, max_waiting
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._admitted: list[Job] = []
        self._running: list[Job] = []
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, request: PictureRequest) -> Job:
        """Queue a request. Raises EngineError when too many wait or the engine is closed."""
        job = Job(request)
        with self._changed:
            if self._closed:
                raise EngineError("The model is shutting down; send the request again later.")
            if len(self._waiting) >= self._max_waiting:
                raise EngineError(f"The model is busy: {len(self._waiting)} requests are waiting. Try again later.")
            self._waiting.append(job)
            # Started here, not in the constructor: a server may fork after loading the model, and a thread that has
            # died is replaced.
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="picture-engine", daemon=True)
                self._thread.start()
                # A thread inside PyTorch while the interpreter ends would abort the process.
                atexit.register(self.close)
            self._changed.notify()
        return job

    def close(self) -> None:
        """Stop the thread; what is unfinished fails."""
        with self._changed:
            self._closed = True
            thread = self._thread
            self._changed.notify()
        if thread is not None:
            thread.join()
        atexit.unregister(self.close)

    def _run(self) -> None:
        cause: BaseException = EngineError("The model was shut down before the picture was done.")
        try:
            with torch.inference_mode():
                while self._turn():
                    pass
        except BaseException as error:
            cause = error
            self._log(f"The picture engine stopped and will be restarted: {traceback.format_exc()}")
        finally:
            with self._changed:
                failed = [*self._running, *self._admitted, *self._waiting]
                self._running, self._admitted = [], []
                self._waiting.clear()
                self._thread = None
            for job in failed:
                job.put(cause)

    def _turn(self) -> bool:
        """Admit what waits, then do one step of every running request. False when closed."""
        with self._changed:
            while not (self._closed or self._running or self._waiting):
                self._changed.wait()
            if self._closed:
                return False
            self._admit()
        self._running = self._without_cancelled(self._running)
        for job in self._without_cancelled(self._admitted):
            self._begin(job)
        self._admitted = []
        if self._running:
            self._step()
        return True

    def _admit(self) -> None:
        """Let join what fits the running requests, in the order of arrival; the first that does not stops the others.

        Only where nothing runs may a request pass others that differ from the first in line: those of its kind then
        start together.
        """
        pictures = sum(job.request.num_images for job in self._running)
        key = self._running[0].key if self._running else None
        kept: deque[Job] = deque()
        while self._waiting:
            job = self._waiting.popleft()
            count = job.request.num_images
            if key in (None, job.key) and (not pictures or pictures + count <= self._max_batch_size):
                self._admitted.append(job)
                key, pictures = job.key, pictures + count
                continue
            kept.append(job)
            if self._running:
                break
        self._waiting.extendleft(reversed(kept))

    def _without_cancelled(self, jobs: list[Job]) -> list[Job]:
        for job in jobs:
            if job.cancelled:
                job.put(EngineError("The request was cancelled."))
        return [job for job in jobs if not job.cancelled]

    def _begin(self, job: Job) -> None:
        try:
            self._sampler.weights.choose(job.request.lora)
            job.samples = self._sampler.begin(job.request)
        except ValueError as error:
            job.put(error)
        except Exception as error:
            self._log(f"A request could not be begun: {traceback.format_exc()}")
            job.put(error)
        else:
            self._running.append(job)

    def _step(self) -> None:
        try:
            self._sampler.advance([sample for job in self._running for sample in job.samples])
        except Exception as error:
            self._fail(self._running, f"A step of {len(self._running)} request(s) failed", error)
            self._running = []
            return
        done = [job for job in self._running if job.samples[0].done]
        self._running = [job for job in self._running if not job.samples[0].done]
        for job in list(self._running):
            self._report(job)
        if done:
            self._finish(done)

    def _report(self, job: Job) -> None:
        """Tell a streamed request of the step that was done, with previews where they are due."""
        step, every = job.samples[0].step, job.request.preview_every
        if not job.request.stream or every and step % every:
            return
        try:
            previews = self._sampler.previews(job.samples) if every else []
        except Exception as error:
            self._running.remove(job)
            self._fail([job], "A preview failed", error)
            return
        job.put(Progress(step, job.samples[0].steps, previews))

    def _finish(self, jobs: list[Job]) -> None:
        try:
            results = iter(self._sampler.decode([sample for job in jobs for sample in job.samples]))
        except Exception as error:
            self._fail(jobs, f"Decoding the pictures of {len(jobs)} request(s) failed", error)
            return
        for job in jobs:
            pictures, blocked = zip(*(next(results) for _ in job.samples), strict=True)
            job.put(Finished(list(pictures), list(blocked)))

    def _fail(self, jobs: list[Job], what: str, error: Exception) -> None:
        self._log(f"{what}: {traceback.format_exc()}")
        for job in jobs:
            # One that says what the engine was doing: an error of the networks is no fault of the request.
            job.put(EngineError(f"{what}: {error}"))
