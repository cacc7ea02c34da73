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
# # Edit pictures
#
# **Lab 3, notebook 2 of the day.** So far every picture began as noise. Here it begins as a picture: you change one as a whole, replace a part of it, let
# it go on beyond its edges, enlarge it, and walk from one picture to another. After each edit you measure what became right and what was left alone.
#
# When you are done you will be able to
#
# - change a picture by a prompt, and choose the **strength** of the change because you measured what it does;
# - replace or remove a part of a picture with a **mask** (inpainting), and prove that nothing else changed;
# - extend a picture (outpainting), and find the seam, or that there is none;
# - enlarge a picture, and compare ways to do so by two numbers, PSNR and SSIM;
# - explain why one walks from picture to picture on a sphere.
#
# | | on your laptop | on AWS |
# |---|---|---|
# | **time** | about 30 minutes of reading, 2 of computing | an estimate: the same, and 5 to 10 minutes of waiting for the endpoint |
# | **cost** | nothing | the price of one rented computer for as long as the endpoint exists: about 0.15 USD for this notebook with the embedded model, waiting included, an estimate |
# | **you need** | this repository, set up by `make jupyter` | a role that may use SageMaker and S3, and a quota of one instance |
#
# How the 30 minutes may go (estimates):
#
# | sections | what you do | minutes |
# |---|---|---|
# | 1, 2 | start the endpoint, send the first picture | 4 |
# | 3 | change a picture as a whole | 7 |
# | 4, 5 | replace a part: masks by code and by hand | 8 |
# | 6 | go on beyond the edges | 4 |
# | 7 | enlarge | 4 |
# | 8, 9 | walk from picture to picture; clean up | 3 |
#
# You should have done [notebook 1](1-deploy-stable-diffusion.ipynb): prompts, seeds, steps, latents and guidance are not explained again.

# %% tags=["parameters"]
BACKEND = "auto"  # "auto", "local" or "sagemaker"
MODEL = "embedded"  # or another name of the table in this lab's README.md
KEEP = False  # True keeps the endpoint when the notebook ends
TRIALS = 6  # pictures for each point of a curve; with a large model, 3 show how it goes

# %%
import sys

sys.path.insert(0, "..")  # the folder that holds `shared`, the code that all labs use
from shared import display as view
from shared.workshop import Workshop

workshop = Workshop(lab="3", backend=BACKEND, model=MODEL)
workshop

# %% [markdown]
# ## 1. Start the endpoint
#
# It is the endpoint of notebook 1, made by the same calls; if you kept it, it is found again.

# %%
from sagemaker.core.resources import Endpoint, EndpointConfig, Model
from sagemaker.core.shapes import ContainerDefinition, ProductionVariant

from shared.packaging import make_archive, upload

archive = make_archive(
    "out/model.tar.gz",
    weights=workshop.model.weights,
    code="code",
    extras=workshop.model.extras,
)
container = workshop.container(upload(archive, workshop.s3_uri("model")))
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
endpoint_name = workshop.name("endpoint")
endpoint = workshop.existing(
    Endpoint, endpoint_name, endpoint_config_name=config_name
) or Endpoint.create(
    endpoint_name=endpoint_name, endpoint_config_name=config_name, tags=workshop.tags
)
workshop.watch(endpoint)

# %% [markdown]
# ## 2. Pictures in a request
#
# JSON has no bytes, so a picture travels as the text of its PNG file in **base64**, there and back. `ask` sends a request and turns every picture in it into text,
# `draw` gives back one picture, `draw_all` several with consecutive seeds.

# %%
import base64
import io
import json

from PIL import Image

runtime = workshop.client("sagemaker-runtime")


def as_text(picture):
    """A picture's PNG file in base64."""
    buffer = io.BytesIO()
    picture.save(buffer, "png")
    return base64.b64encode(buffer.getvalue()).decode()


def ask(prompt=None, **settings):
    """Send one request to the endpoint; its whole answer."""
    request = settings if prompt is None else {"prompt": prompt, **settings}
    request = {k: as_text(v) if isinstance(v, Image.Image) else v for k, v in request.items()}
    response = runtime.invoke_endpoint(
        EndpointName=endpoint_name, ContentType="application/json", Body=json.dumps(request)
    )
    return json.loads(response["Body"].read())


def draw(prompt=None, **settings):
    """One picture."""
    return view.as_picture(ask(prompt, **settings)["images"][0])


def draw_all(prompt, seed=0, num_images=1, **settings):
    """Pictures with consecutive seeds, as many in one request as the model draws in time."""
    pictures = []
    while len(pictures) < num_images:
        count = min(num_images - len(pictures), workshop.model.at_once)
        answer = ask(prompt, seed=seed + len(pictures), num_images=count, **settings)
        pictures += [view.as_picture(image) for image in answer["images"]]
    return pictures


# %% [markdown]
# What the endpoint does is chosen by what a request carries:
#
# | the request has | the endpoint does | section |
# |---|---|---|
# | `prompt` | text-to-image | notebook 1 |
# | `prompt`, `image` | image-to-image | 3 |
# | `prompt`, `image`, `mask` | inpainting | 4, 5 |
# | `prompt`, `image`, `outpaint` | outpainting | 6 |
# | `image`, `upscale` | enlarging | 7 |
#
# No other model is loaded for any of the first four: it is the same network in the same loop. Only what the loop starts from differs, and what is put back into it on the way.
#
# <img src="images/editing.svg" alt="A bar is the loop of 20 steps, from nothing but noise on the left to the latents of a picture on the right. Text-to-image enters at its left end. Image-to-image enters with your picture and some noise: at strength 0.6 further left, with 12 steps to go, at strength 0.2 further right, with 4. Inpainting and outpainting put your picture back outside the mask after each step, with as much noise as that step has left." width="820">
#
# ## 3. Change a picture as a whole
#
# **Image-to-image** is text-to-image that starts in the middle. The picture is turned into latents $x_0$, and noise is added as in training:
#
# $$x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\varepsilon$$
#
# Then the loop runs from that $t$ on, with your prompt. How far up $t$ lies is the **strength**: at 0 no noise is added and nothing happens, at 1 nothing is left of the picture.
# What the noise has covered is drawn anew, and what shows through it stays.
#
# We will ask for three edits, each from a picture that the model draws itself. One can only edit what is there, so we take the first of a few pictures that shows all
# that its prompt says. (`shows` asks the judge of notebook 1, or, where the model is not ours, CLIP, a network that scores how well a text fits a picture.)

# %%
import transformers

transformers.logging.set_verbosity_error()  # no remarks about parts that we do not use
from editing import edits, shows


def first_right(wish, tries=8):
    """A picture of a wish: that of the first seed that shows it, or of the last one tried."""
    for seed in range(tries):
        picture = draw(wish.prompt, seed=seed)
        if shows(workshop.model, picture, wish):
            break
    return picture


tasks = edits(workshop.model)
originals = {wish: first_right(wish) for wish in {task.before: None for task in tasks}}
view.table(
    [(task.title, task.before.prompt, task.after.prompt) for task in tasks],
    columns=["edit", "the picture's prompt", "the new prompt"],
)

# %% [markdown]
# Each edit at six strengths, all with the same seed:

# %%
STRENGTHS = (0.2, 0.35, 0.5, 0.65, 0.8, 0.95)


def sweep(task, seeds):
    """For each strength the edited pictures, one for each seed."""
    request = {"image": originals[task.before], "seed": 1, "num_images": seeds}
    return [draw_all(task.after.prompt, strength=strength, **request) for strength in STRENGTHS]


edited = {task: sweep(task, TRIALS) for task in tasks}
view.picture_grid(
    [[originals[task.before], *(pictures[0] for pictures in edited[task])] for task in tasks],
    row_labels=[task.title for task in tasks],
    column_labels=["the picture", *(f"strength {strength}" for strength in STRENGTHS)],
    title="The same noise, more and more of it",
)

# %% [markdown]
# On the left the picture has won, on the right the prompt. Useful strengths lie between, and *where* may differ from edit to edit. Look for the turning point in each row before you go on.
#
# Now count. For each strength, of all seeds: does the picture show everything that the new prompt says?

# %%
from shared.pretraining.diffusion.evaluation import wilson

series, enough = {}, {}
for task in tasks:
    right = [
        sum(shows(workshop.model, picture, task.after, task.before) for picture in pictures)
        for pictures in edited[task]
    ]
    intervals = [wilson(count, TRIALS) for count in right]
    series[task.title] = ([count / TRIALS for count in right], *zip(*intervals))
    enough[task.title] = [s for s, count in zip(STRENGTHS, right) if 2 * count >= TRIALS]
view.line_with_interval(
    STRENGTHS,
    series,
    xlabel="strength",
    ylabel="share that shows the new prompt",
    alt="Share right by strength: "
    + "; ".join(f"{name}: {', '.join(f'{v:.0%}' for v in s[0])}" for name, s in series.items()),
)

# %% [markdown]
# (The bands are wide: each point is a handful of pictures. Set `TRIALS` higher to make them narrower.) And mind what counts as right. The judge takes the *nearest* named colour, so an olive ring passes for green, and no rule of
# it forbids a second moon. What is enough for the judge may not be enough for you.
#
# And what does it cost? The other side of each edit is how much of the picture moves. `moved` is the mean difference of the colour values, from 0 to 255. The last column is the yardstick: pictures of the new prompt that were drawn from nothing, and know nothing of ours.

# %%
import numpy as np
from editing import moved

rows = []
for task in tasks:
    fresh = draw_all(task.after.prompt, seed=100, num_images=TRIALS)
    away = [
        np.mean([moved(picture, originals[task.before]) for picture in pictures])
        for pictures in edited[task]
    ]
    unrelated = np.mean([moved(picture, originals[task.before]) for picture in fresh])
    rows.append((task.title, *(f"{value:.0f}" for value in away), f"{unrelated:.0f}"))
view.table(
    rows,
    columns=["how far it moved", *(f"at {strength}" for strength in STRENGTHS), "drawn from nothing"],
)

# %%
for title, strengths in enough.items():
    smallest = min(strengths, default="none")
    print(f"{title}: the smallest strength with half right or more: {smallest}")

# %% [markdown]
# That is the trade of image-to-image: one number for "how much of the picture" and "how much of the prompt", and no way to say *where*. With the same seed each time you can at least
# search for the smallest strength that is enough, as above. To say where, one needs a mask.
#
# A side effect: strength 0.5 of 20 steps computes only 10. Small changes are cheap.
#
# ## 4. Replace a part: inpainting
#
# A **mask** is a second picture of the same size: white where to draw anew, black where to keep. At each step the loop replaces the black part by the original, noised to the same level, and so
# the model draws the white part to fit what surrounds it. It was not trained for that; it only ever removes noise. At the end the handler puts the
# original's own pixels back into the black part, since the way through latents and back would have changed them a little.
#
# A mask by code is one call. Sides are shares of width and height, from the left and from the top:

# %%
from editing import replacement
from masks import area, box, ellipse, joined, overlay
from PIL import ImageOps

task = replacement(workshop.model)
picture = first_right(task.before)
right_half = box(picture.size, 0.5, 0, 1, 1)
view.picture_grid(
    [picture, ImageOps.expand(right_half, 1, 128), overlay(picture, right_half)],
    column_labels=["the picture", "the mask", "what will be drawn anew"],
    title=task.before.prompt,
    width=170,
)

# %% [markdown]
# The prompt describes the *whole* picture as it shall become, not just the part: the model looks at all of it.

# %%
results = draw_all(
    task.after.prompt, image=picture, mask=right_half, seed=1, num_images=TRIALS
)
verdicts = [shows(workshop.model, result, task.after, task.before) for result in results]
view.picture_grid(
    [[picture, *results]],
    column_labels=["before", *(f"seed {seed}" for seed in range(1, TRIALS + 1))],
    captions=[["", *("right" if verdict else "not right" for verdict in verdicts)]],
    title=task.after.prompt,
)

# %% [markdown]
# Was the rest left alone? Not nearly, exactly: compare each pixel outside the mask, in all results. (A large model's pictures carry the watermark of notebook 1, which moves every pixel by a few shades; `changed` leaves that out
# of account from 256 pixels up.)

# %% tags=["nbval-check-output"]
from editing import changed
from masks import inverted

outside = [changed(picture, result, inverted(right_half)) for result in results]
print("pixels that changed outside the mask:", sum(count for count, _ in outside))

# %% [markdown]
# ### How large a mask?
#
# The model can only draw the new thing if the mask has room for it, and if what is left of the old thing does not contradict the prompt. Three masks for the same wish:

# %%
masks = {
    "too small": ellipse(picture.size, 0.66, 0.42, 0.82, 0.58),
    "the right half": right_half,
    "nearly everything": box(picture.size, 0.1, 0.05, 0.95, 0.95),
}
rows, captions, counts = [], [], []
for mask in masks.values():
    pictures = draw_all(task.after.prompt, image=picture, mask=mask, seed=1, num_images=TRIALS)
    right = [shows(workshop.model, one, task.after, task.before) for one in pictures]
    rows.append([overlay(picture, mask), *pictures[:5]])
    captions.append(["", *("right" if verdict else "not right" for verdict in right[:5])])
    counts.append(f"{sum(right)} of {TRIALS} right")
view.picture_grid(
    rows,
    row_labels=[f"{label}: {count}" for label, count in zip(masks, counts)],
    captions=captions,
)

# %% [markdown]
# Look at *why* a picture is not right. Under a mask that is too small the new thing has no room, and the old one shows on all sides. Under one that is too large hardly
# anything is held: the circle, which should have stayed, is drawn anew, and a sliver of the old one peeps out at the left, which the judge mostly lets pass. Only your eyes say that this mask is worse.
#
# A mask can also *remove*: describe the picture without the thing.

# %%
from editing import removal

task = removal(workshop.model)
results = draw_all(task.after.prompt, image=picture, mask=right_half, seed=1, num_images=TRIALS)
verdicts = [shows(workshop.model, result, task.after, task.before) for result in results]
view.picture_grid(
    [[picture, *results]],
    captions=[["before", *("right" if verdict else "not right" for verdict in verdicts)]],
    title=task.after.prompt,
)

# %% [markdown]
# (The judge reads one red thing of the right shape, and is content. Are you? Where the edge of the mask cuts through the circle, look for a bump: the model had to guess how the circle goes on.)
#
# ## 5. A mask by hand
#
# Move the sliders until the stripes cover what you want to have drawn anew: what is striped is the mask. *Add* keeps the piece under the sliders, and you go on with another. Below the sliders stands the call that makes the same mask.

# %%
from masks import MaskEditor

editor = MaskEditor(picture)
editor.widget

# %% [markdown]
# `editor.mask` is the mask as it is now. Run the next cell after each change, with a prompt of your own. (If you change nothing, it uses the mask of the call in the cell: an ellipse and a box.)

# %%
by_call = joined(
    ellipse(picture.size, 0.55, 0.25, 0.95, 0.75), box(picture.size, 0.5, 0.85, 1, 1)
)
mask = editor.mask if editor.touched else by_call
wish = replacement(workshop.model).after
result = draw(wish.prompt, image=picture, mask=mask, seed=2)
view.picture_grid(
    [overlay(picture, mask), result],
    column_labels=[f"{area(mask):.0%} drawn anew", wish.prompt],
    width=200,
)

# %% [markdown]
# What happens with a mask that makes no sense? Guess before you look at each answer.

# %%
from botocore.exceptions import ClientError

attempts = {
    "a mask without a picture": {"mask": right_half},
    "an empty mask": {"image": picture, "mask": box(picture.size, 0, 0, 1, 1).point(lambda _: 0)},
    "not a picture": {"image": picture, "mask": base64.b64encode(b"white, please").decode()},
    "a mask of half the size": {"image": picture, "mask": right_half.reduce(2)},
    "strength 0": {"image": picture, "strength": 0},
}
rows = []
for label, settings in attempts.items():
    try:
        answer = ask(wish.prompt, seed=1, **settings)
        rows.append((label, f"accepted, as {answer['mode']}"))
    except ClientError as error:
        message = error.response.get("OriginalMessage") or str(error)
        rows.append((label, json.loads(message)["message"] if message[:1] == "{" else message))
view.table(rows, columns=["we send", "the endpoint says"])

# %% [markdown]
# (A mask of another size is scaled, as long as it has the proportions of the picture.)
#
# ## 6. Go on beyond the edges: outpainting
#
# **Outpainting** is inpainting with a larger canvas: the picture is put on it, and the mask is all that is new. `outpaint` says how many pixels to add at each side.
#
# The model has only ever seen pictures of one size, and the canvas is wider. That it works at all is because convolutions look at a neighbourhood, wherever it lies.

# %%
from editing import landscape

wish = landscape(workshop.model)
picture = first_right(wish)
more = picture.width // 2
margins = {"left": more, "right": more}
wide = [draw(wish.prompt, image=picture, outpaint=margins, seed=seed) for seed in (1, 2, 3)]
view.picture_grid(
    [[picture], *([one] for one in wide)],
    row_labels=["the picture", *(f"extended, seed {seed}" for seed in (1, 2, 3))],
    to_scale=True,
    width=512,
)

# %% [markdown]
# Is there a seam? If so, then the two columns of pixels on its sides differ more than neighbours do elsewhere. And the middle must still be the original.

# %%
from editing import steps_between_columns

rows = []
for seed, one in zip((1, 2, 3), wide):
    steps = steps_between_columns(one)
    middle = one.crop((more, 0, more + picture.width, picture.height))
    everything = box(picture.size, 0, 0, 1, 1)
    rows.append(
        (
            seed,
            changed(picture, middle, everything)[0],
            f"{steps[more - 1]:.1f}, {steps[more + picture.width - 1]:.1f}",
            f"{np.median(steps):.1f}",
            f"{steps.max():.1f}",
        )
    )
view.table(
    rows,
    columns=["seed", "original pixels that changed", "at the seams", "median", "largest"],
)

# %% [markdown]
# At the seams neighbouring columns differ by up to two or three times the median, and by far less than at the edge of a house: hardly a line to be seen. But look at the things. The prompt names a house and a tree, and so the model draws more of them in the new parts: it does not know that the canvas is larger than a picture, or
# that what it is asked for is there already. And what it begins on the new side cannot go on in the old one, which is fixed: where a sun touches the seam, it is cut off.
#
# From here to a panorama it is a loop: extend to the right, cut off what is new with some of the old, extend again.

# %%
panorama = picture
for step in range(3):
    known = panorama.crop((panorama.width - more, 0, panorama.width, panorama.height))
    longer = draw(wish.prompt, image=known, outpaint={"right": more}, seed=10 + step)
    canvas = Image.new("RGB", (panorama.width + more, panorama.height))
    canvas.paste(panorama, (0, 0))
    canvas.paste(longer.crop((more, 0, 2 * more, panorama.height)), (panorama.width, 0))
    panorama = canvas
view.picture_grid([panorama], alt=f"A panorama of {wish.prompt}", width=720)

# %% [markdown]
# ## 7. Enlarge: four times as wide, four times as high
#
# A picture of 128 × 128 pixels is small. To **upscale** it means to invent the pixels between. **Bicubic** interpolation puts a smooth curve through the known ones, and gives soft edges. A network that has seen many
# pairs of small and large pictures can guess where an edge was sharp. Ours is small ([how it was made and measured](../shared/models/upscaler/README.md)); it knows drawings and nothing else.
#
# To *measure*, one needs to know the truth. So: let the workshop's program draw large pictures, make them small, have them enlarged, and compare with the large ones.

# %%
from shared.image_quality import psnr, ssim
from shared.pretraining.upscaler.evaluation import held_out

truths = [held_out(kind, number) for number in range(4) for kind in ("single", "pair", "scene")]
smalls = [truth.reduce(4) for truth in truths]
ways = {
    "pixels repeated": [small.resize(truths[0].size, Image.Resampling.NEAREST) for small in smalls],
    "bicubic": [small.resize(truths[0].size, Image.Resampling.BICUBIC) for small in smalls],
    "the network": [draw(image=small, upscale=4) for small in smalls],
}
corner = (170, 150, 300, 280)
view.picture_grid(
    [
        [
            *(pictures[number].crop(corner) for pictures in ways.values()),
            truths[number].crop(corner),
        ]
        for number in (0, 4, 5)
    ],
    column_labels=[*ways, "the truth"],
    title="A piece of three of them",
    width=190,
)

# %% [markdown]
# Two numbers say how close to the truth:
#
# - **PSNR**, the peak signal-to-noise ratio: $10 \log_{10}(255^2 / \mathrm{mean\ squared\ error})$ in decibels (dB). 3 dB more is half the squared error.
# - **SSIM**, the structural similarity: compares means, contrasts and patterns in small windows, 1 for equal pictures. It punishes what PSNR does not mind, such as a blur of a fine pattern.

# %%
rows = []
for name, pictures in ways.items():
    decibels = [psnr(one, truth) for one, truth in zip(pictures, truths)]
    similar = [ssim(one, truth) for one, truth in zip(pictures, truths)]
    gains = np.subtract(
        decibels, [psnr(one, truth) for one, truth in zip(ways["bicubic"], truths)]
    )
    half = 1.96 * gains.std(ddof=1) / len(gains) ** 0.5
    rows.append(
        (name, f"{np.mean(decibels):.1f}", f"{np.mean(similar):.3f}",
         f"{gains.mean():+.1f}", f"{gains.mean() - half:+.1f} to {gains.mean() + half:+.1f}")
    )  # fmt: skip
view.table(rows, columns=["enlarged by", "PSNR, dB", "SSIM", "over bicubic, dB", "95% interval"])

# %% [markdown]
# Compare the gain in PSNR with that in SSIM, and both with what you see. From 256 pixels up the endpoint writes an invisible watermark into each picture (notebook 1, section 11). It changes each
# pixel by a shade or two, which in a flat area is all the pattern there is, and SSIM looks for patterns. So run the same network here, where nothing is written into the picture, and see what the watermark costs:

# %%
sys.path.insert(0, "code")
from upscaler import load_upscaler, upscale

from shared.diffusion_catalogue import UPSCALER_FOLDER

network = load_upscaler(UPSCALER_FOLDER)
unmarked = [upscale(network, small) for small in smalls]
rows = [
    (
        label,
        f"{np.mean([psnr(one, truth) for one, truth in zip(pictures, truths)]):.1f}",
        f"{np.mean([ssim(one, truth) for one, truth in zip(pictures, truths)]):.3f}",
    )
    for label, pictures in {"marked": ways["the network"], "not marked": unmarked}.items()
]
view.table(rows, columns=["the network's pictures", "PSNR, dB", "SSIM"])

# %% [markdown]
# Now a picture that the model drew (of a large one, the middle). Here nobody knows the truth, so there is nothing to measure, and the network may invent an edge where the model drew a soft one.

# %%
prompt = workshop.model.prompts[0]
drawn = draw(prompt, seed=3)
left, top = (drawn.width - 128) // 2, (drawn.height - 128) // 2
small = drawn.crop((left, top, left + 128, top + 128))
large = draw(image=small, upscale=4)
bicubic = small.resize(large.size, Image.Resampling.BICUBIC)
view.picture_grid(
    [bicubic, large],
    column_labels=["bicubic", "the network"],
    title=f"{prompt}, {large.width} pixels wide",
    width=400,
)

# %% [markdown]
# (A prompt and `"upscale": 4` may go in one request, too: the picture is drawn, then enlarged.)
#
# Stable Diffusion has an upscaler of its own, which is a diffusion model again: it starts from noise, is told the small picture and a prompt, and draws the large one
# (`stabilityai/stable-diffusion-x4-upscaler`, 3.5 GB, minutes on a processor, seconds on a graphics card). The next cell uses it when the computer that runs this notebook has one.

# %%
import torch

if torch.cuda.is_available():
    from diffusers import StableDiffusionUpscalePipeline

    their = StableDiffusionUpscalePipeline.from_pretrained(
        "stabilityai/stable-diffusion-x4-upscaler", variant="fp16", dtype=torch.float16
    ).to("cuda")
    pictures = [their("a flat drawing", image=small).images[0] for small in smalls]
    decibels = [psnr(one, truth) for one, truth in zip(pictures, truths)]
    print(f"Stable Diffusion's upscaler: PSNR {np.mean(decibels):.1f} dB")
else:
    print("No graphics card here: Stable Diffusion's upscaler is left out.")

# %% [markdown]
# ## 8. Walk from picture to picture
#
# Seed and prompt are points in a space, and between two points there are others. To walk, we need the noise itself, which an endpoint does not take; so this section loads the embedded model here, as in
# section 3 of notebook 1.
#
# Which way? The straight line $(1-w)\,a + w\,b$ leads through the wrong places. Noise of $n$ numbers lies close to a sphere of radius $\sqrt{n}$, and the middle of a straight line between two points of it lies inside, where
# no noise ever was in training. **Spherical interpolation** walks along the sphere: with the angle $\theta$ between $a$ and $b$ it is
# $\frac{\sin((1-w)\theta)}{\sin\theta}\,a + \frac{\sin(w\theta)}{\sin\theta}\,b$. For independent noises $\theta$ is nearly $\pi/2$, which leaves $\cos(w\pi/2)\,a + \sin(w\pi/2)\,b$.

# %%
transformers.logging.disable_progress_bar()
from diffusers import StableDiffusionPipeline
from diffusers.utils.logging import disable_progress_bar

from shared.diffusion_catalogue import find

disable_progress_bar()
own = workshop.model if workshop.model.scored_by == "judge" else find("embedded")
pipe = StableDiffusionPipeline.from_pretrained(own.weights, dtype=torch.float32)
pipe.set_progress_bar_config(disable=True)
side = pipe.unet.config.sample_size


def noise(seed):
    """The latents that a picture starts from."""
    return torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(seed))


def on_the_line(a, b, w):
    """The straight way."""
    return (1 - w) * a + w * b


def on_the_sphere(a, b, w):
    """The way along the sphere."""
    angle = torch.arccos((a * b).sum() / (a.norm() * b.norm()))
    return (torch.sin((1 - w) * angle) * a + torch.sin(w * angle) * b) / torch.sin(angle)


WAY = torch.linspace(0, 1, 13)
start, end = noise(0), noise(1)
rows = [
    (way.__name__, *(f"{way(start, end, w).norm():.0f}" for w in WAY[::3]))
    for way in (on_the_line, on_the_sphere)
]
view.table(rows, columns=["length of the noise", *(f"w = {w:.2f}" for w in WAY[::3])])

# %% [markdown]
# On the line the noise in the middle is too short by a factor of $\sqrt{2}$. What does the model make of it? We walk between two seeds and, at the same time, between two prompts (their vectors have no sphere; the line will do).


# %%
def walk(way, first, last):
    """Pictures on the way from one prompt and seed to another."""
    with torch.inference_mode():
        texts = [pipe.encode_prompt(text, "cpu", 1, True, "") for text in (first, last)]
        (one, nothing), (other, _) = texts
        return pipe(
            prompt_embeds=torch.cat([on_the_line(one, other, w) for w in WAY]),
            negative_prompt_embeds=nothing.expand(len(WAY), -1, -1),
            latents=torch.cat([way(start, end, w) for w in WAY]),
            num_inference_steps=own.steps,
            guidance_scale=own.guidance_scale,
        ).images


ring_to_heart = edits(own)[1]
ends = ring_to_heart.before.prompt, ring_to_heart.after.prompt
ways = {way.__name__: walk(way, *ends) for way in (on_the_line, on_the_sphere)}
view.picture_grid(
    [frames[::2] for frames in ways.values()],
    row_labels=["on the line", "on the sphere"],
    column_labels=[f"w = {w:.2f}" for w in WAY[::2]],
    title=" to ".join(ends),
)

# %%
frames = ways["on_the_sphere"]
view.animation(
    [*frames, *frames[-2:0:-1]], alt=f"A walk from {ends[0]} to {ends[1]} and back", width=256
)

# %% [markdown]
# Is it a walk, or a jump? Measure the length of each stride, and ask the judge what each frame shows.

# %%
from itertools import pairwise

rows = []
for name, frames in ways.items():
    strides = [moved(one, other) for one, other in pairwise(frames)]
    before, after = (
        sum(shows(own, frame, wish) for frame in frames)
        for wish in (ring_to_heart.before, ring_to_heart.after)
    )
    rows.append(
        (name.replace("_", " "), f"{np.mean(strides):.1f}", f"{max(strides):.1f}",
         before, after, len(frames) - before - after)
    )  # fmt: skip
view.table(
    rows,
    columns=["way", "mean stride", "longest", "frames that show the first", "the last", "neither"],
)

# %% [markdown]
# The noise changes evenly, by the same angle at each step. The picture does not: compare the longest stride with the mean. Between two kinds of thing that were drawn in training lies nothing that was, and so somewhere on the way
# one has to become the other, within few steps. Frames that show "neither" are on that stretch.
#
# And line against sphere? With a prompt that says what to draw, this model makes do with too little noise, too, and the two ways hardly differ. Without a prompt it matters more: notebook 0, section 7, measures that.
#
# ## 9. Clean up

# %% tags=["nbval-check-output"]
price = workshop.model.price_per_hour
print("Price:", workshop.model.price_note)
print(f"On AWS, 30 minutes of one {workshop.model.instance_type}: {price / 2:.2f} USD.")
print(f"This run: {workshop.price_per_hour:.2f} USD per hour ({workshop.backend}).")

# %%
if KEEP:
    print("Kept, and on AWS still costing money:", endpoint_name)
else:
    workshop.cleanup()

# %% [markdown]
# ## What you learned
#
# - Image-to-image starts the loop in the middle. Strength decides how much of the picture the noise covers, and which strength is enough depends on the edit: measure.
# - Inpainting says *where*. Outside the mask the picture stays as it was, pixel for pixel; inside, the prompt describes the whole picture.
# - Outpainting is inpainting on a larger canvas. Seams and repetitions can be measured and seen.
# - Enlarging invents. With a truth to compare with, PSNR and SSIM say how well; without one, they say nothing.
# - Between noises one walks on the sphere, since noise lives there. With a prompt it hardly mattered here; notebook 0 measures it without one.
#
# **Check yourself** (answers in [solutions/2-edit-images.md](solutions/2-edit-images.md)):
#
# 1. You want the same room at night, with all furniture in place. Image-to-image at strength 0.9, or at 0.4? What else could you try?
# 2. An inpainted face looks like nobody, though the mask covers only the mouth. Why is the rest of the face identical, and is that proof that the edit is harmless?
# 3. An upscaler gains 2 dB over bicubic on the maker's test pictures. What would you ask before you use it on X-ray images?
# 4. Why does strength 0.3 take a third of the time?
# 5. Somebody interpolates on the line, without a prompt, and finds the pictures in the middle too flat. What went wrong?
#
# **Exercises**, with answers in the same file:
#
# - *Closer.* Find, for each of the three edits, the smallest strength at which all of your trials are right. How many trials do you need to be sure of 90%?
# - *Chain.* Apply image-to-image at strength 0.3 ten times in a row with the same prompt. Does the picture stay, drift, or fall apart? Measure with `moved`.
# - *The prompt's part.* Inpaint with a prompt that describes only the new thing, without the rest. Count again.
# - *Enlarge twice.* Send a piece of the enlarged picture through the upscaler once more. What does 16 times look like, and what does it cost? What happens with the whole picture?
#
# **Another model.** Set `MODEL` in the first cell to `"stable-diffusion-1.5"` or `"sdxl"`, and `TRIALS` to 3, on a rented graphics card.
#
# **Next:** [3-personalise](3-personalise.ipynb) teaches the model what it cannot draw.
