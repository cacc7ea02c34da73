"""The trained network as a folder that `load_upscaler` loads, and its card."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from random import Random

import numpy as np
import torch
from safetensors.torch import save_file

from shared.pretraining.pictures.contact_sheet import contact_sheet
from shared.pretraining.upscaler.data import busy_places, smaller
from shared.pretraining.upscaler.evaluation import GROUPS, bicubic, held_out
from shared.pretraining.upscaler.recipe import Recipe, network

# What a person says who has looked at the sheet; a file of its own, since it is not computed.
REMARKS = Path(__file__).with_name("remarks.md")
_TEMPLATE = Path(__file__).with_name("card_template.md")
_SHEET = "contact_sheet.png"
# Set before the training: dB over bicubic, and MB.
LEAST_GAIN, GOAL_GAIN, MOST_MEGABYTES = 1.0, 3.0, 4.0
_CROP, _SHOWN = 160, 320


def export(model: torch.nn.Module, folder: Path) -> Path:
    """Write the network in fp16 to `folder`; what else is there stays. The weights are replaced when complete."""
    module = network()
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{module.WEIGHTS}.partial"
    save_file({name: value.half().contiguous().cpu() for name, value in model.state_dict().items()}, partial)
    (folder / module.CONFIG).write_text(json.dumps(model.config, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, folder / module.WEIGHTS)
    return folder


def write_sheet(folder: Path) -> Path:
    """A busy place of the first held-out picture of each group: as its pixels are, bicubic, the network, the truth."""
    module = network()
    model = module.load_upscaler(folder)
    pictures, texts = [], []
    for kind in GROUPS:
        true = held_out(kind, 0)
        small = smaller(true)
        top, left = busy_places(np.asarray(true), _CROP, 1, Random(kind))[0]
        box = (left, top, left + _CROP, top + _CROP)
        blocks = small.resize(true.size, 0)
        for text, one in (
            ("the small picture", blocks), ("bicubic", bicubic(small)), ("this network", module.upscale(model, small)),
            ("the truth", true),
        ):  # fmt: skip
            pictures.append(one.crop(box).resize((_SHOWN, _SHOWN), 0))
            texts.append(f"{kind}: {text}")
    path = folder / _SHEET
    contact_sheet(pictures, texts, columns=4, side=_SHOWN, lines=1).save(path, optimize=True)
    return path


def write_card(folder: Path, recipe: Recipe, results: dict, run: dict) -> Path:
    """Write README.md in the model folder. `results` is what `evaluate` gave; `run` has `machine`, `minutes`,
    `cpu_minutes`, `loss` and `decoded` (whether the autoencoder's pictures were among the training's)."""
    weights = folder / network().WEIGHTS
    megabytes = weights.stat().st_size / 1e6
    clean = [row for row in results["rows"] if row["input"] == "averaged down"]
    gain = min(row["gain"] for row in clean)
    verdict = "the goal is reached in every group" if gain >= GOAL_GAIN else (
        "the least is reached in every group, the goal is not" if gain >= LEAST_GAIN else "below the least"
    )  # fmt: skip
    decoded = (
        f"{recipe.decoded:.0%} went through the embedded diffusion model's autoencoder, since the network "
        "is for its pictures"
        if run["decoded"]
        else "none went through the diffusion model's autoencoder, which was not there yet"
    )
    text = _TEMPLATE.read_text(encoding="utf-8").format(
        parameters=f"{run['parameters']:,}",
        megabytes=f"{megabytes:.2f}",
        most=MOST_MEGABYTES,
        sha=hashlib.sha256(weights.read_bytes()).hexdigest(),
        least=LEAST_GAIN,
        goal=GOAL_GAIN,
        verdict=verdict,
        table=results_table(results["rows"]),
        trials=results["rows"][0]["trials"],
        seconds=f"{results['seconds']:.2f}",
        decoded=decoded,
        samples=f"{recipe.steps * recipe.batch:,}",
        total=f"{recipe.pictures * recipe.patches:,}",
        shares=", ".join(f"{share:.0%} {kind}" for kind, share in recipe.shares.items()),
        soft=f"{recipe.soft:.0%}",
        small=recipe.patch // 4,
        **{name: value for name, value in recipe.as_dict().items() if name not in ("decoded", "shares", "soft")},
        **{name: run[name] for name in ("machine", "minutes", "cpu_minutes", "loss")},
        remarks=REMARKS.read_text(encoding="utf-8").strip(),
    )
    path = folder / "README.md"
    path.write_text(text, encoding="utf-8")
    return path


def results_table(rows: list[dict]) -> str:
    """The measurements as a table."""
    lines = [
        "| small picture | group | PSNR bicubic | PSNR | gain, dB (95%) | SSIM bicubic | SSIM | gain (95%) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['input']} | {row['group']} | {row['psnr_bicubic']:.1f} | {row['psnr']:.1f} "
            f"| {row['gain']:+.2f} ({row['gain_low']:+.2f} to {row['gain_high']:+.2f}) "
            f"| {row['ssim_bicubic']:.3f} | {row['ssim']:.3f} "
            f"| {row['ssim_gain']:+.3f} ({row['ssim_gain_low']:+.3f} to {row['ssim_gain_high']:+.3f}) |"
        )
    return "\n".join(lines)
