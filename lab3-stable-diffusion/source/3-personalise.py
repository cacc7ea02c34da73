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
# # Teach the model something new
#
# **Lab 3, notebook 3, to go further.** The model of this lab has never seen a star, nor Zobi, the workshop's mascot. You teach it both, from five pictures each, in
# three ways that people use for Stable Diffusion, and measure what is learned, what is forgotten and what it costs. Then you teach it a whole new domain.
#
# When you are done you will be able to
#
# - say where in the model **textual inversion**, **LoRA**, **hypernetworks** and **DreamBooth** learn, and what each leaves untouched;
# - run such a training as a SageMaker training job on your own pictures;
# - judge the result by counting, on prompts that were not trained, and count what got lost;
# - serve several LoRAs on one endpoint, turn them up and down, and mix them in one picture;
# - fine-tune all weights on a new domain, with captions that are only class names.
#
# | | on your laptop | on AWS |
# |---|---|---|
# | **time** | about 60 minutes of reading, 4 of computing | an estimate: the same, and 40 minutes of waiting for jobs and the endpoint |
# | **cost** | nothing | an estimate: about 1 USD for seven jobs of some minutes each and an endpoint, with the embedded model |
# | **you need** | this repository, set up by `make jupyter` | a role that may use SageMaker and S3, and quotas of one training instance and one endpoint instance |
#
# You should have done [notebook 1](1-deploy-stable-diffusion.ipynb) of this lab. Training jobs are explained in
# [notebook 1 of Lab 2](../lab2-llm-finetuning/1-fine-tune.ipynb), LoRA for a language model in [notebook 2](../lab2-llm-finetuning/2-parameter-efficient.ipynb) there;
# what you need of both is said again here, briefly.

# %% tags=["parameters"]
BACKEND = "auto"  # "auto", "local" or "sagemaker"
MODEL = "embedded"  # or another name of the table in this lab's README.md
KEEP = False  # True keeps the endpoint when the notebook ends
TRIALS = 12  # prompts for each measurement, a multiple of 6

# %%
import sys

sys.path.insert(0, "..")  # the folder that holds `shared`, the code that all labs use
from shared import display as view
from shared.workshop import Workshop

workshop = Workshop(lab="3", backend=BACKEND, model=MODEL)
workshop

# %% [markdown]
# ## 1. Five pictures
#
# A program draws both subjects, so there could be thousands of pictures. In life there are few: your product, your dog, your brush stroke.
# So we take five, each with a caption in the words that the model knows, and one that it does not.

# %%
import transformers

transformers.logging.set_verbosity_error()  # no warnings about parts that we do not use
from personalising import pictures_of

SUBJECTS = ("star", "zobi")
examples = {subject: pictures_of(subject, 5) for subject in SUBJECTS}
view.picture_grid(
    [[e.picture for e in examples[subject]] for subject in SUBJECTS],
    row_labels=SUBJECTS,
    captions=[[e.text for e in examples[subject]] for subject in SUBJECTS],
    width=150,
)

# %% [markdown]
# The star comes in all colours, like the shapes of the training: a new **word**, which must work together with the old ones. Zobi always looks the same and has colours of its own:
# a **subject**, as a person or a dog is. Both words are in the model's dictionary, and no picture of the training went with them: what they mean to the model
# is random. (For Stable Diffusion one takes a rare word for that.)
#
# ## 2. Where can a model learn?
#
# <img src="images/personalise.svg" alt="From left to right: a vector for each word, the text encoder, and the UNet with its cross-attention, which reads the text, and its other layers, which draw. Textual inversion adds one vector at the left. A hypernetwork is a small network between text encoder and cross-attention. LoRA adds two thin matrices beside layers of the text encoder and the UNet. DreamBooth and full fine-tuning change text encoder and UNet themselves." width="820">
#
# From the least that is trained to the most:
#
# - **Textual inversion** ([Gal et al. 2022](https://arxiv.org/abs/2208.01618)): the model stays as it is. Only the vector of one new word is trained, until the frozen model draws the pictures when it
#   reads that vector. It searches for a word that nobody ever wrote, for something that the model *can already draw*.
# - **Hypernetworks**, in the sense that users of Stable Diffusion gave the name: small networks that stand before each cross-attention, where the UNet reads the text, and rework the text's vectors
#   on their way in. They were the first add-ons of a few megabytes (2022). They change how the text is read, never how it is drawn. LoRA does more with fewer numbers, and has replaced them;
#   train.py does not have them. (In research, a hypernetwork is something else: a network that writes the weights of another.)
# - **LoRA** ([Hu et al. 2021](https://arxiv.org/abs/2106.09685)): beside each frozen matrix *W* stand two thin ones, *A* and *B*, and *B A* is added to *W*. They are trained, here in the UNet and in the text encoder. The model stays as it is, and the addition
#   can be taken away, scaled, or mixed with others.
# - **DreamBooth** ([Ruiz et al. 2022](https://arxiv.org/abs/2208.12242)): all weights are trained on the few pictures. With all that freedom, a model soon draws nothing else. So half of what it sees in training are
#   pictures that *it drew itself before*, of things that should stay as they are: **prior preservation**.
# - **Full fine-tuning**: all weights too, on many captioned pictures of a new domain (section 7).
#
# All have the same loss as the model's first training: add noise to a picture, let the UNet say what of it is noise, compare.
#
# ## 3. The jobs
#
# The script, [code/train.py](code/train.py), reads a folder of pictures with a file `metadata.jsonl` that has a caption for each. That is the channel `train`.
# Textual inversion learns a word of its own, written `<star>`, and its captions say so.

# %%
from shared.pretraining.pictures.examples import write_image_folder

for subject in SUBJECTS:
    write_image_folder(f"out/pictures/{subject}", examples[subject])
    inverted = pictures_of(subject, 5, word=f"<{subject}>")
    write_image_folder(f"out/pictures/new-{subject}", inverted)
for line in open("out/pictures/new-star/metadata.jsonl", encoding="utf-8"):
    print(line.strip())

# %% [markdown]
# How well did it learn? That must be asked with prompts that were not trained: other colours, sizes, places, backgrounds. And what did it forget? For that we take prompts of the six kinds of notebook 1.
# The channel `evaluation` holds both; when a job has trained, it draws each prompt once, and the pictures are in its output. (So not every model needs an endpoint to be judged.)

# %%
import json
from pathlib import Path

from personalising import prompts_of, reworded
from prompt_adherence import trials

old = trials(workshop.model, TRIALS // 6)
asked = {subject: prompts_of(subject, TRIALS) for subject in SUBJECTS}


def write_prompts(name, prompts):
    """A file for the evaluation channel."""
    path = Path(f"out/prompts/{name}.jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))


for subject in SUBJECTS:
    new_prompts = [trial.prompt for trial in asked[subject]]
    old_prompts = [trial.prompt for trial in old]
    write_prompts(subject, new_prompts + old_prompts)
    word = f"<{subject}>"
    write_prompts(f"new-{subject}", [reworded(p, subject, word) for p in new_prompts] + old_prompts)
    print(subject, "|", new_prompts[0], "|", new_prompts[1])
print("old  |", old_prompts[0], "|", old_prompts[-1])

# %% [markdown]
# Now the settings. Steps and learning rate are the script's defaults for each method and for a model of this size. DreamBooth is told what to keep by `class_prompt`: prompts from
# which it draws pictures before it trains. Textual inversion begins at the vector of a word that is somewhat like what is meant, `initializer_token`.

# %%
KEPT = " | ".join(
    [
        "a red circle on a white background",
        "a large blue heart",
        "a white cross on a red background",
        "a green square left of a yellow ring",
        "a house in the snow at night",
        "a boat on a lake at sunset",
    ]
)
STEPS = 12  # of the pictures that the jobs draw; notebook 1 shows that so many do
METHODS = {
    "LoRA": {"method": "lora"},
    "DreamBooth": {"method": "dreambooth", "class_prompt": KEPT, "num_class_images": 12},
    "textual inversion": {"method": "textual_inversion"},
}
LIKE = {"star": "cross", "zobi": "heart"}


def settings_of(subject, method):
    """The hyperparameters of a job."""
    settings = METHODS[method] | {"adapter_name": subject, "num_validation_images": 0, "seed": 1}
    settings |= {"guidance_scale": workshop.model.defaults["guidance_scale"], "num_inference_steps": STEPS}
    if method == "textual inversion":
        settings |= {"placeholder_token": f"<{subject}>", "initializer_token": LIKE[subject]}
    if method == "LoRA":
        settings |= {"evaluate_before": "true"}  # what the base model draws for these prompts
    return settings


# %%
import time

from sagemaker.core.resources import TrainingJob
from sagemaker.core.shapes import MetricDefinition
from sagemaker.core.training.configs import Compute, InputData, OutputDataConfig, SourceCode
from sagemaker.train import ModelTrainer

at_once, KEEP_WARM = (2, 600) if workshop.backend == "local" else (1, 0)
base_model = {
    name: value
    for name, value in workshop.model.fine_tuning.items()
    if name == "model_name_or_path"
}


def start(settings, pictures, prompts):
    """A training job with these settings and channels: one that is there already, or a new one."""
    hyperparameters = base_model | settings
    content = [Path(f"out/pictures/{pictures}/metadata.jsonl").read_text()]
    content += [Path(f"out/prompts/{prompts}.jsonl").read_text()]
    job_name = workshop.name("job", workshop.model.name, hyperparameters, *content)
    if job := workshop.existing(TrainingJob, job_name):
        return job
    trainer = ModelTrainer(
        training_image=workshop.model.training_image_uri(workshop.region),
        source_code=SourceCode(
            source_dir="code", entry_script="train.py", requirements="requirements.txt"
        ),
        compute=Compute(
            instance_type=workshop.model.training_instance_type,
            instance_count=1,
            volume_size_in_gb=50,
            keep_alive_period_in_seconds=KEEP_WARM or None,
        ),
        hyperparameters=hyperparameters,
        environment={"OMP_NUM_THREADS": "1"} if at_once > 1 else {},  # a processor core for each
        output_data_config=OutputDataConfig(s3_output_path=workshop.s3_uri("jobs")),
        base_job_name=job_name,
        role=workshop.role,
        sagemaker_session=workshop.session,
        tags=workshop.tags,
    ).with_metric_definitions([MetricDefinition(name="train_loss", regex="train_loss=([0-9.e-]+)")])
    inputs = {
        "train": f"out/pictures/{pictures}",
        "evaluation": f"out/prompts/{prompts}.jsonl",
        **{name: str(path) for name, path in workshop.model.channels.items()},
    }
    trainer.train(
        input_data_config=[InputData(channel_name=n, data_source=d) for n, d in inputs.items()],
        wait=False,
    )
    return trainer._latest_training_job


# %% [markdown]
# Two jobs run at a time on your own machine (one on AWS, which needs a quota of one instance only).


# %%
def run(wanted):
    """Run one job for each entry, `at_once` at a time; the jobs by name."""
    waiting, running, ended = list(wanted), {}, {}
    while waiting or running:
        while waiting and len(running) < at_once:
            name = waiting.pop(0)
            running[name] = start(*wanted[name])
        time.sleep(0.5 if workshop.backend == "local" else 10)
        for name, job in list(running.items()):
            job.refresh()
            if job.training_job_status in ("InProgress", "Stopping"):
                continue
            if job.training_job_status != "Completed":
                workshop.watch(job, chart=None)  # says why, and raises
            ended[name] = running.pop(name)
            print(f"{', '.join(name)}: {job.training_job_status}")
    return {name: ended[name] for name in wanted}


wanted = {}
for subject in SUBJECTS:
    for method in METHODS:
        files = f"new-{subject}" if method == "textual inversion" else subject
        wanted[subject, method] = (settings_of(subject, method), files, files)
jobs = run(wanted)

# %% [markdown]
# The log of one of them. The loss jumps with the noise that each step happens to draw. It falls, because five pictures are soon learned, and says nothing about the colours and places that were
# not among them. That is why one looks at pictures, and counts.

# %%
lines = workshop.logs(jobs["star", "LoRA"], last=200)
first = next(number for number, line in enumerate(lines) if line.startswith("Model:"))
print(
    "\n".join(line for line in lines[first:] if line.startswith(("Model", "Data", "Train", "step")))
)

# %% [markdown]
# One more job starts now, for section 7, and is not waited for: another domain, with nothing but the name of a class as caption.

# %%
from shared.pretraining.pictures.examples import examples_from_above
from shared.pretraining.pictures.from_above import CLASSES

PER_CLASS = 4
above = examples_from_above(12)
names = [name for name in CLASSES for _ in range(PER_CLASS)]
write_image_folder("out/pictures/above", above)
write_prompts("above", names + old_prompts)
full = {
    "method": "full",
    "train_batch_size": 8,
    "validation_prompts": " | ".join(CLASSES),
    "guidance_scale": workshop.model.defaults["guidance_scale"],
    "num_inference_steps": STEPS,
    "seed": 1,
}
new_domain = start(full, "above", "above")

# %% [markdown]
# ## 4. What did it learn, and what did it forget?
#
# For each method the same prompts and the same seeds. The first row is the model before.

# %%
from personalising import mark, open_archive, read_rows

drawn, results = {}, {}
for (subject, method), job in jobs.items():
    with open_archive(workshop, job, "output.tar.gz") as files:
        drawn[subject, method] = [row["picture"] for row in read_rows(files, "evaluation")]
        results[subject, method] = json.load(files.extractfile("metrics.json"))
        if method == "LoRA":
            before = read_rows(files, "evaluation_before")
            drawn[subject, "before"] = [row["picture"] for row in before]

ROWS = ["before", *METHODS]


def show(subject, first=0, count=6):
    """The first pictures of the prompts for a subject, a row for each method."""
    chosen = slice(first, first + count)
    return view.picture_grid(
        [drawn[subject, row][chosen] for row in ROWS],
        row_labels=ROWS,
        column_labels=[trial.prompt for trial in asked[subject][chosen]],
        width=130,
    )


show("star")

# %%
show("zobi")

# %% [markdown]
# Now the count. A picture of a new word is right when everything is right that the prompt names: that there is one thing, its shape, colour, size, place, and the background. (The judge of notebook 1 knows
# the star and Zobi, though the model did not.)

# %%
from prompt_adherence import marks, share


def marks_of(subject, row):
    """The judge's marks of the new prompts, and of the old ones."""
    pictures = drawn[subject, row]
    count = len(asked[subject])
    new = mark(pictures[:count], asked[subject])
    return new, marks(workshop.model, pictures[count:], old)


marked = {(s, row): marks_of(s, row) for s in SUBJECTS for row in ROWS}
for subject in SUBJECTS:
    view.shares_with_interval(
        {row: share(marked[subject, row][0]) for row in ROWS},
        title=f"New prompts with '{subject}': all right",
    )

# %%
both = {row: share([m for s in SUBJECTS for m in marked[s, row][1]]) for row in ROWS}
view.shares_with_interval(both, title="Old prompts after learning a new word: all right")

# %%
rows = []
for (subject, method), result in results.items():
    training, (new, rest) = result["training"], map(share, marked[subject, method])
    cost = f"{training['trainable_parameters']:,}", f"{training['bytes_saved']:,}"
    seconds = f"{training['training_seconds']:.0f}"
    rows.append((subject, method, f"{new[0]:.0%}", f"{rest[0]:.0%}", *cost, seconds))
columns = ["subject", "method", "new right", "old right", "numbers trained", "bytes", "seconds"]
view.table(rows, columns=columns, caption="Seconds are those of the training steps.")

# %% [markdown]
# Read it together with the pictures.
#
# - **Textual inversion** trains 128 numbers, and here it fails: no star, no Zobi. It cannot draw what the model cannot draw; it finds the word for the nearest thing that there is, and for a star that is
#   something between a cross and a triangle. In Stable Diffusion, which has seen nearly everything, the nearest thing can be near indeed, and textual inversion catches a style or an object well.
#   And nothing is forgotten: the old prompts do not contain the new word, so their pictures are the same, to the last bit.
# - **LoRA** learns both subjects from five pictures in less than a minute. But look at the last figure: while it is switched on, much of what the model could draw before goes wrong. Nothing in its training asked for the old
#   prompts. The weights below are untouched, so nothing is lost for good; section 5 switches it off.
# - **DreamBooth** is free to change every weight, and yet more of the old prompts came out right than with LoRA, because half of what it saw were the class pictures. So what is kept is decided by *what one trains on*, at least as much as by
#   which numbers are trained. The star it learned as well as LoRA did, Zobi less well, as far as 12 prompts can tell. Its price is a whole model on the disk for each subject.
#
# The interval of each share is wide: 12 prompts are few. Which differences here are larger than the intervals? Only those are a result.
#
# ## 5. Both LoRAs on one endpoint
#
# What a LoRA job leaves is the model's folder with `lora/star/` in it. We put the other one beside it. The endpoint loads all it finds, and each request says which to use.

# %%
import shutil

from shared.packaging import make_archive, upload

folder = Path("out/personal")
shutil.rmtree(folder, ignore_errors=True)
for subject in SUBJECTS:
    with open_archive(workshop, jobs[subject, "LoRA"], "model.tar.gz") as files:
        files.extractall(folder, filter="data")
shutil.rmtree(folder / "code")  # this folder's own code/ goes in
archive = make_archive("out/personal.tar.gz", weights=folder, code="code")
rows = [(name, f"{size:,}") for name, size in archive.members if "safetensors" in name]
view.table(rows, columns=["file", "bytes"])

# %%
from sagemaker.core.resources import Endpoint, EndpointConfig, Model
from sagemaker.core.shapes import ContainerDefinition, ProductionVariant

container = workshop.tuned_container(jobs["star", "LoRA"])
container["model_data_url"] = upload(archive, workshop.s3_uri("model"))
model_name = workshop.name("model", container)
workshop.existing(Model, model_name) or Model.create(
    model_name=model_name,
    primary_container=ContainerDefinition(**container),
    execution_role_arn=workshop.role,
    tags=workshop.tags,
)
variant = ProductionVariant(
    variant_name="AllTraffic",
    model_name=model_name,
    instance_type=workshop.model.instance_type,
    initial_instance_count=1,
    **workshop.model.variant_options,
)
config_name = workshop.name("config", model_name, workshop.model.instance_type)
workshop.existing(EndpointConfig, config_name) or EndpointConfig.create(
    endpoint_config_name=config_name, production_variants=[variant], tags=workshop.tags
)
endpoint_name = workshop.name("endpoint", "personal")
endpoint = workshop.existing(
    Endpoint, endpoint_name, endpoint_config_name=config_name
) or Endpoint.create(
    endpoint_name=endpoint_name, endpoint_config_name=config_name, tags=workshop.tags
)
workshop.watch(endpoint)

# %%
from concurrent.futures import ThreadPoolExecutor

runtime = workshop.client("sagemaker-runtime")


def draw(prompt, lora=(), **settings):
    """The picture for a prompt, with these LoRAs: a name, or a list of names and scales."""
    body = {"prompt": prompt, "lora": lora, "seed": 1} | settings
    response = runtime.invoke_endpoint(
        EndpointName=endpoint_name, ContentType="application/json", Body=json.dumps(body)
    )
    return view.as_picture(json.loads(response["Body"].read())["images"][0])


def draw_all(requests, at_once=8):
    """A picture for each request, several at a time."""
    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(lambda request: draw(**request), requests))


prompt = "a large orange star on a blue background"
scales = [0.0, 0.25, 0.5, 0.75, 1.0, 1.25]
pictures = draw_all(
    [{"prompt": prompt, "lora": [{"name": "star", "scale": scale}]} for scale in scales]
)
view.picture_grid(
    [pictures], column_labels=[f"scale {scale:g}" for scale in scales], title=prompt, width=130
)

# %% [markdown]
# The **scale** multiplies *B A*. At 0 the model is the base; in between, the star grows out of what the base took the word for. Above 1 the change is exaggerated beyond what was trained, and at some point
# the picture suffers.
#
# **Switched off, it is gone.** DreamBooth changed the weights for good. Here the old model is a request away. The same prompt with an empty list, and by the model before all this:

# %%
import numpy as np

again = draw(asked["star"][0].prompt, lora=[], seed=1, num_inference_steps=STEPS)
first = drawn["star", "before"][0]
difference = np.abs(np.asarray(again, int) - np.asarray(first, int)).mean()
print(f"Mean difference of a pixel's red, green or blue: {difference:.2f} of 255.")

# %% [markdown]
# (Not exactly 0: the endpoint rounds in other places than the job did.)
#
# ## 6. Two LoRAs in one picture
#
# Each was trained alone, beside the same base. What if both are added? First: does each still work when the other is on?

# %%
MIXES = {
    "the one alone": None,
    "both": [{"name": "star", "scale": 1.0}, {"name": "zobi", "scale": 1.0}],
    "both, at 0.7": [{"name": "star", "scale": 0.7}, {"name": "zobi", "scale": 0.7}],
}
mixed, count = {}, TRIALS // 2
for label, lora in MIXES.items():
    requests = [
        {
            "prompt": trial.prompt,
            "lora": lora or subject,
            "seed": number + 1,
            "num_inference_steps": STEPS,
        }
        for subject in SUBJECTS
        for number, trial in enumerate(asked[subject][:count])
    ]
    mixed[label] = draw_all(requests)
judged = [trial for subject in SUBJECTS for trial in asked[subject][:count]]
view.shares_with_interval(
    {label: share(mark(pictures, judged)) for label, pictures in mixed.items()},
    title="Prompts with 'star' or 'zobi': all right",
)

# %% [markdown]
# And then what neither has ever seen: both in one picture.

# %%
TOGETHER = [
    "a zobi left of a red star on a blue background",
    "a yellow star above a zobi on a white background",
    "a small white star inside a large red circle",
    "a zobi right of a green square on a pink background",
]
choices = {"star": "star", "zobi": "zobi"}
choices |= {label: MIXES[label] for label in ("both", "both, at 0.7")}
pictures = draw_all(
    [{"prompt": p, "lora": lora, "seed": 3} for lora in choices.values() for p in TOGETHER]
)
view.picture_grid(
    [pictures[start : start + len(TOGETHER)] for start in range(0, len(pictures), len(TOGETHER))],
    row_labels=list(choices),
    column_labels=TOGETHER,
    width=150,
)

# %% [markdown]
# Adding *B A* of both to *W* is a guess that the two changes do not get into each other's way. Here they do, at lower scales as well: both LoRAs work on every layer of a small model, in the same directions. Large models have more room, and there a
# LoRA of a style and one of a subject often get along, but it has to be looked at each time. If you need both in one picture, train one LoRA on both sets of pictures.
#
# The rows of one LoRA alone are worth a look, too. In the last two columns each meets a relation that it was never trained with: what the model knew of "inside" and "right of" has to work for a word that is five pictures old.
#
# ## 7. A new domain: land from above
#
# The classic of this lab tunes Stable Diffusion on satellite pictures, with nothing but the name of each class as caption. Then it draws as much more of each class as one likes, for instance to train a classifier where pictures are rare. Our program draws land from above, in six classes.

# %%
view.picture_grid(
    [[e.picture for e in above[start : start + 6]] for start in (0, 6)],
    column_labels=CLASSES,
    title=f"12 of the {len(above)} training pictures",
    width=130,
)

# %% [markdown]
# These are no scenes with a horizon, and the captions are words that the model's dictionary does not even have: it spells them, letter by letter. With five pictures
# and a LoRA this would be too much to ask. So all weights of UNet and text encoder are trained, as in the first training, and what is kept is the **moving average** of the weights (EMA), which is
# steadier than the last step's. The job has been at it since section 3, and draws samples on its way.

# %%
workshop.watch(new_domain)

# %%
with open_archive(workshop, new_domain, "output.tar.gz") as files:
    samples = read_rows(files, "samples")
    pictures = [row["picture"] for row in read_rows(files, "evaluation")]
    result = json.load(files.extractfile("metrics.json"))
steps = sorted({row["step"] for row in samples})
view.picture_grid(
    [[row["picture"] for row in samples if row["step"] == step] for step in steps],
    row_labels=[f"step {step}" for step in steps],
    column_labels=CLASSES,
    width=120,
)

# %% [markdown]
# First come the colours of each class, then its texture, and last what needs long straight lines: look for furrows, lanes and piers. 72 pictures and a minute on one processor core go so far, and no further. A judge of its own looks
# whether a picture is of its class, by the shares of colours and by straight and round lines:

# %%
from personalising import mark_from_above

found = mark_from_above(pictures[: len(names)], names)
view.picture_grid(
    [pictures[start : start + PER_CLASS] for start in range(0, len(names), PER_CLASS)],
    row_labels=CLASSES,
    captions=[
        [m.remark for m in found[start : start + PER_CLASS]]
        for start in range(0, len(names), PER_CLASS)
    ],
    width=120,
)

# %%
forgotten = share(marks(workshop.model, pictures[len(names) :], old))
view.shares_with_interval(
    {
        "land from above: of its class": share(found),
        "old prompts, before": both["before"],
        "old prompts, after": forgotten,
    },
    title="All weights trained on a new domain",
)
training = result["training"]
print(f"{training['steps']} steps, {training['training_seconds']:.0f} seconds,", end=" ")
print(f"{training['bytes_saved']:,} bytes")

# %% [markdown]
# The new domain is learned, and the old one is gone, or nearly: nothing in these captions and pictures asked to keep it. That is the price of full fine-tuning without a mixture of old pictures, and why a model tuned
# like this is a *separate* product, not a better base.
#
# Are these new pictures, or copies? With few pictures a model can learn them by heart. Here each drawn picture stands beside the training picture that is nearest to it, pixel by pixel.

# %%
training_pictures = np.stack([np.asarray(e.picture.resize((32, 32)), float) for e in above])
nearest = []
for picture in pictures[: len(names)]:
    small = np.asarray(picture.resize((32, 32)), float)
    distances = np.square(training_pictures - small).mean((1, 2, 3)) ** 0.5
    nearest.append((distances.min(), above[distances.argmin()].picture))
chosen = range(0, len(names), PER_CLASS)
view.picture_grid(
    [[pictures[n] for n in chosen], [nearest[n][1] for n in chosen]],
    row_labels=["drawn", "nearest of the training"],
    column_labels=CLASSES,
    captions=[[""] * len(CLASSES), [f"distance {nearest[n][0]:.0f}" for n in chosen]],
    width=120,
)

# %% [markdown]
# ## 8. Which one, then?
#
# | if | then |
# |---|---|
# | the model can draw it already, and there is just no word for it | textual inversion: a file of a few kilobytes |
# | a style, a product, a character; many of them on one endpoint | LoRA |
# | one subject, while all else shall stay as it is, and a model of its own may be stored | DreamBooth, for as many steps as it takes; with LoRA layers instead of all weights where memory is short (`method="lora"` with `class_prompt`) |
# | a new domain with hundreds or more captioned pictures | full fine-tuning, or LoRA of a high rank |
#
# **Before you train on pictures of anybody.** Five photographs suffice to make pictures of a person that never happened. Ask who is shown, and who took the photographs; keep the training pictures and
# the adapter as carefully as the photographs themselves; keep the marks of origin in what is drawn (notebook 1), and the licence of the base: it holds for what you make of it.
#
# ## 9. What it cost

# %%
workshop.cost(*jobs.values(), new_domain)

# %% [markdown]
# ## 10. Clean up

# %%
if KEEP:
    print("Kept, and on AWS still costing money:", endpoint_name)
else:
    workshop.cleanup()

# %% [markdown]
# ## What you learned
#
# - A diffusion model can learn a new word in its dictionary, in additions beside its layers, or in its weights. The further in, the more it can learn, the more is stored, and the more can be lost.
# - Textual inversion can only name what the model can draw. LoRA and DreamBooth teach it to draw.
# - Prior preservation shows a model its own old pictures while it learns. What is not shown is not kept.
# - What was learned is counted on prompts that were not trained, and what was forgotten on old ones; both with an interval.
# - LoRAs are switched, scaled and mixed by request. Mixing is a guess that must be looked at.
#
# **Check yourself** (answers in [solutions/3-personalise.md](solutions/3-personalise.md)):
#
# 1. Textual inversion was trained for a new word. Why do old prompts give the same pictures as before, to the last bit, and with LoRA not?
# 2. DreamBooth's class pictures are drawn by the model itself. Why not take photographs instead?
# 3. Five pictures of a dog, always on the same sofa, captioned "a zobi". What will "a zobi on the beach" look like, and what do you do?
# 4. A LoRA of rank 8 gets 16 of 18 right, one of rank 32 gets 17. Which do you ship?
# 5. Your fine-tuned model draws a training picture nearly pixel by pixel. How do you find out, and what do you change?
#
# **Exercises**, with answers in the same file:
#
# - *Without captions.* Give all five stars one caption, `settings | {"instance_prompt": "a star"}`. What happens to the colours that you ask for?
# - *LoRA with prior preservation.* Add `"class_prompt": KEPT` to LoRA. What does it do to the old prompts, and to the seconds?
# - *How many pictures?* Train with 2, 5 and 15 pictures. Where does it stop to matter?
#
# **Another model.** Set `MODEL` in the first cell to `"stable-diffusion-1.5"`; the jobs then want a graphics card, minutes each, and DreamBooth of all weights 24 GB of its memory
# with `gradient_checkpointing="true"`. Take pictures of your own, a caption for each, and a rare word. The judge above reads flat shapes only: use `clip_scores` of
# [prompt_adherence.py](prompt_adherence.py), and your eyes.
#
# You have come to the end of the labs. What is left of your endpoints and jobs, in all labs: `python -m shared.workshop list`, from the repository's folder.
