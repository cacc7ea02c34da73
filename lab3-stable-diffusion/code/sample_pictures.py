"""Pictures that the model in training draws: samples of the prompts as it learns, and pictures of a class to keep."""

import json
import re
from pathlib import Path

import torch
from base_pipeline import BasePipeline
from PIL import Image

SAMPLES = "samples"


def draw(
    base: BasePipeline, prompts: list[str], *, seed: int, steps: int, guidance: float, side: int
) -> list[Image.Image]:
    """One picture of each prompt; the i-th from seed `seed` + i, whatever it is drawn together with."""
    pipe, found, at_once = base.pipe, [], 8 if base.small else 2
    for start in range(0, len(prompts), at_once):
        some = prompts[start : start + at_once]
        generators = [torch.Generator().manual_seed(seed + start + number) for number in range(len(some))]
        with torch.no_grad(), base.autocast():
            latents = pipe(
                some, width=side, height=side, num_inference_steps=steps, guidance_scale=guidance,
                generator=generators, output_type="latent",
            ).images  # fmt: skip
        # In 32 bits, for which the autoencoder was kept, and one by one where that takes much memory.
        shift = getattr(pipe.vae.config, "shift_factor", None) or 0.0
        latents = latents.float() / pipe.vae.config.scaling_factor + shift
        with torch.no_grad():
            for part in latents.split(at_once if base.small else 1):
                found += pipe.image_processor.postprocess(pipe.vae.decode(part).sample)
    return found


class Samples:
    """Draws the same prompts from the same seeds again and again, so that one sees what changes; `rows` lists them."""

    def __init__(self, base: BasePipeline, options, captions: list[str]):
        self.base, self.options = base, options
        prompts = options.validation_prompts or list(dict.fromkeys(captions))[:3]
        self.prompts = [prompt for prompt in prompts for _ in range(options.num_validation_images)]
        self.folder: Path = options.output_data_dir
        self.rows: list[dict] = []

    def draw(self, step: int, epoch: float) -> None:
        """Draw all prompts and write them to samples/step-N/ in the output data, with a line each in samples.jsonl.

        A later run of the same step replaces them.
        """
        if not self.prompts:
            return
        options = self.options
        pictures = draw(
            self.base, self.prompts, seed=options.seed, steps=options.num_inference_steps,
            guidance=options.guidance_scale, side=options.resolution,
        )  # fmt: skip
        place = self.folder / SAMPLES / f"step-{step:06d}"
        place.mkdir(parents=True, exist_ok=True)
        self.rows = [row for row in self.rows if row["step"] != step]
        for number, (prompt, picture) in enumerate(zip(self.prompts, pictures, strict=True)):
            path = place / f"{number:02d}-{_file_name(prompt)}.png"
            picture.save(path)
            self.rows.append(
                {
                    "step": step, "epoch": round(epoch, 2), "prompt": prompt, "seed": options.seed + number,
                    "file": str(path.relative_to(self.folder)),
                }
            )  # fmt: skip
        lines = "".join(json.dumps(row) + "\n" for row in self.rows)
        (self.folder / f"{SAMPLES}.jsonl").write_text(lines, encoding="utf-8")
        where = place.relative_to(self.folder)
        print(f"step={step} epoch={epoch:.2f} {len(pictures)} sample pictures: {where}", flush=True)


def draw_class(base: BasePipeline, options, folder: Path) -> None:
    """Draw options.num_class_images pictures of the class prompts, in turn, into `folder` with a metadata.jsonl.

    What the model draws before the training is what it is to go on drawing.
    """
    prompts = [options.class_prompt[number % len(options.class_prompt)] for number in range(options.num_class_images)]
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for start in range(0, len(prompts), 24):
        some = prompts[start : start + 24]
        pictures = draw(
            base, some, seed=options.seed + 100_000 + start, steps=options.num_inference_steps,
            guidance=options.guidance_scale, side=options.resolution,
        )  # fmt: skip
        for number, (prompt, picture) in enumerate(zip(some, pictures, strict=True), start):
            picture.save(folder / f"{number:04d}.png")
            rows.append({"file_name": f"{number:04d}.png", "text": prompt})
        print(f"Drew {len(rows)} of {len(prompts)} class pictures", flush=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metadata.jsonl").write_text(lines, encoding="utf-8")


def draw_evaluation(base: BasePipeline, options, prompts: list[str], name: str) -> None:
    """Draw each prompt once into the folder `name` of the output data, and list the pictures in name.jsonl."""
    folder = options.output_data_dir / name
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for start in range(0, len(prompts), 24):
        some, seed = prompts[start : start + 24], options.seed + start
        pictures = draw(
            base, some, seed=seed, steps=options.num_inference_steps, guidance=options.guidance_scale,
            side=options.resolution,
        )  # fmt: skip
        for number, (prompt, picture) in enumerate(zip(some, pictures, strict=True), start):
            picture.save(folder / f"{number:04d}.png")
            rows.append({"prompt": prompt, "seed": options.seed + number, "file": f"{name}/{number:04d}.png"})
        print(f"Drew {len(rows)} of {len(prompts)} pictures for the evaluation", flush=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder.parent / f"{name}.jsonl").write_text(lines, encoding="utf-8")


def _file_name(prompt: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60] or "no-words"
