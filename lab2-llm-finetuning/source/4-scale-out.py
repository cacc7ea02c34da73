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
# # From one core to several machines
#
# **Lab 2, notebook 4, to go further.** The jobs of this lab so far had one process on one machine. In this notebook you give the same
# training to two processes, to two machines, to a machine that is taken away in the middle, and to eight jobs that compete with
# each other. At the end you compute what a model of 7 or 70 billion parameters would need.
#
# When you are done you will be able to
#
# - say why **data-parallel** training computes the same as one process, and check it to the last digits;
# - train with a batch that does not fit, by **gradient accumulation**;
# - start a job on several processes and on several instances, and judge whether it was worth it;
# - train on **spot** instances, which may vanish, and lose next to nothing;
# - search hyperparameters by a **tuning job** and read its picture;
# - estimate the memory of a training before you rent anything, and choose what to divide among GPUs.
#
# | | on your laptop | on AWS |
# |---|---|---|
# | **time** | about 45 minutes of reading, 3 of computing | an estimate: the same, and 40 to 60 minutes of waiting for some fifteen jobs to start |
# | **cost** | nothing | an estimate: 3 to 5 USD, most of it for two short jobs on an instance with four GPUs |
# | **you need** | this repository, set up by `make jupyter` | a role that may use SageMaker and S3; quotas *for training job usage* of two `ml.g5.xlarge` and one `ml.g5.12xlarge`, and *for spot training job usage* of one `ml.g5.xlarge` |
#
# You should have done [notebook 1](1-fine-tune.ipynb) (training jobs, loss) and read in [notebook 2](2-parameter-efficient.ipynb) what LoRA is.

# %% tags=["parameters"]
BACKEND = "auto"  # "auto", "local" or "sagemaker"
MODEL = "embedded"  # or another name of the table in this lab's README.md
KEEP = False  # True keeps what the notebook made when it ends

# %%
import sys

sys.path.insert(0, "..")  # the folder that holds `shared`, the code that all labs use
from shared import display as view
from shared.workshop import Workshop

workshop = Workshop(lab="2", backend=BACKEND, model=MODEL)
workshop

# %% [markdown]
# ## 1. Why it can work
#
# A training step (notebook 1, section 5) computes the gradient of a batch and moves the weights. The loss of a batch is an average over its
# tokens. The gradient of an average is the average of the gradients. So the batch may be divided among processes, if somebody puts the
# gradients together again:
#
# <img src="images/data-parallel.svg" alt="One batch of eight rows is divided: four rows go to process 0, four to process 1. Each process has a model with the same weights and computes the gradient of its rows. An all-reduce adds the gradients and gives the sum to both. So both make the same step and have the same weights again." width="760">
#
# - Each **process** has the whole model and a part of each batch. This is **data parallelism**.
# - **All-reduce** is the operation that adds something over all processes and gives everybody the sum. It is the only moment at which they wait for one another.
# - All start from the same weights and make the same step. So the weights stay the same without ever being sent.
#
# PyTorch calls it **DDP** (*distributed data parallel*, [Li et al. 2020](https://arxiv.org/abs/2006.15704)). Nothing about it is approximate. If it is right, the loss must be the
# one of a single process, step by step.
#
# ## 2. The parts and the whole
#
# First on one machine, without any library: sixteen product descriptions, once as one batch and once in parts. PyTorch *adds* to `.grad` at each
# `backward()`; whoever wants a fresh gradient has to clear it. So one process can compute the parts one after the other, and make its step only then. That is
# **gradient accumulation**: the batch of a large machine, on a small one, for more time.

# %%
from functools import partial

import torch
from products import read_products
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

logging.disable_progress_bar()
EMBEDDED = "../shared/models/language"  # small enough for this machine, whatever MODEL is
tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)
model = AutoModelForCausalLM.from_pretrained(EMBEDDED, dtype=torch.float32)
model.config.use_cache = False  # that is for generating text
products = read_products("data/products/train.jsonl")[:16]
texts = [row["text"] for row in products]
batch = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
labels = batch.input_ids.masked_fill(batch.attention_mask == 0, -100)
for label, row in zip(labels, products):
    label[: len(tokenizer(row["prompt"]).input_ids)] = -100  # what is given does not count
counts = (labels[:, 1:] != -100).sum(1)
print("tokens that count, by row:", *counts.tolist())

# %% [markdown]
# The rows differ in the number of tokens that count. Here lies the one trap: the batch's loss is the average over *tokens*. If each part averages for itself
# and the parts' averages are averaged again, then tokens in short texts weigh more than others. We do it both ways. The last column is how much the forward pass keeps in memory for
# the way back (the **activations**), for one part at a time.


# %%
def loss_sum(rows):
    """The loss of some rows of the batch, summed over their tokens that count."""
    logits = model(batch.input_ids[rows], attention_mask=batch.attention_mask[rows]).logits
    return cross_entropy(logits[:, :-1].flatten(0, 1), labels[rows, 1:].flatten(), reduction="sum")


def accumulated_gradient(parts, each_part_averages=False):
    """The gradient of the batch, computed in so many parts."""
    model.zero_grad()
    for rows in torch.arange(len(labels)).chunk(parts):
        tokens = counts[rows].sum() * parts if each_part_averages else counts.sum()
        (loss_sum(rows) / tokens).backward()
    return torch.cat([weight.grad.flatten() for weight in model.parameters()])


def kept_for_the_way_back(compute):
    """Bytes of the tensors that autograd keeps of a computation, without the weights."""
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    found = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = (storage, storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        compute()
    return sum(size for _, size in found.values())


# %%
whole = accumulated_gradient(1)
rows = []
for parts in (1, 2, 4, 16):
    right, wrong = (accumulated_gradient(parts, naive) - whole for naive in (False, True))
    off = [(error.norm() / whole.norm()).item() for error in (right, wrong)]
    kept = kept_for_the_way_back(partial(loss_sum, torch.arange(16 // parts))) / 1e6
    rows.append((parts, 16 // parts, f"{off[0]:.0e}", f"{off[1]:.0e}", f"{kept:.0f} MB"))
columns = ["parts", "rows each", "gradient off by", "if each part averages", "kept in memory"]
view.table(rows, columns=columns)

# %% [markdown]
# The third column is rounding: numbers of 32 bits have seven digits, and a sum in another order ends in another last digit. So accumulation *equals* the larger
# batch, and needs the memory of one part only. The fourth column is not rounding. It is a mistake, and a common one: transformers itself made it
# [until October 2024](https://huggingface.co/blog/gradient_accumulation). Nothing crashed. The loss was only a little off, and nobody looked.
#
# For processes in place of parts it is the same sum. Mind that PyTorch's DDP divides it by the number of processes: so each multiplies its loss by that number before `backward()`, and divides by
# the tokens of *all* (the Trainer does both).
#
# ### What one process uses already
#
# Before you divide the work among processes: how busy is one? A matrix product runs on all cores that a process may use.

# %%
import os
import time


def seconds_for_a_step(threads):
    """The fastest of three gradients of the batch with so many threads."""
    torch.set_num_threads(threads)
    taken = []
    for _ in range(3):
        begin = time.perf_counter()
        accumulated_gradient(1)
        taken.append(time.perf_counter() - begin)
    return min(taken)


cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
timed = {threads: seconds_for_a_step(threads) for threads in sorted({1, 2, cores})}
rows = [(n, f"{1000 * s:.0f} ms", f"{timed[1] / s:.2f}") for n, s in timed.items()]
print(f"This machine has {cores} cores.")
view.table(rows, columns=["threads", "one gradient", "times as fast"])

# %% [markdown]
# So on a processor a second process finds no idle core: at best it fills the moments at which the threads of the first one wait for each other. Remember this when
# you read the next table. On GPUs it is different: a process drives *one* GPU. Whoever has four and starts one process uses a quarter of what was paid for.
#
# ## 3. Five jobs, one result
#
# Now the real thing: the same training as five jobs. Each step reads 16 rows of the product data in all, however they are divided. (On AWS without a quota for the instance with four GPUs, delete the two lines that say
# `"processes": 2`. For a much larger `MODEL`, begin with fewer rows; section 6 says why.)

# %%
from sagemaker.core.resources import HyperParameterTuningJob, TrainingJob
from sagemaker.core.shapes import CheckpointConfig, MetricDefinition, StoppingCondition
from sagemaker.core.training.configs import Compute, InputData, OutputDataConfig, SourceCode
from sagemaker.train import ModelTrainer
from sagemaker.train.distributed import Torchrun

local = workshop.backend == "local"
instance = workshop.model.training_instance_type
several_gpus = instance if local else "ml.g5.12xlarge"  # a process needs a GPU of its own
KEEP_WARM = 600 if local else 0  # on AWS: if you have the quota "for training warm pool usage"

SETTINGS = {
    "max_steps": 16,
    "block_size": 128,
    "learning_rate": 2e-3,
    "precision": "fp32",  # so that what is left as a difference is small
    "logging_steps": 1,
    "max_eval_tokens": 4000,
    "seed": 1,
} | dict(workshop.model.fine_tuning)
ROWS = "per_device_train_batch_size"  # of each process, at once
WAYS = {
    "one process": {ROWS: 16},
    "8 rows, accumulated twice": {ROWS: 8, "gradient_accumulation_steps": 2},
    "two processes": {ROWS: 8, "processes": 2},
    "two processes, FSDP": {ROWS: 8, "processes": 2, "fsdp": "true"},
    "two hosts": {ROWS: 8, "hosts": 2},
}
channels = {
    "train": "data/products/train.jsonl",
    "validation": "data/products/validation.jsonl",
} | workshop.model.channels

# %% [markdown]
# What makes a job a distributed one?
#
# - `distributed=Torchrun(process_count_per_node=2)` starts the script twice on the instance, by PyTorch's `torchrun`, which tells each process its **rank**
#   (its number) and where the others are;
# - `instance_count=2` rents two instances, `algo-1` and `algo-2`. With Torchrun their processes find each other over the network;
# - the script has to play its part: join the others, take its share of the data, let only rank 0 write the model. The
#   Trainer of transformers does nearly all of it ([code/processes.py](code/processes.py) has the rest). The processes speak **NCCL** between GPUs, **gloo** between processors.
#
# On your laptop both "hosts" are containers of the one machine that you have. Everything is as on AWS but for the distance.

# %%
metric_definitions = [
    MetricDefinition(name=name, regex=rf"\b{name}=([0-9.eE+-]+)")
    for name in ("train_loss", "eval_loss", "train_samples_per_second")
]


def make_trainer(name, hyperparameters, hosts=1, processes=1, spot=False):
    """A trainer for these settings; nothing starts yet."""
    return ModelTrainer(
        training_image=workshop.model.training_image_uri(workshop.region),
        source_code=SourceCode(source_dir="code", entry_script="train.py"),
        compute=Compute(
            instance_type=several_gpus if processes > 1 else instance,
            instance_count=hosts,
            volume_size_in_gb=30,
            enable_managed_spot_training=spot,
            keep_alive_period_in_seconds=None if spot else KEEP_WARM or None,
        ),
        distributed=Torchrun(process_count_per_node=processes) if hosts * processes > 1 else None,
        hyperparameters=hyperparameters,
        output_data_config=OutputDataConfig(s3_output_path=workshop.s3_uri("jobs")),
        base_job_name=name,
        role=workshop.role,
        sagemaker_session=workshop.session,
        tags=workshop.tags,
    ).with_metric_definitions(metric_definitions)


def train(way):
    """The training job of one way: the one that is there already, or a new one."""
    options = {name: way[name] for name in ("hosts", "processes") if name in way}
    hyperparameters = SETTINGS | {name: way[name] for name in way if name not in options}
    name = workshop.name("job", hyperparameters, options)
    if job := workshop.existing(TrainingJob, name):
        return job
    trainer = make_trainer(name, hyperparameters, **options)
    inputs = [InputData(channel_name=n, data_source=path) for n, path in channels.items()]
    trainer.train(input_data_config=inputs, wait=False)
    return trainer._latest_training_job


# %%
from contextlib import redirect_stdout
from io import StringIO

jobs = {}
for way, options in WAYS.items():
    begin = time.perf_counter()
    jobs[way] = train(options)
    with redirect_stdout(StringIO()):  # the log of each would be long
        workshop.watch(jobs[way], chart=None)
    jobs[way].refresh()
    print(f"{way}: {time.perf_counter() - begin:.0f} s from request to end")

# %%
import json
import tarfile
from io import BytesIO
from statistics import median


def report(job):
    """What the script left in metrics.json."""
    url = job.model_artifacts.s3_model_artifacts.replace("model.tar.gz", "output.tar.gz")
    bucket, key = url.removeprefix("s3://").split("/", 1)
    content = workshop.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
    with tarfile.open(fileobj=BytesIO(content)) as archive:
        return json.load(archive.extractfile("metrics.json"))


def history(found, metric):
    """The values of a metric of the training steps, in order."""
    return [row[metric] for row in found["history"] if "train_loss" in row]


reports = {way: report(job) for way, job in jobs.items()}
reference = history(reports["one process"], "train_loss")
rates = {way: median(history(found, "train_samples_per_second")) for way, found in reports.items()}
apart = {
    way: [abs(a - b) for a, b in zip(history(found, "train_loss"), reference)]
    for way, found in reports.items()
}
rows = [
    (
        way,
        found["training"]["world_size"],
        f"{rates[way]:.1f}",
        f"{rates[way] / rates['one process']:.2f}",
        f"{found['after']['eval_loss']:.5f}",
        f"{max(apart[way]):.0e}",
    )
    for way, found in reports.items()
]
columns = ["way", "processes", "rows/s", "times as fast", "eval_loss", "train_loss off by at most"]
view.table(rows, columns=columns)

# %%
from matplotlib import pyplot

view.style()
figure, (losses, speeds) = pyplot.subplots(1, 2, figsize=(9.6, 3.1))
for place, (way, found) in enumerate(reports.items()):
    colour = view.COLOURS[place % len(view.COLOURS)]
    values = history(found, "train_loss")
    losses.plot(range(1, len(values) + 1), values, color=colour, linewidth=max(2, 10 - 2 * place))
    speeds.barh(place, rates[way], color=colour)
    speeds.text(rates[way], place, f" {rates[way]:.0f}", va="center", fontsize=9)
losses.set(title="train_loss: the lines lie on one another", xlabel="step")
losses.grid(axis="y")
losses.xaxis.get_major_locator().set_params(integer=True)
speeds.set(title="Rows per second", xlim=(0, max(rates.values()) * 1.15))
speeds.set_yticks(range(len(rates)), rates)
speeds.invert_yaxis()
words = "; ".join(
    f"{way}: {rate:.0f} rows per second, off by at most {max(apart[way]):.0e}"
    for way, rate in rates.items()
)
view.show(figure, alt=f"The loss curves lie on one another. {words}.")

# %% [markdown]
# **The loss** is the same: what differs are the last digits of 32 bits. So "is my distributed training right?" has a test: the same global batch, the same seed, a few steps,
# and the curve of one process must come out. Do it before you rent sixty-four GPUs. (It found a mistake while this notebook was written: the library below our script divided accumulated gradients once too often,
# and Adam, in whose steps a constant factor of all gradients cancels, nearly hid it. [code/fine_tuning.py](code/fine_tuning.py) has the line that sets it right.)
#
# **The speed** has to be read with care. The seconds from request to end, printed above, include the start. The first job started cold; the others found a **warm pool** (`KEEP_WARM`): SageMaker keeps
# an instance for a while after its job, and locally its process has the libraries imported already. So judge by the rows per second, which are honest: where one process keeps the cores busy already, more processes gain little or nothing, and two hosts are the same cores under two names.
# (The machine must be quiet for this: threads that share a step wait for the slowest of them at every matrix, so another busy program slows the one process with several threads down far more than the processes with one thread each. Two
# processes that look several times as fast are a sign of that.) Accumulation costs hardly any time; it is there for memory. **FSDP** divides the model itself among the processes and computes the same; section 6 says what for.
#
# On AWS, where each process has a GPU, expect for this small model less than twice the speed, for a large one close to it. What decides is how long a step computes compared with how long the
# gradient travels. Section 6 does that sum.
#
# > **Note.** All rows above kept the *global* batch at 16. If each process keeps the batch that it had, then the global batch doubles: half as many steps for an epoch, each with a steadier gradient. That is
# > faster, but it is *another training*, whose learning rate has to be found again. The first exercise tries it.
#
# ## 4. A machine that may vanish
#
# AWS sells machines that nobody needs just now at a large discount, as **spot** instances, and takes them back when somebody pays the full price. For a training this is bearable if it saves
# **checkpoints**: everything that is needed to go on (weights, Adam's averages, the step, the state of the random numbers).
#
# - `enable_managed_spot_training=True` asks for spot capacity. `max_wait_time_in_seconds` says how long the job may take in all, waiting included.
# - `CheckpointConfig` names a place in S3. SageMaker copies `/opt/ml/checkpoints` there while the job runs, and back when it starts again.
# - Before an instance goes, the container gets the signal SIGTERM, and the end comes two minutes later at the latest. `train.py` would finish its step and write one more checkpoint. But
#   between the container and the script stand the SDK's shell scripts, which do not pass the signal on. So count on the checkpoints that are there, and save often enough.
#
# It is the training of "one process" once more, with a checkpoint every four steps. On your laptop nobody takes your machine away, so you do it yourself: the local SageMaker has a command for it, `python -m shared.local_sagemaker interrupt JOB`,
# which the next cell sends when some steps are done. On AWS the cell only waits: the job is interrupted if AWS needs the machine, which for a few minutes is unlikely. All other cells work either way.

# %%
import subprocess

hyperparameters = SETTINGS | WAYS["one process"] | {"save_steps": 4}
spot_name = workshop.name("job", hyperparameters, "spot")
spot = workshop.existing(TrainingJob, spot_name)
if spot is None:
    trainer = make_trainer(spot_name, hyperparameters, spot=True)
    trainer.stopping_condition = StoppingCondition(
        max_runtime_in_seconds=3600, max_wait_time_in_seconds=7200
    )
    trainer.with_checkpoint_config(
        CheckpointConfig(
            s3_uri=workshop.s3_uri("checkpoints", spot_name), local_path="/opt/ml/checkpoints"
        )
    )
    inputs = [InputData(channel_name=n, data_source=path) for n, path in channels.items()]
    trainer.train(input_data_config=inputs, wait=False)
    spot = trainer._latest_training_job
    while local and len(workshop.metrics(spot).get("train_loss", [])) < 6:
        spot.refresh()
        if spot.training_job_status != "InProgress":
            break
        time.sleep(0.1)
    if local:
        command = [sys.executable, "-m", "shared.local_sagemaker", "interrupt"]
        subprocess.run([*command, spot.training_job_name, "--seconds", "2"], cwd="..")
workshop.watch(spot, chart=None)

# %% [markdown]
# Read the log: the steps begin, `Interrupted`, and after a while the script starts anew. Its line "Resuming from step" says where. (The times count from when we began to look.) What SageMaker noted:

# %%
spot.refresh()
rows = [
    (item.status, f"{(item.end_time - item.start_time).total_seconds():.1f}", item.status_message)
    for item in spot.secondary_status_transitions
    if item.end_time
]
view.table(rows, columns=["status", "seconds", "what SageMaker says"])

# %%
spot_report = report(spot)
resumed = spot_report["training"]["resumed_from_step"]
series = workshop.metrics(spot)["train_loss"]
twice = len(series) - len(dict(series))
print(f"Resumed from step {resumed}; {twice} steps had to be done twice.")
for label, found in (("one process", reports["one process"]), ("spot", spot_report)):
    print(f"{label:<12} eval_loss {found['after']['eval_loss']:.6f}")

# %%
figure, axis = pyplot.subplots(figsize=(6.4, 3))
axis.plot(
    range(1, len(reference) + 1),
    reference,
    color=view.COLOURS[4],
    linewidth=7,
    alpha=0.6,
    label="one process",
)
again = len(series)  # the place in the log where the second attempt begins
if resumed:
    again = max(n for n, (step, _) in enumerate(series) if step == resumed + 1)
    axis.axvline(resumed, color="#7a8794", linestyle="--", label="the checkpoint")
    axis.plot(*zip(*series[again:]), "o-", color=view.COLOURS[5], label="spot, after")
axis.plot(*zip(*series[:again]), "o--", markersize=9, fillstyle="none", label="spot, before")
axis.set(xlabel="step", title="train_loss, with the machine taken away once")
axis.grid(axis="y")
axis.legend()
told = f"resumed from step {resumed}" if resumed else "not interrupted"
view.show(figure, f"The loss of the spot job, {told}, lies on that of the other job.")

# %% [markdown]
# The steps since the last checkpoint were done twice, and came out the same twice. Then the curve goes on as if nothing had happened, and the final loss is the same. A checkpoint that forgot Adam's averages or the place in the data would
# show a bend here. That is the test for *your* script.
#
# What was saved? SageMaker states two numbers for a spot job: the seconds that it trained, and the seconds that you are billed for, at the full price, after the discount.

# %%
trained, billed = spot.training_time_in_seconds, spot.billable_time_in_seconds
once = jobs["one process"].training_time_in_seconds
price = workshop.model.training_price_per_hour or 0.0
rows = [
    ("the job without interruption, seconds of training", once),
    ("this job, seconds of training", trained),
    ("this job, seconds billed", billed),
    ("saved, as SageMaker counts it", f"{1 - billed / trained:.0%}"),
]
for discount in (0.5, 0.7):
    usd = billed * (1 - discount) * price / 3600
    rows.append((f"USD, if it were AWS with a discount of {discount:.0%}", f"{usd:.4f}"))
rows.append(("USD without spot, without interruption", f"{once * price / 3600:.4f}"))
view.table(rows, columns=["spot training", ""])

# %% [markdown]
# The local SageMaker knows no discount and bills each second in which the job had its machine. On AWS `BillableTimeInSeconds` is smaller than the time of training by the discount of the day; 50% to 70% are common
# for GPUs, and AWS promises no number. The price of the interruption is that the script has to start again, and the steps since the last checkpoint.
#
# **How often should a job save?** Seldom means much work lost, often means time lost to writing. If writing takes *c* seconds and interruptions come every *m* seconds on average, the best
# interval is about $\sqrt{2 c m}$ ([Young 1974](https://doi.org/10.1145/361147.361115)). A checkpoint has 12 bytes for each trained parameter (weight and Adam's two averages, in 32 bits); say it is written at 1 GB a second, and an interruption comes every 8 hours:

# %%
between = 8 * 3600
rows = []
sizes = {"7B, LoRA of rank 16": 40e6, "7B, full": 6.7e9, "70B, full": 69e9}
for name, trained_parameters in sizes.items():
    write = 12 * trained_parameters / 1e9
    interval = (2 * write * between) ** 0.5
    lost = write / interval + interval / 2 / between
    rows.append((name, f"{write:.1f} s", f"{interval / 60:.0f} min", f"{lost:.1%}"))
view.table(rows, columns=["model", "to write", "save every", "of the time lost"])

# %% [markdown]
# The larger the checkpoint, the more it costs to be safe. That is why in large trainings each process writes a part of its own, at the same time as the others.
#
# ## 5. Eight jobs that compete
#
# Which learning rate, which rank, which batch? A **hyperparameter tuning job** starts training jobs with different values, some at a time, reads one metric of each (the **objective**) from its log, and says
# which was best. You give the ranges; a **strategy** chooses the values:
#
# - **Grid** tries every combination of the values that you list. Three values for each of three hyperparameters make 27 jobs;
# - **Random** draws from the ranges. If only one hyperparameter matters, eight random trials have tried eight values of it, a grid of 2 × 2 × 2 only two
#   ([Bergstra and Bengio 2012](https://www.jmlr.org/papers/v13/bergstra12a.html));
# - **Bayesian** chooses values by what earlier jobs found; **Hyperband** stops bad jobs early and gives their time to good ones (both on AWS only). The others stop bad jobs only with
#   `early_stopping_type="Auto"`.
#
# The scale matters as much as the range: from 0.0003 to 0.1, half of the values drawn *linearly* would be above 0.05. Learning rates are drawn on a **logarithmic** scale: each factor of ten is equally likely.
#
# Each trial trains LoRA adapters for one epoch on the same 120 products, so a small batch means more steps.

# %%
from sagemaker.core.parameter import CategoricalParameter, ContinuousParameter, IntegerParameter
from sagemaker.train.tuner import HyperparameterTuner

FIXED = SETTINGS | {
    "method": "lora",
    "max_train_documents": 120,
    "num_train_epochs": 1,
    "max_steps": -1,
    "logging_steps": 5,
}
del FIXED["learning_rate"]
RANGES = {
    "learning_rate": ContinuousParameter(3e-4, 1e-1, scaling_type="Logarithmic"),
    "lora_rank": IntegerParameter(1, 32, scaling_type="Logarithmic"),
    ROWS: CategoricalParameter([4, 8, 16]),
}
TRIALS = 8

ranges = {name: found.as_tuning_range(name) for name, found in RANGES.items()}
tuning_name = workshop.tuning_name(FIXED, ranges, TRIALS)
tuning = workshop.existing(HyperParameterTuningJob, tuning_name)
if tuning is None:
    trainer = make_trainer(tuning_name, FIXED)
    if local:
        trainer.environment = {"OMP_NUM_THREADS": "1"}  # two jobs at a time: a core for each
    # The tuner puts the code where this name says; below our prefix, cleanup finds it.
    trainer.base_job_name = workshop.s3_uri("tuning").removeprefix(f"s3://{workshop.bucket}/")
    tuner = HyperparameterTuner(
        model_trainer=trainer,
        objective_metric_name="eval_loss",
        objective_type="Minimize",
        metric_definitions=[{"Name": "eval_loss", "Regex": r"\beval_loss=([0-9.eE+-]+)"}],
        hyperparameter_ranges=RANGES,
        strategy="Random",
        random_seed=1,
        max_jobs=TRIALS,
        max_parallel_jobs=2,
        base_tuning_job_name=tuning_name,
    )
    inputs = [trainer.create_input_data_channel(n, path) for n, path in channels.items()]
    tuner.tune(inputs, wait=False)
    tuning = tuner.latest_tuning_job

# %%
said = None
while True:
    tuning.refresh()
    counters = tuning.training_job_status_counters
    state = f"{tuning.hyper_parameter_tuning_job_status}: {counters.completed} of {TRIALS} trained"
    if state != said:
        print(state)
        said = state
    if tuning.hyper_parameter_tuning_job_status not in ("InProgress", "Stopping"):
        break
    time.sleep(0.5 if local else 15)

# %%
trials = []
for trial in tuning.get_all_training_jobs():
    objective = trial.final_hyper_parameter_tuning_job_objective_metric
    values = {name: float(trial.tuned_hyper_parameters[name].strip('"')) for name in RANGES}
    if objective:  # a trial that failed has none
        trials.append(values | {"eval_loss": objective.value, "job": trial.training_job_name})
trials.sort(key=lambda trial: trial["eval_loss"])
formats = {"learning_rate": "{:.1e}", "lora_rank": "{:.0f}", ROWS: "{:.0f}", "eval_loss": "{:.3f}"}
rows = [
    (*(text.format(trial[name]) for name, text in formats.items()), trial["job"])
    for trial in trials
]
view.table(rows, columns=["learning_rate", "lora_rank", "rows", "eval_loss", "training job"])

# %% [markdown]
# A table of eight is still readable, one of eighty is not. **Parallel coordinates** draw each trial as a line through its values; dark lines are good ones, the thick line is the best:

# %%
from parallel_coordinates import parallel_coordinates

axes = {"learning_rate": "log", "lora_rank": "log", ROWS: "log"}
best, worst = trials[0], trials[-1]
figure = parallel_coordinates(trials, axes, "eval_loss")
told = []
for trial in (best, worst):
    told.append(", ".join(f"{name} {trial[name]:.2g}" for name in [*axes, "eval_loss"]))
view.show(figure, f"{len(trials)} trials as lines. The best: {told[0]}. The worst: {told[1]}.")

# %% [markdown]
# Read an axis at a time. Where the dark lines meet in a narrow place and the light ones elsewhere, the hyperparameter matters. Where dark and light mix along the whole axis, it does not, or not within these ranges.
# How strongly does each go with the loss, by the order of the trials (rank correlation, from -1 to 1)?

# %%
import numpy as np


def order(values):
    """The rank of each value, equal ones alike."""
    values = np.array(values)
    return np.array([(values < v).sum() + ((values == v).sum() - 1) / 2 for v in values])


loss_order = order([trial["eval_loss"] for trial in trials])
rows = [
    (name, f"{np.corrcoef(order([trial[name] for trial in trials]), loss_order)[0, 1]:+.2f}")
    for name in axes
]
view.table(rows, columns=["hyperparameter", "rank correlation with eval_loss"])

# %% [markdown]
# Two things this number does not see. A hyperparameter whose best value lies in the *middle* of its range, as a learning rate's does, can have a correlation near zero and matter most; the picture shows that. And with
# eight trials, pure chance gives more than 0.7 or less than -0.7 once in twenty times.

# %%
print("Best training job, says SageMaker:", tuning.best_training_job.training_job_name)
tried = sorted({trial["learning_rate"] for trial in trials})
place = tried.index(best["learning_rate"]) + 1
print(f"Its learning rate is number {place} of the {len(tried)} tried, from small to large.")

# %% [markdown]
# Three warnings before you believe a winner:
#
# - **At the edge?** If the best value is the smallest or the largest that was tried, the optimum may lie outside. Move the range and go on.
# - **By luck?** Of several nearly equal trials the luckiest wins. Its loss on the validation data is too good, because it was *chosen* by these data. Report the loss on the test data.
# - **At what price?** With eight trials, three hyperparameters are barely seen, and these runs are so short that whoever makes the most steps wins. Rankings of short runs need not hold for long ones. Begin with the learning rate, which nearly
#   always matters, and check the best two or three once more at full length.
#
# ## 6. What changes for 7 and 70 billion
#
# Everything so far fitted anywhere. For large models the first question is not how long, but *whether at all*. What does a GPU hold during training?
#
# | item | bytes | why |
# |---|---|---|
# | weights | 2 a parameter in 16 bits | to compute with |
# | gradients | 2 a *trained* parameter | as many numbers as are trained |
# | optimizer | 12 a trained parameter | Adam's two averages in 32 bits, and the weights once more in 32 bits: in 16, small steps would be lost |
# | activations | by tokens × layers × width | what the way back needs of the way there |
# | logits | 8 a token and word of the vocabulary | the loss computes in 32 bits, and its gradient |
#
# The first three are 16 bytes a parameter, the rule of thumb of [Rajbhandari et al. 2020](https://arxiv.org/abs/1910.02054). (Our script keeps weights and gradients in 32 bits and
# computes in 16: 4 + 4 + 8, again 16.) Activations are counted after [Korthikanti et al. 2022](https://arxiv.org/abs/2205.05198), for the layers of Llama. The calculator is [training_memory.py](training_memory.py); its comments say each formula.
#
# Before you trust it, check it where you can measure: on the embedded model in 32 bits, with the tensors that PyTorch really holds.

# %%
from training_memory import ModelShape, estimate, gradient_bytes, kept_activations

optimizer = torch.optim.AdamW(model.parameters())
accumulated_gradient(1)
optimizer.step()
shape = ModelShape.of("embedded", model.config)
memory = estimate(shape, precision="fp32")
tokens = batch.input_ids.numel()
averages = sum(
    state[name].nbytes for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")
)
measured = {
    "weights": (memory.weights, sum(weight.nbytes for weight in model.parameters())),
    "gradients": (memory.gradients, sum(weight.grad.nbytes for weight in model.parameters())),
    "Adam's averages": (memory.optimizer, averages),
}
model.train()
for name, checkpointing in {"activations": False, "activations, checkpointing": True}.items():
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    kept = kept_for_the_way_back(lambda: model(**batch, labels=labels).loss)
    kept -= tokens * shape.vocabulary * 4  # the logits have a row of their own
    measured[name] = (kept_activations(shape, tokens, "fp32", checkpointing), kept)
rows = [
    (name, f"{computed / 1e6:.2f} MB", f"{real / 1e6:.2f} MB", f"{computed / real - 1:+.1%}")
    for name, (computed, real) in measured.items()
]
view.table(rows, columns=["embedded model", "calculator", "measured", "off by"])

# %% [markdown]
# **Checkpointing** (of activations; it has nothing to do with the checkpoints above but the name) keeps only the input of each block and computes the rest once more on the way back: about a third more work, a fraction
# of the memory. In the script it is `--gradient_checkpointing true`.
#
# ### Dividing the model
#
# DDP keeps everything on every GPU. That is a waste, and **ZeRO** removes it in stages: each of *n* GPUs keeps only its *n*-th part
#
# - of the optimizer (stage 1), also of the gradients (stage 2), also of the weights (stage 3). Stage 3 in PyTorch is **FSDP** (*fully sharded data parallel*, [Zhao et al. 2023](https://arxiv.org/abs/2304.11277)).
# - Before a block computes, its weights are gathered from all GPUs; afterwards they are dropped again. So the weights travel, in place of lying there.
#
# Now the table. 4,096 tokens at a time on each GPU; LoRA of rank 16 on all layers; QLoRA has the frozen weights in 4 bits. Change `CASES` as you like.

# %%
SHAPES = [
    ModelShape("7B", layers=32, hidden=4096, inner=11008, heads=32, kv_heads=32, vocabulary=32000),
    ModelShape("70B", layers=80, hidden=8192, inner=28672, heads=64, kv_heads=8, vocabulary=32000),
]  # as in Llama 2; ModelShape.of("name", AutoConfig.from_pretrained("org/model")) for another one
CASES = [
    ("full, DDP, any number", {}),
    ("full, ZeRO-1, 8 GPUs", {"sharding": "zero1", "gpus": 8}),
    ("full, ZeRO-2, 8 GPUs", {"sharding": "zero2", "gpus": 8}),
    ("full, FSDP, 8 GPUs", {"sharding": "fsdp", "gpus": 8}),
    ("full, FSDP, 8 GPUs, checkpointing", {"sharding": "fsdp", "gpus": 8, "checkpointing": True}),
    ("full, FSDP, 32 GPUs, checkpointing", {"sharding": "fsdp", "gpus": 32, "checkpointing": True}),
    ("LoRA, 1 GPU", {"method": "lora"}),
    ("LoRA, 1 GPU, checkpointing", {"method": "lora", "checkpointing": True}),
    (
        "LoRA, FSDP, 8 GPUs, checkpointing",
        {"method": "lora", "sharding": "fsdp", "gpus": 8, "checkpointing": True},
    ),
    ("QLoRA, 1 GPU, checkpointing", {"method": "qlora", "checkpointing": True}),
]
ITEMS = ["weights", "gradients", "optimizer", "activations", "logits", "gathered"]
CARDS = {24: "A10G, L4", 40: "A100", 80: "A100, H100"}  # GB of a GPU
needs = {(shape.name, case): estimate(shape, **how) for shape in SHAPES for case, how in CASES}
rows = [
    (
        *key,
        *(f"{getattr(memory, item) / 1e9:.1f}" for item in ITEMS),
        f"{memory.total / 1e9:.0f}",
        next((f"{card}" for card in CARDS if memory.total < 0.9 * card * 1e9), "none"),
    )
    for key, memory in needs.items()
]
view.table(rows, columns=["model", "GB on each GPU", *ITEMS, "all", "fits on"])

# %%
LIMIT = 130  # GB; longer bars are cut
figure, panels = pyplot.subplots(1, len(SHAPES), sharey=True, figsize=(11, 4.3))
for panel, shape in zip(np.atleast_1d(panels), SHAPES):
    for row, (case, _) in enumerate(CASES):
        memory, start = needs[shape.name, case], 0.0
        for item, colour in zip(ITEMS, view.COLOURS):
            size = getattr(memory, item) / 1e9
            label = item if row == 0 else None
            panel.barh(row, min(size, LIMIT - start), left=start, color=colour, label=label)
            start = min(start + size, LIMIT)
        cut = memory.total / 1e9 > LIMIT
        text = f"{memory.total / 1e9:,.0f}"
        panel.text(
            LIMIT - 2 if cut else start + 2,
            row,
            f"→ {text}" if cut else text,
            ha="right" if cut else "left",
            va="center",
            fontsize=9,
            color="white" if cut else "#333333",
            fontweight="bold" if cut else "normal",
            bbox=None if cut else {"facecolor": "white", "edgecolor": "none", "pad": 1},
        )
    for card in CARDS:
        panel.axvline(card, color="#333333", linestyle="--", linewidth=1, zorder=1.5)
        panel.text(card, -0.95, f"{card}", ha="center", va="bottom", fontsize=9, color="#333333")
    panel.set(title=f"{shape.name}\n", xlabel="GB on each GPU", xlim=(0, LIMIT))
    panel.set_ylim(len(CASES) - 0.5, -0.9)
    panel.set_yticks(range(len(CASES)), [case for case, _ in CASES])
    panel.grid(False)
figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(ITEMS))
words = "; ".join(
    f"{name}, {case}: {memory.total / 1e9:,.0f} GB" for (name, case), memory in needs.items()
)
view.show(figure, f"Memory of each GPU, with lines at 24, 40 and 80 GB. {words}.")

# %% [markdown]
# Read it from above. The dashed lines are three common sizes of cards (a tenth of each should stay free, for CUDA, the communication and fragments).
#
# - **Full, DDP**: 16 bytes a parameter before the first token. No card of 80 GB holds it even for 7B (one of 141 GB does, with checkpointing), and more GPUs do not help: each has all of it.
# - **ZeRO-1 and -2** divide the largest part; **FSDP** divides all three. Then what is left are activations, which neither divides: every GPU has its own tokens (tensor and sequence parallelism would divide them). So FSDP *and* checkpointing go together.
# - **LoRA** needs no division to get rid of gradients and optimizer: they are nearly gone. What stays are the frozen weights. But look at the activations: they are almost those of full fine-tuning.
# - **QLoRA** shrinks the weights to a little over a quarter. 7B then needs less than half of what LoRA needs, and 70B fits on one card of 80 GB. (Our script has no QLoRA: its 4-bit layers come from the library bitsandbytes and want a GPU.)
#
# A calculator is an estimate. The job's first step is the measurement; the GPU's memory is in the metrics that SageMaker writes to CloudWatch (`GPUMemoryUtilization`).
#
# ### What travels
#
# With DDP every step ends with an all-reduce of the gradient. Done in a ring, each machine sends and receives $2 (n-1)/n$ times its size. FSDP moves about one and a half times as much, as the weights are gathered twice.
# For eight machines, how long does it take by the speed of the network?

# %%
MACHINES = 8
SPEEDS = {"10 Gbit/s": 10, "100 Gbit/s": 100, "400 Gbit/s": 400, "3,200 Gbit/s": 3200}
embedded = ModelShape.of("embedded", model.config)
rows = []
seven, seventy = SHAPES
for shape, method in [(embedded, "full"), (seven, "lora"), (seven, "full"), (seventy, "full")]:
    size = gradient_bytes(shape, method)
    sent = 2 * (MACHINES - 1) / MACHINES * size * 8 / 1e9  # Gbit
    times = [sent / speed for speed in SPEEDS.values()]
    told = [f"{t:.1f} s" if t >= 1 else f"{1000 * t:.3g} ms" for t in times]
    rows.append((shape.name, method, f"{size / 1e9:.2f} GB", *told))
view.table(rows, columns=["model", "method", "gradient", *SPEEDS])

# %% [markdown]
# Compare that with the seconds that a step computes. That is about 6 operations for each parameter and token: 7B and 4,096 tokens, on an A100 that reaches 40% of its 312 TFLOP/s, take 1.4 s. (The table counts gradients of 16 bits;
# our script keeps them in 32, which takes twice as long.) With a fast network or a long step it vanishes, all the more as DDP sends the gradient of the last layers while it still computes that of the first. Accumulation helps here, too: one all-reduce for several batches. And
# LoRA's gradient is so small that an ordinary network will do.
#
# ### What to rent
#
# | instance | GPUs, memory of each | between machines | for |
# |---|---|---|---|
# | `ml.g5.xlarge`, `ml.g6.xlarge` | 1 × 24 GB | up to 10 Gbit/s | LoRA and QLoRA of 7B, full fine-tuning up to half a billion |
# | `ml.g5.12xlarge`, `ml.g6.12xlarge` | 4 × 24 GB | 40 Gbit/s | LoRA of 7B with more tokens at a time |
# | `ml.g5.48xlarge`, `ml.g6.48xlarge` | 8 × 24 GB | 100 Gbit/s, EFA | full fine-tuning of 7B by FSDP |
# | `ml.p4d.24xlarge` | 8 × 40 GB, NVSwitch | 400 Gbit/s, EFA | LoRA of 70B, full fine-tuning of 7B to 13B |
# | `ml.p5.48xlarge` | 8 × 80 GB, NVSwitch | 3,200 Gbit/s, EFA | full fine-tuning of 70B on several of them |
#
# **EFA** (*Elastic Fabric Adapter*) is AWS's network card for this: NCCL sends from GPU memory past the operating system. SageMaker's PyTorch images bring what it needs, and a job on such instances uses it without a setting. **NVSwitch** does the same between the GPUs of one machine, faster again;
# g5 and g6 have to go over the PCI bus. The table is from AWS's pages of [EC2 instance types](https://aws.amazon.com/ec2/instance-types/); check it before you rent, as with prices.
#
# The job itself would be one that you know, with other numbers. For 70B, LoRA on eight GPUs of 40 GB:

# %%
large = {
    "model_name_or_path": "meta-llama/Llama-3.1-70B",
    "method": "lora",
    "lora_rank": 16,
    "fsdp": "true",
    "gradient_checkpointing": "true",
    "block_size": 2048,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 4,
    "learning_rate": 1e-4,
}
memory = needs["70B", "LoRA, FSDP, 8 GPUs, checkpointing"]
tokens = large["block_size"] * large[ROWS] * large["gradient_accumulation_steps"] * 8
print("ModelTrainer(compute=Compute(instance_type='ml.p4d.24xlarge', instance_count=1),")
print("             distributed=Torchrun(process_count_per_node=8), hyperparameters=large, ...)")
print(f"{memory.total / 1e9:.0f} GB on each GPU, {tokens:,} tokens a step")

# %% [markdown]
# Nothing here starts it: such a machine costs tens of USD an hour. Before you do, three things that only large models ask for: the weights have to come from S3 or a file system near the instance (138 GB through the internet take longer than the training); checkpoints of FSDP are written by all
# processes; and our script loads the whole model in each process before it divides it, which for 70B and eight processes needs about as much memory as the machine has. There, use a script that loads in parts.
#
# ## 7. What it cost
#
# The jobs of sections 3 and 4, and then those of the tuning job, by the second. With several instances each is billed.

# %%
workshop.cost(*jobs.values(), spot)

# %%
from shared.training_jobs import describe, dollars_on_aws

sagemaker = workshop.client("sagemaker")
names = [job.training_job_name for job in [*jobs.values(), spot]]
described = [describe(sagemaker, name) for name in names + [trial["job"] for trial in trials]]
seconds = sum(
    job["BillableTimeInSeconds"] * job["ResourceConfig"]["InstanceCount"] for job in described
)
usd = sum(dollars_on_aws(job) or 0.0 for job in described)
print(f"{len(described)} jobs, {seconds} instance-seconds: {usd:.2f} USD at AWS's prices.")

# %% [markdown]
# (This prices the seconds and instances of *this* run, the spot job without its discount. Locally all instances are small ones. On AWS the two jobs with two processes take an `ml.g5.12xlarge`, about five
# times as dear, and every job has more seconds: to download a container image of several GB takes longer than all our training. Hence the estimate at the top.)
#
# ## 8. Clean up
#
# Jobs end by themselves, and nothing of this notebook runs on. The cell deletes what was uploaded, and the checkpoints; the models in S3 stay.

# %%
if KEEP:
    print("Kept:", workshop.s3_uri())
else:
    workshop.cleanup()

# %% [markdown]
# ## What you learned
#
# - The gradient of a batch is the sum of the gradients of its parts. So accumulation, two processes and two hosts compute the same, to rounding, *if* the sum is taken over tokens.
# - "Same global batch, same seed, same curve" is the test of a distributed training.
# - More processes help where hardware is idle. Measure before you believe it.
# - A spot job with checkpoints goes on where it was; what is lost is the start and some steps.
# - A tuning job is many small jobs. Logarithmic ranges for learning rates, one look at the edges, and a doubt about the winner.
# - 16 bytes for each trained parameter, plus activations. DDP divides none of it, FSDP all but the activations, LoRA avoids most.
#
# **Check yourself** (answers in [solutions/4-scale-out.md](solutions/4-scale-out.md)):
#
# 1. Eight GPUs, 4 rows on each, accumulation over 2. You move to two GPUs and want the same training. Which numbers do you set?
# 2. The loss of your job on two hosts is the same at step 1 as on one, and differs by 0.3 at step 10. Where do you look?
# 3. A job of 10 hours on spot instances saves no checkpoints. What does an interruption after 9 hours cost?
# 4. The best of 20 trials has the largest learning rate of the range. What next?
# 5. A model fits by FSDP on 8 GPUs, but just. Which is the cheapest thing to try before you rent 16?
#
# **Try it**, with answers in the same file:
#
# - *Another training.* Add the line `"two processes, 16 rows each": {ROWS: 16, "processes": 2}` to `WAYS`, and run section 3 again. What do its curve and its last loss do? With which `max_steps` has it read the same number of rows as the others, and is it then as good?
# - *No net.* Start the spot job without its `CheckpointConfig` (give it another name: `workshop.name("job", hyperparameters, "no net")`). What does it do after the interruption?
# - *Grid.* Make the tuning job a grid of three learning rates and two ranks, with `CategoricalParameter` for both and for one batch size, `strategy="Grid"`, and no `max_jobs`. What does it find that the eight random trials did not, and what does it miss?
# - *Your card.* With the calculator: how many tokens at a time fit on a card of 24 GB for LoRA of 7B with checkpointing? How many GPUs of 80 GB need full fine-tuning of 70B?
#
# This is the last notebook of Lab 2. What else the lab has, and how to run it with other models, says its [README](README.md).
