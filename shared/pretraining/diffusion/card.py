"""The model card: what the model is, how it was made, what it was measured to draw, and pictures nobody chose."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from shared.pretraining.diffusion.evaluation import GROUPS, Painter, prompts
from shared.pretraining.diffusion.export import weights
from shared.pretraining.diffusion.recipe import Recipe
from shared.pretraining.pictures.contact_sheet import contact_sheet
from shared.pretraining.pictures.vocabulary import COLOURS, SHAPES, held_out_combination

# What a person says who has looked at the sheet; a file of its own, since it is not computed.
REMARKS = Path(__file__).with_name("remarks.md")
_TEMPLATE = Path(__file__).with_name("card_template.md")
_SHEET = "contact_sheet.png"
_SHEET_SEED = 5_000


@dataclass(frozen=True)
class Goal:
    """The share that a group is to reach, and the least that may ship."""

    share: float
    least: float

    def verdict(self, share: float) -> str:
        """Where a measured share stands."""
        if share >= self.share:
            return "reached"
        return "ships" if share >= self.least else "below the least"


# Set before the model was trained.
GOALS = dict(
    zip(
        GROUPS,
        (Goal(0.95, 0.85), Goal(0.85, 0.70), Goal(0.80, 0.65), Goal(0.60, 0.40), Goal(0.97, 0.95), Goal(0.90, 0.90)),
        strict=True,
    )
)
SECONDS_GOAL, MEGABYTES_GOAL = 1.0, 20.0


def write_sheet(folder: Path, *, threads: int = 2, device: str = "cpu") -> Path:
    """Draw the first six prompts of every group with consecutive seeds, unselected; the sheet goes beside the model."""
    texts = [prompt.text for kind, held_out in GROUPS.values() for prompt in prompts(kind, held_out, 6)]
    drawn = Painter(folder, threads=threads, device=device).draw(texts, first_seed=_SHEET_SEED)
    path = folder / _SHEET
    contact_sheet(drawn, texts).save(path)
    return path


def write_card(folder: Path, recipe: Recipe, results: dict, run: dict) -> Path:
    """Write README.md in the model folder. `results` is what `evaluation.evaluate` gave; `run` has `machine`,
    `parameters` (by network), `autoencoder_minutes`, `minutes`, `cpu_minutes` and `loss` of the training."""
    files = weights(folder)
    total = sum(file["megabytes"] for file in files.values())
    own = recipe.autoencoder
    text = _TEMPLATE.read_text(encoding="utf-8").format(
        parameters="\n".join(f"| {name} | {count / 1e6:.2f} |" for name, count in run["parameters"].items()),
        files="\n".join(f"| `{name}` | {file['megabytes']:.1f} | `{file['sha256']}` |" for name, file in files.items()),
        total=f"{total:.1f}",
        size_verdict="reached" if total <= MEGABYTES_GOAL else "missed",
        side=recipe.side,
        latent_side=recipe.latent_side,
        channels=own.latent_channels,
        unet_channels=", ".join(map(str, recipe.unet_channels)),
        unet_layers=recipe.unet_layers,
        text_layers=recipe.text_layers,
        text_width=recipe.text_width,
        tokens=recipe.tokens,
        pictures=f"{recipe.pictures:,}",
        captions=recipe.captions,
        shares=", ".join(f"{share:.0%} {kind}s" for kind, share in recipe.shares.items()),
        autoencoder_steps=f"{own.steps:,}",
        autoencoder_batch=own.batch,
        abstract=f"{own.abstract:.0%}",
        steps=f"{recipe.steps:,}",
        batch=recipe.batch,
        samples=f"{recipe.steps * recipe.batch:,}",
        muon_rate=f"{recipe.muon_rate:g}",
        adamw_rate=f"{recipe.adamw_rate:g}",
        dropout=f"{recipe.caption_dropout:.0%}",
        ema=recipe.ema,
        snr_limit=f"{recipe.snr_limit:g}",
        noise_mean=recipe.noise_mean,
        noise_deviation=recipe.noise_deviation,
        uniform_noise=f"{recipe.uniform_noise:.0%}",
        seed=recipe.seed,
        **{name: run[name] for name in ("machine", "autoencoder_minutes", "minutes", "cpu_minutes", "loss")},
        guidance=f"{results['guidance']:g}",
        sampling_steps=results["steps"],
        combinations=", ".join(f"{c} {s}" for s in SHAPES for c in COLOURS if held_out_combination(c, s)),
        groups=groups_table(results["groups"]),
        attributes=attributes_table(results["groups"]),
        autoencoder=autoencoder_table(results["autoencoder"]),
        seconds=f"{results['seconds']:.2f}",
        seconds_verdict="reached" if results["seconds"] <= SECONDS_GOAL else "missed",
        limits=limits(results["groups"]),
        remarks=REMARKS.read_text(encoding="utf-8").strip(),
    )
    path = folder / "README.md"
    path.write_text(text, encoding="utf-8")
    return path


def groups_table(groups: list[dict]) -> str:
    """The groups as a table, beside the goal and the least that ships."""
    lines = ["| asked for | all right | 95% interval | pictures | goal | least | |", "|---|---|---|---|---|---|---|"]
    for row in groups:
        goal = GOALS[row["group"]]
        lines.append(
            f"| {row['group']} | {row['share']:.1%} | {row['low']:.1%} to {row['high']:.1%} | {row['trials']} "
            f"| {goal.share:.0%} | {goal.least:.0%} | {goal.verdict(row['share'])} |"
        )
    return "\n".join(lines)


def attributes_table(groups: list[dict]) -> str:
    """Of each attribute the share that is right where the caption names it."""
    names = list(dict.fromkeys(name for row in groups for name in row["attributes"]))
    lines = [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for row in groups:
        shares = (row["attributes"].get(name) for name in names)
        lines.append(f"| {row['group']} | {' | '.join('' if s is None else f'{s:.0%}' for s in shares)} |")
    return "\n".join(lines)


def autoencoder_table(kinds: dict[str, dict]) -> str:
    """What is left of true pictures after the autoencoder."""
    lines = ["| true pictures | PSNR, dB | still right for the judge |", "|---|---|---|"]
    return "\n".join(lines + [f"| {kind}s | {row['psnr']:.1f} | {row['right']:.1%} |" for kind, row in kinds.items()])


def limits(groups: list[dict]) -> str:
    """The groups that miss their goal, the weakest attribute, and what no attribute counts, as list items."""
    missed = [
        f"- {row['group']}: {row['share']:.1%}, the goal is {GOALS[row['group']].share:.0%} "
        f"({GOALS[row['group']].verdict(row['share'])})."
        for row in groups
        if row["share"] < GOALS[row["group"]].share
    ]
    share, name, group = min((share, name, row["group"]) for row in groups for name, share in row["attributes"].items())
    doubled = " and ".join(
        f"{row['second_lights']:.1%} of the {row['group']}" for row in groups if GROUPS[row["group"]][0] == "scene"
    )
    return "\n".join(
        [
            *(missed or ["- All groups reach their goals."]),
            f"- The weakest attribute: {name}, right in {share:.0%} of {group}.",
            f"- A second sun or moon stands in {doubled}. No caption asks for one only, so none of these counts as "
            "wrong above; nor does a second tree.",
        ]
    )
