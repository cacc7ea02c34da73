"""The training loop: batches that depend on the step only, a log that metric definitions read, checkpoints, SIGTERM."""

import argparse
import contextlib
import math
import signal
import time

import checkpoints
import denoising
import numpy as np
import torch
from base_pipeline import BasePipeline
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from sample_pictures import Samples
from trained_parts import TrainedParts
from training_examples import CaptionStates, Examples, Order
from training_failure import InputError

_FORMATS = {"epoch": "{:.2f}", "learning_rate": "{:.4e}", "step": "{:d}", "train_samples_per_second": "{:.1f}"}
_SAMPLE_SETS = 4  # of sample pictures, where --validation_epochs is not given


class Interruption:
    """Notes that SIGTERM has come: SageMaker sends it before it stops a job or takes a spot instance away."""

    def __init__(self):
        self.asked = False
        signal.signal(signal.SIGTERM, self._note)

    def _note(self, *_) -> None:
        self.asked = True


class FineTuning:
    """A training of `parts` of a pipeline. `step` counts optimizer steps, `history` has the logged metrics."""

    def __init__(
        self,
        base: BasePipeline,
        parts: TrainedParts,
        examples: Examples,
        class_examples: Examples | None,
        options: argparse.Namespace,
        interruption: Interruption,
        settings: dict,
    ):
        self.base, self.parts, self.options, self.interruption = base, parts, options, interruption
        self.examples, self.class_examples, self.settings = examples, class_examples, settings
        self.captions = CaptionStates(base, self._all_captions(), cache=not parts.text_is_trained)
        self.batch, self.accumulated = options.train_batch_size, options.gradient_accumulation_steps
        self.order = Order(len(examples), self.batch, options.seed)
        self.class_order = class_examples and Order(len(class_examples), self.batch, options.seed + 1)
        self.steps = total_steps(options, len(examples))
        values = list(parts.parameters.values())
        self.optimizer = torch.optim.AdamW(values, lr=options.learning_rate, weight_decay=self._decay(), fused=True)
        self.rate = get_scheduler(
            "constant_with_warmup" if options.lr_scheduler == "constant" else options.lr_scheduler,
            self.optimizer,
            num_warmup_steps=min(options.lr_warmup_steps, self.steps // 2),
            num_training_steps=self.steps,
        )
        self.scaler = torch.amp.GradScaler(base.device.type, enabled=base.compute == torch.float16)
        self.average = EMAModel(values, decay=options.ema_decay, foreach=True) if options.use_ema else None
        self.samples = Samples(base, options, examples.captions)
        self.step, self.seconds, self.resumed_from = 0, 0.0, None
        self.history: list[dict] = []
        self._since_log = _Log()

    @property
    def epoch(self) -> float:
        """Passes over the pictures so far."""
        return self.step * self.batch * self.accumulated / len(self.examples)

    def resume(self) -> None:
        """Go on from the newest whole checkpoint in options.checkpoint_dir, if there is one and options.resume."""
        folder = self.options.checkpoint_dir
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        if not self.options.resume:
            checkpoints.remove_all(folder)
            return
        found = checkpoints.newest(folder, self.settings)
        if found is None:
            return
        self.step, path = found
        state = checkpoints.load(path, self.base.device)
        self.parts.restore(state["parameters"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rate.load_state_dict(state["rate"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self.seconds, self.history = state["seconds"], state["history"]
        self.samples.rows, self.resumed_from = state["samples"], self.step
        print(f"Resuming from step {self.step}: {path}", flush=True)

    def train(self) -> None:
        """Train to the last step, or until SIGTERM; then the averaged weights, if any, are the parameters'."""
        every = self._sample_every()
        if self.step == 0 and every:
            self._draw_samples()
        self.parts.train()
        while self.step < self.steps and not self.interruption.asked:
            started = time.perf_counter()
            self._one_step()
            self.seconds += time.perf_counter() - started
            last = self.step == self.steps
            if self.step == 1 or self.step % self.options.logging_steps == 0 or last:
                self._log()
            stopping = self.interruption.asked
            due = self.step % self.options.checkpointing_steps == 0 and not last
            if every and not stopping and (self.step % every == 0 or last):
                self._draw_samples()
                self.parts.train()
            if self.options.checkpoint_dir and (due or stopping):
                checkpoints.save(self.options.checkpoint_dir, self.step, self._state(), self.settings)
        self.parts.train(False)
        if self.average:
            self.average.copy_to(self.parts.parameters.values())

    def _one_step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        for part in range(self.accumulated):
            loss, prior = self._loss(self.step * self.accumulated + part)
            whole = loss if prior is None else loss + self.options.prior_loss_weight * prior
            if not math.isfinite(whole.item()):
                raise InputError(
                    f"the loss is {whole.item()} at step {self.step + 1}: the training has blown up. "
                    f"Try a --learning_rate smaller than {self.options.learning_rate:g}"
                )
            self.scaler.scale(whole / self.accumulated).backward()
            self._since_log.add(loss, prior)
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.parts.parameters.values(), self.options.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.rate.step()
        if self.average:
            self.average.step(self.parts.parameters.values())
        self._since_log.gradient = norm.item()
        self.step += 1

    def _loss(self, number: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The losses of batch `number`: of the training pictures and of the class pictures. All that is random in
        them depends on the seed and `number` only, so a run that was interrupted goes on as if it had not been."""
        rng = np.random.default_rng((self.options.seed, 0, number))
        sources = [(self.examples, self.order)]
        if self.class_examples:
            sources.append((self.class_examples, self.class_order))
        latents, captions, sizes = [], [], []
        for examples, order in sources:
            chosen = order.of(number)
            latents.append(examples.latents(chosen, rng))
            captions += [examples.captions[index] for index in chosen]
            sizes.append(examples.sizes[torch.from_numpy(chosen)])
        dropped = rng.random(len(captions)) < self.options.caption_dropout
        captions = ["" if drop else caption for caption, drop in zip(captions, dropped, strict=True)]
        clean = torch.cat(latents).to(self.base.device)
        noise = torch.from_numpy(rng.standard_normal(clean.shape, np.float32)).to(clean.device)
        levels_of = self.base.noise_scheduler.config.num_train_timesteps
        levels = np.concatenate([denoising.draw_levels(rng, self.batch, levels_of) for _ in sources])
        with self.base.autocast():
            found = denoising.losses(
                self.base,
                clean,
                noise,
                torch.from_numpy(levels).to(clean.device),
                self.captions.of(captions),
                torch.cat(sizes).to(clean.device),
                self.options.snr_gamma,
            )
        prior = found[self.batch :].mean() if self.class_examples else None
        return found[: self.batch].mean(), prior

    def _log(self) -> None:
        row = {"step": self.step, "epoch": self.epoch, **self._since_log.means()}
        row["learning_rate"] = self.rate.get_last_lr()[0]
        row["grad_norm"] = self._since_log.gradient
        row["train_samples_per_second"] = self.step * self.batch * self.accumulated / max(self.seconds, 1e-9)
        shown = (f"{name}={_FORMATS.get(name, '{:.4f}').format(value)}" for name, value in row.items())
        print(" ".join(shown), flush=True)
        self.history.append(row)
        self._since_log = _Log()

    def _draw_samples(self) -> None:
        self.parts.train(False)
        with self._averaged():
            self.samples.draw(self.step, self.epoch)

    @contextlib.contextmanager
    def _averaged(self):
        values = list(self.parts.parameters.values())
        if self.average is None or self.step == 0:
            yield
            return
        self.average.store(values)
        self.average.copy_to(values)
        try:
            yield
        finally:
            self.average.restore(values)

    def _sample_every(self) -> int:
        """Steps between sample pictures; 0: none."""
        if not self.samples.prompts:
            return 0
        per_epoch = len(self.examples) / (self.batch * self.accumulated)
        if self.options.validation_epochs:
            return max(1, round(self.options.validation_epochs * per_epoch))
        # At the end of an epoch where epochs are long, and not more often than _SAMPLE_SETS times.
        epochs = max(1, math.ceil(self.steps / _SAMPLE_SETS / per_epoch))
        return max(1, round(epochs * per_epoch))

    def _state(self) -> dict:
        return {
            "parameters": self.parts.state(),
            "optimizer": self.optimizer.state_dict(),
            "rate": self.rate.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "seconds": self.seconds,
            "history": self.history,
            "samples": self.samples.rows,
        }

    def _all_captions(self) -> list[str]:
        return self.examples.captions + (self.class_examples.captions if self.class_examples else [])

    def _decay(self) -> float:
        # A word's vector is of the length of its neighbours; decay would shorten it.
        return 0.0 if self.parts.words else self.options.weight_decay


def total_steps(options: argparse.Namespace, pictures: int) -> int:
    """How many optimizer steps the training has."""
    if options.max_train_steps:
        return options.max_train_steps
    per_step = options.train_batch_size * options.gradient_accumulation_steps
    return max(1, math.ceil(options.num_train_epochs * pictures / per_step))


class _Log:
    """What was lost since the last line of the log."""

    def __init__(self):
        self.gradient = 0.0
        self._losses: list[float] = []
        self._priors: list[float] = []

    def add(self, loss: torch.Tensor, prior: torch.Tensor | None) -> None:
        self._losses.append(loss.item())
        if prior is not None:
            self._priors.append(prior.item())

    def means(self) -> dict[str, float]:
        found = {"train_loss": sum(self._losses) / max(len(self._losses), 1)}
        if self._priors:
            found["prior_loss"] = sum(self._priors) / len(self._priors)
        return found
