# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
#   workshop:
#     minutes: 30
#     track: core
# ---

# %% [markdown]
# # Prompting: say what you want, and measure whether you got it
#
# **Lab 1, notebook 2 of the day.** A language model is steered by the text that you put before it, the **prompt**. You write
# prompts, take them apart, and do what most people leave out: you try each on a hundred inputs and more, and count.
#
# When you are done you will be able to
#
# - name the parts of a prompt, and say what each is worth, because you took it away;
# - teach a model a new task by examples, and say how many it needs;
# - tell what comes from the prompt and what from the model's memory; see a model invent, and stop it;
# - use five principles of prompting, each with the experiment that shows what it does;
# - compare two prompts, and say whether the difference is real.
#
# | | on your laptop | on AWS |
# |---|---|---|
# | **time** | about 30 minutes of reading, 2 of computing | an estimate: the same, and 5 to 10 minutes of waiting for the endpoint |
# | **cost** | nothing | the price of one rented computer for as long as the endpoint exists: about 0.12 USD for half an hour with the embedded model |
# | **you need** | this repository, set up by `make jupyter` | the same role and quota as in notebook 1 |
#
# You should have done [notebook 1](1-deploy-an-llm.ipynb), or know what an endpoint, a token and greedy decoding are.
#
# ## 1. An endpoint, in four cells
#
# As in notebook 1. `TRIALS` is new: how many inputs each experiment uses.

# %% tags=["parameters"]
BACKEND = "auto"  # "auto", "local" or "sagemaker"
MODEL = "embedded"  # or another name of the table in this lab's README.md
KEEP = False  # True keeps the endpoint when the notebook ends
TRIALS = 200  # inputs per measurement; 50 will do for a first look with a large model

# %%
import sys

sys.path.insert(0, "..")  # the folder that holds `shared`, the code that all labs use
from shared import display as view  # IPython has a `display` of its own
from shared.workshop import Workshop

workshop = Workshop(lab="1", backend=BACKEND, model=MODEL)
workshop

# %%
from sagemaker.core.resources import Endpoint, EndpointConfig, Model
from sagemaker.core.shapes import ContainerDefinition, ProductionVariant

from shared.packaging import make_archive, upload

archive = make_archive("out/model.tar.gz", weights=workshop.model.weights, code="code")
container = workshop.container(upload(archive, workshop.s3_uri("model")))
model_name = workshop.name("model", container)
model = workshop.existing(Model, model_name) or Model.create(
    model_name=model_name,
    primary_container=ContainerDefinition(**container),
    execution_role_arn=workshop.role,
    tags=workshop.tags,
)

# %%
variant = ProductionVariant(
    variant_name="AllTraffic",
    model_name=model_name,
    instance_type=workshop.model.instance_type,
    initial_instance_count=1,
    **workshop.model.variant_options,
)
config_name = workshop.name("config", model_name, workshop.model.instance_type)
config = workshop.existing(EndpointConfig, config_name) or EndpointConfig.create(
    endpoint_config_name=config_name, production_variants=[variant], tags=workshop.tags
)
endpoint_name = workshop.name("endpoint")
endpoint = workshop.existing(
    Endpoint, endpoint_name, endpoint_config_name=config_name
) or Endpoint.create(
    endpoint_name=endpoint_name, endpoint_config_name=config_name, tags=workshop.tags
)
workshop.watch(endpoint)

# %% [markdown]
# All answers in this notebook are greedy (the most probable token at each step), unless a cell says otherwise: the same prompt
# gives the same answer, and a change in the answer comes from a change in the prompt.

# %%
import json

runtime = workshop.client("sagemaker-runtime")


def invoke(inputs, **parameters):
    """Send one prompt, or a list of prompts, to the endpoint; return what it answers."""
    body = json.dumps({"inputs": inputs, "parameters": {"do_sample": False, **parameters}})
    response = runtime.invoke_endpoint(
        EndpointName=endpoint_name, ContentType="application/json", Body=body
    )
    return json.loads(response["Body"].read())


print(invoke("The capital of France is", max_new_tokens=4, stop=["."])["generated_text"])

# %% [markdown]
# We will send thousands of prompts. An endpoint is busiest, and so quickest, when it gets many at once: several requests under
# way, and in each a list of prompts where the server takes lists. (Ours does. The LMI image takes one prompt a request; the cell
# finds out.)

# %%
from concurrent.futures import ThreadPoolExecutor

from botocore.exceptions import ClientError

try:
    takes_lists = isinstance(invoke(["One,", "One, two,"], max_new_tokens=1), list)
except ClientError:
    takes_lists = False
chunk, callers = (16, 2) if takes_lists else (1, 16)


def invoke_all(prompts, **parameters):
    """The endpoint's answers to many prompts, in their order."""
    parts = [prompts[i : i + chunk] for i in range(0, len(prompts), chunk)]

    def send(part):
        return invoke(part, **parameters) if takes_lists else [invoke(part[0], **parameters)]

    with ThreadPoolExecutor(callers) as pool:
        return [answer for answers in pool.map(send, parts) for answer in answers]


def ask(prompts, stop="\n", max_new_tokens=16, **parameters):
    """The texts that the model writes after the prompts, up to `stop` (None: up to the end)."""
    parameters |= {"max_new_tokens": max_new_tokens} | ({"stop": [stop]} if stop else {})
    texts = [answer["generated_text"] for answer in invoke_all(prompts, **parameters)]
    # Cut again, for servers that know no `stop`.
    return [(text.split(stop)[0] if stop else text).strip() for text in texts]


# %% tags=["nbval-check-output"]
questions = [
    "Question: What is the capital of Japan?\nAnswer:",
    "Question: What is the capital of Peru?\nAnswer:",
]
print(ask(questions))

# %% [markdown]
# One more tool. If 90 of 100 answers are right, the model might be right nine times in ten, or we might have been lucky with our
# hundred. The **95% interval** is the range of true shares with which such a count is no surprise (Wilson's formula, as in
# notebook 1). All figures below show it as a pale bar or band.

# %% tags=["nbval-check-output"]
def measured(right):
    """Of a list of true and false: the share of true, and the ends of its 95% interval."""
    n, z = max(1, len(right)), 1.96
    share = sum(right) / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5 / (1 + z * z / n)
    return share, max(0.0, middle - half), min(1.0, middle + half)


rows = []
for n in (10, 50, 200, 1000):
    share, low, high = measured([True] * (n * 9 // 10) + [False] * (n // 10))
    rows.append((f"{n * 9 // 10} of {n}", f"{low:.0%} to {high:.0%}"))
view.table(rows, columns=["right", "95% interval"])

# %% [markdown]
# Ten trials say almost nothing. Keep that in mind when somebody shows you a prompt that "works".
#
# ## 2. The parts of a prompt
#
# <img src="images/prompt-parts.svg" alt="A prompt in four parts. Task description: Give each line its label. Examples: Text: We cooked noodles for dinner. Label: blip. Text: There was fog all day. Label: tarvel. Input: Text: Please pass the cheese. Output indicator: the word Label with a colon. After it the model writes the answer: blip." width="760">
#
# A prompt has up to four parts: a **task description**, **examples** (also called *shots*: inputs with the answers that you want),
# the **input**, and an **output indicator** that shows where the answer begins. Which of them matter depends on task and model,
# so we find out.
#
# We need a task that the model cannot know: sorting sentences into two groups whose names are **invented words**. The sentences
# come from [prompting_trials.py](prompting_trials.py), which makes them by rule, from sentence frames and names that the
# embedded model never met in training. What it gets right, it got from the prompt.

# %%
import prompting_trials as trials

tasks = trials.topic_tasks(TRIALS)
one = tasks[0].shots(2)  # two examples of each group
for text, label in one.examples:
    print(f"{label:>12}  {text}")
print(f"{'?':>12}  {one.text}")


# %% tags=["nbval-check-output"]
def lay_out(examples, text, description="Give each line its label.\n\n", indicator="\nLabel:"):
    """A prompt of the four parts."""
    shots = "".join(f"Text: {shot}\nLabel: {label}\n\n" for shot, label in examples)
    return f"{description}{shots}Text: {text}{indicator}"


prompt = lay_out(one.examples, one.text)
print(prompt)

# %%
print("The model:", ask([prompt])[0], "| right would be:", one.answer)

# %% [markdown]
# Now take the parts away, one at a time, and run all `TRIALS` tasks each time, with four examples of each group.

# %%
four = [task.shots(4) for task in tasks]
without = {
    "all four parts": [lay_out(t.examples, t.text) for t in four],
    "no task description": [lay_out(t.examples, t.text, description="") for t in four],
    "no examples": [lay_out([], t.text) for t in four],
    "no input": [lay_out(t.examples, "") for t in four],
    "no output indicator": [lay_out(t.examples, t.text, indicator="") for t in four],
}
answers = {name: ask(prompts) for name, prompts in without.items()}
scores = {
    name: measured([answer == t.answer for answer, t in zip(texts, four)])
    for name, texts in answers.items()
}
view.shares_with_interval(scores, title="What is each part worth?")

# %%
rows = [(name, repr(texts[0]), four[0].answer) for name, texts in answers.items()]
view.table(rows, columns=["prompt", "answer to the first task", "right"])

# %% [markdown]
# - **Without examples** nothing is right: nobody could guess an invented word. Here the examples *are* the task description.
# - **Without the input** the model still answers, and about half of these answers are right by chance: one of two labels.
#   A model answers even when you forgot to ask.
# - **Without the output indicator** the answer is not where your program looks for it. (Perhaps the model writes the
#   indicator itself and the right label after it. That does not help your program.)
# - **The task description** adds little, because the examples say it all. That is not a law: with an instruct model
#   (a large model trained to follow instructions) the description can carry the task alone. Section 10 comes back to this.
#
# ## 3. Zero-shot: no example at all
#
# A **zero-shot** prompt has no examples. It works when training has made the task familiar. Whether a review is positive
# or negative is such a task:

# %%
reviews = trials.review_tasks(TRIALS)
WORDINGS = {
    "This review is": 'Review: "{text}"\nThis review is',
    "Sentiment:": "Review: {text}\nSentiment:",
}
wording = WORDINGS["This review is"]
print(wording.format(text=reviews[0].text))
print("\nThe model:", ask([wording.format(text=reviews[0].text)])[0])

# %%
def first_word(text):
    """The first word of an answer in small letters, without a full stop after it."""
    return (text.lower().split() or [""])[0].strip('.,"')


def zero_shot(wording, reviews):
    """For each review whether the answer is right."""
    texts = ask([wording.format(text=review.text) for review in reviews], max_new_tokens=4)
    return [first_word(text) == review.answer for text, review in zip(texts, reviews)]


right = zero_shot(wording, reviews)
share, low, high = measured(right)
print(f"{sum(right)} of {len(right)} right: {share:.0%}, 95% interval {low:.0%} to {high:.0%}")

# %% [markdown]
# No example, and better than a coin. The model wrote `positive` or `negative` and not `good` or `two stars`, because in
# its training `This review is` was followed by these. So the output indicator does half of the work of a zero-shot prompt: it calls
# up the memory of a task.
#
# A memory reaches as far as the training did. We know the embedded model's training data, so we can look how far. Three
# sets of reviews, each further from it: sentences of a familiar build; sentences built in new ways (those above); and these with adjectives that
# were in *no* labelled review, so that the model knows them from other texts only.

# %%
sets = {
    "familiar sentences": trials.review_tasks(TRIALS, new_frames=False),
    "new sentences": reviews,
    "new sentences, new adjectives": trials.review_tasks(TRIALS, new_words=True),
}
view.shares_with_interval(
    {name: measured(zero_shot(wording, texts)) for name, texts in sets.items()},
    title="Zero-shot: how far does the memory reach?",
)

# %% [markdown]
# A large model has read far more, so its memory reaches further; it ends, too, and nobody can tell you where, except by a test on *your*
# inputs.
#
# ## 4. Few-shot: a new task from examples
#
# Where the task is new, give examples: one (**one-shot**) or a few (**few-shot**). The model's weights do not change. It reads the
# examples like any text and goes on in their manner; this is called **in-context learning**, and it is forgotten with the
# next request.
#
# How many examples does it take? With $k$ examples of each group, $k$ from 0 to 8, on two tasks:
#
# - *new labels*: the sentences with invented labels from section 2;
# - *natural labels*: the reviews with `positive` and `negative` from section 3.

# %%
def arrow(examples, text):
    """A short layout: one line for each example."""
    return "".join(f"{shot} -> {label}\n" for shot, label in examples) + f"{text} ->"


def accuracy(tasks, layout, k):
    """The share right with k examples of each group, and its interval."""
    fewer = [task.shots(k) for task in tasks]
    texts = ask([layout(task.examples, task.text) for task in fewer])
    return measured([text == task.answer for text, task in zip(texts, fewer)])


print(arrow(one.examples, one.text))

# %%
def show_curves(curves, ylabel):
    """Plot shares against k with their intervals; `curves`: for each name {k: (share, low, high)}."""
    described = [
        f"{name}: " + ", ".join(f"k={k} {share:.0%}" for k, (share, _, _) in curve.items())
        for name, curve in curves.items()
    ]
    series = {name: tuple(zip(*curve.values())) for name, curve in curves.items()}
    shots = list(next(iter(curves.values())))
    alt = f"{ylabel} against k. {'; '.join(described)}."
    view.line_with_interval(shots, series, "examples of each group (k)", ylabel, alt=alt)
    print("\n".join(described))


import time

new, natural, seconds = {}, {}, {}
for k in (0, 1, 2, 4, 8):
    start = time.perf_counter()
    new[k] = accuracy(tasks, arrow, k)
    seconds[k] = time.perf_counter() - start
    natural[k] = accuracy(reviews, arrow, k)
show_curves({"new labels": new, "natural labels": natural}, "share right")

# %% [markdown]
# The two curves tell different stories.
#
# **New labels**: at $k = 0$ nothing can be right; the labels exist in this prompt and nowhere else. One example of each
# group already shows what the labels *are*. More examples show what they *mean*: with one sentence on soup you cannot know
# whether the group is "food" or "things in a kitchen". In our tasks no word of a topic comes twice, so the model cannot just look up the
# word.
#
# **Natural labels**: training has taught this task, so examples have little left to say. If few-shot does not help on a task of yours, that
# is one possible reason. The other is that the examples are not read at all. How would you tell these two apart? (Section 5 does.)
#
# Examples are not free. The model forgets them after each call, so each call sends and reads them again:

# %%
rows = [(k, f"{spent:.1f} s", f"{spent / seconds[0]:.1f} times") for k, spent in seconds.items()]
view.table(rows, columns=["k", f"{TRIALS} prompts take", "of what k = 0 takes"])

# %% [markdown]
# ## 5. Who is in charge, the prompt or the memory?
#
# <img src="images/prompt-or-memory.svg" alt="Two boxes point to the next token: the prompt, with instructions, examples and context, new with every call; and the weights, the model's memory, what training left behind, the same in every call. The result is an answer: always one, known or not." width="760">
#
# Everything that a model writes has two sources: the prompt, and the weights. To see which one wins, let them contradict each
# other. We take the same reviews and **flip** the labels in the examples: praise is called `negative`, blame `positive`. A model that
# reads its examples must answer with the flipped label; a model that relies on its memory will not.

# %%
FLIP = {"positive": "negative", "negative": "positive"}


def this_review_is(examples, text):
    """The layout of section 3, with examples before it."""
    shots = "".join(f"{wording.format(text=shot)} {label}\n\n" for shot, label in examples)
    return shots + wording.format(text=text)


flipped = [task.renamed(FLIP) for task in reviews]
show_curves(
    {
        "labels as usual": {k: accuracy(reviews, this_review_is, k) for k in (0, 1, 2, 4)},
        "labels flipped": {k: accuracy(flipped, this_review_is, k) for k in (0, 1, 2, 4)},
    },
    "share that follows the examples",
)

# %%
print(this_review_is(flipped[0].shots(1).examples, flipped[0].text))

# %% [markdown]
# At $k = 0$ the two prompts are the same, so the lines begin at mirror places: memory alone decides. With the first pair of examples
# see who takes over. So *this* model does read its examples, which answers the question above.
#
# Do not carry that over to every model. This one had documents with exchanged labels in its training. Wei and others
# (2023, [arXiv:2303.03846](https://arxiv.org/abs/2303.03846)) tried flipped labels on families of general models: the small ones kept
# to the usual meaning of the labels, and only large ones followed the examples.
#
# ## 6. What else in the examples matters
#
# ### Order and balance
#
# Give the model a text that belongs to *neither* group. It must pick one of the labels anyway, and with an even hand each would be
# picked half of the time. Which label does it take: the one that stood last? The one that stood more often?

# %%
def picks(prompts, labels):
    """Whether the answer was the first of a prompt's two labels; answers that are neither are left out."""
    return [text == pair[0] for text, pair in zip(ask(prompts), labels) if text in pair]


last = [(task.examples[-1][1], task.examples[-2][1]) for task in four]
prompts = [arrow(task.examples, task.outside) for task in four]
shares = {"the last example's label": measured(picks(prompts, last))}
for many, few in ((4, 2), (4, 1), (8, 1)):
    prompts, labels = [], []
    for task in tasks:
        often, rare = task.labels
        kept = [e for e in task.examples if e[1] == often][:many]
        kept += [e for e in task.examples if e[1] == rare][:few]
        prompts.append(arrow(sorted(kept), task.outside))  # sorted by text: order means nothing
        labels.append((often, rare))
    shares[f"the commoner label, {many} to {few}"] = measured(picks(prompts, labels))
title = "Which label does a text get that belongs to neither group?"
view.shares_with_interval(shares, title=title, xlabel="share of answers")

# %% [markdown]
# Where an interval does not touch 50%, the model has a **bias** that has nothing to do with the text. Both were found in large models
# too, and named *recency bias* and *majority label bias* (Zhao and others 2021,
# [arXiv:2102.09690](https://arxiv.org/abs/2102.09690)). They decide where the text itself does not, that is in your hardest cases. So balance the
# groups, and mix their order.
#
# Does it matter for texts that do belong to a group? The same tasks with four examples of each, once mixed, once with the right
# group's examples all at the end, once all at the beginning:

# %%
def right_group(task, *, at_end):
    """The examples with those of the right group at the end, or at the beginning."""
    return sorted(task.examples, key=lambda example: (example[1] == task.answer) == at_end)


orders = {
    "mixed": [task.examples for task in four],
    "right group last": [right_group(task, at_end=True) for task in four],
    "right group first": [right_group(task, at_end=False) for task in four],
}
shares = {}
for name, examples in orders.items():
    texts = ask([arrow(shots, task.text) for shots, task in zip(examples, four)])
    shares[name] = measured([text == task.answer for text, task in zip(texts, four)])
view.shares_with_interval(shares, title="The same eight examples in three orders")

# %% [markdown]
# ### Layout
#
# The same tasks, the same examples (two of each group), six ways to write them down, and a seventh that cannot work:

# %%
LAYOUTS = {
    "text -> label": ("{text} -> {label}", "\n"),
    "Text: / Label:": ("Text: {text}\nLabel: {label}", "\n\n"),
    '"text" = label': ('"{text}" = {label}', "\n"),
    "Remark: / Verdict:": ("Remark: {text}\nVerdict: {label}", "\n"),
    "I would file it under": ("{text} I would file it under {label}", "\n"),
    "<text> // label": ("<{text}> // {label}", "\n\n"),
    "label first": ("{label} <- {text}", "\n"),
}
two = [task.shots(2) for task in tasks]


def in_layout(examples, text, line, end):
    """Examples and text in a layout; what follows the label's place is left open."""
    shots = "".join(line.format(text=shot, label=label) + end for shot, label in examples)
    return shots + line.format(text=text, label="").rstrip()


shares = {}
for name, (line, end) in LAYOUTS.items():
    texts = ask([in_layout(t.examples, t.text, line, end) for t in two])
    shares[name] = measured([text == t.answer for text, t in zip(texts, two)])
view.shares_with_interval(shares, title="One task, seven layouts (two examples of each group)")
*six, _ = (share for share, _, _ in shares.values())
print(f"The six: from {min(six):.0%} to {max(six):.0%}, by punctuation and a few words alone.")

# %% [markdown]
# (`label first` fails for a plain reason: the prompt ends with the text, and the label's place lies *before* it. A language model
# writes forwards only. The layout asks for something that its one skill, the next token, cannot give.)
#
# The embedded model was trained on very many layouts, so it bears most of them. Larger models are not immune: Sclar and others
# (2023, [arXiv:2310.11324](https://arxiv.org/abs/2310.11324)) found differences of up to 76 percentage points between layouts that mean
# the same, with a model of 13 billion parameters, and found that neither size nor more examples made them go away. The lesson is a
# habit: never judge a task by one layout.
#
# ## 7. Hallucination: an answer that nobody gave
#
# The figure of section 5 has a green box: the model *always* answers. To go on with the next token is all it does; "I do not know" is just
# another text, which has to be more probable than an invention to be written. An answer that is fluent and unfounded is called
# a **hallucination**.
#
# We ask about people who do not exist outside the prompt: first with a **context**, a text that holds the answer, then without.

# %%
readings = trials.reading_tasks(TRIALS)
ANSWER = "Question: {question}\nAnswer:"


def with_context(context, question):
    return f"Context: {context}\n" + ANSWER.format(question=question)


example = readings[0]
print(with_context(example.context, example.question))

# %%
given = [with_context(r.context, r.question) for r in readings]
alone = [ANSWER.format(question=r.question) for r in readings]
answers = {"with the context": ask(given), "without the context": ask(alone)}
rows = [(r.question, r.answer, *pair) for r, *pair in zip(readings, *answers.values())]
view.table(rows[:6], columns=["question", "right", *answers])

# %%
shares = {
    f"{what}, {name}": measured(list(map(test, texts, readings)))
    for name, texts in answers.items()
    for what, test in {
        "answers": lambda text, r: text != "",
        "is right": lambda text, r: text.rstrip(".") == r.answer,
    }.items()
}
view.shares_with_interval(shares, title="Questions on invented people", xlabel="share of questions")

# %% [markdown]
# With the context it reads; without it, it still writes something each time: a number for an age, a weekday for a day, a name out of the
# question, now and then `not given`, though nobody told it to decline. What has the right form may be right by luck. **Form is no evidence.** What helps is a context that holds the answer. Finding the right
# context by machine is *retrieval*, the subject of [notebook 3](3-retrieve-and-answer.ipynb).
#
# ### Can you see it in the probabilities?
#
# The endpoint tells the log-probability of each token that it wrote. Perhaps the model is less sure when it invents? As the
# **confidence** of an answer we take the geometric mean of its tokens' probabilities. Four groups of questions, two of which
# have a right answer within reach:

# %%
from math import exp


def log_prob(token):
    """The token's log-probability; the LMI image spells the name in another way."""
    return token["log_prob"] if "log_prob" in token else token["logprob"]


def with_confidence(prompts):
    """(answer, confidence) for each prompt."""
    found = []
    for answer in invoke_all(prompts, max_new_tokens=16, stop=["\n"], details=True):
        log_probs = [log_prob(token) for token in answer["details"]["tokens"]]
        text = answer["generated_text"].split("\n")[0].strip()
        found.append((text, exp(sum(log_probs) / max(1, len(log_probs)))))
    return found


CAPITAL = "Question: What is the capital of {country}?\nAnswer:"
real = trials.known_countries()
unreal = trials.invented_countries(50)

# %%
groups = {
    "context given": [c for _, c in with_confidence(given)],
    "no context": [c for _, c in with_confidence(alone)],
    "real country": [c for _, c in with_confidence([CAPITAL.format(country=c) for c, _ in real])],
    "invented country": [
        c for _, c in with_confidence([CAPITAL.format(country=c) for c in unreal])
    ],
}

# %%
from random import Random

from matplotlib import pyplot

figure, axis = pyplot.subplots(figsize=(6.4, 2.6))
jitter = Random(0)
for row, values in enumerate(groups.values()):
    heights = [row + jitter.uniform(-0.3, 0.3) for _ in values]
    axis.plot(values, heights, ".", color=view.COLOURS[row % 2], markersize=4, alpha=0.6)
axis.set(xlabel="confidence", xlim=(0, 1.02), ylim=(len(groups) - 0.5, -0.5))
axis.set_yticks(range(len(groups)), groups)
middles = {name: sorted(values)[len(values) // 2] for name, values in groups.items()}
in_words = ", ".join(f"{name} {value:.0%}" for name, value in middles.items())
view.show(figure, alt=f"Each answer's confidence as a dot, in four groups. Medians: {in_words}.")
print("Medians:", in_words)

# %% [markdown]
# How well does confidence tell founded answers from inventions? Take one of each by chance: how often is the founded one
# more confident? 50% would be a coin, 100% a perfect alarm. And if you draw a line so that 95% of the founded answers pass, how
# many inventions pass with them?

# %%
rows = []
for founded, invented in (("context given", "no context"), ("real country", "invented country")):
    a, b = sorted(groups[founded]), groups[invented]
    wins = sum((x > y) + (x == y) / 2 for x in a for y in b) / (len(a) * len(b))
    line = a[len(a) // 20]
    passed = sum(y >= line for y in b) / len(b)
    rows.append((f"{founded} / {invented}", f"{wins:.0%}", f"{line:.2f}", f"{passed:.0%}"))
view.table(rows, columns=["founded / invented", "founded wins", "line", "inventions that pass"])

# %% [markdown]
# Confidence is a hint, and here a good one or a poor one, as the table says; it is no proof. And mind what it measures: how usual the *words* are, not
# whether they are *true*. A model that is sure because it saw a mistake a thousand times is still wrong.
#
# ### Permission to decline
#
# The better remedy: say in the prompt what to do when the answer is not there. Each question is asked on three contexts: one that holds
# the answer, one that says nothing of the person, and one that speaks of the person but not of the matter.

# %%
PERMISSION = 'Answer from the context. If it does not say, answer "not given".\n'
readings = trials.reading_tasks(TRIALS, new_frames=False)
shares, declined = {}, {}
for label, before in {"no permission": "", "permission": PERMISSION}.items():
    for kind in ("context", "about_others", "on_other_matters"):
        prompts = [before + with_context(getattr(r, kind), r.question) for r in readings]
        texts = [text.rstrip(".") for text in ask(prompts)]
        declined[label, kind] = [text == "not given" for text in texts]
        if kind == "context":
            right = [text == r.answer for text, r in zip(texts, readings)]
            shares[f"answer is there, {label}: answers right"] = measured(right)
        else:
            name = f"{kind.replace('_', ' ')}, {label}: declines"
            shares[name] = measured(declined[label, kind])
view.shares_with_interval(shares, title="What a permission to decline changes", xlabel="share")
wrongly = sum(declined["permission", "context"])
print(f"With permission it declined {wrongly} of {TRIALS} questions whose answer was there.")

# %% [markdown]
# One line in the prompt turns many of the inventions into an honest "not given". Read the rows as a trade: what is gained on
# questions without an answer, and what is lost on those with one. And `not given` is a text that your program can look for, which
# an invented town is not.
#
# ## 8. Five principles, five experiments
#
# ### Principle 1: give direction
#
# A prompt that leaves things open gets what is usual. We ask for a story about an animal and a thing, and count in how many of the stories both occur;
# then the same without asking. (Sampled at temperature 0.8, since greedy decoding would write one story over and over.)

# %%
from itertools import product

heroes = ["fox", "rabbit", "bear", "mouse", "cat", "owl", "frog", "goat"]
things = ["key", "lamp", "ring", "letter", "basket", "coin", "kite", "map"]
pairs = list(product(heroes, things))[: max(8, TRIALS // 3)]
STORY = {"max_new_tokens": 120, "do_sample": True, "temperature": 0.8, "seed": 1, "stop": None}


def article(noun):
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


asked = ask(
    [f"Write a story about {article(hero)} and a {thing}.\n\n" for hero, thing in pairs], **STORY
)
open_ended = ask(["Once upon a time"] * len(pairs), **STORY)
view.completions(
    [{"prompt": f"{pairs[0][0]}, {pairs[0][1]}: ", "text": asked[0], "label": "with direction"}]
)

# %%
shares = {}
for label, stories in {"with direction": asked, "without": open_ended}.items():
    found = [
        (hero in story.lower(), thing in story.lower())
        for (hero, thing), story in zip(pairs, stories)
    ]
    shares[f"{label}: the animal"] = measured([h for h, _ in found])
    shares[f"{label}: the thing"] = measured([t for _, t in found])
    shares[f"{label}: both"] = measured([h and t for h, t in found])
view.shares_with_interval(shares, title="What is in the story?", xlabel="share of stories")

# %% [markdown]
# ### Principle 2: specify the format
#
# A program can only use what it can read. Say which format you want, tell the model where to stop, and then *check*: `json.loads`
# either reads the answer or it does not.

# %%
cards = trials.card_tasks(TRIALS // 2)
print(cards[0].text, cards[0].fields, sep="\n")
print(ask([f"Text: {cards[0].text}\nJSON:"], max_new_tokens=48)[0])

# %%
def parsed(text):
    """The JSON object in an answer, or None."""
    try:
        return json.loads(text)
    except ValueError:
        return None


forms = {
    "no format asked": ("Text: {text}\n", "\n\n"),
    "JSON:, no stop": ("Text: {text}\nJSON:", None),
    "JSON:, stop at the line's end": ("Text: {text}\nJSON:", "\n"),
}
shares = {}
for name, (form, stop) in forms.items():
    texts = ask([form.format(text=c.text) for c in cards], stop=stop, max_new_tokens=48)
    objects = [parsed(text) for text in texts]
    shares[f"{name}: can be read"] = measured([o is not None for o in objects])
    shares[f"{name}: all is right"] = measured([o == c.fields for o, c in zip(objects, cards)])
view.shares_with_interval(shares, title="Name, town and job as JSON")

# %% [markdown]
# Without a format the model writes *something* about the person, which no program was prepared for. Without a stop it may write
# more after the closing brace, and a reader of JSON refuses the whole. And JSON that can be read is not yet true: we
# compared it with what the text says. Which fields are wrong? (The last answers are those of the third form.)

# %%
def value(found, field):
    """A field's value in what was read, or None."""
    return found.get(field) if isinstance(found, dict) else None


shares = {
    field: measured([value(o, field) == c.fields[field] for o, c in zip(objects, cards)])
    for field in ("name", "town", "job")
}
view.shares_with_interval(shares, title="Right values, field by field")
wrong = [(c.text, t) for c, t, o in zip(cards, texts, objects) if o != c.fields]
print(f"{len(wrong)} of {len(cards)} answers are not wholly right.")
view.table(wrong[:4], columns=["text", "answer"], caption="Some of them")

# %% [markdown]
# ### Principle 3: provide examples
#
# Sections 4 to 6 were about this one. In short: examples pay where the task is new to the model; see how many it takes; balance the groups and mix
# the order; and count the cost, since every call reads them again.
#
# ### Principle 4: evaluate quality
#
# A test set, a function that scores an answer, and an interval: you have used these three all along. Now the question for which people
# need them most. *Two wordings of a prompt: which one is better, and is the difference real?*

# %%
results = {name: zero_shot(wording, reviews) for name, wording in WORDINGS.items()}
view.shares_with_interval(
    {name: measured(right) for name, right in results.items()},
    title=f"Two wordings, the same {TRIALS} reviews",
)

# %% [markdown]
# The intervals alone do not settle it: both wordings were tried on the *same* reviews, and most reviews are easy for both. What
# counts are those where only one of them is right. If the wordings were equally good, such reviews would fall to either side like a
# coin. How probable is a coin that lands at least so unevenly? (This is called a **sign test**, the probability its **p-value**.)

# %%
from math import comb

first, second = results.values()
only_first = sum(a and not b for a, b in zip(first, second))
only_second = sum(b and not a for a, b in zip(first, second))
n, most = only_first + only_second, max(only_first, only_second)
p = min(1.0, 2 * sum(comb(n, i) for i in range(most, n + 1)) / 2**n)
names = list(results)
print(f"Only {names[0]!r} is right: {only_first}. Only {names[1]!r} is right: {only_second}.")
print(f"A fair coin would be so uneven with probability {p:.2g}.")
if p < 0.05:
    print(f"So the difference is hardly chance: prefer {names[only_second > only_first]!r}.")
else:
    print("That is nothing unusual: this test shows no difference. Take either, or test on more.")

# %% [markdown]
# The convention is to call a difference real below 0.05. Keep two things in mind. If you try twenty wordings, one of them will win at that level by
# chance alone. And the winner on your test set is the winner *there*: before you rely on it, confirm it on inputs that you did not use
# to choose.
#
# ### Principle 5: divide into small tasks
#
# <img src="images/prompt-chain.svg" alt="Above: one step. A review goes into the model, which writes the reply. Below: a chain. The review goes into the model twice, once to name the sentiment, once to name the topic; both results can be checked; they go into the model again, which writes the reply." width="760">
#
# A shop answers its customers. One prompt can go from review to reply. A **chain** first names the sentiment and the topic, each with a
# prompt of its own, and writes the reply from these two.

# %%
customers = trials.customer_reviews(TRIALS // 2)
one_step = ask([f'Review: "{c.review}"\nReply:' for c in customers], max_new_tokens=32)

sentiments = ask([WORDINGS["This review is"].format(text=c.review) for c in customers])
topics = ask([f'Review: "{c.review}"\nTopic:' for c in customers])
chain = ask(
    [f"Topic: {t}\nSentiment: {s}\nReply:" for t, s in zip(topics, sentiments)], max_new_tokens=32
)
steps = zip(customers, one_step, sentiments, topics, chain)
rows = [(c.review, r, f"{s}, {t}", reply) for c, r, s, t, reply in steps]
view.table(rows[:4], columns=["review", "one step", "the chain's steps", "the chain"])

# %%
def fits(reply, customer):
    """Whether a reply thanks for praise or regrets blame, and names the topic."""
    regrets = any(word in reply.lower() for word in ("sorry", "forgive", "apolog"))
    return customer.topic in reply and regrets == (customer.sentiment == "negative")


shares = {
    "one step": measured([fits(r, c) for r, c in zip(one_step, customers)]),
    "chain": measured([fits(r, c) for r, c in zip(chain, customers)]),
    "its step: sentiment": measured(
        [first_word(s) == c.sentiment for s, c in zip(sentiments, customers)]
    ),
    "its step: topic": measured([t == c.topic for t, c in zip(topics, customers)]),
    "its step: reply, from right facts": measured(
        [
            fits(reply, c)
            for s, t, reply, c in zip(sentiments, topics, chain, customers)
            if (first_word(s), t) == (c.sentiment, c.topic)
        ]
    ),
}
view.shares_with_interval(shares, title="One prompt or three?")

# %% [markdown]
# Compare the first two rows, with their intervals. Whichever is ahead, only the chain shows *where* it goes wrong: its three steps have
# scores of their own. You know which prompt to work on, you can put a check or another model behind each step, and you may
# replace one without touching the others. The price is three calls instead of one, and errors that add up: if each step is right in
# 95% of all cases, all three are in 86%.
#
# ## 9. Your turn
#
# Change the prompt, press *Generate*. Temperature 0.05 is nearly greedy. Three things to try: give a third group to the examples; let two
# examples contradict each other; ask about somebody of whom the context says nothing, with the permission and without.

# %%
def generate(inputs, **parameters):
    """The answer's text."""
    return invoke(inputs, **parameters)["generated_text"]


view.playground(generate, prompt=arrow(one.examples, one.text), temperature=0.05, max_new_tokens=12)

# %%
print(generate(arrow(one.examples, one.text), max_new_tokens=12, stop=["\n"]))

# %% [markdown]
# ## 10. Small models and large ones
#
# The embedded model has a few million parameters and was trained on simple texts and on just the kinds of task that you saw. Leave them, and it is lost.
# Here it is asked for things that people ask of a chat model. (`workshop.model.prompt` puts the markers of a chat around the text for models that
# were trained with them; for the embedded one it changes nothing.)

# %%
requests = [
    "Hello! Who are you?",
    "What is 7 plus 5?",
    "Translate into French: Good morning.",
    "Name three uses of a paper clip.",
    "Write the word 'lamp' backwards.",
]
texts = ask(
    [workshop.model.prompt(text) for text in requests], stop="\n\n", max_new_tokens=40
)
view.table(zip(requests, texts), columns=["request", "what the model writes"])

# %%
random = Random(1)
sums = [(random.randint(1, 9), random.randint(1, 9)) for _ in range(TRIALS // 2 + 4)]
shown = "".join(f"{a} + {b} = {a + b}\n" for a, b in sums[:4])
texts = ask([f"{shown}{a} + {b} =" for a, b in sums[4:]])
right = [text == str(a + b) for text, (a, b) in zip(texts, sums[4:])]

other_words = PERMISSION.replace("not given", "no idea")
prompts = [other_words + with_context(r.about_others, r.question) for r in readings]
no_idea = [text.rstrip(".") == "no idea" for text in ask(prompts)]
view.shares_with_interval(
    {
        "sums such as 3 + 4, four examples given": measured(right),
        'asked to decline with "not given"': measured(declined["permission", "about_others"]),
        'asked to decline with "no idea"': measured(no_idea),
    },
    title="Where the small model ends",
)

# %% [markdown]
# The last two rows ask for the same behaviour. The words "not given" stood in its training, "no idea" did not. So
# what looked like obedience in section 7 was a habit: the embedded model knows *that* line. To follow an instruction which nobody wrote
# down before takes a larger model, trained on many instructions.
#
# What is known about size, from papers that measured it:
#
# - Examples help large models more: few-shot accuracy rises with size (Brown and others 2020,
#   [arXiv:2005.14165](https://arxiv.org/abs/2005.14165), the paper on GPT-3).
# - General models follow flipped labels only when they are large (Wei and others 2023, section 5 above).
# - "Think step by step" within one prompt, called *chain of thought*, helped models of about 100 billion parameters and did not help small ones
#   (Wei and others 2022, [arXiv:2201.11903](https://arxiv.org/abs/2201.11903)). Models trained for it have since become smaller.
# - Training on instructions can matter more than size: people preferred the answers of an instruct model of 1.3 billion parameters to those of a plain one
#   of 175 billion (Ouyang and others 2022, [arXiv:2203.02155](https://arxiv.org/abs/2203.02155)).
# - Larger models know better what they know: on multiple-choice questions in a suitable form their confidence is close to their accuracy (Kadavath and others 2022,
#   [arXiv:2207.05221](https://arxiv.org/abs/2207.05221)).
#
# Sensitivity to layout, bias by order, and invented answers do *not* vanish with size. Therefore measure, with any model.
#
# **Do it.** Set `MODEL = "qwen3-4b-instruct"` in the first cell (with `TRIALS = 50`), and run this notebook again, on AWS or where the
# model fits. Write down first what you expect: which of the curves will change most? Some scores may *fall*, because a chattier model
# does not answer in one word: then it is the format (principle 2) that you have to specify.
#
# ## 11. Clean up
#
# The last cell deletes the endpoint and what belongs to it, and lists what is left: nothing. To go on with notebook 3 on AWS without waiting for a new
# endpoint, run this notebook with `KEEP = True`.

# %%
if KEEP:
    print("Kept, and on AWS still costing money:", endpoint_name)
else:
    workshop.cleanup()

# %% [markdown]
# ## What you learned
#
# - A prompt has up to four parts. Take one away and count: that is what it was worth.
# - A familiar task needs no examples, only the right words; a new one is learned from a few examples in the prompt, and forgotten after it.
# - An answer comes from the prompt or from memory. It always comes, so give the model the facts, and permission to decline.
# - Direction, format, examples, evaluation, small tasks: five principles, each of which you can measure.
# - A prompt is good when a score on a test set says so, with an interval. The rest is taste.
#
# **Check yourself** (answers in [solutions/2-prompting.md](solutions/2-prompting.md)):
#
# 1. Somebody tested a new prompt on 10 inputs, and 9 were right. The old one has 85% on a thousand. Switch?
# 2. Few-shot examples with the labels `positive` and `negative` do not raise your accuracy. Name two possible reasons, and the experiment that tells them
#    apart.
# 3. You sort mail into "urgent" and "other", with one example of "urgent" and seven of "other". What do you expect of doubtful mails?
# 4. Your assistant answers each question with high confidence. May you leave out the context?
# 5. A chain of four steps, each right in 97% of all cases: what is the share of cases in which all are right, if the errors are independent?
#
# **Exercises**
#
# 1. *Direction, again.* Ask for a story about a girl named Rosa and a thing: how often does the name come, and how often the thing? Then ask for a *sad* story.
#    Does the model follow? Decide first how you will measure it.
# 2. *Three groups.* Extend section 4 to three topics. What is the share right by chance, and how many examples does it take now?
# 3. *Your own layout.* Write another layout for section 6 and guess its place before you run it.
#
# **Next:** [notebook 3](3-retrieve-and-answer.ipynb) finds the context by itself.
