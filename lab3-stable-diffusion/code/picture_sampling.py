"""From noise to pictures, step by step, for pictures of different requests at once.

Each picture has a scheduler, a place on its way and random numbers of its own; they share the UNet's forward pass. One
picture alone goes the way of diffusers' pipelines, number for number in float32: text-to-image and image-to-image as
in theirs, filling in as in their inpainting with a UNet of 4 channels (what is to be kept is put back after every
step, with the noise of that step) or of 9 (the UNet sees mask and picture).
"""

from collections import OrderedDict
from dataclasses import dataclass

import torch
from adapted_weights import AdaptedWeights, Loras
from noise_schedulers import SchedulerFactory, step_arguments
from picture_canvas import latent_mask, to_pictures, to_tensor
from picture_request import PictureRequest
from PIL import Image
from pipeline_loading import free_memory

_REMEMBERED_PROMPTS = 64
_PREVIEW_LATENTS = 64  # a preview is decoded from latents of at most this side


@dataclass(frozen=True)
class Conditions:
    """What the UNet is told of a text, one row each for the negative prompt (if it is asked) and for the prompt.

    `embeddings` is [rows, tokens, width]; `pooled` is [rows, width], for SDXL.
    """

    embeddings: torch.Tensor
    pooled: torch.Tensor | None


class Sample:
    """One picture on its way from noise; `latents` is float32 [1, channels, height, width].

    Args:
        known: what inpainting keeps: (mask, latents of the picture, noise), or None.
        beside: what a UNet of 9 channels sees beside the latents, [1, 5, height, width], or None.
        sizes: SDXL's six numbers on size and cut, [6], or None.
    """

    def __init__(self, conditions, guidance_scale, scheduler, timesteps, latents, generator, known, beside, sizes):
        self.conditions, self.guidance_scale = conditions, guidance_scale
        self.latents, self.sizes = latents, sizes
        self.step, self.steps = 0, len(timesteps)
        self._scheduler, self._timesteps, self._generator = scheduler, timesteps, generator
        self._arguments = step_arguments(scheduler, generator)
        self._known, self._beside = known, beside
        self._input = self._prediction = None

    @property
    def done(self) -> bool:
        return self.step >= self.steps

    @property
    def timestep(self) -> torch.Tensor:
        return self._timesteps[self.step]

    def model_input(self) -> torch.Tensor:
        """What the UNet gets for each row of the conditions, float32 [1, channels, height, width]."""
        self._input = self._scheduler.scale_model_input(self.latents, self.timestep)
        return self._input if self._beside is None else torch.cat([self._input, self._beside], 1)

    def advance(self, output: torch.Tensor) -> None:
        """Do a step with what the UNet said, float32 [rows, channels, height, width]."""
        if len(output) == 2:
            without, with_prompt = output.chunk(2)
            output = without + self.guidance_scale * (with_prompt - without)
        timestep, self._prediction = self.timestep, output
        self.latents = self._scheduler.step(output, timestep, self.latents, **self._arguments).prev_sample
        self.step += 1
        if self._known is not None:
            mask, picture, noise = self._known
            if not self.done:
                picture = self._scheduler.add_noise(picture, noise, self.timestep[None])
            self.latents = (1 - mask) * picture + mask * self.latents

    def denoised(self) -> torch.Tensor:
        """The latents of the picture that the last step saw behind the noise."""
        config = self._scheduler.config
        level = min(int(self._timesteps[self.step - 1]), config.num_train_timesteps - 1)
        signal = self._scheduler.alphas_cumprod[level].to(self._input.device).clamp(min=1e-4)
        if config.prediction_type == "v_prediction":
            return signal.sqrt() * self._input - (1 - signal).sqrt() * self._prediction
        if config.prediction_type == "sample":
            return self._prediction
        return (self._input - (1 - signal).sqrt() * self._prediction) / signal.sqrt()


class PictureSampler:
    """A pipeline's networks, and what to do with them. To be used by one thread.

    Args:
        pipeline: StableDiffusionPipeline or StableDiffusionXLPipeline.
        weights: its LoRAs.
    """

    def __init__(self, pipeline, weights: AdaptedWeights):
        self.pipeline, self.weights = pipeline, weights
        self._unet, self._vae = pipeline.unet, pipeline.vae
        # Asked for once: diffusers looks at every parameter to answer, a millisecond each time.
        self._unet_dtype, self._vae_dtype = pipeline.unet.dtype, pipeline.vae.dtype
        self._device = pipeline._execution_device
        self._schedulers = SchedulerFactory(pipeline.scheduler)
        self._is_xl = getattr(pipeline, "text_encoder_2", None) is not None
        self._prompts: OrderedDict[tuple, Conditions] = OrderedDict()
        self._most_rows: int | None = None

    def begin(self, request: PictureRequest) -> list[Sample]:
        """The pictures of a request, before their first step. The request's LoRAs must be chosen.

        Raises:
            ValueError: a text is longer than the model reads.
        """
        conditions = self._conditions(request)
        return [self._sample(request, conditions, request.seed + number) for number in range(request.num_images)]

    def advance(self, samples: list[Sample]) -> None:
        """Do one step of each; their latents have the same size."""
        rows = [row for sample in samples for row in self._rows(sample)]
        outputs = self._predict(rows).float()
        first = 0
        for sample in samples:
            count = len(sample.conditions.embeddings)
            sample.advance(outputs[first : first + count])
            first += count

    def decode(self, samples: list[Sample]) -> list[tuple[Image.Image, bool]]:
        """The finished pictures, and of each whether the model's safety checker blackened it."""
        pixels = self._decoded(torch.cat([sample.latents for sample in samples]))
        pictures, checker = to_pictures(pixels), getattr(self.pipeline, "safety_checker", None)
        if checker is None:
            return [(picture, False) for picture in pictures]
        seen = self.pipeline.feature_extractor(pictures, return_tensors="pt").pixel_values
        dtype = next(checker.parameters()).dtype
        _, found = checker(images=pixels.cpu().numpy(), clip_input=seen.to(self._device, dtype))
        return [
            (Image.new("RGB", picture.size) if blocked else picture, bool(blocked))
            for picture, blocked in zip(pictures, found, strict=True)
        ]

    def previews(self, samples: list[Sample]) -> list[Image.Image]:
        """What the last step saw behind the noise; large pictures at half their size or less."""
        latents = torch.cat([sample.denoised() for sample in samples])
        shrink = -(-max(latents.shape[2:]) // _PREVIEW_LATENTS)
        if shrink > 1:
            latents = torch.nn.functional.avg_pool2d(latents, shrink)
        pictures = self._decoded(latents)
        return to_pictures(pictures)

    def _conditions(self, request: PictureRequest) -> Conditions:
        key = request.prompt, request.negative_prompt, request.guided, request.lora
        if key in self._prompts:
            self._prompts.move_to_end(key)
            return self._prompts[key]
        self._check_length(request.prompt, "prompt")
        self._check_length(request.negative_prompt, "negative_prompt")
        options = {"device": self._device, "num_images_per_prompt": 1, "do_classifier_free_guidance": request.guided}
        # None lets SDXL use zeros for an empty negative prompt, as it was trained.
        options["negative_prompt"] = request.negative_prompt or None
        found = self.pipeline.encode_prompt(request.prompt, **options)
        pairs = [pair[::-1] if request.guided else pair[:1] for pair in (found[:2], found[2:]) if pair]
        joined = [torch.cat(pair).to(self._unet_dtype) for pair in pairs]
        conditions = Conditions(joined[0], joined[1] if self._is_xl else None)
        self._prompts[key] = conditions
        if len(self._prompts) > _REMEMBERED_PROMPTS:
            self._prompts.popitem(last=False)
        return conditions

    def _check_length(self, text: str, name: str) -> None:
        tokenizer = self.pipeline.tokenizer or self.pipeline.tokenizer_2
        text = self.pipeline.maybe_convert_prompt(text, tokenizer)
        count, most = len(tokenizer(text, verbose=False).input_ids) - 2, tokenizer.model_max_length - 2
        if count > most:
            raise ValueError(
                f'"{name}" has {count} tokens, and this model reads at most {most}. A word that it does not know '
                "counts as several. Use fewer or simpler words."
            )

    def _sample(self, request: PictureRequest, conditions: Conditions, seed: int) -> Sample:
        scheduler = self._schedulers.new(request.scheduler, request.num_inference_steps)
        generator = torch.Generator().manual_seed(seed)
        timesteps, known, beside = scheduler.timesteps, None, None
        factor = self.pipeline.vae_scale_factor
        shape = (1, self._vae.config.latent_channels, request.height // factor, request.width // factor)
        if request.canvas is None:
            latents = self._noise(shape, generator) * scheduler.init_noise_sigma
        else:
            count = min(int(request.num_inference_steps * request.strength), request.num_inference_steps)
            skipped = (request.num_inference_steps - count) * scheduler.order
            timesteps = timesteps[skipped:]
            if skipped and hasattr(scheduler, "set_begin_index"):
                scheduler.set_begin_index(skipped)
            picture = self._encoded(to_tensor(request.canvas.picture), generator)
            noise = self._noise(shape, generator)
            latents = scheduler.add_noise(picture, noise, timesteps[:1])
            if request.canvas.mask is not None:
                mask = latent_mask(request.canvas.mask, factor).to(self._device)
                if not skipped:
                    latents = noise * scheduler.init_noise_sigma
                if self._unet.config.in_channels == 9:
                    beside = torch.cat([mask, self._kept(request, generator)], 1)
                else:
                    known = mask, picture, noise
        sizes = None
        if self._is_xl:
            size = (request.height, request.width)
            sizes = torch.tensor([*size, 0, 0, *size], device=self._device, dtype=self._unet_dtype)
        scale = request.guidance_scale
        return Sample(conditions, scale, scheduler, timesteps, latents, generator, known, beside, sizes)

    def _kept(self, request: PictureRequest, generator: torch.Generator) -> torch.Tensor:
        """Latents of the picture with what is to be drawn anew made grey."""
        grey = Image.new("RGB", request.canvas.picture.size, (127, 127, 127))
        return self._encoded(to_tensor(Image.composite(grey, request.canvas.picture, request.canvas.mask)), generator)

    def _noise(self, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
        # Drawn on the CPU: the same seed then means the same picture on every device.
        return torch.randn(shape, generator=generator).to(self._device)

    def _rows(self, sample: Sample) -> list[tuple]:
        conditions, inputs, timestep = sample.conditions, sample.model_input(), sample.timestep.float()
        pooled = conditions.pooled if self._is_xl else [None] * len(conditions.embeddings)
        return [
            (inputs, timestep, embeddings, extra, sample.sizes)
            for embeddings, extra in zip(conditions.embeddings, pooled, strict=True)
        ]

    def _predict(self, rows: list[tuple]) -> torch.Tensor:
        """The UNet's output for rows, in as many passes as the GPU's memory asks for."""
        most = min(self._most_rows or len(rows), len(rows))
        try:
            return torch.cat([self._pass(rows[first : first + most]) for first in range(0, len(rows), most)])
        except torch.OutOfMemoryError:
            if most == 1:
                raise
            self._most_rows = -(-most // 2)
            torch.cuda.empty_cache()
        return self._predict(rows)

    def _pass(self, rows: list[tuple]) -> torch.Tensor:
        inputs, timesteps, embeddings, pooled, sizes = zip(*rows, strict=True)
        added = {"text_embeds": torch.stack(pooled), "time_ids": torch.stack(sizes)} if self._is_xl else None
        return self._unet(
            torch.cat(inputs).to(self._unet_dtype),
            torch.stack(timesteps).to(self._device),
            encoder_hidden_states=torch.stack(embeddings),
            added_cond_kwargs=added,
            return_dict=False,
        )[0]

    def _encoded(self, pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """float32 latents, drawn from what the autoencoder makes of pixels [1, 3, height, width]."""
        self._save_memory(pixels.shape[2] * pixels.shape[3])
        drawn = self._vae.encode(pixels.to(self._device, self._vae_dtype)).latent_dist.sample(generator)
        return drawn.float() * self._vae.config.scaling_factor

    def _decoded(self, latents: torch.Tensor) -> torch.Tensor:
        """float32 pixels [pictures, 3, height, width] from -1 to 1, of as many at a time as memory allows."""
        at_once = self._save_memory(latents.shape[2] * latents.shape[3] * self.pipeline.vae_scale_factor**2)
        latents = (latents / self._vae.config.scaling_factor).to(self._vae_dtype)
        parts = [self._vae.decode(part, return_dict=False)[0] for part in latents.split(at_once)]
        return torch.cat(parts).float()

    def _save_memory(self, pixels: int) -> int:
        """Have pictures of so many pixels computed in tiles if one does not fit; returns how many fit at once."""
        channels = self._vae.config.block_out_channels
        # At full size the decoder holds about six tensors of the width before last.
        needed = 6 * pixels * channels[min(1, len(channels) - 1)] * self._vae_dtype.itemsize
        room = free_memory(self._device) // 2
        if needed > room:
            self._vae.enable_tiling()
        else:
            self._vae.disable_tiling()
        return max(1, int(room // needed))


def batch_key(request: PictureRequest) -> tuple[int, int, Loras]:
    """What requests must have in common to share forward passes."""
    return request.height, request.width, request.lora
