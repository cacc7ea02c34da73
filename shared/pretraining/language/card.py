"""The model card: what the model is, how it was made, what it was measured to do, and ten samples nobody chose."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transformers import AutoModelForCausalLM

from shared.pretraining.language import layouts, opinions
from shared.pretraining.language.classification import TOPICS
from shared.pretraining.language.corpus import MIXTURE
from shared.pretraining.language.evaluation import STORY_PROMPTS
from shared.pretraining.language.export import sha256
from shared.pretraining.language.reading import LATE_RELATIONS, RELATIONS, Relation
from shared.pretraining.language.recipe import Recipe

# A reader's words on the samples: a person's judgement, so a file of its own and not computed.
REMARKS = Path(__file__).with_name("remarks.md")
_TEMPLATE = Path(__file__).with_name("card_template.md")


@dataclass(frozen=True)
class Goal:
    """What a cell of the table is to reach, and the least that may ship; `at_most`: a bound from above."""

    share: float
    least: float | None = None
    at_most: bool = False

    def verdict(self, share: float) -> str:
        """Where a measured share stands."""
        if self.at_most:
            return "reached" if share <= self.share else "above the goal"
        if share >= self.share:
            return "reached"
        if self.least is None:
            return "below the goal"
        return "ships" if share >= self.least else "below the least"


# Set before the model was trained. The cells are named as `evaluation.skills` names them.
GOALS = {
    "few-shot, fresh labels, k=0": Goal(0.10, at_most=True),
    "few-shot, fresh labels, k=2": Goal(0.85, 0.75),
    "few-shot, fresh labels, k=8": Goal(0.95, 0.85),
    "few-shot, held-out topic words too, k=2": Goal(0.85, 0.75),
    "few-shot, held-out topic words too, k=8": Goal(0.95, 0.85),
    "few-shot, formats never trained on, k=4": Goal(0.85, 0.70),
    "flipped labels, k=1": Goal(0.98, 0.95),
    "flipped labels, k=2": Goal(0.98, 0.95),
    "flipped labels, k=4": Goal(0.98, 0.95),
    "sentiment, held-out adjectives, `This review is`": Goal(0.85, 0.75),
    "sentiment, held-out adjectives, `Sentiment:`": Goal(0.85, 0.75),
    "question on a context": Goal(0.98, 0.92),
    "the same question without the context": Goal(0.10, at_most=True),
    "capitals": Goal(0.98),
}
SPEED_GOAL = 400


def write_card(folder: Path, recipe: Recipe, results: dict, run: dict) -> Path:
    """Write `folder`/README.md from the template, the measurements (`evaluation.evaluate`) and the reader's remarks.

    `run` holds cpu_seconds, wall_seconds, threads, machine and final_loss of the training.
    """
    model = AutoModelForCausalLM.from_pretrained(folder)
    weights = folder / "model.safetensors"
    text = _TEMPLATE.read_text(encoding="utf-8").format(
        **recipe.as_dict(),
        parameters=f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f}",
        constant_steps=round(recipe.constant * recipe.rounds[0]),
        first_round_end=recipe.rounds[0],
        second_round_end=sum(recipe.rounds[:2]),
        megabytes=f"{weights.stat().st_size / 1e6:.1f}",
        sha256=sha256(weights),
        mixture=_mixture(recipe),
        million_tokens=f"{recipe.steps * recipe.step_tokens / 1e6:.1f}",
        cpu_seconds=f"{run['cpu_seconds']:,.0f}",
        cpu_minutes=f"{run['cpu_seconds'] / 60 / run['threads']:.0f}",
        threads=run["threads"],
        minutes=f"{run['wall_seconds'] / 60:.0f}",
        machine=run["machine"],
        final_loss=f"{run['final_loss']:.3f}",
        held_out=_held_out(),
        late_frames=_trained_frames(LATE_RELATIONS) - _trained_frames(RELATIONS),
        skills=skills_table(results["skills"]),
        trials=max(row["trials"] for row in results["skills"]),
        table=_table(results),
        openings=len(STORY_PROMPTS),
        variety=_variety(results["variety"]),
        samples=_samples(results["samples"]),
        remarks=REMARKS.read_text(encoding="utf-8").strip(),
        limits=limits(results["skills"]),
    )
    path = folder / "README.md"
    path.write_text(text, encoding="utf-8")
    return path


def skills_table(rows: list[dict]) -> str:
    """The cells of `evaluation.skills` as a table, beside the goal and the least that ships."""
    lines = ["| asked | right | 95% interval | trials | goal | least | |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        goal, wanted, least, verdict = GOALS.get(row["cell"]), "", "", ""
        if goal:
            wanted = f"{'≤' if goal.at_most else '≥'} {goal.share:.0%}"
            least = f"{goal.least:.0%}" if goal.least is not None else ""
            verdict = goal.verdict(row["share"])
        interval = f"{row['low']:.1%} to {row['high']:.1%}"
        lines.append(
            f"| {row['cell']} | {row['share']:.1%} | {interval} | {row['trials']} | {wanted} | {least} | {verdict} |"
        )
    return "\n".join(lines)


def limits(rows: list[dict]) -> str:
    """What the table says against the model, as list items: nothing that its figures could contradict."""
    missed: dict[str, list[str]] = {}
    for row in rows:
        goal = GOALS.get(row["cell"])
        if goal and (verdict := goal.verdict(row["share"])) != "reached":
            missed.setdefault(verdict, []).append(f"{row['cell']} ({row['share']:.1%})")
    introductions = {
        "below the least": "Below the least that was to ship",
        "below the goal": "Below the goal",
        "ships": "Below the goal, but not below the least that was to ship",
        "above the goal": "Above the share that was to be stayed under",
    }
    lines = [f"- {introductions[verdict]}: {'; '.join(cells)}." for verdict, cells in missed.items()]
    lines = lines or ["- All cells that have a goal reach the goal."]
    free = [row for row in rows if row["cell"] not in GOALS]
    if free:
        lowest = min(free, key=lambda row: row["share"])
        lines.append(f"- Of the cells without a goal the lowest is: {lowest['cell']} ({lowest['share']:.1%}).")
    without = next((row for row in rows if "without the context" in row["cell"]), None)
    if without:
        lines.append(
            f"- Asked about invented people without a context, it gave the right answer {without['right']} times of "
            f"{without['trials']}. It seldom says that it does not know: what it writes then is made up."
        )
    return "\n".join(lines)


def _mixture(recipe: Recipe) -> str:
    lines = [f"| kind | first {recipe.early_steps} steps | later | second round | third |", "|---|---|---|---|---|"]
    for kind in MIXTURE:
        lines.append(f"| {kind.name} | {kind.early:.0%} | {kind.later:.0%} | {kind.second:.0%} | {kind.third:.0%} |")
    return "\n".join(lines)


def _trained_frames(relations: dict[str, Relation]) -> int:
    return sum(len(relation.statements) + len(relation.questions) for relation in relations.values())


def _held_out() -> str:
    """What the files of words and frames hold back, counted."""
    adjectives = sum(len(kept_back) for _, kept_back in opinions.WORDS[:2])
    topic_words = sum(len(topic.held_out_words) for topic in TOPICS.values())
    topic_frames = sum(len(topic.held_out_frames) for topic in TOPICS.values())
    relations = sum(len(r.held_out_statements) + len(r.held_out_questions) for r in RELATIONS.values())
    parts = (
        layouts.HELD_OUT_TEXT_FIELDS, layouts.HELD_OUT_LABEL_FIELDS, layouts.HELD_OUT_ARROWS,
        layouts.HELD_OUT_WRAPPERS, layouts.HELD_OUT_CLOSERS,
    )  # fmt: skip
    return (
        f"- {topic_frames} frames of {len(TOPICS)} topics, and those that any topic has; {relations} statements and "
        f"questions of {len(RELATIONS)} relations between people, places and things; the frames of praise and blame "
        f"that the trials use. No text of the classification, opinions and reading kinds has them. The words of the "
        f"held-out statements and questions are met in other sentences, most of them in the third round.\n"
        f"- {adjectives} adjectives of praise and blame, which no labelled review contains, and {topic_words} "
        f"words of the topics, which no text to be classified or named by its topic has as its topic word. All are met "
        f"elsewhere, or nobody could know their meaning: in talk (`... are words for good things`, dialogue, "
        f"letters) and in lists (`fruit: plums and figs`).\n"
        f"- {sum(map(len, parts))} parts of prompt layouts (field names, arrows, brackets, closing words)."
    )


def _table(results: dict) -> str:
    entropy = results["entropy"]
    rows = [
        (
            "perplexity per token, fresh documents",
            ", ".join(f"{kind} {value:.1f}" for kind, value in results["perplexity"].items()),
        ),
        (
            "entropy of the next token, first 60 tokens of fresh stories",
            f"mean {entropy['mean']:.2f} nats, median {entropy['median']:.2f}; above 1 nat at {entropy['above_1']:.0%} "
            f"of the places, above 2 nats at {entropy['above_2']:.0%}",
        ),
        (
            "stories at temperature 0.8 that break a rule of writing",
            ", ".join(f"{name}: {value:.0%}" for name, value in results["rules"].items()),
        ),
        (
            "speed, one sequence, one thread, fp32, transformers' `generate`",
            f"{results['tokens_per_second']:.0f} tokens/s (goal: at least {SPEED_GOAL})",
        ),
    ]
    return "| measured | result |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in rows)


def _variety(rows: list[dict]) -> str:
    keys = ("temperature", "different_of_20", "distinct_2", "mean_log_prob")
    lines = ["| temperature | different texts of 20 | distinct-2 | mean log-probability |", "|---|---|---|---|"]
    lines += ["| {} | {:.1f} | {:.2f} | {:.2f} |".format(*(row[key] for key in keys)) for row in rows]
    return "\n".join(lines)


def _samples(samples: list[dict]) -> str:
    blocks = []
    for number, sample in enumerate(samples, 1):
        text = f"**{sample['prompt']}**{sample['text']}".rstrip().replace("\n", "\n   > ")
        blocks.append(f"{number}. Seed {sample['seed']}\n\n   > {text}")
    return "\n\n".join(blocks)
