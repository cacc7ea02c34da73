# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
#   workshop:
#     minutes: 60
#     track: further
# ---

# %% [markdown]
# # Preferences: from what people like to what a model writes
#
# **Lab 2, notebook 3, to go further.** Fine-tuning on texts teaches a model to write *like* those texts. But often nobody has
# texts to imitate, while everybody can say which of two answers they would rather have. This notebook turns such choices into a
# better model: it collects preferences, learns a **reward model** from them, and trains the language model on them in a
# training job. The family of methods is called **reinforcement learning from human feedback**, RLHF for short. It is what
# made chat assistants out of language models. Then we make it fail, on purpose, in two ways in which it likes to fail.
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
# | **time** | about 60 minutes of reading, 2 of computing | an estimate: the same, and 10 minutes of waiting for two training jobs |
# | **cost** | nothing | an estimate: two training jobs of a few minutes, some cents |
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
# notebook but the training jobs happens here, in the notebook's own process.

# %%
import torch
from letters import openings
from sampling import write
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from shared.catalogue import EMBEDDED_FOLDER

logging.disable_progress_bar()
logging.set_verbosity_error()
tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_FOLDER)


def load(folder=EMBEDDED_FOLDER):
    """A language model in this process, in float32."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


base = load()
some = openings("train", 5, seed=7)
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
TRAIN, TEST = openings("train", 400), openings("test", 140)  # they share no name and no sentence


def pairs_for(prompts, seed):
    """Two letters for each opening, as (opening, letter A, letter B); equal ones are left out."""
    first, second = (write(base, tokenizer, prompts, seed=seed + i) for i in (0, 1))
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
view.table(
    sorted(COMMON.items(), key=lambda item: -item[1]), columns=["what is in a letter", "worth"]
)

# %% [markdown]
# Two things make them like people, and unlike a formula:
#
# - **They are not always sure.** Where two letters are nearly equally good to them, they answer by mood, and another time otherwise.
# - **They are not all alike.** About one reader in four does *not* like to be invited. We call them the quiet ones.
#
# How far do they agree? We ask on the test pairs: one person twice; two persons; and two groups of three, each of which decides by majority.

# %%
from random import Random

rng = Random(1)


def answer(people, pair):
    """Do most of these people choose letter A? Each is asked once."""
    prompt, a, b = pair
    votes = sum(person.chooses_first(prompt + a, prompt + b, rng) for person in people)
    return votes > len(people) / 2


def interval(share, n, z=1.96):
    """Wilson's 95% interval of a share that was measured on n cases."""
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5 / (1 + z * z / n)
    return middle - half, middle + half


def measured(hits):
    """(share, low, high) of a list of True and False."""
    share = sum(hits) / len(hits)
    return share, *interval(share, len(hits))


six = [rng.sample(labellers, 6) for _ in test_pairs]  # for each pair six people
agreement = {}
for name, one, two in [
    ("one person, asked twice", slice(0, 1), slice(0, 1)),
    ("two persons", slice(0, 1), slice(1, 2)),
    ("two groups of three", slice(0, 3), slice(3, 6)),
]:
    same = [answer(p[one], pair) == answer(p[two], pair) for p, pair in zip(six, test_pairs)]
    agreement[name] = measured(same)
view.shares_with_interval(agreement, title="How often the answers are the same", xlabel="share")

# %% [markdown]
# A coin would give 50%. (For real labellers of chat answers, agreements of 65 to 80% are usual.) Three things to keep in mind; the chart shows the first, and hints at the others
# within its intervals:
#
# - **Each label is partly noise.** A model of the readers that was *perfect* would still miss many of them.
# - **More people for each pair make steadier labels**, and cost more. We pay for three and take what most of them say. Given the same money, is it better to
#   ask one person about three times as many pairs? It depends on how expensive the pairs are; here it is letters that take time.
# - **There is no such thing as "the" preference.** What we learn is a mixture of the people whom we asked.
#
# How many labels would a perfect model get right? The best that one can do is to answer as the majority of *all* labellers would. That is the **ceiling**.

# %%
from readers import share_preferring


def label(people, pairs):
    """For each pair, whether A is chosen by most of three people, drawn by lot."""
    return [answer(rng.sample(people, 3), pair) for pair in pairs]


test_labels = label(judges, test_pairs)  # people who labelled nothing that we learn from
majority = [share_preferring(labellers, p + a, p + b) > 0.5 for p, a, b in test_pairs]
ceiling = measured([guess == chosen for guess, chosen in zip(majority, test_labels)])
print(f"All together guess {ceiling[0]:.0%} of new labels ({ceiling[1]:.0%} to {ceiling[2]:.0%}).")

# %% [markdown]
# Now the labels to learn from. Where you answered, your label counts.

# %%
train_labels = label(labellers, train_pairs)
for number, choice in mine.answers.items():
    train_labels[number] = choice == "A"


def as_rows(pairs, labels):
    """Pairs and labels in the usual form of a preference data set."""
    return [
        {"prompt": prompt, "chosen": a if first else b, "rejected": b if first else a}
        for (prompt, a, b), first in zip(pairs, labels)
    ]


preferences, test_preferences = as_rows(train_pairs, train_labels), as_rows(test_pairs, test_labels)
print(f"You agree with the labellers' majority in {mine.agreement(labellers):.0%} of your answers.")
view.table(preferences[:4])

# %% [markdown]
# `prompt`, `chosen`, `rejected`: this is the usual form of a **preference data set**. Is there a row in which you would have chosen otherwise?
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


def train_reward_model(rows, epochs=2, batch=16, rate=5e-4):
    """A reward model of rows with `prompt`, `chosen` and `rejected`; and the loss of each step."""
    model, losses = new_reward_model().train(), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    order = [
        n for epoch in range(epochs) for n in Random(epoch).sample(range(len(rows)), len(rows))
    ]
    batches = [order[start : start + batch] for start in range(0, len(order) - batch + 1, batch)]
    for step, numbers in enumerate(batches):
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
    name: measured([guess == chosen for guess, chosen in zip(hits, test_labels)])
    for name, hits in guesses.items()
}
accuracy["the ceiling"] = ceiling
view.shares_with_interval(accuracy, title="Guessing which letter new people choose")

# %% [markdown]
# Look where the reward model stands between the coin (50%) and the ceiling. Part of what is missing is noise that nobody can predict; the rest
# it would learn from more pairs. Look at the width of the intervals, too. With so few test pairs one cannot tell apart two
# reward models that differ by a few percent. Whoever reports 2% more on a few hundred pairs reports nothing.
#
# What does it like? The test letters with the highest and the lowest reward. (Mind that the first sentence is the opening, which both letters of a pair share: training on pairs says nothing
# about it.)

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
# from here on is the **win rate**: what share of the judges, on average, would choose this letter over one that the base model wrote for the same opening? 50% means "no
# better than before".
#
# For 48 held-out openings the base model writes 12 letters each. To get the best of 4, say, we cut the 12 into three groups and take the best of each.

# %%
import numpy as np

MANY = 12
held_out = TEST[:48]
written = write(base, tokenizer, held_out * MANY, seed=100)
pool = {prompt: written[n :: len(held_out)] for n, prompt in enumerate(held_out)}


def liked(prompt, letters, people=judges):
    """The share of people who choose each letter over the base model's for the same opening."""
    return liking(people, [prompt + t for t in letters], [prompt + t for t in pool[prompt]])


def over_openings(values):
    """(mean, low, high) of one value for each opening, with a 95% interval."""
    mean, half = np.mean(values), 1.96 * np.std(values, ddof=1) / len(values) ** 0.5
    return mean, mean - half, mean + half


def best_of(n, selected_by, values):
    """The mean of `values` of the best of each n letters; `selected_by` says which is best."""
    groups = [range(start, start + n) for start in range(0, MANY, n)]
    return np.mean([values[max(group, key=lambda i: selected_by[i])] for group in groups])


by_judges = {prompt: liked(prompt, letters) for prompt, letters in pool.items()}
by_reward = {prompt: scores([prompt + t for t in letters]) for prompt, letters in pool.items()}
counts = [1, 2, 4, 6, 12]
curves = {}
for name, by in {"the reward model": by_reward, "the judges themselves": by_judges}.items():
    wins = [[best_of(n, by[p], by_judges[p]) for p in held_out] for n in counts]
    curves[f"chosen by {name}"] = tuple(zip(*map(over_openings, wins)))
best = dict(zip(counts, zip(*curves["chosen by the reward model"])))
shown = ", ".join(f"{n}: {best[n][0]:.0%}" for n in counts)
view.line_with_interval(
    counts,
    curves,
    xlabel="n",
    ylabel="win rate",
    alt=f"Win rate of the best of n letters, rising with n. Chosen by the reward model: {shown}.",
)

# %% [markdown]
# The first few letters bring the most. The upper line is what a reward model without error would reach; the gap between the lines is what its errors cost, and it
# widens with $n$: the more candidates there are, the more of them the reward model can be wrong about. Keep this in mind for section 10.
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
# and repeat. **Proximal policy optimization** (PPO, Schulman et al. 2017) is the form in which RLHF became known for language models. Its objective for each token is
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
size = 7  # billions of weights; try 70
view.table(
    [
        ("fine-tuning", size * 16),
        (
            "PPO: policy and value model trained; reward model and reference frozen",
            size * (2 * 16 + 2 * 2),
        ),
        ("DPO: policy trained; reference frozen", size * (16 + 2)),
        ("DPO with LoRA on 0.5% of the weights", round(size * 2 + 0.005 * size * 16, 1)),
    ],
    columns=[f"method, {size} billion weights", "GB"],
    caption="For weights and training only; activations and caches come on top",
)

# %% [markdown]
# A large GPU has 80 GB (H100) or 141 GB (H200). (With LoRA the reference costs nothing: it is the policy without its adapter.)
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
# difference of $d$ in the hidden reward needs a difference of $d / \beta$ in log-probabilities. Small `beta`: the policy must move far to say how much it likes a letter. Large
# `beta`: small moves are enough, and it stays near the reference.
#
# A policy that is still the reference likes nothing better than anything else. Its loss is $\log 2 \approx 0.69$ for every pair. If the loss of a DPO run does not *begin* there,
# something is wrong with the set-up (the wrong reference, say).
#
# ## 8. DPO as a training job
#
# The script is [code/preferences.py](code/preferences.py): about 200 lines, of which most check what comes in; the training itself is the
# `DPOTrainer` of Hugging Face's library **trl**. It takes three channels: the pairs to learn from, pairs to test on, and the model.

# %%
import json
from pathlib import Path

folder = Path("out/preferences")
channels = {"model": str(EMBEDDED_FOLDER)}
for name, rows in {"train": preferences, "validation": test_preferences}.items():
    (folder / name).mkdir(parents=True, exist_ok=True)
    lines = "\n".join(json.dumps(row) for row in rows)
    (folder / name / "pairs.jsonl").write_text(lines, encoding="utf-8")
    channels[name] = str(folder / name)

# %% [markdown]
# Two settings decide how far the policy moves: `beta`, and the learning rate. We train twice, on the same pairs: a *careful* run, and a *hasty* one that
# differs in a single thing, four times the learning rate. (Both `beta` and the careful rate were found by trying about a dozen combinations. Most recipes have a `beta` of 0.1. They are made for models
# a thousand times as large, which are far harder to upset. A setting is right for a model and its data, never in itself.)

# %%
from sagemaker.core.resources import TrainingJob
from sagemaker.core.shapes import MetricDefinition
from sagemaker.core.training.configs import Compute, InputData, OutputDataConfig, SourceCode
from sagemaker.train import ModelTrainer

SETTINGS = {
    "careful": {"beta": 1.0, "learning_rate": 5e-5},
    "hasty": {"beta": 1.0, "learning_rate": 2e-4},
}
names = ["train_loss", "eval_loss", "preference_accuracy", "eval_accuracy"]
metric_definitions = [MetricDefinition(name=n, regex=rf"\b{n}=([0-9.eE+-]+)") for n in names]


def start(settings):
    """The training job with these settings: the one that is there already, or a new one."""
    hyperparameters = {"num_train_epochs": 2, "seed": 1} | settings
    job_name = workshop.name("job", hyperparameters, preferences, test_preferences)
    if job := workshop.existing(TrainingJob, job_name):
        return job
    trainer = ModelTrainer(
        training_image=workshop.model.training_image_uri(workshop.region),
        source_code=SourceCode(
            source_dir="code",
            entry_script="preferences.py",
            requirements="requirements-preferences.txt",
        ),
        compute=Compute(instance_type=workshop.model.training_instance_type, instance_count=1),
        hyperparameters=hyperparameters,
        environment={"OMP_NUM_THREADS": "1"} if workshop.backend == "local" else {},
        output_data_config=OutputDataConfig(s3_output_path=workshop.s3_uri("jobs")),
        base_job_name=job_name,
        role=workshop.role,
        sagemaker_session=workshop.session,
        tags=workshop.tags,
    ).with_metric_definitions(metric_definitions)
    trainer.train(
        input_data_config=[InputData(channel_name=n, data_source=d) for n, d in channels.items()],
        wait=False,
    )
    return trainer._latest_training_job


# %% [markdown]
# On your machine the two jobs run at once, with a processor core for each. On AWS they run one after the other, so that a quota of one instance is enough.

# %%
jobs = {}
for name, settings in SETTINGS.items():
    jobs[name] = start(settings)
    if workshop.backend != "local":
        jobs[name].wait()
workshop.watch(jobs["careful"])

# %% [markdown]
# Read the training loss in two halves. In the first epoch (up to the middle) every pair is new to the model. The loss does not fall; it may even rise above 0.69, which means: surer
# than it has a right to be, and wrong too often. Then comes a cliff, exactly where the second epoch begins and each pair comes by for the second time. A model that has seen the answer
# is no wiser for it: it has learned its pairs **by heart**, noise and all. The held-out loss (two points, before and after) did not fall with it. So has nothing been learned? The other job
# should be done by now; let us look at both.

# %%
for job in jobs.values():
    job.wait()
metrics = {name: workshop.metrics(job) for name, job in jobs.items()}
right = {"reward model": accuracy["the reward model"]}
for name, measure in metrics.items():
    (_, before), *_, (_, after) = measure["eval_loss"]
    print(f"{name}: held-out loss {before:.2f} before, {after:.2f} after")
    share = measure["eval_accuracy"][-1][1]
    right[f"DPO, {name}"] = (share, *interval(share, len(test_pairs)))
view.shares_with_interval(right, title="Held-out pairs in the right order")

# %%
workshop.cost(*jobs.values())

# %% [markdown]
# (In the log, `eval_accuracy=0` at step 0 is no error: all hidden rewards are 0 there, and a tie does not count as right.) The chart counts in how many *held-out* pairs the letter that people chose has the higher hidden reward. A coin would give 50%. So something about the order of letters *was*
# learned, by both runs, about as much of it as the reward model of section 5 knows. Only how *sure* they are is wrong, and that is what the loss punishes: most of all
# in the hasty run, a first warning.
#
# The accuracy gives none. Whoever looks at it alone has no reason to prefer the careful run. But knowing which letter is better is one thing, and writing is another. So let us fetch the
# models and let them write.

# %%
import tarfile
from io import BytesIO

models = {"base model": base}
for name, job in jobs.items():
    bucket, key = job.model_artifacts.s3_model_artifacts.removeprefix("s3://").split("/", 1)
    archive = workshop.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
    with tarfile.open(fileobj=BytesIO(archive)) as files:
        files.extractall(folder / name, filter="data")
        print(f"{name}, {len(archive) / 1e6:.1f} MB:", ", ".join(sorted(files.getnames())))
    models[f"DPO, {name}"] = load(folder / name)

# %% [markdown]
# ## 9. Before and after
#
# Openings that neither the labellers nor the training saw. Read before you measure.

# %%
LETTERS = 3  # for each opening
prompts = held_out * LETTERS
letters_of = {name: write(model, tokenizer, prompts, seed=6) for name, model in models.items()}
view.completions(
    {"prompt": prompts[n], "text": letters[n], "label": name}
    for n in range(3)
    for name, letters in letters_of.items()
)

# %% [markdown]
# Now the judges. Beside their verdict stand the distance from the reference (the KL, on letters that the tuned model writes; for best-of-n it is at most
# $\log n - (n - 1)/n$), and how often a letter is whole: signed, without a word or line that belongs to no letter.

# %%
from letters import says
from sampling import log_probability


@torch.inference_mode()
def distance(policy, prompts, letters):
    """KL to the base model in nats per letter, from letters that the policy wrote."""
    ours = log_probability(policy, tokenizer, prompts, letters)
    return (ours - log_probability(base, tokenizer, prompts, letters)).mean().item()


def win_rate(prompts, letters, people=judges):
    """(mean, low, high) over openings of the share who prefer the letters to the base model's."""
    by_opening = {}
    for prompt, letter in zip(prompts, letters):
        by_opening.setdefault(prompt, []).append(letter)
    return over_openings([liked(p, texts, people).mean() for p, texts in by_opening.items()])


def whole(prompts, letters):
    """The share of letters that are signed and not broken."""
    found = [says(prompt + letter) for prompt, letter in zip(prompts, letters)]
    return np.mean([not (letter["not signed"] or letter["broken"]) for letter in found])


wins = {name: win_rate(prompts, letters) for name, letters in letters_of.items()}
best_of_4 = [
    max(pool[p][start : start + 4], key=dict(zip(pool[p], by_reward[p])).get)
    for start in range(0, MANY, 4)
    for p in held_out
]
rows = [
    (name, wins[name], distance(models[name], prompts, letters), whole(prompts, letters), 1)
    for name, letters in letters_of.items()
]
rows.insert(1, ("base model, best of 4", best[4], np.log(4) - 3 / 4, whole(prompts, best_of_4), 4))
view.table(
    [
        (name, f"{win[0]:.0%} ({win[1]:.0%} to {win[2]:.0%})", f"{kl:.1f}", f"{share:.0%}", cost)
        for name, win, kl, share, cost in rows
    ],
    columns=[
        "letters of",
        "win rate (95% interval)",
        "KL (nats)",
        "whole letters",
        "letters written",
    ],
)

# %% [markdown]
# **This table is the result**: people who had no part in the training, on openings that were held out from it. One influence they did have: when this notebook was written, `beta` and
# the learning rate were chosen by looking at such win rates, on the same openings and with the same judges. By the rule of notebook 1 they are therefore validation data, not test data, and
# the figure of the careful run flatters it a little. For a report you would ask new judges about new openings, once.
#
# - The *careful* model's letters are preferred to those of the base model, clearly beyond the interval, and at least as many of them are whole. It has moved a little,
#   and in a good direction. Best-of-4 brings about as much, but writes four letters for each one that it sends.
# - The *hasty* model has lost what it could do. Its letters break, and the judges like them less than those of the base model. Yet it orders the held-out pairs about as well as the
#   careful one!
#
# How can a model that knows what is good write so badly? The loss of section 7 looks only at letters that are *in the pairs*, and only at the difference between two of them. The
# chosen letter may become *less* probable, if only the rejected one falls faster. Did it? For 120 pairs of the training, how the log-probability of each letter moved:

# %%
def moved(model, kind):
    """By how many nats, on average, the letters of 120 training pairs became more probable."""
    prompts, letters = zip(*((row["prompt"], row[kind]) for row in preferences[:120]))
    with torch.inference_mode():
        after = log_probability(model, tokenizer, prompts, letters)
        return float((after - log_probability(base, tokenizer, prompts, letters)).mean())


rows = [
    (name, *(f"{moved(models[name], kind):+.1f}" for kind in ("chosen", "rejected")))
    for name in models
    if name != "base model"
]
view.table(rows, columns=["nats, against the base model", "chosen letters", "rejected letters"])

# %% [markdown]
# The loss sees the difference of the two columns and is content if it grows. Where a letter falls, what it loses goes to other texts, which nobody has written yet, nor judged. Each step does a
# little of that damage. With small steps and a price on distance it stays small. **Never judge a preference run by its accuracy on pairs: let it write.**
#
# ### What changed in the letters?

# %%
from matplotlib import pyplot


def average_content(prompts, letters):
    counted = [says(prompt + letter) for prompt, letter in zip(prompts, letters)]
    return {kind: np.mean([count[kind] for count in counted]) for kind in COMMON}


content = {
    name: average_content(prompts, letters_of[name]) for name in ("base model", "DPO, careful")
}
view.style()
figure, axis = pyplot.subplots(figsize=(6.8, 3.8))
kinds = sorted(COMMON, key=COMMON.get)
for height, (name, values) in zip((0.2, -0.2), content.items()):
    spots = [place + height for place in range(len(kinds))]
    axis.barh(spots, [values[kind] for kind in kinds], height=0.38, label=name)
axis.set_yticks(range(len(kinds)), [f"{kind} ({COMMON[kind]:+.1f})" for kind in kinds])
axis.set(xlabel="how often in a letter (in brackets: what it is worth to most readers)")
axis.legend()
before, after = content.values()
shown = "; ".join(f"{kind}: {before[kind]:.2f} before, {after[kind]:.2f} after" for kind in kinds)
view.show(figure, f"How often each kind of remark occurs in a letter. {shown}.")

# %% [markdown]
# Nobody told the model this list. It saw four hundred pairs with noisy labels. Check it against the worth in brackets: has what is worth something become more
# frequent, and what costs rarer? It will not be so in every row: with these few pairs the training finds some of the taste, not all of it.
#
# ### Whose preferences?
#
# About one reader in four does not like to be invited. Their answers are in the training data. What did they get?

# %%
quiet = [person for person in judges if person.quiet]
others = [person for person in judges if not person.quiet]
by_group = {
    f"{len(group)} {who}, {name}": win_rate(prompts, letters, group)
    for who, group in {"others": others, "quiet ones": quiet}.items()
    for name, letters in {
        "base, best of 4": best_of_4,
        "DPO": letters_of["DPO, careful"],
    }.items()
}
view.shares_with_interval(by_group, title="Who prefers it to the base model's?", xlabel="win rate")

# %% [markdown]
# What the quiet ones share with everybody, whole letters and good news, pleases them too. More invitations do not. So they gain less: one model for all learns the taste of the
# majority, and the average in the table hides what that does to the rest. This is not a flaw of DPO: *any* single
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
questions = [json.loads(line) for line in lines[::2]]
stories = [story(Random(f"held-out story {n}")) for n in range(20)]


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


view.table([{"model": name} | other_skills(model) for name, model in models.items()])

# %% [markdown]
# Compare with notebook 1, where full fine-tuning forgot a lot. Here the models were trained for 50 short steps on texts much like their own, so hardly anything else was touched, perhaps not even by the
# run that can no longer write letters. That is good news, and a warning: a test of general skills alone would not have noticed the damage either. Nothing in the loss protects
# other prompts, though, so look each time. The remedies are those of the table, smaller steps or a larger `beta`, and those of notebooks 1 and 2: fewer weights (LoRA), and old tasks mixed in.
#
# ## 10. Reward hacking
#
# Labels cost money. So somebody has an idea: *people like warm letters; why not simply count warm words?* It costs nothing, it never contradicts itself,
# and it is right so far as it goes. Such a stand-in for what we really want is called a **proxy**.

# %%
import re

WARM = set("thank thanks happy glad love friend great good well best wishes please dear".split())


def warm_words(letter):
    """The number of warm words in what the model wrote."""
    return sum(word in WARM for word in re.findall("[a-z]+", letter.lower()))


by_warmth = {prompt: [warm_words(letter) for letter in letters] for prompt, letters in pool.items()}
for name, by in {"warm words": by_warmth, "the reward model": by_reward}.items():
    share, low, high = over_openings([best_of(4, by[p], by_judges[p]) for p in held_out])
    print(f"win rate of the best of 4, chosen by {name}: {share:.0%} ({low:.0%} to {high:.0%})")

# %% [markdown]
# Not as good as the reward model, but no nonsense either: among letters of the base model, those with more warm words are not the worse ones. And more than choosing
# among such letters is beyond best-of-n. **Reinforcement learning** has no such limit. Here it is in
# its simplest form (REINFORCE with a *leave-one-out* baseline; PPO adds the clip and the value model). Write four letters for an opening. A letter's advantage is its reward minus the
# mean of the other three. Make each letter more probable in proportion to its advantage. Nothing holds it near the reference: $\beta = 0$.


# %%
def reinforce(policy, reward, prompts, steps, group=4, batch=8, rate=6e-5, seed=0):
    """Train `policy` on a reward of texts; yields the number of steps after each."""
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
        "win rate": win_rate(held_out, letters),
        "KL": distance(policy, held_out, letters),
        "letter": letters[0],
    }


policy = load()
history = [report(0, policy)]
for step in reinforce(policy, warm_words, TRAIN, steps=12):
    if step % 2 == 0:
        history.append(report(step, policy))

# %%
steps = [entry["step"] for entry in history]
warm = [entry["warm words"] for entry in history]
shares = np.array([entry["win rate"] for entry in history])
figure, left = pyplot.subplots(figsize=(7.2, 4))
right = left.twinx()
left.plot(steps, warm, marker="o", color=view.COLOURS[0])
right.plot(steps, shares[:, 0], marker="s", color=view.COLOURS[5])
right.fill_between(
    steps, shares[:, 1], shares[:, 2], color=view.COLOURS[5], alpha=0.18, linewidth=0
)
right.axhline(0.5, color="#8a8a8a", linestyle=":")
left.set(xlabel="steps of optimisation", ylim=(0, None))
right.set(ylim=(0, 1))
left.set_ylabel("what we pay for: warm words in a letter", color=view.COLOURS[0])
right.set_ylabel("what we want: win rate", color=view.COLOURS[5])
right.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
right.spines["right"].set_visible(True)
shown = "; ".join(
    f"step {s}: {w:.1f} warm words, {p:.0%} prefer it" for s, w, p in zip(steps, warm, shares[:, 0])
)
view.show(figure, f"Two lines that part. {shown}.")

# %% [markdown]
# The line that we pay for goes up and up. What we want stays or rises a little at first, and then it falls, far below the start. Read what was written on the way:

# %%
view.completions(
    {
        "prompt": held_out[0],
        "text": entry["letter"][:300],
        "label": f"step {entry['step']}: {entry['warm words']:.1f} warm words, "
        f"win rate {entry['win rate'][0]:.0%}, KL {entry['KL']:.1f}",
    }
    for entry in history
)

# %% [markdown]
# This is **reward hacking**. No step of it was a mistake of the algorithm: it did exactly what it was paid for. "When a measure becomes a target, it ceases to be a good measure"
# (Goodhart's law, in Strathern's words). The proxy was a fair *description* of letters such as the base model writes, and no longer one of the letters that
# optimisation found.
#
# A learned reward model is a proxy too, only a better one. Sooner or later it parts from what people want in the same way (Gao et al. 2022 measured how: true quality rises, peaks and falls
# with the KL). In chat assistants it shows as long-windedness, flattery, and confidence without grounds: labellers liked each of them a little. What helps:
#
# - **a price on distance** (the $\beta$ that we left out), and stopping early;
# - **judges that the training never touched**: people, asked again, on what the model writes *now*;
# - new labels for the new letters, and a new reward model from them: what PPO's reward model and DPO's pairs both lack is the letters of later;
# - watching more than one number: KL, whole letters, skills, groups of people;
# - **reading what comes out.** The letters above need no statistics.
#
# ## 11. Clean up
#
# The jobs' artifacts stay; the cell says how to delete those, too.

# %%
if KEEP:
    print("Kept in S3:", workshop.s3_uri())
else:
    workshop.cleanup()

# %% [markdown]
# ## What you learned
#
# - Preferences are easy to collect and noisy. Noise and disagreement set a ceiling for any model of them.
# - Bradley and Terry turn choices into a scale on which only differences count. A reward model is a language model with one number at its end.
# - Best-of-n uses it without training and pays for every answer. PPO trains against it, with four models in memory. DPO trains on the pairs directly:
#   the same objective, solved for the reward, put into the loss.
# - A small move pleases people; a large one breaks the text, and the run's own accuracy does not show it. `beta` and the learning rate decide.
# - Whatever you reward, you will get, and not what you meant by it. Let others judge than those who rewarded.
#
# **Check yourself** (answers in [solutions/3-preferences.md](solutions/3-preferences.md)):
#
# 1. Your reward model guesses 71% of held-out labels; two labellers agree in 68% of pairs. Is it better than people?
# 2. All rewards of a reward model are multiplied by 2. What changes: the ranking, the calibration (does a difference of 1 still mean 73%?), best-of-n, DPO's or PPO's result?
# 3. DPO's loss begins at 0.9. What has happened?
# 4. Both log-probabilities, of chosen *and* of rejected letters, fall during DPO, and the loss falls too. How can that be?
# 5. A vendor's model wins 58% against yours; the judge was the reward model that the vendor trained it with. What do you ask for?
#
# **Try it.**
#
# - Give the careful model the fair test of section 9: ask `panel(100, seed=3)` about letters to `openings("test", 48, seed=1)`. You need a new `pool`, too.
# - Change the number of people who label each pair in `label` (section 3) from 3 to 1, and run on from there. What happens to the reward model, and what to the careful run?
# - Pay less for distance: add `"cheap": {"beta": 0.1, "learning_rate": 5e-5}` to `SETTINGS` (section 8), wait for it, and look at its row in section 9.
# - Give `reinforce` the price of distance: reward minus $\beta$ times (log-probability under the policy minus under the base model). From which $\beta$
#   on do the letters stay letters?
# - Train the reward model on `preferences[:100]` (section 5). What does best-of-12 do then?
#
# **Next:** [4-scale-out](4-scale-out.ipynb): the same training on several processes and machines, interrupted and resumed.
