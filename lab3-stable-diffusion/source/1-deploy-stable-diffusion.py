# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
#   workshop:
#     minutes: 45
#     track: core
# ---

# %% [markdown]
# # Deploy a model that draws, and learn what its settings do
#
# **Lab 3, notebook 1 of the day.** You open a text-to-image model and look at each of its parts, put it behind an endpoint, turn every
# knob one at a time, and measure whether the pictures show what was asked for.
#
# When you are done you will be able to
#
# - name the five parts of Stable Diffusion, say what goes into each and what comes out, and write the loop that joins them;
# - deploy such a model with SageMaker, and get a picture by one request;
# - explain the seed, the steps, the guidance scale, the negative prompt, the size and the scheduler, because you saw what each does;
# - measure how well a model follows its prompts, and say how sure you are of the number;
# - say what a picture costs, and where it says that a model made it.
#
# | | on your laptop | on AWS |
# |---|---|---|
# | **time** | about 45 minutes of reading, 2 of computing | an estimate: the same, and 5 to 10 minutes of waiting for the endpoint |
# | **cost** | nothing | the price of one rented computer for as long as the endpoint exists: about 0.20 USD for this notebook with the embedded model, waiting included, an estimate |
# | **you need** | this repository, set up by `make jupyter` | a role that may use SageMaker and S3, and the right (a *quota*) to rent one computer of the type shown below |
#
# How the 45 minutes may go (estimates, for a reader who runs every cell and reads every paragraph):
#
# | sections | what you do | minutes |
# |---|---|---|
# | 1 to 3 | settings; open the model, part by part; write the loop | 14 |
# | 4, 5 | package, deploy, first picture | 6 |
# | 6 | every setting as a row of pictures | 8 |
# | 7, 8 | compare schedulers; measure how well prompts are followed | 8 |
# | 9 to 11 | many pictures at once; bad requests; where a picture comes from | 6 |
# | 12 to 14 | cost, play, clean up | 3 |
#
# You should have done [notebook 1 of Lab 1](../lab1-llm-inference/1-deploy-an-llm.ipynb): endpoints are not explained again. How
# diffusion works and how such a model is trained stands in [notebook 0](0-how-diffusion-works.ipynb); you can read it before or after
# this one. Words in **bold** are explained where they first appear.
#
# > **In SageMaker Studio**, run this line once in a terminal, from the repository's folder, before you begin:
# > `pip install -r requirements.txt`

# %% [markdown]
# ## 1. Choose where it runs, and which model
#
# The settings of the other labs, and one more: `TRIALS` is how many pictures each measurement draws of each kind. More make it more
# certain, and take longer.

# %% tags=["parameters"]
BACKEND = "auto"  # "auto", "local" or "sagemaker"
MODEL = "embedded"  # or another name of the table in this lab's README.md
KEEP = False  # True keeps the endpoint when the notebook ends
TRIALS = 12  # with a large model, 4 is enough to see how it goes

# %%
import sys

sys.path.insert(0, "..")  # the folder that holds `shared`, the code that all labs use
from shared import display as view
from shared.workshop import Workshop

workshop = Workshop(lab="3", backend=BACKEND, model=MODEL)
workshop

# %%
workshop.model

# %% [markdown]
# The embedded model was trained from nothing for this workshop, on pictures that a program draws: shapes in colours, two shapes in a
# relation, small landscapes. It knows about 90 words and can draw nothing else. That is its advantage, too: another program, the **judge** (section 8), can look
# whether a picture is right, and you can draw hundreds on a laptop. It is built exactly like Stable Diffusion, part by part, and every
# setting acts on it in the same way. What it can and cannot draw is measured in its [model card](../shared/models/diffusion/README.md).
#
# ## 2. How text becomes a picture
#
# <img src="images/stable-diffusion.svg" alt="The prompt, a large red ring, goes into the tokenizer, which gives numbers, and these into the text encoder, which gives one vector for each token. Beside it, a generator makes noise from the seed: 4 by 16 by 16 numbers, the latents. Text vectors and latents go into the UNet, which predicts what is noise. The scheduler takes some of it away. That is one step, and the loop goes round for as many steps as asked. At the end the autoencoder's decoder turns the latents into 128 by 128 pixels." width="860">
#
# A **diffusion model** was trained to do one thing: to look at a picture with noise on it, and say what of it is noise. To draw, one
# starts from nothing but noise, asks the model what is noise, takes a little of that away, and asks again. After 20 or so rounds a
# picture is left. What it shows is decided by two things: the random numbers of the start, and the prompt, which the model is told at each round.
#
# Pixels are many and mostly redundant, so Stable Diffusion does not work on them. An **autoencoder** squeezes a picture into a small block of numbers,
# the **latents**, and can turn latents back into pixels. All of the drawing happens in the latents. That is what *latent* diffusion
# means, and what made it affordable.
#
# ## 3. The five parts
#
# A diffusers **pipeline** (diffusers is Hugging Face's library for such models) is a folder with one folder for each part. We load the parts
# here, in the notebook, to look into them. (With a model of the Hub, which may be too large for the computer that runs this notebook, this section
# still opens the embedded one.)

# %%
import numpy as np
import torch
import transformers
from PIL import Image

from shared.diffusion_catalogue import find

transformers.logging.set_verbosity_error()  # no warnings about parts that we do not use
transformers.logging.disable_progress_bar()
from diffusers import StableDiffusionPipeline
from diffusers.utils.logging import disable_progress_bar

disable_progress_bar()
judged = workshop.model.scored_by == "judge"  # the embedded model, or one made from it
opened = workshop.model if judged else find("embedded")
pipe = StableDiffusionPipeline.from_pretrained(opened.weights, dtype=torch.float32)
tokenizer, text_encoder = pipe.tokenizer, pipe.text_encoder
unet, vae, scheduler = pipe.unet, pipe.vae, pipe.scheduler


def size(part):
    """How many weights a network has."""
    return f"{sum(weight.numel() for weight in part.parameters()):,}"


rows = [
    ("tokenizer", type(tokenizer).__name__, "", "text", "numbers of words"),
    ("text encoder", type(text_encoder).__name__, size(text_encoder), "numbers", "a vector each"),
    ("UNet", type(unet).__name__, size(unet), "latents, time, vectors", "what is noise"),
    ("scheduler", type(scheduler).__name__, "", "latents, noise", "latents with less of it"),
    (
        "autoencoder",
        type(vae).__name__,
        size(vae),
        "latents (or a picture)",
        "a picture (or latents)",
    ),
]
view.table(rows, columns=["part", "class", "weights", "goes in", "comes out"])

# %% [markdown]
# In Stable Diffusion 1.5 the same table reads: text encoder 123 million weights, UNet 860 million, autoencoder 84 million. But for the scheduler, the classes are the
# same.
#
# ### The tokenizer: words to numbers
#
# As in Lab 1, a model reads numbers. This tokenizer has a number for every word that the model was trained with. The text is framed by
# a token for its start and one for its end, and filled up to a fixed length.

# %%
prompt = "a large red ring on a blue background"
tokens = tokenizer(prompt, padding="max_length", truncation=True, return_tensors="pt")
ids = tokens.input_ids
rows = [(number, tokenizer.decode([number])) for number in ids[0, :12].tolist()]
print(f"{ids.shape[1]} tokens, of which the first 12 are:")
view.table(zip(*rows), columns=[str(place) for place in range(12)])

# %% [markdown]
# A word that it does not know falls into pieces, which mean nothing to a model that never saw them in training:

# %%
print([tokenizer.decode([number]) for number in tokenizer("a red giraffe").input_ids[1:-1]])

# %% [markdown]
# ### The text encoder: numbers to meaning
#
# The **text encoder** is a small transformer, the kind of network of Lab 1, that writes no text. It turns each token into a vector (a list of numbers)
# that depends on the tokens before it: the vector of `ring` knows of `red`. The cosine compares the directions of two vectors; 1 would be the same. The word itself counts most, what stands before it a little:


# %%
def encode(text):
    """The text encoder's vectors for a text: 1 x tokens x width."""
    ids = tokenizer(text, padding="max_length", truncation=True, return_tensors="pt").input_ids
    with torch.inference_mode():
        return text_encoder(ids)[0]


text = encode(prompt)
print(tuple(ids.shape), "numbers become", tuple(text.shape))
blue = encode("a large blue ring on a blue background")
place = ids[0].tolist().index(tokenizer("ring").input_ids[1])
circle = encode("a large red circle on a blue background")
for name, other in {"ring, but after 'blue'": blue, "circle, also after 'red'": circle}.items():
    alike = torch.cosine_similarity(text[0, place], other[0, place], dim=0)
    print(f"the vector of ring after 'red' and of {name}: cosine {alike:.2f}")

# %% [markdown]
# ### The autoencoder: pictures to latents and back
#
# We send a picture through it that it has never seen: one drawn by the workshop's program just now.

# %%
from random import Random

from shared.pretraining.pictures.drawing import draw as draw_by_program
from shared.pretraining.pictures.sampling import scene

original = draw_by_program(scene(Random("a picture for notebook 1"))).resize((128, 128))


def to_latents(picture):
    """A picture's latents: 1 x 4 x 16 x 16 for 128 x 128 pixels."""
    pixels = torch.tensor(np.array(picture)).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.inference_mode():
        return vae.encode(pixels).latent_dist.mean * vae.config.scaling_factor


def to_picture(latents):
    """The picture that the decoder makes of latents."""
    with torch.inference_mode():
        pixels = vae.decode(latents / vae.config.scaling_factor).sample
    return pipe.image_processor.postprocess(pixels, output_type="pil")[0]


latents = to_latents(original)
decoded = to_picture(latents)
channels = (latents[0] - latents.amin()) / (latents.amax() - latents.amin())
view.picture_grid(
    [original, *channels.numpy(), decoded],
    column_labels=["the picture", *(f"latents, channel {n}" for n in range(4)), "decoded"],
    title="Through the autoencoder and back",
)

# %%
error = np.square(np.asarray(original, float) - np.asarray(decoded, float)).mean()
print(f"{np.asarray(original).size:,} numbers became {latents.numel():,},", end=" ")
print(f"a {np.asarray(original).size / latents.numel():.0f}th of them.")
print(f"Peak signal-to-noise ratio of what came back: {10 * np.log10(255**2 / error):.1f} dB.")

# %% [markdown]
# Each channel is a picture of its own, 16 numbers wide, shown here as shades of gray. A person can still guess the scene in them: latents keep what is *where*.
# The **peak signal-to-noise ratio** tells how close two pictures are: more is closer; from about 30 dB on a person has to look for the difference.
# No picture that the model draws can be sharper than what its decoder can paint.
#
# ### The UNet: what of this is noise?
#
# The **UNet** does the work. It gets latents, the text's vectors, and a number from 0 to 999 that says how noisy the latents are: 999 is nothing but noise. It answers with as many numbers as
# the latents have. We give it pure noise from a seed, and look at what it believes to see in it.

# %%
side = unet.config.sample_size


def noise(seed):
    """Latents of nothing but noise; the same for the same seed."""
    return torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(seed))


x, t = noise(0), torch.tensor(999)
with torch.inference_mode():
    prediction = unet(x, t, text).sample
print("in: ", tuple(x.shape), "and", tuple(text.shape), " out:", tuple(prediction.shape))

# %% [markdown]
# What does that answer mean? Noisy latents are a mix $x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\varepsilon$ of a picture $x_0$ and noise $\varepsilon$; the
# **schedule** $\bar\alpha_t$ says how much of each. Stable Diffusion 1.5 predicts $\varepsilon$. Ours predicts the **velocity** $v = \sqrt{\bar\alpha_t}\,\varepsilon - \sqrt{1-\bar\alpha_t}\,x_0$, which is the same
# knowledge in a form that is easier to learn where nearly all is noise. From $x_t$ and $v$ follows the picture that the UNet has in mind: $x_0 = \sqrt{\bar\alpha_t}\,x_t - \sqrt{1-\bar\alpha_t}\,v$.
#
# So we can look at what it has in mind, at once, after no step at all:


# %%
def guess(x, t, v):
    """The latents that the UNet has in mind when it sees x at time t and answers v."""
    share = scheduler.alphas_cumprod[int(t)]
    return share.sqrt() * x - (1 - share).sqrt() * v


with torch.inference_mode():
    nothing = unet(x, t, encode("")).sample
view.picture_grid(
    [to_picture(x), to_picture(guess(x, t, prediction)), to_picture(guess(x, t, nothing))],
    column_labels=["the noise, decoded", "guess with the prompt", "guess with an empty prompt"],
    width=160,
)

# %% [markdown]
# From noise alone there is not much to know: the guess is something like the mean of all pictures that fit the prompt, with soft edges and colours that are not right yet. With an empty prompt, it is the mean of all pictures, a blur.
# The *difference* between the two is what the prompt says, and the next cell uses it.
#
# ### The scheduler, and the whole loop
#
# The **scheduler** decides which noise levels to visit, and how far to go from one to the next. Training had 1,000 levels; drawing visits 20 of them:

# %%
scheduler.set_timesteps(opened.steps)
print("visits:", scheduler.timesteps.tolist())

# %% [markdown]
# Here is all of text-to-image, written out. One line deserves a word: the UNet is asked twice, with the prompt and without, and the difference
# is exaggerated. That is **guidance** (in full, *classifier-free guidance*), and the factor is the **guidance scale** $g$:
# $v = v_{empty} + g \cdot (v_{prompt} - v_{empty})$. With $g = 1$ the prompt is taken as it is; with more, it is exaggerated.


# %%
def draw_by_hand(prompt, seed, steps=opened.steps, guidance=opened.guidance_scale):
    """Latents of a picture, and what the UNet had in mind at each step on the way."""
    texts = torch.cat([encode(""), encode(prompt)])
    x, guesses = noise(seed), []
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        with torch.inference_mode():
            empty, prompted = unet(torch.cat([x, x]), t, texts).sample.chunk(2)
        v = empty + guidance * (prompted - empty)
        guesses.append(guess(x, t, v))
        x = scheduler.step(v, t, x).prev_sample
    return x, guesses


by_hand, guesses = draw_by_hand(prompt, seed=3)
shown = [0, 1, 2, 4, 6, 9, 14, opened.steps - 1]
view.picture_grid(
    [[to_picture(guesses[step]) for step in shown]],
    column_labels=[f"step {step + 1}" for step in shown],
    title="What the UNet has in mind",
    alt=f"From a blur to the picture of {prompt}, in {opened.steps} steps.",
)

# %% [markdown]
# First the large things (background, place), then the right colours and the edges. Is that really all that the library does? Let the pipeline draw with the same seed and settings, and compare the pixels.

# %%
pipe.set_progress_bar_config(disable=True)
with_library = pipe(
    prompt,
    num_inference_steps=opened.steps,
    guidance_scale=opened.guidance_scale,
    generator=torch.Generator().manual_seed(3),
).images[0]
own = to_picture(by_hand)
difference = np.abs(np.asarray(own, int) - np.asarray(with_library, int)).max()
print(f"Largest difference of any pixel's red, green or blue: {difference} of 255.")
view.picture_grid([own, with_library], column_labels=["by hand", "by the pipeline"], width=192)

# %% [markdown]
# The loop is the same. So nothing about Stable Diffusion is out of your sight any more: a tokenizer, a transformer, a UNet asked 2 × 20 times, some arithmetic, a decoder.
#
# ## 4. Package and deploy
#
# The archive for SageMaker has the pipeline's folders at its top, the handler in `code/`, and `upscaler/`, a small network that makes pictures four times as
# large (notebook 2). The handler, [code/inference.py](code/inference.py), checks requests, draws those that come together in one batch, and can do more than
# text-to-image. (For a model of the Hub the archive holds no weights: the container fetches them.)

# %%
from shared.packaging import make_archive, upload

archive = make_archive(
    "out/model.tar.gz",
    weights=workshop.model.weights,
    code="code",
    extras=workshop.model.extras,
)
rows = [(name, f"{bytes_:,}") for name, bytes_ in archive.members if not name.startswith("code/")]
view.table(rows, columns=["file (those of code/ left out)", "bytes"])

# %%
model_data = upload(archive, workshop.s3_uri("model"))
container = workshop.container(model_data)
view.table(container.items(), columns=["the container's", "value"])

# %% [markdown]
# `GENERATION_DEFAULTS` tells the handler the settings that this model draws best with, so that a request need not name them. Model, configuration and endpoint
# are made as in Lab 1. **From here on the clock runs** on AWS.

# %%
from sagemaker.core.resources import Endpoint, EndpointConfig, Model
from sagemaker.core.shapes import ContainerDefinition, ProductionVariant

model_name = workshop.name("model", container)
model = workshop.existing(Model, model_name) or Model.create(
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
config = workshop.existing(EndpointConfig, config_name) or EndpointConfig.create(
    endpoint_config_name=config_name, production_variants=[variant], tags=workshop.tags
)

# %%
endpoint_name = workshop.name("endpoint")
endpoint = workshop.existing(
    Endpoint, endpoint_name, endpoint_config_name=config_name
) or Endpoint.create(
    endpoint_name=endpoint_name, endpoint_config_name=config_name, tags=workshop.tags
)
workshop.watch(endpoint)

# %% [markdown]
# ## 5. The first picture
#
# A request is JSON with a prompt. The answer is JSON, too: pictures as PNG files in **base64** (bytes written with letters and digits, since JSON has no
# bytes), each with its seed, and all settings that were used.

# %%
import json

runtime = workshop.client("sagemaker-runtime")
prompt = workshop.model.prompts[0]
response = runtime.invoke_endpoint(
    EndpointName=endpoint_name,
    ContentType="application/json",
    Body=json.dumps({"prompt": prompt, "seed": 3}),
)
answer = json.loads(response["Body"].read())
print("settings:", answer["settings"])
print("picture: ", answer["images"][0]["image"][:60], "...")

# %%
view.picture_grid([answer["images"]], alt=prompt, captions=[[prompt]], width=256)

# %% [markdown]
# With the embedded model you have seen this one before: the same prompt, seed and settings as in section 3. Is it the same picture? The endpoint may compute with
# fewer digits than we did, to be faster, and then some pixels differ a little.

# %%
if judged:  # then section 3 opened this very model
    served = np.asarray(view.as_picture(answer["images"][0]), float)
    print(
        f"mean difference from section 3: {np.abs(served - np.asarray(own, float)).mean():.2f} of 255"
    )

# %% [markdown]
# For the rest of the notebook, two functions: one picture by one request, and many by many requests at once.

# %%
from concurrent.futures import ThreadPoolExecutor


def ask(prompt, **settings):
    """Send one request to the endpoint; its whole answer."""
    response = runtime.invoke_endpoint(
        EndpointName=endpoint_name,
        ContentType="application/json",
        Body=json.dumps({"prompt": prompt, **settings}),
    )
    return json.loads(response["Body"].read())


def draw(prompt, **settings):
    """One picture of a prompt."""
    return view.as_picture(ask(prompt, **settings)["images"][0])


def draw_all(requests, at_once=workshop.model.at_once):
    """One picture for each request (a dictionary), several under way at the same time."""
    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(lambda request: draw(**request), requests))


prompts = workshop.model.prompts
pictures = draw_all([{"prompt": text, "seed": 1} for text in prompts])
view.picture_grid([pictures], captions=[prompts])

# %% [markdown]
# These were not selected: one seed, whatever came. Look whether each shows all that its prompt says. Section 8 will count.
#
# ## 6. The settings, one at a time
#
# ### The seed
#
# The **seed** makes the noise of the start. The same prompt with another seed is another picture: what the prompt leaves open is decided by the noise. `num_images` draws
# several, with consecutive seeds, by one request.

# %%
variety = prompts[-2]
answer = ask(variety, seed=0, num_images=min(6, workshop.model.at_once))
seeds = [image["seed"] for image in answer["images"]]
view.picture_grid([answer["images"]], column_labels=[f"seed {n}" for n in seeds], title=variety)

# %% [markdown]
# The same seed gives the same picture again. Alone, it is the same to the last pixel; in a batch with others, the order of some sums differs, and a
# pixel may be one shade off:

# %%
alone = [np.asarray(draw(variety, seed=seed), int) for seed in seeds[:3]]
batched = [np.asarray(view.as_picture(image), int) for image in answer["images"]]
again = np.asarray(draw(variety, seed=seeds[0]), int)
print("alone, twice:", "identical" if (alone[0] == again).all() else "not identical")
worst = max(np.abs(one - other).mean() for one, other in zip(alone, batched))
print(f"alone and in a batch: mean difference {worst:.4f} of 255")

# %% [markdown]
# ### The steps
#
# More **steps** (`num_inference_steps`) visit more noise levels, in smaller strides. Each costs the same time, so this is the setting that you pay for.

# %%
import time

STEPS = (1, 2, 4, 8, 20, 40)
row, seconds = [], []
for steps in STEPS:
    start = time.perf_counter()
    row.append(draw(prompt, seed=5, num_inference_steps=steps))
    seconds.append(f"{time.perf_counter() - start:.2f} s")
view.picture_grid(
    [row], column_labels=[f"steps: {n}" for n in STEPS], captions=[seconds], title=prompt
)

# %% [markdown]
# One step is little more than the first guess of section 3. Somewhere the picture is there, and from then on more steps change only details or nothing at all. Where that point lies depends on
# the scheduler, too: see section 7.
#
# ### The guidance scale
#
# How strongly the prompt is exaggerated. 1 or less switches guidance off (and halves the work, since the UNet is asked once a step instead of twice).

# %%
GUIDANCE = (1, 2, 4, 7, 12)
hard = prompts[2]
rows = [
    draw_all([{"prompt": hard, "seed": seed, "guidance_scale": scale} for scale in GUIDANCE])
    for seed in (0, 1)
]
view.picture_grid(
    rows,
    row_labels=["seed 0", "seed 1"],
    column_labels=[f"guidance {scale}" for scale in GUIDANCE],
    title=hard,
)

# %% [markdown]
# At 1 the prompt is taken as it is, and the white is not quite white. With more, colours become purer, and things larger and more alike: variety is traded for obedience. With too much, edges bend
# and colours run. Our model draws best at 2 (its model card has the count from 1 to 8). Stable Diffusion 1.5 is mostly used at about 7: captions from the web say less about their pictures
# than ours do, so what they say has to be exaggerated more. A model that was distilled to draw in few steps, such as SDXL-Turbo, wants none.
#
# ### The negative prompt
#
# Guidance goes away from the empty prompt and towards yours. A **negative prompt** takes the place of the empty one: the picture goes *away from* what it says. That is
# the way to say "not": a prompt with `not at night` has `night` in it, and since captions say what *is* to be seen, that is what the picture gets. Does it work? We draw the same prompt without and with a negative prompt and
# read off what we wanted to avoid.

# %%
from collections import Counter

from prompt_adherence import marks, share, shares, times_of_day, trials

open_prompt, unwanted = workshop.model.negative_example
plain = draw_all([{"prompt": open_prompt, "seed": n} for n in range(8)])
avoided = draw_all(
    [{"prompt": open_prompt, "seed": n, "negative_prompt": unwanted} for n in range(8)]
)
view.picture_grid(
    [plain, avoided],
    row_labels=["no negative prompt", f"negative: {unwanted}"],
    column_labels=[f"seed {n}" for n in range(8)],
    title=open_prompt,
)

# %%
rows = []
for label, images in {"no negative prompt": plain, f"negative prompt: {unwanted}": avoided}.items():
    counts = Counter(times_of_day(workshop.model, images))
    rows.append((label, *(counts[when] for when in ("day", "sunset", "night"))))
view.table(rows, columns=["of 8 pictures", "day", "sunset", "night"])

# %% [markdown]
# The unwanted word is avoided, here nearly always. Not to be drawn is all that it asks: what comes instead, the model decides.
#
# For the large models people have habits such as `blurry, low quality, deformed, watermark`: words under which bad pictures were found in the training data. For a
# model that never saw such captions they do nothing. Try what yours knows: `workshop.model.negative_prompt` has the habit, if there is one.
#
# ### The size
#
# The networks slide over the picture, so another size *can* be asked for. But the model has only ever seen one:

# %%
width, height = workshop.model.width, workshop.model.height
sizes = [
    (width, height),
    (width * 3 // 2, height),
    (width, height * 3 // 2),
    (width // 2, height // 2),
]
pictures = draw_all([{"prompt": prompt, "seed": 5, "width": w, "height": h} for w, h in sizes])
labels = [f"{w} x {h}" for w, h in sizes]
view.picture_grid([pictures], column_labels=labels, title=prompt, width=230, to_scale=True)

# %% [markdown]
# A ring on a plain background survives more room: there is just more blue. It does not survive less, since on 64 pixels it would need lines thinner than any in the training. With scenes, and with all larger models, the typical
# failures of a large canvas are things drawn twice or torn apart, because the model never learned how the parts of so large a picture belong together (notebook 2 shows it). So draw at the size of the training, and enlarge afterwards.
#
# ## 7. Schedulers
#
# All schedulers walk from noise to picture; they differ in how they take a stride. Four of them:
#
# - **DDIM** goes straight on in the direction of the UNet's guess;
# - **Euler a** (*ancestral*) takes away more noise than that and adds fresh noise, so it never settles on one picture;
# - **Heun** asks the UNet a second time in each step, and corrects the stride;
# - **DPM-Solver++** corrects the stride by what it remembers of the step before, which costs nothing.
#
# What is a fair comparison? With equal *steps* Heun has asked the UNet twice as often. With equal *time* it gets half as many steps, since nearly all of the time goes to the UNet. We measure
# both: the same prompts (single shapes) with the same seeds, and the judge says how many are right.

# %%
asked = trials(workshop.model, TRIALS)
first_group = [trial for trial in asked if trial.group == asked[0].group]
ROUNDS = {steps: [("ddim", steps), ("euler_a", steps), ("dpm++", steps)] for steps in (4, 10)}
for steps, entries in ROUNDS.items():
    entries += [("heun", steps // 2), ("heun", steps)]  # at equal time, at equal steps
drawn, rows = {}, []
for name, steps in [entry for entries in ROUNDS.values() for entry in entries]:
    settings = {"scheduler": name, "num_inference_steps": steps}
    start = time.perf_counter()
    drawn[name, steps] = draw_all(
        [{"prompt": trial.prompt, "seed": n, **settings} for n, trial in enumerate(first_group)]
    )
    spent = (time.perf_counter() - start) / len(first_group)
    calls = 2 * steps - 1 if name == "heun" else steps
    right, low, high = share(marks(workshop.model, drawn[name, steps], first_group))
    rows.append((name, steps, calls, f"{spent:.2f}", f"{right:.0%}", f"{low:.0%} to {high:.0%}"))
columns = ["scheduler", "steps", "UNet asked", "seconds a picture", "right", "95% interval"]
view.table(rows, columns=columns)

# %% [markdown]
# The seconds are those of the whole endpoint with several requests under way. The **95% interval** is the range of true shares that would make such a count unsurprising (Wilson's formula, as in Lab 1). With few
# pictures it is wide: where two intervals overlap a lot, do not believe in the difference. And what do the pictures look like?

# %%
view.picture_grid(
    [[drawn[entry][0] for entry in entries] for entries in ROUNDS.values()],
    captions=[[f"{name}, {n} steps" for name, n in entries] for entries in ROUNDS.values()],
    title=first_group[0].prompt,
    width=150,
)

# %% [markdown]
# At ten steps all but the halved Heun are about as good as the twenty that are this model's default, for half the price. At very few steps only Heun differs by more than the intervals: made for many short strides, it falls apart. For
# the order of the others, draw more.
#
# ## 8. Does it draw what you ask for?
#
# Six pictures that look right prove little. So we ask for many, of several kinds, and count. A picture is right when *everything* that its prompt names is right: shape, colour, size, place, background; of pairs, which is where; of
# scenes, the time of day, the ground, and what stands on it.
#
# The judge is a program without any learning: it takes the nearest named colour, lays templates over the shapes, compares centres. On pictures drawn by the program it
# finds at least 99 of 100 right (its tests measure that; on what a *model* draws, nobody has counted its errors but you). Three of the groups were kept out of training: combinations of colour and shape, pairs, and scenes that the model has *never seen*. It can only get them right if it has learned what the words mean, and not
# the pictures by heart. (For a model of the Hub the groups are others, and CLIP judges, a network that scores how well a text fits a picture: see [prompt_adherence.py](prompt_adherence.py).)

# %%
requests = [{"prompt": trial.prompt, "seed": 100 + n} for n, trial in enumerate(asked)]
start = time.perf_counter()
pictures = draw_all(requests)
print(f"{len(pictures)} pictures in {time.perf_counter() - start:.0f} s")
found = marks(workshop.model, pictures, asked)
view.shares_with_interval(
    shares(asked, found), title="Everything right", xlabel="share of pictures"
)

# %% [markdown]
# Where does it go wrong? A picture can be wrong in several ways. (`count`: more or fewer things than named; `parts`: the same, in a landscape.)

# %%
wrong = Counter(name for mark in found for name in mark.wrong)
print(f"{sum(not mark.right for mark in found)} of {len(found)} pictures are not right.")
view.table(wrong.most_common(), columns=["what is wrong", "pictures"])

# %% [markdown]
# And the pictures: the first three of each group, not selected, with what the judge says.

# %%
groups = list(dict.fromkeys(trial.group for trial in asked))
places = {
    group: [n for n, trial in enumerate(asked) if trial.group == group][:3] for group in groups
}
view.picture_grid(
    [[pictures[n] for n in places[group]] for group in groups],
    row_labels=groups,
    captions=[
        [f"{asked[n].prompt} ({found[n].remark})" for n in places[group]] for group in groups
    ],
    width=150,
)

# %% [markdown]
# Do you agree with the judge? Look for one that you would have marked otherwise: a small shape, perhaps, whose template overlaps a little too little, or a second sun, which no rule of the judge forbids. A judge of your own is worth its trouble in any project: it is the only way to know whether the next model, or the next setting,
# is better. It need not be perfect, but you must know how often it errs.
#
# > **Try it.** Set `TRIALS` to 64 and run sections 7 and 8 again. How much narrower are the intervals? (The model card has 300 of each.)
#
# ## 9. Watch it come, and many at once
#
# A large model takes seconds for a picture, and those are long for whoever sees nothing. With `"stream": true` the endpoint sends a line of JSON for each step, every few steps with a preview (what the UNet has in mind, as in section 3), and at the
# end the whole answer. (The local server streams. The Hugging Face image on AWS sends the same lines in one piece.)


# %%
def draw_in_steps(prompt, **settings):
    """Yield (step, steps, picture or None); the last one has the finished picture."""
    body = {"prompt": prompt, "stream": True, "preview_every": 4, **settings}
    response = runtime.invoke_endpoint_with_response_stream(
        EndpointName=endpoint_name, ContentType="application/json", Body=json.dumps(body)
    )
    buffer, step, steps = b"", 0, 1
    for event in response["Body"]:
        buffer += event["PayloadPart"]["Bytes"]
        while b"\n" in buffer:
            line, buffer = buffer.split(b"\n", 1)
            message = json.loads(line)
            step, steps = message.get("step", steps), message.get("steps", steps)
            preview = message["images"][0] if message["images"] else None
            yield step, steps, preview and view.as_picture(preview)


seen = [item for item in draw_in_steps(prompts[4], seed=1) if item[2]]
view.picture_grid(
    [[picture for _, _, picture in seen]],
    column_labels=[f"step {step} of {steps}" for step, steps, _ in seen[:-1]] + ["the answer"],
    title=prompts[4],
)

# %% [markdown]
# How many pictures can this endpoint draw in a second? Two ways to ask for more than one: `num_images` in one request, and several requests at the same time. The handler puts
# both into one **batch**: the UNet works on several pictures side by side, which keeps the processor (or graphics card) busier than one alone.

# %%
rows, rates = [], {}
counts = [n for n in (1, 4, 8) if n <= workshop.model.at_once]
for count in counts:
    start = time.perf_counter()
    ask(prompt, seed=0, num_images=count)
    spent = time.perf_counter() - start
    rows.append(("one request", count, f"{spent:.2f}", f"{count / spent:.2f}"))
for clients in counts:
    start = time.perf_counter()
    draw_all([{"prompt": prompt, "seed": seed} for seed in range(8)], at_once=clients)
    spent = time.perf_counter() - start
    rates[clients] = 8 / spent
    rows.append((f"8 requests, {clients} at a time", 8, f"{spent:.2f}", f"{rates[clients]:.2f}"))
view.table(rows, columns=["how", "pictures", "seconds", "pictures a second"])

# %% [markdown]
# A batch draws more pictures in a second, and each of them comes later than it would alone: **throughput** against **latency**. (The server of the Hugging Face image hands over one request at
# a time, so there only `num_images` makes batches.)
#
# ## 10. What a bad request gets

# %% tags=["nbval-check-output"]
from botocore.exceptions import ClientError

bad = {
    "not JSON": "a red ring",
    "no prompt": json.dumps({"seed": 1}),
    "a misspelt name": json.dumps({"prompt": prompt, "guidance": 4}),
    "too many steps": json.dumps({"prompt": prompt, "num_inference_steps": 5000}),
    "an odd size": json.dumps({"prompt": prompt, "width": 129}),
    "a huge size": json.dumps({"prompt": prompt, "width": 8192, "height": 8192}),
    "a broken image": json.dumps({"prompt": prompt, "image": "aGVsbG8="}),
    "a scheduler that is none": json.dumps({"prompt": prompt, "scheduler": "fast"}),
}
rows = []
for label, body in bad.items():
    try:
        runtime.invoke_endpoint(
            EndpointName=endpoint_name, ContentType="application/json", Body=body
        )
        rows.append((label, "accepted", ""))
    except ClientError as error:
        message = json.loads(error.response["OriginalMessage"])
        rows.append((label, error.response["OriginalStatusCode"], message["message"]))
view.table(rows, columns=["request", "status", "the container's message"])

# %% [markdown]
# Each message names the mistake and what would be right, and the endpoint lives on. For a service that draws this matters more than for one that writes: a picture of 8192 by 8192 pixels would take all memory, and every
# other caller's request with it.
#
# ## 11. Whose picture is it? Responsible use
#
# ### What you leave open, the model decides
#
# Ask for a house and say nothing about the time of day. What comes?

# %%
open_pictures = draw_all([{"prompt": open_prompt, "seed": n} for n in range(100, 116)])
view.picture_grid([open_pictures[:8], open_pictures[8:]], title=open_prompt, width=90)

# %%
when = times_of_day(workshop.model, open_pictures)
view.table(Counter(when).most_common(), columns=["time of day", "of 16 pictures"])

# %% [markdown]
# The embedded model's training pictures had the three times of day about equally often. Does its answer mirror that? With a third of 16 one would expect 5 or 6 of each, and by chance between 2 and 9. A model that learned from the web mirrors the web: ask it for *a
# photo of a doctor* and count, and you will find who was photographed as a doctor how often. That is not a question of taste. It can be measured like anything else in this notebook: fix the
# prompt, draw many, count, put an interval around it, and decide whether you may ship that.
#
# ### What must not be drawn
#
# Some models come with a **safety checker**: a further network that looks at the finished picture and blacks it out when it finds nudity. Stable Diffusion 1.5 has one; the answer then says `"blocked": true`. SDXL has none, and the
# embedded model cannot draw what there would be to find. A checker is one layer; checks of the prompt, limits on who may use the service for what, and a way to complain are others.
#
# ### Where a picture comes from
#
# A picture on the web should say that a model made it. The handler says so twice: in the file's **metadata** (text beside the pixels), in the words that editors and news agencies have agreed on, and from 256
# pixels up in the pixels themselves, as an invisible **watermark**. The metadata also hold everything needed to draw the same picture again. Is that so? We take the picture's file, and only the file:

# %%
import base64
import io
import re

enlarge = {} if min(width, height) >= 256 else {"upscale": 4}  # the watermark needs 256 pixels
answer = ask(prompts[3], seed=11, **enlarge)
file = base64.b64decode(answer["images"][0]["image"])
picture = Image.open(io.BytesIO(file))
texts = {key: text for key, text in picture.info.items() if isinstance(text, str)}
source_type = re.search('DigitalSourceType="([^"]+)"', texts.pop("XML:com.adobe.xmp"))[1]
view.table([*texts.items(), ("source type", source_type)], columns=["in the file", "text"])

# %%
second = ask(**json.loads(picture.info["Settings"]))
same = np.asarray(view.as_picture(second["images"][0])) == np.asarray(picture.convert("RGB"))
print("drawn again from its own file:", "identical" if same.all() else "not identical")

# %% [markdown]
# Now do to the picture what happens to pictures, and look what is left of the two marks.

# %%
sys.path.insert(0, "code")
from watermark import agreement, has_watermark


def saved_as(picture, kind, **options):
    """The picture after it was written to a file and read again."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return Image.open(buffer)


rgb = picture.convert("RGB")
versions = {
    "as it came": picture,
    "a screenshot (only pixels)": saved_as(Image.fromarray(np.asarray(rgb)), "png"),
    "JPEG, quality 90": saved_as(rgb, "jpeg", quality=90),
    "JPEG, quality 50": saved_as(rgb, "jpeg", quality=50),
    "bottom third cut off": saved_as(rgb.crop((0, 0, rgb.width, rgb.height * 2 // 3)), "png"),
    "made smaller by a tenth": saved_as(
        rgb.resize((rgb.width * 9 // 10, rgb.height * 9 // 10)), "png"
    ),
    "a picture of no model": saved_as(original.resize(rgb.size), "png"),
}
rows = [
    (
        label,
        "yes" if "Source" in version.info else "no",
        "yes" if has_watermark(version) else "no",
        f"{agreement(version):.0%}",
    )
    for label, version in versions.items()
]
view.table(rows, columns=["version", "metadata", "watermark", "blocks that agree"])

# %% [markdown]
# (Half of the blocks agree by chance. From about 55% on, for a picture of this size, chance would do it once in a thousand million pictures, and the answer is yes.) Metadata are gone with the first program that does not know them. The watermark lasts longer, and not for ever: strong compression or a new size destroy it. So marks help the honest to be recognised; that a picture has none proves
# nothing.
#
# ## 12. What it costs

# %% tags=["nbval-check-output"]
price = workshop.model.price_per_hour
print("Price:", workshop.model.price_note)
print(f"This run costs {workshop.price_per_hour:.2f} USD per hour ({workshop.backend}).")
view.table(
    [
        ("this notebook, 45 minutes", f"{price * 0.75:,.2f} USD"),
        ("a working day, 8 hours", f"{price * 8:,.2f} USD"),
        ("forgotten for a month, 730 hours", f"{price * 730:,.2f} USD"),
    ],
    columns=[f"one {workshop.model.instance_type}", "on AWS"],
)

# %% [markdown]
# And a thousand pictures, if the endpoint were kept busy? (Measured in section 9 on the machine that serves it now, priced as the instance on AWS.)

# %%
rows = [(n, f"{rate:.2f}", f"{price / 3600 / rate * 1000:.2f} USD") for n, rate in rates.items()]
view.table(rows, columns=["requests at a time", "pictures a second", "a thousand pictures"])

# %% [markdown]
# ## 13. Play
#
# Type a prompt, move the sliders, press *Draw*. The line below the widget makes the same call without it.

# %%
view.picture_playground(
    draw_in_steps,
    prompt=prompts[1],
    num_inference_steps=workshop.model.steps,
    guidance_scale=workshop.model.guidance_scale,
)

# %%
picture = draw(prompts[1], seed=4, num_inference_steps=12, guidance_scale=3.0)
view.picture_grid([picture], captions=[prompts[1]], width=192)

# %% [markdown]
# ## 14. Clean up
#
# The endpoint, its configuration, the model and the archive are deleted, and then looked for again.

# %%
if KEEP:
    print("Kept, and on AWS still costing money:", endpoint_name)
else:
    workshop.cleanup()

# %% [markdown]
# ## What you learned
#
# - Stable Diffusion is five parts: tokenizer, text encoder, UNet, scheduler, autoencoder. You wrote the loop that joins them, and it draws the library's picture.
# - The seed decides what the prompt leaves open. Steps cost time, and after a point change nothing. Guidance trades variety for obedience. A negative prompt is where guidance comes from.
# - Schedulers are compared at equal time, with a measure and an interval.
# - Whether a model follows its prompts can be counted, by a judge that was checked on true pictures, on prompts that the model has never seen.
# - Bad requests must be refused before they cost anything. A picture should say where it comes from, and can lose that again.
#
# **Check yourself** (answers in [solutions/1-deploy-stable-diffusion.md](solutions/1-deploy-stable-diffusion.md)):
#
# 1. Two colleagues use the same model, prompt, seed and settings, and get different pictures. Name three possible reasons.
# 2. Why does a guidance scale of 1 take half the time?
# 3. Setting A is right in 14 of 16 pictures, setting B in 12 of 16. Which is better?
# 4. You want pictures without text in them. What do you write, and where?
# 5. A picture has no watermark and no metadata. Was it made by a model?
#
# **Exercises**, with answers in the same file:
#
# - *Your own scheduler.* Replace `scheduler.step` in `draw_by_hand` by a few lines of DDIM. Is your picture that of `"scheduler": "ddim"`?
# - *Walk between two prompts.* Mix the text encoder's vectors of two prompts, `(1 - w) * one + w * other`, and draw a row for five values of `w` with one seed.
# - *Guidance by the clock.* Use guidance only in the first half of the steps, then only in the second. Which half decides what is drawn?
# - *A word it has never seen.* The tokenizer knows `star`, and no training picture had one. What does the endpoint draw? (Notebook 3 teaches it.)
#
# **Another model.** Set `MODEL` in the first cell: `"stable-diffusion-1.5"`, `"sdxl"` or `"sdxl-turbo"`, on a rented graphics card. Set `TRIALS` to 4 with them. See [README.md](README.md).
#
# **Next:** [2-edit-images](2-edit-images.ipynb): start from a picture instead of noise. Further: [0-how-diffusion-works](0-how-diffusion-works.ipynb) and
# [3-personalise](3-personalise.ipynb), which teaches the model a new word from five pictures.
