# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
#   workshop:
#     minutes: 45
#     track: further
# ---

# %% [markdown]
# # Preferences: from what people like to what a model writes
#
# **Lab 2, notebook 3, to go further.** Fine-tuning on texts teaches a model to write *like* those texts. But often nobody has
# texts to imitate, while everybody can say which of two answers they would rather have. This notebook turns such choices into a
# better model: it collects preferences, learns a **reward model** from them, and trains the language model on them in a
# training job. The family of methods is called **reinforcement learning from human feedback**, RLHF for short. It is what
# made chat assistants out of language models. Then we make it fail, on purpose, in the way in which it likes to fail.
#
# When you are done you will be able to
#
# - collect preferences, measure how far people agree, and say how good a model of them can be at best;
# - explain the Bradley–Terry model, and train and test a reward model;
# - improve answers without any training (**best-of-n**), and say what it costs;
# - explain **PPO** by its objective and its four models, **DPO** by its loss and its `beta`, and run DPO as a training job;
# - judge the result: by new readers, by the distance from the first model, by what was forgotten, by who is not pleased;
# - recognize **reward hacking** when you see it.
#
# | | on your laptop | on AWS |
# |---|---|---|
# | **time** | about 45 minutes of reading, 2 of computing | an estimate: the same, and 5 minutes of waiting for the training job |
# | **cost** | nothing | an estimate: one training job of a few minutes, a few cents |
# | **you need** | this repository, set up by `make jupyter` | a role that may use SageMaker and S3, and a quota of one instance for training |
#
# You should have done [notebook 1](1-fine-tune.ipynb): training jobs, channels and loss are not explained again.

# %% tags=["parameters"]
BACKEND = "auto"  # "auto", "local" or "sagemaker"
MODEL = "embedded"  # this notebook opens its model up, and always uses the embedded one
KEEP = False  # True keeps what is in S3 when the notebook ends

# %%
import sys

sys.path.insert(0, "..")  # the folder that holds `shared`, the code that all labs use
from shared import display as view
from shared.workshop import Workshop

workshop = Workshop(lab="2", backend=BACKEND, model=MODEL)
workshop

# %% [markdown]
# ## 1. The task: letters that people like to get
#
# The embedded model can write little letters. Give it a greeting and a first sentence, and it goes on. Everything in this
# notebook but the training job happens here, in the notebook's own process.

# %%
import torch
from letters import openings
from sampling import write
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from shared.catalogue import EMBEDDED_FOLDER

logging.disable_progress_bar()
tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_FOLDER)


def load(folder=EMBEDDED_FOLDER):
    """A language model in this process, in float32."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


base = load()
some = openings("train", 6, seed=7)
letters = write(base, tokenizer, some, seed=1)
view.completions({"prompt": opening, "text": letter} for opening, letter in zip(some, letters))

# %% [markdown]
# (`openings` and `write` are in [letters.py](letters.py) and [sampling.py](sampling.py). All letters are sampled at temperature 1,
# with the model's own probabilities.)
#
# Some of these letters are nice to get: somebody thanks you, misses you, invites you. Others complain, refuse, or fall apart in
# the middle. The model does not care: both kinds were in its training data, and so it writes both. That is the point to keep in mind.
# **We do not want to teach it to write letters. We want it to write more of the letters that it can write already and that people like.**
#
# How would you teach that by examples to imitate? Somebody would have to write hundreds of good letters. Choosing between two is quicker,
# and people agree about it more than about grades from 1 to 10. So we let the model write *two* letters for each opening.

# %%
from tqdm.auto import tqdm

TRAIN, TEST = openings("train", 400), openings("test", 160)  # they share no name and no sentence


def pairs_for(prompts, seed):
    """Two letters for each opening, as (opening, letter A, letter B); equal ones are left out."""
    first, second = (write(base, tokenizer, prompts, seed=seed + i) for i in tqdm((0, 1)))
    return [pair for pair in zip(prompts, first, second) if pair[1] != pair[2]]


train_pairs, test_pairs = pairs_for(TRAIN, seed=10), pairs_for(TEST, seed=20)
print(len(train_pairs), "pairs to learn from,", len(test_pairs), "to test on")

# %% [markdown]
# ## 2. Your own labels
#
# Which of the two would you rather get? Answer a few pairs, and feel how easy or hard it is. The line below the buttons does the same as a
# click. Your answers go into the training data.

# %%
from labelling import Labels

mine = Labels([(prompt + a, prompt + b) for prompt, a, b in train_pairs[:20]])
mine.widget()

# %%
mine.answer(0, "A")  # in pair 0, letter A is the better one; change it as you like
print(len(mine.answers), "answered")

# %% [markdown]
# ## 3. Readers, and how far they agree
#
# Nobody here can ask a hundred people, so they are **simulated** ([readers.py](readers.py)). Each of them weighs what a letter says and
# what is wrong with it. Here is what most of them feel; every reader has weights of their own, up to half smaller or larger.

# %%
from readers import COMMON, liking, panel

labellers = panel(24, seed=1)  # they label our data
judges = panel(100, seed=2)  # other people, who label nothing: they judge what comes of it
view.table(sorted(COMMON.items(), key=lambda item: -item[1]), columns=["what is in a letter", "worth"])

# %% [markdown]
# Two things make them like people, and unlike a formula:
#
# - **They are not always sure.** Where two letters are nearly equally good to them, they answer by mood, and another time otherwise.
# - **They are not all alike.** One reader in four does *not* like to be invited. We call them the quiet ones.
#
# How far do they agree? We ask on the test pairs: the same person twice, and two different persons.

# %%
from random import Random

rng = Random(1)


def answer(reader, pair):
    """Does this reader choose letter A? Asked once."""
    prompt, a, b = pair
    return reader.chooses_first(prompt + a, prompt + b, rng)


def interval(share, n, z=1.96):
    """Wilson's 95% interval of a share that was measured on n cases."""
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5 / (1 + z * z / n)
    return middle - half, middle + half


def measured(hits):
    """(share, low, high) of a list of True and False."""
    share = sum(hits) / len(hits)
    return share, *interval(share, len(hits))


people = [rng.sample(labellers, 2) for _ in test_pairs]
agreement = {
    "one person, asked twice": [
        answer(one, pair) == answer(one, pair) for (one, _), pair in zip(people, test_pairs)
    ],
    "two persons": [
        answer(one, pair) == answer(two, pair) for (one, two), pair in zip(people, test_pairs)
    ],
}
agreement = {name: measured(hits) for name, hits in agreement.items()}
view.shares_with_interval(agreement, title="How often the answers are the same", xlabel="share")

# %% [markdown]
# A coin would give 50%. (For real labellers of chat answers, agreements of 65 to 80% are usual.) Two consequences for all that
# follows:
#
# - **Each single label is partly noise.** A model of the readers that was *perfect* would still miss many of them.
# - **There is no such thing as "the" preference.** What we learn is a mixture of the people whom we asked.
#
# How many would a perfect model get right? The best that one can do is to answer as the majority would. So we let the majority of the
# labellers guess what one new person says. That is the **ceiling**.

# %%
from readers import share_preferring

test_labels = [answer(rng.choice(judges), pair) for pair in test_pairs]  # one new person each
majority = [share_preferring(labellers, p + a, p + b) > 0.5 for p, a, b in test_pairs]
ceiling = measured([guess == label for guess, label in zip(majority, test_labels)])
print(f"The majority guesses {ceiling[0]:.0%} of single answers ({ceiling[1]:.0%} to {ceiling[2]:.0%}).")

# %% [markdown]
# Now the labels to learn from: one answer of one reader for each pair, as most real data sets have it. Where you answered, your label
# counts.

# %%
train_labels = [answer(rng.choice(labellers), pair) for pair in train_pairs]
for number, choice in mine.answers.items():
    train_labels[number] = choice == "A"
preferences = [
    {"prompt": prompt, "chosen": a if first else b, "rejected": b if first else a}
    for (prompt, a, b), first in zip(train_pairs, train_labels)
]
rows = [(row["prompt"], row["chosen"], row["rejected"]) for row in preferences[:4]]
print(f"You agree with the labellers' majority in {mine.agreement(labellers):.0%} of your answers.")
view.table(rows, columns=["prompt", "chosen", "rejected"])

# %% [markdown]
# `prompt`, `chosen`, `rejected`: this is the usual form of a **preference data set**. Look for a row in which you would have chosen otherwise.
#
# ## 4. Bradley and Terry: from choices to a scale
#
# We want a number for each letter, its **reward** $r$, that is higher the more people like it. Nobody ever said a number, though; they chose.
# Bradley and Terry (1952) tie the two together: the larger the difference of two rewards, the surer the choice.
#
# $$P(A \text{ is preferred to } B) \;=\; \sigma\big(r(A) - r(B)\big), \qquad \sigma(d) = \frac{1}{1 + e^{-d}}$$
#
# <img src="images/bradley-terry.svg" alt="An S-shaped curve: across, the difference of two letters' rewards; up, the chance that the first is chosen. At difference 0 the chance is 50 percent, at 1 it is 73 percent, at 3 it is 95 percent, at -1 it is 27 percent. Only the difference counts." width="620">
#
# Equal rewards give 50%. A difference of 1 gives 73%, of 3 gives 95%. Only differences count: add 100 to every reward, and nothing
# changes. (Chess ratings work the same way.)
#
# To learn rewards from choices, one makes the observed choices as probable as possible: for each pair the **loss** is
#
# $$-\log \sigma\big(r(\text{chosen}) - r(\text{rejected})\big)$$
#
# It is small where the chosen letter has the clearly higher reward, and large where the model was sure and wrong. For a model that knows nothing
# (all differences 0) it is $\log 2 \approx 0.69$: remember this number, it will come back.
#
# ## 5. The reward model
#
# Who computes $r$? A copy of the language model itself, because it has learned to read. Its last layer, which gives a score to each possible
# next token, is replaced by one that gives a **single number** for the whole letter, read off at the last token (a *scalar head*). All
# weights are then trained with the loss above. That is the whole program:

# %%
import torch.nn.functional as F
from transformers import AutoModelForSequenceClassification


def new_reward_model():
    """The embedded model with a head that gives one number for a text."""
    model = AutoModelForSequenceClassification.from_pretrained(
        EMBEDDED_FOLDER, num_labels=1, dtype=torch.float32
    )
    torch.nn.init.zeros_(model.score.weight)  # at first it knows nothing: every reward is 0
    return model


def rewards(model, texts):
    """The reward of each text: float32 [texts]."""
    batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="right")
    return model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0]


def train_reward_model(rows, epochs=2, batch=16, rate=3e-4):
    """A reward model of rows with `prompt`, `chosen` and `rejected`; and the loss of each step."""
    model, losses = new_reward_model().train(), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    order = [n for epoch in range(epochs) for n in Random(epoch).sample(range(len(rows)), len(rows))]
    batches = [order[start : start + batch] for start in range(0, len(order) - batch + 1, batch)]
    for step, numbers in enumerate(tqdm(batches)):
        chosen = [rows[n]["prompt"] + rows[n]["chosen"] for n in numbers]
        rejected = [rows[n]["prompt"] + rows[n]["rejected"] for n in numbers]
        scores = rewards(model, chosen + rejected)
        loss = -F.logsigmoid(scores[: len(numbers)] - scores[len(numbers) :]).mean()
        optimizer.param_groups[0]["lr"] = rate * (1 - step / len(batches))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model.eval().requires_grad_(False), losses


reward_model, losses = train_reward_model(preferences)
print(f"loss: {sum(losses[:5]) / 5:.2f} at the beginning, {sum(losses[-5:]) / 5:.2f} at the end")

# %% [markdown]
# Is it any good? It must be tested on **held-out pairs**: other openings, and answers of people whom it never learned from. And compared: with the
# ceiling above, and with something simple, such as "people prefer the longer letter".


# %%
@torch.inference_mode()
def scores(texts, batch=100):
    """The reward model's rewards of many whole letters, as a list."""
    parts = [rewards(reward_model, texts[i : i + batch]) for i in range(0, len(texts), batch)]
    return torch.cat(parts).tolist()


reward_a, reward_b = (scores([p + pair[i] for p, *pair in test_pairs]) for i in (0, 1))
guesses = {
    "the longer letter": [len(a) > len(b) for _, a, b in test_pairs],
    "the reward model": [a > b for a, b in zip(reward_a, reward_b)],
}
accuracy = {
    name: measured([guess == label for guess, label in zip(hits, test_labels)])
    for name, hits in guesses.items()
}
accuracy["the ceiling: what the majority says"] = ceiling
view.shares_with_interval(accuracy, title="Guessing what a new person chooses", xlabel="share right")

# %% [markdown]
# The reward model is well above a coin and the simple rule, and below the ceiling: part of what is missing is noise that nobody can predict, the rest
# it would learn from more pairs. Look at the width of the intervals, too. With some 160 test pairs one cannot tell apart two
# reward models that differ by a few percent. Papers that report 2% more on a few hundred pairs report nothing.
#
# Does the curve of section 4 hold? We sort the test pairs by the difference of their two rewards, cut them into groups, and count how often letter A was
# chosen in each.

# %%
import numpy as np
from matplotlib import pyplot

view.style()
difference, chose_a = np.subtract(reward_a, reward_b), np.array(test_labels)
groups = np.array_split(np.argsort(difference), 7)
x, shares = [difference[g].mean() for g in groups], [chose_a[g].mean() for g in groups]
ends = np.array([interval(share, len(g)) for share, g in zip(shares, groups)]).T

figure, axis = pyplot.subplots(figsize=(6.4, 3.4))
line = np.linspace(min(x) - 0.5, max(x) + 0.5, 100)
axis.plot(line, 1 / (1 + np.exp(-line)), color="#8a8a8a", label="Bradley and Terry's curve")
bars = np.abs(ends - shares)
axis.errorbar(x, shares, yerr=bars, fmt="o", capsize=3, label="what new people chose")
axis.set(xlabel="reward of A - reward of B", ylabel="share who chose A", ylim=(0, 1))
axis.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
axis.legend()
points = ", ".join(f"{a:.1f}: {s:.0%}" for a, s in zip(x, shares))
view.show(
    figure, f"Share who chose A by the difference of rewards, against an S-curve. {points}."
)

# %% [markdown]
# Points on the curve mean that the rewards are **calibrated**: a difference of 1 really means 73%. Where the points are flatter than the curve, the
# reward model is surer of itself than it should be, which is common when it has seen its few pairs more than once.
#
# What does it like? The test letters with the highest and the lowest reward:

# %%
texts = [prompt + letter for prompt, *pair in test_pairs for letter in pair]
ranked = sorted(zip(scores(texts), texts))
chosen = [*reversed(ranked[-3:]), *ranked[:3]]
view.completions([{"text": text, "label": f"reward {reward:+.2f}"} for reward, text in chosen])

# %% [markdown]
# ## 6. The simplest use: write n, send the best
#
# A reward model needs no training of the language model to be useful. Let the model write $n$ letters, score them, send the best:
# **best-of-n**. It costs $n$ times the computing for each letter, and it sets the mark that any training has to beat.
#
# Who judges? *Not the reward model*: it chose the letters, so it would praise itself. We take the 100 judges, who labelled nothing. The measure
# throughout is: **what share of them, on average, would choose this letter over one that the base model wrote for the same opening?** 50% means "no
# better than before".
#
# For 32 held-out openings the base model writes 24 letters each.

# %%
MANY = 24
held_out = TEST[:32]
pool = [letter for i in tqdm(range(MANY)) for letter in write(base, tokenizer, held_out, seed=100 + i)]
pool = {prompt: pool[n :: len(held_out)] for n, prompt in enumerate(held_out)}


def liked(prompt, letters, people=judges):
    """The share of people who choose each letter over the base model's for the same opening."""
    return liking(people, [prompt + t for t in letters], [prompt + t for t in pool[prompt]])


preferred = {prompt: liked(prompt, letters) for prompt, letters in pool.items()}
by_reward = {prompt: scores([prompt + t for t in letters]) for prompt, letters in pool.items()}

# %% [markdown]
# For each $n$ we could draw $n$ of the 24 at random, many times. There is an exact way: sorted by reward, the letter at place $k$ (from 0) is the
# best of $n$ random ones exactly if the other $n - 1$ come from the $k$ below it.

# %%
from math import comb, log


def best_of(n, selected_by, values):
    """The mean of `values` of the best of n random letters, where `selected_by` says which is best."""
    order = np.lexsort((Random(0).sample(range(MANY), MANY), selected_by))  # ties by lot
    return sum(comb(k, n - 1) * values[i] for k, i in enumerate(order)) / comb(MANY, n)


def over_openings(values):
    """(mean, low, high) of one value for each opening, with a 95% interval."""
    mean, half = np.mean(values), 1.96 * np.std(values, ddof=1) / len(values) ** 0.5
    return mean, mean - half, mean + half


counts = [1, 2, 4, 8, 12, 24]
curves = {}
for name, by in {"chosen by the reward model": by_reward, "chosen by the judges": preferred}.items():
    means = [
        over_openings([best_of(n, by[prompt], preferred[prompt]) for prompt in held_out])
        for n in counts
    ]
    curves[name] = tuple(zip(*means))
shown = ", ".join(f"{n}: {share:.0%}" for n, share in zip(counts, curves["chosen by the reward model"][0]))
view.line_with_interval(
    counts,
    curves,
    xlabel="n",
    ylabel="share who prefer it",
    alt=f"Share of judges who prefer the best of n letters to the base model's. By reward: {shown}.",
)

# %% [markdown]
# The first few letters bring the most. The upper line is what a reward model without error would reach; the gap between the lines is what its errors cost, and it
# *grows* with $n$: the more candidates there are, the more of them the reward model can be wrong about. Keep this in mind for section 10.
#
# ## 7. From rewards to a better model
#
# Best-of-n pays for every letter, for ever. Could the model itself learn to write as if it had chosen? We look for a model $\pi$ (in
# this field the language model is called the **policy**) whose letters get high rewards, **without going far from the base model** $\pi_\text{ref}$ (the
# **reference**):
#
# $$\max_\pi \;\; \mathbb{E}_{y \sim \pi}\big[\, r(y) \,\big] \;-\; \beta \cdot \mathrm{KL}\big(\pi \,\|\, \pi_\text{ref}\big)$$
#
# The **Kullback–Leibler divergence** (KL) measures the distance: let $\pi$ write many letters; by how much, on average, does it find each more probable
# than the reference does, in logarithms? 0 means that it is still the same model. $\beta$ is the price of distance. Why pay for
# distance at all? Because the reward model knows only letters such as the base model writes; far from them its numbers mean nothing (section 10).
#
# ### PPO: the classic way
#
# <img src="images/ppo.svg" alt="Four models. The policy writes a letter for an opening. The frozen reward model gives it one number. The frozen reference model says how far the policy has moved, which lowers the reward. The value model guesses the reward beforehand. The difference between reward and guess, the advantage, adjusts the policy: more of what was better than expected." width="760">
#
# *Reinforcement learning* is learning by trial and reward: let the policy write, score what it wrote, make what scored better than expected more probable,
# and repeat. **Proximal policy optimization** (PPO, Schulman et al. 2017) is the form that RLHF first used. Its objective for each token is
#
# $$\min\Big(\rho \, \hat A, \;\; \mathrm{clip}(\rho,\, 1 - \epsilon,\, 1 + \epsilon)\, \hat A\Big), \qquad \rho = \frac{\pi(\text{token})}{\pi_\text{old}(\text{token})}$$
#
# - the **advantage** $\hat A$: how much better than expected it went. What is *expected* comes from a fourth model, the **value model**;
# - the ratio $\rho$: how much more probable the token has become since the letters were written. The **clip** (usually $\epsilon = 0.2$) ends the
#   reward for moving further than 20% in one round: the *proximal* in the name.
#
# It works, and it is heavy: four models in memory, two of them in training, and sampling in between. How heavy? For each weight, training
# with Adam in mixed precision keeps 16 bytes (2 for the weight, 2 for its gradient, 12 for Adam: a float32 copy and two averages); a frozen model keeps 2.

# %%
def gigabytes(billions, trained, frozen, adapter=0.0):
    """Memory for the weights of `trained` and `frozen` models; `adapter`: billions of LoRA weights."""
    return billions * (16 * trained + 2 * frozen) + 16 * adapter


size = 7  # billions of weights; try 70
view.table(
    [
        ("fine-tuning", gigabytes(size, 1, 0)),
        ("PPO: policy, value model; reward model, reference", gigabytes(size, 2, 2)),
        ("DPO: policy; reference", gigabytes(size, 1, 1)),
        ("DPO, the reference's log-probabilities computed before", gigabytes(size, 1, 0)),
        ("DPO with LoRA (0.5% of the weights): reference = policy without adapter",
         gigabytes(size, 0, 1, adapter=0.005 * size)),
    ],
    columns=[f"method, {size} billion weights", "GB"],
    caption="Without activations and KV cache, which come on top",
)  # fmt: skip

# %% [markdown]
# A large GPU has 80 GB (H100) or 141 GB (H200). PPO for 7 billion weights wants several; DPO with LoRA fits on one small one.
#
# ### DPO: the same objective without the detour
#
# The objective above has a solution that one can write down. The best policy is the reference, with each letter's probability multiplied by how good it
# is:
#
# $$\pi^*(y) \;=\; \frac{1}{Z}\; \pi_\text{ref}(y)\; e^{\,r(y)/\beta}$$
#
# ($Z$ makes the probabilities add up to 1. It sums over all possible letters, so nobody can compute it.) Rafailov et al. (2023) read this equation
# *backwards*. Solve it for the reward:
#
# $$r(y) \;=\; \beta \log \frac{\pi^*(y)}{\pi_\text{ref}(y)} \;+\; \beta \log Z$$
#
# So **every policy has a reward hidden in it**: what it finds more probable than the reference does, it must like. Now put this into the loss of
# section 4. It only needs a *difference* of two rewards, so the unknown $\beta \log Z$ cancels, and what is left can be computed:
#
# $$\text{loss} \;=\; -\log \sigma\!\left( \beta \log \frac{\pi(\text{chosen})}{\pi_\text{ref}(\text{chosen})} \;-\; \beta \log \frac{\pi(\text{rejected})}{\pi_\text{ref}(\text{rejected})} \right)$$
#
# That is **direct preference optimization**. No reward model, no value model, no sampling: an ordinary training loop over pairs. What does `beta` do? A
# difference of $d$ in the hidden reward needs a difference of $d / \beta$ in log-probabilities. Small beta: the policy must move far to say how much it likes a letter. Large
# beta: small steps are enough, and it stays near the reference.
#
# Let us compute it for one pair, with the reference as the policy, that is, before the first step:

# %%
from sampling import log_probability


def dpo_loss(policy, reference, row, beta):
    """The loss above for one pair."""
    hidden = []
    for text in (row["chosen"], row["rejected"]):
        ours = log_probability(policy, tokenizer, [row["prompt"]], [text])
        theirs = log_probability(reference, tokenizer, [row["prompt"]], [text])
        hidden.append(beta * (ours - theirs))
    return -F.logsigmoid(hidden[0] - hidden[1]).item()


with torch.no_grad():
    print(f"{dpo_loss(base, base, preferences[0], beta=0.1):.4f}, and log 2 is {log(2):.4f}")

# %% [markdown]
# The number to remember: a policy that is still the reference likes nothing better than anything else. If the training loss does not *begin* at 0.69,
# something is wrong with the set-up (the wrong reference, say). If it does not fall, nothing is learned.

# %% [markdown]
# ## 8. DPO as a training job
#
# The script is [code/preferences.py](code/preferences.py): about 200 lines, of which most check what comes in; the training itself is the
# `DPOTrainer` of Hugging Face's library **trl**. It takes three channels: the pairs to learn from, pairs to test on, and the model.

# %%
import json
from pathlib import Path

folder = Path("out/preferences")
test_preferences = [
    {"prompt": prompt, "chosen": a if first else b, "rejected": b if first else a}
    for (prompt, a, b), first in zip(test_pairs, test_labels)
]
for name, rows in {"train": preferences, "validation": test_preferences}.items():
    (folder / name).mkdir(parents=True, exist_ok=True)
    lines = "\n".join(json.dumps(row) for row in rows)
    (folder / name / "pairs.jsonl").write_text(lines, encoding="utf-8")

# %%
from sagemaker.core.resources import TrainingJob
from sagemaker.core.shapes import MetricDefinition
from sagemaker.train import ModelTrainer
from sagemaker.train.configs import Compute, InputData, OutputDataConfig, SourceCode

hyperparameters = {"beta": 0.5, "learning_rate": 1e-4, "num_train_epochs": 2, "seed": 1}
job_name = workshop.name("job", hyperparameters, preferences)
names = ["train_loss", "eval_loss", "preference_accuracy", "eval_accuracy", "reward_margin"]
trainer = ModelTrainer(
    training_image=workshop.model.training_image_uri(workshop.region),
    source_code=SourceCode(
        source_dir="code",
        entry_script="preferences.py",
        requirements="requirements-preferences.txt",
    ),
    compute=Compute(
        instance_type=workshop.model.training_instance_type, instance_count=1
    ),
    hyperparameters=hyperparameters,
    output_data_config=OutputDataConfig(s3_output_path=workshop.s3_uri("jobs")),
    base_job_name=job_name,
    role=workshop.role,
    sagemaker_session=workshop.session,
    tags=workshop.tags,
).with_metric_definitions(
    [MetricDefinition(name=name, regex=f"{name}=([0-9.eE+-]+)") for name in names]
)

# %%
job = workshop.existing(TrainingJob, job_name)
if job is None:
    channels = {
        "train": folder / "train",
        "validation": folder / "validation",
        "model": EMBEDDED_FOLDER,
    }
    inputs = [InputData(channel_name=n, data_source=str(path)) for n, path in channels.items()]
    trainer.train(input_data_config=inputs, wait=False)
    job = trainer._latest_training_job
workshop.watch(job)

# %% [markdown]
# Both losses begin at 0.69. The loss on the training pairs falls further than that on the held-out pairs: with single noisy labels, a model that goes
# over its pairs often enough learns the noise by heart. Compare two more numbers: the share of pairs in which the hidden reward of the chosen letter is the higher
# one, on held-out pairs, with the reward model of section 5; and the margin, which tells how sure it is.

# %%
metrics = workshop.metrics(job)
steps, losses_in_job = zip(*metrics["train_loss"])
print(f"training loss {losses_in_job[0]:.3f} at step {steps[0]:.0f}, {losses_in_job[-1]:.3f} at step {steps[-1]:.0f}")
print(f"held-out loss {metrics['eval_loss'][0][1]:.3f} before, {metrics['eval_loss'][-1][1]:.3f} after")
share, low, high = accuracy["the reward model"]
print(f"held-out pairs ordered rightly: {metrics['eval_accuracy'][-1][1]:.0%} by the hidden reward,")
print(f"{share:.0%} ({low:.0%} to {high:.0%}) by the reward model of section 5")
workshop.cost(job)

# %% [markdown]
# The artifact is a model like any other: a folder that `from_pretrained` reads, and that an endpoint can serve as in notebook 1. We fetch it.

# %%
import tarfile
from io import BytesIO

bucket, key = job.model_artifacts.s3_model_artifacts.removeprefix("s3://").split("/", 1)
archive = workshop.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
with tarfile.open(fileobj=BytesIO(archive)) as files:
    files.extractall(folder / "model", filter="data")
    print(f"{len(archive) / 1e6:.1f} MB:", ", ".join(sorted(files.getnames())))

# %% [markdown]
# ## 9. Before and after
#
# Load the tuned model, and let both write to openings that neither the labellers nor the training saw. Read before you measure.

# %%
tuned = load(folder / "model")
same = held_out[:4]
texts = zip(same, write(base, tokenizer, same, seed=5), write(tuned, tokenizer, same, seed=5))
view.completions(
    {"prompt": opening, "text": letter, "label": name}
    for opening, *letters in texts
    for name, letter in zip(("base model", "after DPO"), letters)
)

# %% [markdown]
# ### What do people say?
#
# The judges of section 6 again, on the 32 held-out openings, 4 letters for each. And the distance from the reference: the KL, measured on the letters that
# the tuned model writes. For best-of-n the KL is known to be at most $\log n - (n - 1)/n$.

# %%
prompts = held_out * 4
letters_after = write(tuned, tokenizer, prompts, seed=6)
letters_before = write(base, tokenizer, prompts, seed=7)


@torch.inference_mode()
def distance(policy, prompts, letters):
    """KL to the base model in nats per letter, from letters that the policy wrote."""
    ours = log_probability(policy, tokenizer, prompts, letters)
    return (ours - log_probability(base, tokenizer, prompts, letters)).mean().item()


def preferred_share(prompts, letters, people=judges):
    """(mean, low, high) over openings of the share who prefer the letters to the base model's."""
    by_opening = {}
    for prompt, letter in zip(prompts, letters):
        by_opening.setdefault(prompt, []).append(letter)
    return over_openings([liked(p, texts, people).mean() for p, texts in by_opening.items()])


def row(name, share, kl, letters, cost):
    text = f"{share[0]:.0%} ({share[1]:.0%} to {share[2]:.0%})"
    return name, text, f"{kl:.1f}", f"{len(set(letters)) / len(letters):.0%}", cost


rows = [
    row("base model", preferred_share(prompts, letters_before), 0, letters_before, 1),
    row("after DPO", preferred_share(prompts, letters_after),
        distance(tuned, prompts, letters_after), letters_after, 1),
]  # fmt: skip
best_by_n = {}
for n in (4, 12):
    best_by_n[n] = [
        max(pool[p][start : start + n], key=dict(zip(pool[p], by_reward[p])).get)
        for p in held_out
        for start in range(0, MANY, n)
    ]
    share = tuple(curves["chosen by the reward model"][i][counts.index(n)] for i in range(3))
    rows.append(row(f"base model, best of {n}", share, log(n) - (n - 1) / n, best_by_n[n], n))
columns = ["letters of", "judges prefer it to base", "KL (nats)", "different letters", "letters written"]
view.table(rows, columns=columns)

# %% [markdown]
# That is the result that counts: people who had no part in the training, on openings that were held out. Compare the row of DPO with those of best-of-n:
# which $n$ does the training save you, and at which distance from the base model?
#
# *Different letters* hints at a price. A model that learns what people like also becomes more **uniform**. What changed in what it says?

# %%
from letters import says


def average_content(prompts, letters):
    counted = [says(prompt + letter) for prompt, letter in zip(prompts, letters)]
    return {kind: np.mean([count[kind] for count in counted]) for kind in COMMON}


before, after = average_content(prompts, letters_before), average_content(prompts, letters_after)
figure, axis = pyplot.subplots(figsize=(6.4, 3.6))
kinds = sorted(COMMON, key=COMMON.get)
for height, (name, values) in zip((0.2, -0.2), {"base": before, "after DPO": after}.items()):
    spots = [place + height for place in range(len(kinds))]
    axis.barh(spots, [values[kind] for kind in kinds], height=0.38, label=name)
axis.set_yticks(range(len(kinds)), [f"{kind} ({COMMON[kind]:+.1f})" for kind in kinds])
axis.set(xlabel="how often in a letter (in brackets: what it is worth to most readers)")
axis.legend()
shown = "; ".join(f"{kind}: {before[kind]:.2f} before, {after[kind]:.2f} after" for kind in kinds)
view.show(figure, f"How often each kind of remark occurs in a letter. {shown}.")

# %% [markdown]
# Nobody told the model this list. It saw pairs, each labelled once by somebody who was not sure. Check it against the weights: what is worth something
# should have become more frequent, what costs should have become rarer.
#
# ### Whose preferences?
#
# One reader in four does not like to be invited. Their answers are in the training data. What did they get?

# %%
quiet = [person for person in judges if person.quiet]
others = [person for person in judges if not person.quiet]
by_group = {
    f"{name}: {what}": preferred_share(prompts, letters, group)
    for name, group in {f"{len(others)} others": others, f"{len(quiet)} quiet ones": quiet}.items()
    for what, letters in {"base": letters_before, "after DPO": letters_after}.items()
}
view.shares_with_interval(by_group, title="Who prefers it to the base model's?", xlabel="share")

# %% [markdown]
# One model for all learns the majority's taste, and the average in the table above does not show what it does to the rest. This is not a flaw of DPO: *any* single
# reward does it. What one can do: **know who labelled** (a data set should say who its labellers were, how they were paid and instructed, and how far they agreed);
# **report results by group**, as here; give each group a model, an adapter or a sentence in the prompt of its own; or decide on purpose that the majority counts,
# and say so.
#
# ### What was forgotten?
#
# Training moved all weights. The base model's other skills were in the same weights. We ask for them, and measure how surprising ordinary
# stories have become (perplexity, as in notebook 1).

# %%
from sampling import answers_rightly

from shared.pretraining.language.stories import story

lines = Path("data/forgetting/prompts.jsonl").read_text(encoding="utf-8").splitlines()
questions = [json.loads(line) for line in lines]
stories = [story(Random(f"held-out story {n}")) for n in range(40)]


@torch.inference_mode()
def other_skills(model):
    """The share of right answers for each task, and the perplexity of stories."""
    asked, right = [q["prompt"] for q in questions], [q["answer"] for q in questions]
    hits = answers_rightly(model, tokenizer, asked, right)
    result = {}
    for task in dict.fromkeys(q["task"] for q in questions):
        found = [hit for hit, q in zip(hits, questions) if q["task"] == task]
        result[task] = f"{np.mean(found):.0%}"
    total = sum(
        log_probability(model, tokenizer, [text[:40]], [text[40:]]).item() for text in stories
    )
    tokens = sum(len(tokenizer(text[40:])["input_ids"]) + 1 for text in stories)
    return result | {"perplexity of stories": f"{np.exp(-total / tokens):.2f}"}


skills = {"base model": other_skills(base), "after DPO": other_skills(tuned)}
rows = [{"model": name} | result for name, result in skills.items()]
view.table(rows)

# %% [markdown]
# The KL term protects only what the letters' openings touch. On prompts of another kind nothing held the policy back, so look here whenever you tune. The usual remedies are a larger `beta`,
# a smaller learning rate, LoRA, or mixing in examples of what must not be lost.
#
# ## 10. Reward hacking
#
# Labels cost money. So somebody has an idea: *people like warm letters; why not simply count warm words?* It costs nothing, it never contradicts itself,
# and it is right so far as it goes: letters with more warm words **are** liked better. We call such a stand-in for what we really want a
# **proxy**.

# %%
import re

WARM = set("thank thanks happy glad love friend great good well best wishes please dear".split())


def warm_words(letter):
    """The number of warm words in what the model wrote."""
    return sum(word in WARM for word in re.findall("[a-z]+", letter.lower()))


by_warmth = {prompt: [warm_words(letter) for letter in letters] for prompt, letters in pool.items()}
by_length = {prompt: [len(letter) for letter in letters] for prompt, letters in pool.items()}
together = [np.corrcoef(by_warmth[p], preferred[p])[0, 1] for p in held_out]
print(f"correlation of warm words with what the judges like: {np.nanmean(together):+.2f}")

# %% [markdown]
# Now let us *optimise* the proxy, gently at first, by best-of-n (and, for comparison, two other judges of letters):

# %%
chosen_by = {"the reward model": by_reward, "warm words": by_warmth, "length": by_length}
hacked = {
    name: tuple(
        zip(*[
            over_openings([best_of(n, by[p], preferred[p]) for p in held_out]) for n in counts
        ])
    )
    for name, by in chosen_by.items()
}  # fmt: skip
shown = "; ".join(
    f"{name}: {', '.join(f'{share:.0%}' for share in values[0])}" for name, values in hacked.items()
)
view.line_with_interval(
    counts,
    hacked,
    xlabel="n: the best of n letters, chosen by ...",
    ylabel="share who prefer it",
    alt=f"Share of judges who prefer the best of n = {counts} letters, chosen by: {shown}.",
)

# %% [markdown]
# Best-of-n is a mild optimiser: all it can do is choose among letters that the base model writes anyway. **Reinforcement learning** has no such limit. Here it is in
# its simplest form (REINFORCE with a *leave-one-out* baseline; PPO adds the clip and the value model). Write four letters for an opening. A letter's advantage is its reward minus the
# mean of the other three. Make each letter more probable in proportion to its advantage. Nothing holds it near the reference: $\beta = 0$.


# %%
def reinforce(policy, reward, prompts, steps, group=4, batch=8, rate=1e-4, seed=0):
    """Train `policy` on a reward of texts; yields the step after each."""
    optimizer, rng = torch.optim.AdamW(policy.parameters(), lr=rate, weight_decay=0), Random(seed)
    for step in range(steps):
        asked = [prompt for prompt in rng.sample(prompts, batch) for _ in range(group)]
        letters = write(policy, tokenizer, asked, seed=1000 + step)
        got = torch.tensor([float(reward(letter)) for letter in letters]).view(batch, group)
        others = (got.sum(1, keepdim=True) - got) / (group - 1)
        advantage = (got - others).flatten()
        probability = log_probability(policy, tokenizer, asked, letters)
        loss = -(advantage / (advantage.std() + 1e-6) * probability).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        yield step + 1


def report(step, policy):
    """What the proxy says, what people say, and how far the policy has moved."""
    letters = write(policy, tokenizer, held_out, seed=8)
    return {
        "step": step,
        "warm words": np.mean([warm_words(letter) for letter in letters]),
        "preferred": preferred_share(held_out, letters),
        "KL": distance(policy, held_out, letters),
        "letter": letters[0],
    }


STEPS, EVERY = 14, 2
policy = load()
history = [report(0, policy)]
for step in tqdm(reinforce(policy, warm_words, TRAIN, STEPS), total=STEPS):
    if step % EVERY == 0:
        history.append(report(step, policy))

# %%
steps = [entry["step"] for entry in history]
warm = [entry["warm words"] for entry in history]
shares = np.array([entry["preferred"] for entry in history])
figure, left = pyplot.subplots(figsize=(7.2, 4))
right = left.twinx()
left.plot(steps, warm, marker="o", color=view.COLOURS[0])
right.plot(steps, shares[:, 0], marker="s", color=view.COLOURS[5])
right.fill_between(steps, shares[:, 1], shares[:, 2], color=view.COLOURS[5], alpha=0.18, linewidth=0)
right.axhline(0.5, color="#8a8a8a", linestyle=":")
left.set(xlabel="steps of optimisation", ylim=(0, None))
right.set(ylim=(0, 1))
left.set_ylabel("what we pay for: warm words in a letter", color=view.COLOURS[0])
right.set_ylabel("what we want: judges who prefer it to base", color=view.COLOURS[5])
right.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
right.spines["right"].set_visible(True)
shown = "; ".join(
    f"step {s}: {w:.1f} warm words, {p:.0%} prefer it" for s, w, p in zip(steps, warm, shares[:, 0])
)
view.show(figure, f"Two lines that part. {shown}.")

# %% [markdown]
# The two lines go up together for a while, and then they part. Read what was written on the way:

# %%
view.completions(
    {
        "prompt": held_out[0],
        "text": entry["letter"][:300],
        "label": f"step {entry['step']}: {entry['warm words']:.1f} warm words, "
        f"{entry['preferred'][0]:.0%} of the judges prefer it, KL {entry['KL']:.1f}",
    }
    for entry in history[:: max(1, len(history) // 5)]
)

# %% [markdown]
# This is **reward hacking**. No step of it was a mistake of the algorithm: it did exactly what it was paid for. "When a measure becomes a target, it ceases to be a good measure"
# (Goodhart's law, in Strathern's words). The proxy was a good *description* of letters such as the base model writes, and no longer one of the letters that
# optimisation found.
#
# A learned reward model is a proxy too, only a better one. Sooner or later it parts from what people want in the same way (Gao et al. 2022 measured how: true quality rises, peaks and falls
# with the KL). In chat assistants it shows as long-windedness, flattery, and confidence without grounds: labellers liked each of them a little. What helps:
#
# - **a price on distance** (the $\beta$ that we left out), and stopping early;
# - **judges that the training never touched**: people, asked again, on what the model writes *now*;
# - new labels for the new letters, and a new reward model from them: what PPO's reward model and DPO's pairs both lack is the letters of later;
# - watching more than one number: KL, length, variety, skills, groups of people;
# - **reading what comes out.** The letters above need no statistics.
#
# ## 11. What to measure
#
# | question | where in this notebook |
# |---|---|
# | How far do labellers agree, with themselves and each other? | section 3 |
# | How good is the reward model, with an interval, against the ceiling and a simple rule? | section 5 |
# | Do people who had no part in it prefer the result, on held-out prompts? | section 9 |
# | What would best-of-n have brought without training? | sections 6 and 9 |
# | How far did the model move, and what did it lose: variety, other skills? | section 9 |
# | Who likes it, and who does not? | section 9 |
# | What happens if the reward is optimised harder? | section 10 |
#
# The readers here are simulated, which is why we could look into their heads. With real people the same measurements cost labels, and they are worth them.
#
# ## 12. Clean up

# %%
if KEEP:
    print("Kept in S3:", workshop.s3_uri())
else:
    workshop.cleanup()

# %% [markdown]
# ## What you learned
#
# - Preferences are easy to collect and noisy. Agreement between people is the ceiling of what any model of them can show on single answers.
# - Bradley and Terry turn choices into a scale on which only differences count. A reward model is a language model with one number at its end.
# - Best-of-n uses it without training and pays for every answer. PPO trains against it, with four models in memory. DPO trains on the pairs directly:
#   the same objective, solved for the reward, put into the loss.
# - `beta` is the price of distance from the reference.
# - Whatever you reward, you will get, and not what you meant by it. Let others judge than those who rewarded.
#
# **Check yourself** (answers in [solutions/3-preferences.md](solutions/3-preferences.md)):
#
# 1. Your reward model guesses 71% of held-out labels; two labellers agree in 68% of pairs. Is it better than people?
# 2. All rewards of a reward model are multiplied by 2. What changes: the ranking, the calibration, best-of-n, DPO's or PPO's result?
# 3. DPO's loss begins at 0.9. What has happened?
# 4. Both log-probabilities, of chosen *and* of rejected letters, fall during DPO, and the loss falls too. How can that be?
# 5. A vendor's model wins 58% against yours; the judge was the reward model that the vendor trained it with. What do you ask for?
#
# **Try it.**
#
# - Train with `beta` 0.05 and `learning_rate` 3e-4 (section 8, another `hyperparameters`), and put the model into the table of section 9. What does the KL do, and
#   what do the letters look like?
# - Give `reinforce` the price of distance: reward minus $\beta$ times (log-probability under the policy minus under the base model). From which $\beta$
#   on does the text stay English?
# - Use the reward model as the reward of `reinforce`. Does it get hacked, too? After how many steps, and how?
# - Train the reward model on 120 of the pairs. What does best-of-24 do then?
#
# **Next:** [4-scale-out](4-scale-out.ipynb): the same training on several processes and machines, interrupted and resumed.
