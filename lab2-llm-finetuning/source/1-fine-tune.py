# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
#   workshop:
#     minutes: 75
#     track: core
# ---

# %% [markdown]
# # Fine-tune a language model in a training job
#
# **Lab 2, notebook 1 of the day.** A language model knows what it was trained on. In this notebook you teach one a task that it
# cannot do, by examples: you rent a machine for a minute, train on it, deploy what comes out, and measure what was gained,
# what it cost, and what was lost.
#
# When you are done you will be able to
#
# - say when fine-tuning is the right tool, and look at data before you train on it;
# - start a SageMaker **training job** with your own script, follow it, and find its logs, metrics and model;
# - read a loss curve, and explain loss, perplexity and the hyperparameters that matter;
# - compare a tuned model with its base on a question that you can check, and put an interval around the answer;
# - measure what the model has forgotten, and say what all of it cost.
#
# | | on your laptop | on AWS |
# |---|---|---|
# | **time** | about 75 minutes of reading, 2 of computing | an estimate: the same; the waiting (10 to 20 minutes in all) fits into the reading |
# | **cost** | nothing | an estimate: under 1 USD, for a few minutes of a training instance and an hour of two small endpoint instances |
# | **you need** | this repository, set up by `make jupyter` | a role that may use SageMaker and S3; quotas of one `ml.g5.xlarge` *for training job usage* and two `ml.m5.xlarge` *for endpoint usage* |
#
# How the 75 minutes may go (estimates, for a reader who runs every cell and reads every paragraph):
#
# | sections | what you do | minutes |
# |---|---|---|
# | 1 to 3 | settings; do you need this at all?; the data and its tokens | 12 |
# | 4 | ask the base model | 8 |
# | 5 | choose the hyperparameters | 8 |
# | 6, 7 | start the training job, watch the loss | 16 |
# | 8 | the artifact and its report | 8 |
# | 9, 10 | deploy tuned and base side by side, measure | 12 |
# | 11 | what was forgotten | 6 |
# | 12, 13 | cost, clean up, questions | 5 |
#
# You should have done [notebook 1 of Lab 1](../lab1-llm-inference/1-deploy-an-llm.ipynb): endpoints, tokens and greedy decoding
# are not explained again. Words in **bold** are explained where they first appear.
#
# > **In SageMaker Studio**, run this line once in a terminal, from the repository's folder, before you begin:
# > `pip install -r requirements.txt`

# %% [markdown]
# ## 1. Choose where it runs, and which model
#
# The same three settings as in Lab 1.

# %% tags=["parameters"]
BACKEND = "auto"  # "auto", "local" or "sagemaker"
MODEL = "embedded"  # or another name of the table in this lab's README.md
KEEP = False  # True keeps the endpoint when the notebook ends

# %%
import sys

sys.path.insert(0, "..")  # the folder that holds `shared`, the code that all labs use
from shared import display as view
from shared.workshop import Workshop

workshop = Workshop(lab="2", backend=BACKEND, model=MODEL)
workshop

# %% [markdown]
# ## 2. Do you need to fine-tune?
#
# A model can be given what it lacks in three ways, and training is the dearest of them. Try the others first.
#
# | what is missing | try | because |
# |---|---|---|
# | it does not know what you want | a better **prompt**, with examples | it costs minutes and no training (Lab 1, notebook 2) |
# | it does not know your facts, or they change | **retrieval**: search your documents, put the passages into the prompt | facts stay where they can be updated and cited (Lab 1, notebook 3) |
# | it does not *behave* as you want, however you ask: a style, a format, a task that is all your own | **fine-tuning**: train it a little further on examples | behaviour goes into the weights: no examples in the prompt, so shorter prompts, and a small model will often do |
# | it does not know your language or field at all | **pre-training** on much text of that field | what fine-tuning can add is limited by what the model can do already |
#
# Our case is the third row. A shop, The Open Door, has a thousand product descriptions in a voice of its own, and new products every
# week. From the facts of a product, the model is to write the description: in that voice, with every fact, and without
# inventing one.
#
# **Fine-tuning** means: take a model with its trained weights, and continue its training with your data. Nothing is added to the
# model. The same numbers move a little.
#
# ## 3. Look at the data
#
# Before anything else, read some of it. No program will tell you that a column is swapped or that half of the texts are
# in another language; your eyes will.

# %%
from products import KINDS, check_facts, check_voice, coverage, read_products, write_prompt

FOLDER = "data/products"
train, validation, test = (
    read_products(f"{FOLDER}/{part}.jsonl") for part in ("train", "validation", "test")
)
three = [train[0], train[333], train[700]]
view.completions([{"prompt": row["prompt"], "text": row["completion"]} for row in three])

# %% [markdown]
# The dim part is the **prompt**: the facts, one on a line. The bold part is the **completion** that we want to be written. The shop
# does not exist; a program wrote its texts ([data/README.md](data/README.md) says how). That has one advantage over real data: we know
# exactly which facts belong into each description, so that we can check them.
#
# Read the three again. What do all descriptions have in common? Four habits of the shop can be checked by a program:

# %%
check_voice(train[0]["completion"])

# %% [markdown]
# The data comes in three parts, and the difference between them is the most important rule of the trade:
#
# - **train** is what the weights are adjusted to;
# - **validation** is looked at *during* training, to see whether the model learns or only memorises, and to choose settings;
# - **test** should be touched once, at the end (we only peek at three of it in section 4). A model is only as good as on data that had no influence on it, not even on your choices.
#
# So they must not overlap. Do they?

# %% tags=["nbval-check-output"]
names = {
    part: {row["facts"]["name"] for row in rows}
    for part, rows in {"train": train, "validation": validation, "test": test}.items()
}
rows = [
    (part, len(found), len(found & names["train"]) if part != "train" else "")
    for part, found in names.items()
]
view.table(rows, columns=["part", "different product names", "also in train"])

# %% [markdown]
# ### Tokens
#
# The model reads tokens, not words. They are made by its **tokenizer**, which was fixed when the model was first trained and stays as it
# is. Here is how the model sees a document:

# %%
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(workshop.model.weights or workshop.model.model_id)
ids = tokenizer(train[0]["text"])["input_ids"]
print(" ".join(view.visible(tokenizer.decode([token])) for token in ids))

# %% [markdown]
# Look at the product's name. It is an invented word, so it falls into several pieces; the words of everyday English are mostly one. To
# copy a name, the model must copy its pieces in the right order.
#
# How long are the documents?

# %%
import numpy as np

lengths = np.array([len(tokenizer(row["text"])["input_ids"]) for row in train])
CONTEXT = 512
print(f"{len(train):,} documents, {lengths.sum():,} tokens.")
print(f"Shortest {lengths.min()}, middle {np.median(lengths):.0f}, longest {lengths.max()} tokens.")
print(f"Longer than a context of {CONTEXT}: {(lengths > CONTEXT).sum()}.")

# %% [markdown]
# The **context** is how many tokens the model can read at once; what is longer would be cut. Ours all fit.
#
# A graphics card (and a processor, too) works best on rectangles of numbers. Documents are not rectangular. One could fill up the short
# ones with empty tokens and compute for nothing. The script does better: it puts the documents one after the other into **blocks** of
# equal length, with a token between them that says "here one ends". That is called **packing**.
#
# <img src="images/packing.svg" alt="Above: documents of different lengths, each a prompt followed by a completion. Below: the same documents packed one after another into two rows of equal length, with an end token after each. A document that does not fit into the rest of a row goes on in the next. The completions are marked: the loss counts only them." width="760">
#
# And which tokens should the model learn to predict? All of them, or only the completions? The facts are always given; nobody needs a model that
# invents prompts. The script sees the columns `prompt` and `completion` in our data, and counts only the completions
# (`--completion_only`).
#
# ## 4. Ask the base model
#
# The **base model** is the one that we start from. What does it write for a product today? Deploy it, as in Lab 1: archive, model,
# configuration, endpoint.

# %%
from sagemaker.core.resources import Endpoint, EndpointConfig, Model, TrainingJob
from sagemaker.core.shapes import ContainerDefinition, ProductionVariant

from shared.packaging import make_archive, upload

archive = make_archive("out/base.tar.gz", weights=workshop.model.weights, code="code")
base_container = workshop.container(upload(archive, workshop.s3_uri("base")))


def make_model(container):
    """A SageMaker model of a container definition; the same one if it is there already."""
    name = workshop.name("model", container)
    return workshop.existing(Model, name) or Model.create(
        model_name=name,
        primary_container=ContainerDefinition(**container),
        execution_role_arn=workshop.role,
        tags=workshop.tags,
    )


def make_config(**models):
    """A configuration with one variant for each model, each on an instance of its own."""
    variants = [
        ProductionVariant(
            variant_name=variant,
            model_name=model.model_name,
            instance_type=workshop.model.instance_type,
            initial_instance_count=1,
            initial_variant_weight=1.0,
            **workshop.model.variant_options,
        )
        for variant, model in models.items()
    ]
    name = workshop.name("config", {variant: model.model_name for variant, model in models.items()})
    return workshop.existing(EndpointConfig, name) or EndpointConfig.create(
        endpoint_config_name=name, production_variants=variants, tags=workshop.tags
    )


# %%
base_model = make_model(base_container)
base_config = make_config(base=base_model).endpoint_config_name
endpoint_name = workshop.name("endpoint")
endpoint = workshop.existing(Endpoint, endpoint_name) or Endpoint.create(
    endpoint_name=endpoint_name, endpoint_config_name=base_config, tags=workshop.tags
)
workshop.watch(endpoint)

# %% [markdown]
# (On AWS this takes about 5 minutes. Read on meanwhile: nothing in section 5 needs the endpoint.)
#
# We ask for the description of products of the **test** part, which no training will see. The line ends the description, so a line break is the
# stop text.

# %%
import json
from concurrent.futures import ThreadPoolExecutor

runtime = workshop.client("sagemaker-runtime")


def ask(variant, prompt, max_new_tokens=80, stop=("\n",)):
    """The greedy answer of one variant of the endpoint."""
    parameters = {"do_sample": False, "max_new_tokens": max_new_tokens, "stop": list(stop)}
    response = runtime.invoke_endpoint(
        EndpointName=endpoint_name,
        TargetVariant=variant,
        ContentType="application/json",
        Body=json.dumps({"inputs": prompt, "parameters": parameters}),
    )
    return json.loads(response["Body"].read())["generated_text"]


def ask_all(variant, prompts, **parameters):
    """The answers to many prompts, eight at a time."""
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda prompt: ask(variant, prompt, **parameters), prompts))


samples = [row["prompt"] for row in test[:3]]
view.completions(
    [
        {"prompt": prompt, "text": text, "label": "base"}
        for prompt, text in zip(samples, ask_all("base", samples))
    ]
)

# %% [markdown]
# This is not a description, let alone the shop's. Is it only that the model was not told what to do? By section 2 we must try a prompt
# with examples before we train. So the second candidate is the base model with three descriptions of the shop before the task (**few-shot**, see Lab 1).

# %%
EXAMPLES = "\n\n".join(row["text"] for row in train[:3]) + "\n\n"
shown = ask_all("base", [EXAMPLES + prompt for prompt in samples])
view.completions(
    [
        {"prompt": prompt, "text": text, "label": "base, after three examples"}
        for prompt, text in zip(samples, shown)
    ]
)

# %% [markdown]
# Compare each text with the facts above it. A large model would come a long way with three examples: it picks up the voice and mostly the facts. The embedded
# model is too small for that: it writes a word or two, as if the examples were a list of labels. (Lab 1 showed what it *can* learn from examples: to pick one of a few labels.) We will count in
# section 10. Note the price of the examples, too: each call carries many times the tokens, and they are computed anew each time.
#
# ## 5. Hyperparameters
#
# The weights are found by training. What *you* decide before it starts is called the **hyperparameters**. To understand the most important, here
# is all of training in five lines:
#
# 1. take a **batch**: a few blocks of the data;
# 2. let the model predict each next token of the batch, and compute the **loss**: how surprised it was by the right ones, as the mean of
#    $-\log p$. 0 would be a prophet; a model that gives all of 2,560 tokens the same chance has $\log 2560 \approx 7.8$;
# 3. compute for each weight in which direction the loss would shrink (the **gradient**);
# 4. move each weight a tiny bit in that direction. How far, says the **learning rate**;
# 5. that was one **step**. Repeat. When all data has come by once, that was an **epoch**.

# %%
hyperparameters = {
    "method": "full",
    "max_steps": 120,
    "learning_rate": 1e-3,
    "per_device_train_batch_size": 8,
    "block_size": 256,
    "lr_scheduler_type": "linear",
    "warmup_ratio": 0.1,
    "logging_steps": 5,
    "eval_steps": 20,
    "seed": 1,
}
hyperparameters |= workshop.model.fine_tuning  # what another model needs otherwise

meaning = {
    "method": "full: all weights move. Notebook 2 has two ways to move fewer.",
    "max_steps": "So many steps, then it ends. Too few: not learned. Too many: learned by heart.",
    "learning_rate": "Length of a step. Too small: nothing happens. Too large: all is destroyed.",
    "per_device_train_batch_size": "Blocks in a batch. More: smoother steps, more memory.",
    "block_size": "Tokens in a block.",
    "lr_scheduler_type": "How the learning rate falls to zero: the last steps are fine ones.",
    "warmup_ratio": "For this share of the steps it first rises: the first gradients are wild.",
    "logging_steps": "A line in the log every so many steps.",
    "eval_steps": "A look at the validation data every so many steps.",
    "seed": "Where the random order of the data starts: the same seed, the same run.",
    "model_name_or_path": "The base model, where it comes from the Hugging Face Hub.",
}
view.table(
    [(name, value, meaning.get(name, "(see --help)")) for name, value in hyperparameters.items()],
    columns=["hyperparameter", "value", "what it does"],
)

# %% [markdown]
# The script has more, all with defaults: `python code/train.py --help` lists them. Do the arithmetic for the four that belong together:

# %%
per_step = hyperparameters["per_device_train_batch_size"] * hyperparameters["block_size"]
seen = per_step * hyperparameters["max_steps"]
print(f"One step reads {per_step:,} tokens, all steps {seen:,}.")
times = seen / lengths.sum()
print(f"The data has {lengths.sum():,}: each document comes by about {times:.1f} times.")

# %% [markdown]
# Each document two or three times is usual for fine-tuning. Pre-training reads billions of tokens, mostly once.
#
# ## 6. The training job
#
# You could run `code/train.py` here, in the notebook's own machine. A **training job** runs it elsewhere: on a machine of the size that the
# training needs, for as long as it takes and not a second longer. That is why the expensive graphics cards are rented by
# jobs and not by notebooks.
#
# <img src="images/training-job.svg" alt="From left to right. S3 holds the channels train, validation, forgetting and model, and your code. SageMaker starts an instance and a container, downloads the channels to /opt/ml/input/data, runs train.py with the hyperparameters, and at the end uploads /opt/ml/model as model.tar.gz and /opt/ml/output/data as output.tar.gz to S3. The log goes to CloudWatch all the time. Then the instance is gone." width="760">
#
# What goes in are **channels**: folders in S3 that appear under `/opt/ml/input/data` in the container, each under its name. We give four. The base
# weights are one of them, so that the job needs no internet; `forgetting` holds questions that the base model can answer (section 11).

# %%
from pathlib import Path

channels = {
    "train": f"{FOLDER}/train.jsonl",
    "validation": f"{FOLDER}/validation.jsonl",
    "forgetting": "data/forgetting/prompts.jsonl",
} | workshop.model.channels
view.table(
    [(name, Path(path).name) for name, path in channels.items()],
    columns=["channel", "file or folder"],
)

# %% [markdown]
# What comes out are files (next sections) and the log. SageMaker reads **metrics** from the log by **regular expressions** (patterns of text) that you
# give: the script prints lines such as `step=20 epoch=0.41 train_loss=2.1234`, and the pattern says where the number is.
#
# `ModelTrainer` of the SageMaker SDK puts it all together. Nothing starts yet.

# %%
from sagemaker.core.shapes import MetricDefinition
from sagemaker.core.training.configs import Compute, InputData, OutputDataConfig, SourceCode
from sagemaker.train import ModelTrainer

METRICS = ["train_loss", "eval_loss", "learning_rate", "train_samples_per_second"]
METRICS += ["perplexity", "accuracy", "epoch"]
metric_definitions = [
    MetricDefinition(name=name, regex=rf"\b{name}=([0-9.eE+-]+)") for name in METRICS
]
job_name = workshop.name("job", hyperparameters, channels)
trainer = ModelTrainer(
    training_image=workshop.model.training_image_uri(workshop.region),
    source_code=SourceCode(source_dir="code", entry_script="train.py"),
    compute=Compute(instance_type=workshop.model.training_instance_type, instance_count=1),
    hyperparameters=hyperparameters,
    output_data_config=OutputDataConfig(s3_output_path=workshop.s3_uri("jobs")),
    base_job_name=job_name,
    role=workshop.role,
    sagemaker_session=workshop.session,
    tags=workshop.tags,
).with_metric_definitions(metric_definitions)
print("image:   ", trainer.training_image.split("/")[-1])
price = workshop.model.training_price_per_hour
print("instance:", trainer.compute.instance_type, f"({price} USD per hour)")

# %% [markdown]
# The image is Hugging Face's for training: Python, PyTorch, transformers. Your script and its modules travel in one more channel, `code`.
#
# The next cell starts the job. Each run of a job has a name of its own (the SDK adds the time), because a job is a fact of the past: it
# cannot be run again, only another like it. So the cell first looks whether a job with the *same settings* runs or has finished: then there
# is no reason to pay twice, and we take that.

# %%
inputs = [InputData(channel_name=name, data_source=path) for name, path in channels.items()]
job = workshop.existing(TrainingJob, job_name)
if job is None:
    trainer.train(input_data_config=inputs, wait=False)
    job = trainer._latest_training_job  # the SDK has no public name for it
print(job.training_job_name)

# %%
workshop.watch(job)

# %% [markdown]
# ## 7. Read the curve
#
# Above you saw the job's **status** (`Starting`: the machine is rented; `Downloading`; `Training`; `Uploading`; `Completed`), the lines of the script, and the **loss curve**.
#
# - `train_loss` is measured on the batch that is just being learned. It jumps, since every batch is another.
# - `eval_loss` is measured on the validation data, rarely, because that costs time. It is the one to trust.
#
# Three shapes are worth knowing. Both fall, then level out: learned, and more steps would bring little. `train_loss` falls while `eval_loss` *rises*: the
# model learns the training data by heart (**overfitting**); take fewer steps, or more data. Neither falls, or both leap up: the learning rate is too
# small or too large. Which is ours?
#
# How the learning rate went, as the script logged it:

# %%
from matplotlib import pyplot

history = workshop.metrics(job)
view.style()
figure, axis = pyplot.subplots(figsize=(6.4, 2.4))
axis.plot(*zip(*history["learning_rate"]))
axis.set(xlabel="step", ylabel="learning rate", title="Up for a few steps, then down to zero")
axis.grid(axis="y")
peak_step, peak = max(history["learning_rate"], key=lambda point: point[1])
view.show(figure, f"The learning rate rises to {peak:.1e} at step {peak_step} and falls to zero.")

# %% [markdown]
# SageMaker keeps the metrics, too: the last value of each with the job, all of them in CloudWatch.

# %%
job.refresh()
rows = [(metric.metric_name, f"{metric.value:.4g}") for metric in job.final_metric_data_list]
view.table(rows, columns=["metric", "last value"])

# %%
rows = [
    (item.status, f"{(item.end_time - item.start_time).total_seconds():.1f}", item.status_message)
    for item in job.secondary_status_transitions
    if item.end_time
]
view.table(rows, columns=["status", "seconds", "what SageMaker says"])

# %% [markdown]
# ## 8. What the job made
#
# The instance is gone. What stays are the log, the job's record, and two archives in S3:

# %%
import tarfile

artifact = job.model_artifacts.s3_model_artifacts
print(artifact)
key = artifact.removeprefix(f"s3://{workshop.bucket}/")
Path("out").mkdir(exist_ok=True)
for name in ("model.tar.gz", "output.tar.gz"):
    s3_key = key.replace("model.tar.gz", name)
    workshop.client("s3").download_file(workshop.bucket, s3_key, f"out/trained-{name}")
with tarfile.open("out/trained-model.tar.gz") as tar:
    files = [(member.name, f"{member.size:,}") for member in tar if member.isfile()]
view.table([row for row in files if "code/" not in row[0]], columns=["model.tar.gz", "bytes"])

# %% [markdown]
# `model.tar.gz` is what the script left in `/opt/ml/model`: the weights, the tokenizer, a **model card** (`README.md`: from which data it was made and
# how), and in `code/` the same `inference.py` that serves the base model. So it can be deployed as it is. `output.tar.gz` has the script's report. It measured
# the model on the validation data before the first step and after the last:

# %%
with tarfile.open("out/trained-output.tar.gz") as tar:
    report = json.load(tar.extractfile("metrics.json"))
measures = {
    "eval_loss": "mean surprise for each token of the descriptions",
    "perplexity": "the same as e to the power of the loss",
    "bits_per_character": "the same for each character, in bits",
    "accuracy": "how often the right token was the most probable one",
}
rows = [
    (name, f"{report['before'][name]:.3g}", f"{report['after'][name]:.3g}", text)
    for name, text in measures.items()
]
view.table(rows, columns=["on the validation data", "before", "after", "what it is"])

# %% [markdown]
# **Perplexity** is easier to imagine than the loss: as unsure as if the model had to choose among so many equally probable tokens each time. A perplexity of 1
# would be certainty. How low can it get here? Not to 1: the shop has some thirty turns of phrase, and which one comes next is for nobody to know.
#
# Perplexities of models with different tokenizers cannot be compared, because their tokens are not the same. **Bits per character** can: a text has as many
# characters for each of them.

# %%
training = report["training"]
print(f"{training['trainable_parameters']:,} of {training['parameters']:,} weights were trained")
print(f"in {training['steps']} steps, {training['seconds']:.0f} s, {training['precision']};")
print(f"{training['train_tokens_per_second']:,.0f} tokens per second.")

# %% [markdown]
# ## 9. Side by side
#
# Low perplexity is not yet a good description. So deploy the new model *beside* the old one: one endpoint, two variants, each on an instance of its own. The
# running endpoint gets a new configuration; meanwhile the old one goes on answering.

# %%
tuned_container = workshop.tuned_container(job)
tuned_model = make_model(tuned_container)
both_config = make_config(base=base_model, tuned=tuned_model).endpoint_config_name
endpoint.refresh()
if endpoint.endpoint_config_name != both_config:
    workshop.client("sagemaker").update_endpoint(
        EndpointName=endpoint_name, EndpointConfigName=both_config
    )
workshop.watch(endpoint)

# %% [markdown]
# On AWS such an update takes as long as a new endpoint. A real shop would now send a small share of its traffic to the new variant and watch (a **canary**); we
# name the variant in each call.

# %%
tuned_shown = ask_all("tuned", samples)
items = []
for prompt, tuned_text, few_shot_text in zip(samples, tuned_shown, shown):
    items += [
        {"prompt": prompt, "text": tuned_text, "label": "tuned"},
        {"text": few_shot_text, "label": "base, after three examples"},
    ]
view.completions(items)

# %% [markdown]
# ## 10. Count the facts
#
# Three samples prove nothing. A description is useful if all facts of the product are in it and none is invented. Both can be checked by a program
# ([products.py](products.py)), for a hundred products that training has not seen. Each has five facts.

# %%
products = test[:100]
prompts = [row["prompt"] for row in products]
answers = {
    "base": ask_all("base", prompts),
    "base, after three examples": ask_all("base", [EXAMPLES + prompt for prompt in prompts]),
    "tuned": ask_all("tuned", prompts),
}
checks = {
    label: [check_facts(text, row["facts"]) for text, row in zip(texts, products)]
    for label, texts in answers.items()
}

# %%
rows = []
for label, found in checks.items():
    voice = np.mean([all(check_voice(text).values()) for text in answers[label]])
    complete = np.mean([not check.missing for check in found])
    invented = np.mean([bool(check.invented) for check in found])
    shares = [coverage(found), complete, invented, voice]
    rows.append((label, *(f"{share:.1%}" for share in shares)))
view.table(
    rows, columns=["", "facts present", "all five present", "something invented", "all four habits"]
)

# %% [markdown]
# Which facts does each get right? With the 95% interval, as in Lab 1, since a hundred products are a sample and not all products.

# %%
def interval(share, n, z=1.96):
    """Wilson's 95% interval of a share that was measured on n cases, as (low, high)."""
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5 / (1 + z * z / n)
    return middle - half, middle + half


figure, axes = pyplot.subplots(1, 3, sharey=True, figsize=(9.6, 2.6))
told = []
for axis, (label, found), colour in zip(axes, checks.items(), view.COLOURS):
    shares = [np.mean([kind in check.present for check in found]) for kind in KINDS]
    for row, share in enumerate(shares):
        ends = interval(share, len(found))
        axis.plot(ends, (row, row), color=colour, linewidth=5, alpha=0.3, solid_capstyle="butt")
        axis.plot(share, row, "o", color=colour)
    axis.set(title=label, xlim=(-0.03, 1.03), xticks=[0, 0.5, 1], xlabel="share of products")
    axis.xaxis.set_major_formatter("{x:.0%}")
    told.append(f"{label}: " + ", ".join(f"{k} {s:.0%}" for k, s in zip(KINDS, shares)))
axes[0].set_yticks(range(len(KINDS)), KINDS)
axes[0].invert_yaxis()
view.show(figure, "Share of products whose fact is in the text. " + ". ".join(told) + ".")

# %% [markdown]
# The tuned model has learned what the task *is*: take these five facts, and say them in the shop's voice. And it needs no examples for that: its prompt is a
# fraction as long.
#
# Look at the mistakes before you believe any number. What does the tuned model get wrong?

# %%
mistakes = [
    {
        "prompt": row["prompt"],
        "text": text,
        "label": f"missing {check.missing}, made up {check.invented}",
    }
    for row, text, check in zip(products, answers["tuned"], checks["tuned"])
    if check.missing or check.invented
]
print(f"{len(mistakes)} of {len(products)} have a mistake.")
view.completions(mistakes[:3])

# %% [markdown]
# ### Where it ends
#
# The test products are new, but new *in the way* the training products were. What happens outside? A product of your own: change the facts.

# %%
facts = {
    "name": "Vimmel teapot",  # the shop has no teapots
    "colour": "turquoise",  # nor this colour
    "material": "clay",
    "country": "Portugal",  # nor this country
    "price": "25 euros",
}
text = ask("tuned", write_prompt(facts))
view.completions([{"prompt": write_prompt(facts), "text": text, "label": "tuned"}])

# %%
check = check_facts(text, facts)
print("present:", ", ".join(check.present) or "none")
print("missing:", ", ".join(check.missing) or "none")
print("made up:", ", ".join(f"{kind}: {value}" for kind, value in check.invented) or "none")

# %% [markdown]
# A model never says "this is not like my data". Sometimes it stumbles visibly; at other times a wrong fact comes in a perfect sentence. So the shop's system
# should compare facts and text, as we did, before a text goes online.
#
# > **Try it.** Turn one thing after the other into something that the training data has (a lamp, red, Peru). Which of the five facts is the hardest to
# > carry over when it is new, and why that one? (Answer in [solutions/1-fine-tune.md](solutions/1-fine-tune.md).)
#
# ## 11. What was forgotten
#
# All weights moved, and only descriptions were rewarded. What about the things that the model could do before? The channel `forgetting` held 200 prompts of four tasks that
# the base model was trained for: capitals of countries, questions on a text, the sentiment of a review, classification by examples in the prompt. Right means: the first line of what the model writes, up to a full stop, is the answer; one that runs on is wrong. The script put
# them to the model before and after.

# %%
before, after = (report["forgetting"][when]["by_task"] for when in ("before", "after"))
shares = {}
for task in before:
    for when, measured in (("before", before), ("after", after)):
        share, count = measured[task]["accuracy"], measured[task]["prompts"]
        shares[f"{task}, {when}"] = (share, *interval(share, count))
view.shares_with_interval(shares, title="Right answers on the base model's own tasks")

# %% [markdown]
# This is called **catastrophic forgetting**, and it is the hidden price of fine-tuning: nothing in the loss curve showed it, because nobody had asked. See for yourself; the same
# question to both:

# %%
with open("data/forgetting/prompts.jsonl") as lines:
    questions = [json.loads(line) for line in lines]
items = []
for task in before:
    question = next(row for row in questions if row["task"] == task)
    for variant in ("base", "tuned"):
        text = ask(variant, question["prompt"], max_new_tokens=12)
        label = f"{task}, {variant}; right is {question['answer'].strip()!r}"
        items.append({"prompt": question["prompt"], "text": text, "label": label})
view.completions(items)

# %% [markdown]
# Is it bad? If the model only ever writes descriptions, not at all: it is a tool for one task now. If it is to go on doing its other work, there are four remedies:
#
# - **less**: a smaller learning rate, fewer steps. Look at the curve: was all of it necessary?
# - **a mixture**: put examples of the old tasks among the new data (*replay*);
# - **fewer weights**: train a small addition and leave the model as it is. Take the addition away, and the old model is there again. That is the subject of
#   [notebook 2](2-parameter-efficient.ipynb);
# - **two models**: keep the base for its work. Behind one endpoint they can even share an instance.
#
# > **Try it.** Set `learning_rate` to `1e-4` and run the notebook from section 5. What happens to the facts, and what to the forgetting?
#
# ## 12. What it costs
#
# A job is billed by the second, from the moment its instance is ready until the upload is done. `BillableTimeInSeconds` is AWS's own count.

# %%
print("Price:", workshop.model.training_price_note)
workshop.cost(job)

# %%
billed = job.billable_time_in_seconds / 3600 * workshop.model.training_price_per_hour
hosting = workshop.model.price_per_hour
archive_gb = Path("out/trained-model.tar.gz").stat().st_size / 1e9
rows = [
    ("this job, its seconds at the price on AWS", f"{billed:.4f} USD"),
    ("the two endpoint instances, for 75 minutes", f"{2 * hosting * 1.25:.2f} USD"),
    ("the same, forgotten for a month of 730 hours", f"{2 * hosting * 730:,.2f} USD"),
    ("the trained model in S3, for a year", f"{archive_gb * 0.023 * 12:.4f} USD"),
]
view.table(rows, columns=["what", "on AWS"])

# %% [markdown]
# (The seconds were measured on the machine that trained. On the laptop that is your processor; the instance with its graphics card needs fewer for the steps, and some
# more for starting the container and for downloads.)
#
# For small models the training is nearly free and the endpoint is what costs. For large ones it turns around.
#
# ## 13. Clean up
#
# The endpoint, the configurations and the models go, and what the SDK uploaded. The job's artifact stays: it is what you paid for, and it costs next to nothing. The cell says
# how to delete that, too.

# %%
if KEEP:
    print("Kept, and on AWS still costing money:", endpoint_name)
else:
    workshop.cleanup()

# %% [markdown]
# ## What you learned
#
# - Fine-tuning puts *behaviour* into the weights. Try a prompt and retrieval first.
# - A training job is your script, an image, an instance for the time it needs, channels in, an archive out. You saw its status, log, metrics and artifact.
# - The loss is the model's mean surprise, perplexity is *e* to its power. Trust the one on data that the model has not seen.
# - A question that can be checked (are the facts there?) says more than a loss. An interval says how far to believe it.
# - What is not measured is forgotten, in both senses.
# - The job ends by itself. The endpoint does not.
#
# **Check yourself** (answers in [solutions/1-fine-tune.md](solutions/1-fine-tune.md)):
#
# 1. Your `train_loss` is 0.1 and your `eval_loss` is 2.4 and rising. What has happened, and what would you change?
# 2. A model has a perplexity of 12 on your texts, another one, with another tokenizer, 15. Which is better?
# 3. A job failed after 40 minutes. Where do you look first, and what do you pay?
# 4. Why were the product names of the test part made of words that occur nowhere in training?
# 5. Your shop changes its prices every day. Should you fine-tune each night?
#
# **Exercises**, with answers in the same file:
#
# - *Break it.* Copy `train.jsonl` to `out/broken.jsonl`, delete a quotation mark in line 17, and train on that file. How long does it take until you know, and what are you told?
# - *Stop it.* Start a job with `max_steps` 5000, and stop it after a while with `job.stop()`. What is in S3?
# - *Starve it.* Train on the first 50 products only. What do the two loss curves do, and what do the facts?
#
# **Another model.** Set `MODEL` in the first cell: `"distilgpt2"` is this lab's classic, `"qwen3-4b-instruct"` a current instruct model (on a rented graphics card, with LoRA). See [README.md](README.md).
#
# **Next:** [2-parameter-efficient](2-parameter-efficient.ipynb): the same with a small addition instead of all weights. Then [3-preferences](3-preferences.ipynb) and
# [4-scale-out](4-scale-out.ipynb).
