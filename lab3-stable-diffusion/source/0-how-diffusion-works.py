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
# # How diffusion works
#
# **Lab 3, notebook 0, to go further.** A picture is destroyed by noise, step by step. A network learns to guess the noise. Then the film runs backwards, from noise that nobody
# has seen before to a picture that nobody has drawn. You build all of it here, train it in a minute, and then take the two steps from there to Stable Diffusion: latents and text.
#
# When you are done you will be able to
#
# - mix a picture with noise by the equation, and show that a thousand small steps and one large one are the same;
# - say what a noise schedule, a sinusoidal embedding, a U-Net, a residual block and EMA weights are for, with a measurement for each;
# - train a denoiser, run it backwards, and choose a number of steps;
# - explain what an autoencoder keeps of a picture, what makes it *variational*, and why that makes Stable Diffusion affordable;
# - explain how words steer a picture: contrastive training, and guidance.
#
# | | on your laptop | on AWS |
# |---|---|---|
# | **time** | about 60 minutes of reading, 2 of computing | the same, in SageMaker Studio |
# | **cost** | nothing | nothing but Studio itself: the notebook deploys nothing |
# | **you need** | this repository, set up by `make jupyter` | `pip install -r requirements.txt` in a terminal of Studio, once |
#
# You should know some Python. Two words of mathematics help: *variance* says how far numbers spread around their average, and *deviation* is its square root.

# %% tags=["parameters"]
BACKEND = "auto"  # as in all notebooks; this one deploys nothing, so it makes no difference
TRAINING_STEPS = 500  # of the small denoiser in section 6: about a minute on two cores
MODEL_FOLDER = "../shared/models/diffusion"  # the embedded Stable Diffusion, from section 9 on

# %%
import sys

sys.path.insert(0, "..")  # the folder that holds `shared`, the code that all labs use
from shared import display as view  # IPython has a `display` of its own

view.style()

# %% [markdown]
# ## 1. Pick a picture, some noise, an amount
#
# We need pictures that a laptop can learn in a minute. The repository has a program that draws as many as you like; here are small landscapes, 32 × 32 pixels.

# %%
from random import Random

from shared.pretraining.pictures.drawing import draw
from shared.pretraining.pictures.sampling import scene

rng = Random(0)
scenes = [scene(rng) for _ in range(4256)]
drawn = [draw(description, side=32) for description in scenes]
view.picture_grid(
    [drawn[:8], drawn[8:16]], alt="Sixteen landscapes: houses, trees, boats, mountains", width=96
)

# %% [markdown]
# A network takes numbers, best around zero with variance one. So each colour value is shifted and stretched. Three numbers for each pixel, all pictures in one tensor; the last 256 are laid aside and never
# trained on.

# %%
import numpy as np
import torch

values = torch.from_numpy(np.stack([np.asarray(picture) for picture in drawn])) / 255
middle, spread = values.mean(), values.std()
pictures = ((values - middle) / spread).permute(0, 3, 1, 2)  # pictures, colours, height, width
training, unseen = pictures[:4000], pictures[4000:]
print(f"{tuple(pictures.shape)}, mean {pictures.mean():.3f}, variance {pictures.var():.3f}")


def shown(pictures):
    """Pictures of our tensor as arrays that can be looked at."""
    return list((pictures * spread + middle).clamp(0, 1).permute(0, 2, 3, 1).numpy())


# %% [markdown]
# Now the whole idea of the first half, in one line. Take a picture $x_0$. Take noise $\varepsilon$: a picture of random numbers, each from a normal distribution with mean 0 and variance 1. Choose an amount $a$ between 0 and 1, and mix:
#
# $$x = \sqrt{1-a}\;x_0 + \sqrt{a}\;\varepsilon$$


# %%
def mixed(picture, noise, amount):
    """A picture with an amount of noise from 0 (none) to 1 (nothing else)."""
    return (1 - amount) ** 0.5 * picture + amount**0.5 * noise


torch.manual_seed(0)
AMOUNTS = (0, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95, 1)
rows = [training[3], training[8]]
rows = [torch.stack([mixed(row, torch.randn_like(row), a) for a in AMOUNTS]) for row in rows]
view.picture_grid(
    [shown(row) for row in rows],
    column_labels=[f"a = {amount}" for amount in AMOUNTS],
    alt="Two landscapes with more and more noise, until only noise is left",
    width=96,
)

# %% [markdown]
# Look from right to left, and ask at which amount *you* can first say "a boat", "night". That is what the network will have to do.
#
# Why the square roots? Variances of independent things add up. With the roots the variance of the mixture is $(1-a) + a = 1$, whatever the amount. With plain shares, the picture would turn
# pale in the middle, and the network would have to deal with that as well. Measured:

# %%
noise = torch.randn_like(training)
rows = []
for amount in (0, 0.25, 0.5, 0.75, 1):
    plain = (1 - amount) * training + amount * noise
    rows.append((amount, *(f"{x.var():.3f}" for x in (mixed(training, noise, amount), plain))))
view.table(rows, columns=["amount", "variance with roots", "variance without"])

# %% [markdown]
# ## 2. Forward diffusion
#
# <img src="images/diffusion-chain.svg" alt="Two chains between a picture of a house and pure noise. Forward, to the right, each step keeps most of the picture and adds a little noise; it is a formula and needs no network. Backward, to the left, each step removes some of the noise; a network guesses what the noise is. An arc jumps from the picture to any step at once." width="760">
#
# The theory, and the name *diffusion*, come from physics: a drop of ink spreads in water by many small random pushes. So does our picture, in $T$ steps. Step $t$ shrinks what is there a little and adds a little noise, as much as
# $\beta_t$ says:
#
# $$q(x_t \mid x_{t-1}) = \mathcal{N}\!\left(\sqrt{1-\beta_t}\;x_{t-1},\ \beta_t I\right)$$
#
# Read: given $x_{t-1}$, the next $x_t$ is drawn from a normal distribution with mean $\sqrt{1-\beta_t}\,x_{t-1}$ and variance $\beta_t$, every pixel by itself (that is the $I$). The first paper that made good pictures this way
# ([Ho et al. 2020](https://arxiv.org/abs/2006.11239)) took $T = 1000$ steps, with $\beta_t$ rising from 0.0001 to 0.02. Let us watch one bright and one dark pixel go the way, many times each.

# %%
T = 1000
betas = torch.linspace(0.0001, 0.02, T, dtype=torch.float64)


def walk(start, walkers=4000):
    """Where many walkers from `start` are after each step: (T + 1) × walkers."""
    places = [torch.full((walkers,), start)]
    for beta in betas.tolist():
        push = torch.randn(walkers)
        places.append((1 - beta) ** 0.5 * places[-1] + beta**0.5 * push)
    return torch.stack(places)


BRIGHT, DARK = 2.0, -1.2
walks = {BRIGHT: walk(BRIGHT), DARK: walk(DARK)}

# %% [markdown]
# One does not have to walk. A sum of independent normal noises is again one normal noise, and its variance is the sum of theirs. If $\bar\alpha_t = (1-\beta_1)(1-\beta_2)\cdots(1-\beta_t)$ is what all shrinking up to step $t$ has left,
# then
#
# $$q(x_t \mid x_0) = \mathcal{N}\!\left(\sqrt{\bar\alpha_t}\;x_0,\ (1-\bar\alpha_t) I\right) \qquad\text{or}\qquad x_t = \sqrt{\bar\alpha_t}\;x_0 + \sqrt{1-\bar\alpha_t}\;\varepsilon$$
#
# The right-hand form is the **reparameterised** one: the randomness is moved into an $\varepsilon$ that depends on nothing, and the rest is arithmetic. It is section 1's equation, with $a = 1-\bar\alpha_t$. In the figure the thin lines are walkers that went
# step by step, the thick lines what the formula says: the mean, and the range that should hold 95% of them.

# %%
from matplotlib import pyplot

kept = torch.cumprod(1 - betas, dim=0)
steps = torch.arange(1, T + 1)
figure, axis = pyplot.subplots(figsize=(8.4, 3.6))
for (start, places), colour in zip(walks.items(), view.COLOURS):
    axis.plot(places[:, :30], color=colour, alpha=0.18, linewidth=0.7)
    mean, reach = kept.sqrt() * start, 1.96 * (1 - kept).sqrt()
    axis.plot(steps, mean, color=colour, linewidth=2.5, label=f"pixel that was {start}")
    for edge in (mean - reach, mean + reach):
        axis.plot(steps, edge, color=colour, linewidth=1.5, linestyle="--")
axis.set(
    xlabel="step t", ylabel="value", xlim=(0, T), title="Two pixels forget where they came from"
)
axis.legend(loc="upper right")
view.show(
    figure,
    alt="Random walks of a bright and of a dark pixel over 1000 steps. They begin apart and end "
    "in the same cloud around zero; the formula's mean and 95% lines follow them.",
)

# %%
rows = []
for start, places in walks.items():
    for step in (10, 100, 300, 1000):
        mean, deviation = kept[step - 1].sqrt() * start, (1 - kept[step - 1]).sqrt()
        inside = ((places[step] - mean).abs() < 1.96 * deviation).double().mean()
        found = places[step].mean(), mean, places[step].std(), deviation
        rows.append((start, step, *(f"{value:.3f}" for value in found), f"{inside:.1%}"))
view.table(
    rows,
    columns=["pixel", "step", "mean", "formula", "deviation", "formula", "within the 95% lines"],
    caption="4,000 walkers each",
)

# %% [markdown]
# Counting agrees as far as counting can. The claim can also be checked to the last digit. In the chain, the noise of step $s$ is multiplied by every later shrinking, so its weight in $x_t$ is
# $\sqrt{\beta_s\,\bar\alpha_t/\bar\alpha_s}$. We take one picture and 1000 noises, walk the chain, and beside it put the noises together into one $\varepsilon$ and jump.

# %%
picture = training[3].double()
noises = torch.randn(T, *picture.shape, dtype=torch.float64)
chain = [picture]
for beta, noise in zip(betas, noises):
    chain.append((1 - beta).sqrt() * chain[-1] + beta.sqrt() * noise)


def jump(step):
    """The picture at `step` in one go, and the sum of the squared weights of its one noise."""
    signal = kept[step - 1]
    weights = (betas[:step] * signal / kept[:step] / (1 - signal)).sqrt()
    one_noise = torch.einsum("s,schw->chw", weights, noises[:step])
    return signal.sqrt() * picture + (1 - signal).sqrt() * one_noise, weights.square().sum()


STOPS = (1, 50, 100, 200, 300, 450, 700, 1000)
jumps = [jump(step) for step in STOPS]
view.picture_grid(
    [
        shown(torch.stack([chain[step] for step in STOPS])),
        shown(torch.stack([x for x, _ in jumps])),
    ],
    row_labels=["walked", "jumped"],
    column_labels=[f"t = {step}" for step in STOPS],
    width=84,
)

# %%
rows = [
    (step, f"{total:.12f}", f"{(chain[step] - x).abs().max():.1e}")
    for step, (x, total) in zip(STOPS, jumps)
]
view.table(rows, columns=["step", "squared weights add up to", "largest difference of any pixel"])

# %% [markdown]
# The squared weights add up to one, so the one noise has variance one, and the two ways differ by rounding. This is worth gold in training: to show the network a picture at step 700, nobody has to walk 700 steps.
#
# ## 3. Schedules: how fast?
#
# The list of all $\beta_t$, and so of all $\bar\alpha_t$, is the **noise schedule**. From here on time runs from $t = 0$ (picture) to $t = 1$ (noise), and we look at three schedules by two factors:
# **signal** $=\sqrt{\bar\alpha}$ and **noise** $=\sqrt{1-\bar\alpha}$. Their squares add up to one, so they are the cosine and the sine of some angle.
#
# - **linear**: the one above, in which $\beta_t$ grows evenly.
# - **cosine** ([Nichol and Dhariwal 2021](https://arxiv.org/abs/2102.09672)): the angle itself grows evenly from 0 to a right angle.
# - **offset cosine**: the same, but it starts a little later and stops a little earlier.

# %%
from math import acos, pi


def linear(t):
    """(signal, noise) at the times t, a tensor of numbers from 0 to 1."""
    share = kept[(t * (T - 1)).round().long()].float()
    return share.sqrt(), (1 - share).sqrt()


def cosine(t):
    """The same, by an angle that grows evenly."""
    return (t * pi / 2).cos(), (t * pi / 2).sin()


def offset_cosine(t, most=0.98, least=0.02):
    """The same, from the signal `most` to the signal `least`."""
    angle = acos(most) + t * (acos(least) - acos(most))
    return angle.cos(), angle.sin()


schedules = {"linear": linear, "cosine": cosine, "offset cosine": offset_cosine}
t = torch.linspace(0, 1, 401)
figure, (left, right) = pyplot.subplots(1, 2, figsize=(9.6, 3.4))
for (name, schedule), style in zip(schedules.items(), ("-", "--", "-")):
    signal, noise = schedule(t)
    left.plot(t, signal**2, style, label=name)
    right.plot(t[4:-4], 2 * torch.log10(signal / noise)[4:-4], style, label=name)
left.set(title="Share of the variance that is picture", xlabel="time t")
right.set(title="Signal over noise, in powers of ten", xlabel="time t", ylim=(-4.5, 4.5))
right.axhline(0, color="#8a8a8a", linewidth=1)
left.legend()
view.show(
    figure,
    alt="The share of the picture over time for three schedules. The linear one falls early and is "
    "near zero for the last third; the two cosines fall evenly.",
)

# %%
t = torch.linspace(0, 1, 8)
rows = []
for schedule in schedules.values():
    signal, noise = (factor[:, None, None, None] for factor in schedule(t))
    rows.append(shown(signal * training[10] + noise * torch.randn(8, 3, 32, 32)))
view.picture_grid(
    rows, row_labels=list(schedules), column_labels=[f"t = {x:.2f}" for x in t], width=84
)

# %% [markdown]
# With the linear schedule the last third of the time is spent on pictures in which nothing is left to see: steps that cost as much as any other and teach little. The cosine wastes less. Its own trouble is at the ends. To get from a guessed noise to the picture one divides by
# the signal, and an error in the guess grows by noise/signal. At $t = 1$ the cosine divides by nothing at all. Hence the offset, and hence our choice. In numbers:

# %%
t = torch.linspace(0, 1, 10_001)
rows = []
for name, schedule in schedules.items():
    signal, noise = schedule(t)
    drowned, clear = (signal**2 < 0.01).float().mean(), (noise**2 < 0.01).float().mean()
    growth = (noise[-1] / signal[-1]).abs()
    rows.append((name, f"{drowned:.0%}", f"{clear:.0%}", f"{growth:,.0f}"))
view.table(
    rows,
    columns=[
        "schedule",
        "time with < 1% picture",
        "time with < 1% noise",
        "errors grow at t = 1 by",
    ],
)


# %%
def rates(t):
    """Signal and noise of our schedule, shaped to multiply pictures with."""
    signal, noise = offset_cosine(t)
    return signal[:, None, None, None], noise[:, None, None, None]


# %% [markdown]
# ## 4. Telling the network how much noise there is
#
# A grain in a nearly clean picture is noise; the same grain in a nearly drowned one may be the mast of a boat. So the network is told the time. A single number is a poor way to say it: layers of a network are made of sums and products, and to react to a narrow range of one number takes
# many of them. The remedy is borrowed from clocks, which tell the time by hands of different speeds. The **sinusoidal embedding** gives the sine and the cosine of the time at 16 speeds: 32 numbers.

# %%
from small_unet import sinusoidal_embedding

t = torch.linspace(0, 1, 2000)
hands = sinusoidal_embedding(t, width=32)
figure, (left, right) = pyplot.subplots(1, 2, figsize=(9.6, 3.2))
left.imshow(hands.T, aspect="auto", extent=(0, 1, 32, 0), cmap="RdBu", interpolation="nearest")
left.set(title="32 numbers for every time", xlabel="time t", ylabel="sines, then cosines")
right.plot(t, hands @ hands[600] / 16, linewidth=1.5)
right.set(title="How alike are other times to 0.3?", xlabel="time t", xlim=(0.2, 0.4))
right.set(ylim=(0, 1.05))
for axis in (left, right):
    axis.grid(False)
view.show(
    figure,
    alt="Left, waves from slow to fast over the time. Right, the similarity of the time 0.3 with "
    "its neighbours: one at the time itself, falling quickly to both sides.",
)

# %% [markdown]
# Does it help? We ask how well *one* linear layer can make three functions of the time, from the bare number and from the 32. (1 is perfect, 0 is no better than a constant.)


# %%
def explained(inputs, target):
    """The share of the target's variance that the best linear layer on these inputs gets right."""
    inputs = torch.cat([inputs, torch.ones(len(inputs), 1)], dim=1).double().numpy()
    weights = np.linalg.lstsq(inputs, target.numpy())[0]
    return f"{1 - (target.numpy() - inputs @ weights).var() / target.numpy().var():.2f}"


targets = {
    "the signal of our schedule": offset_cosine(t)[0],
    "a wave, sin(20 t)": (20 * t).sin(),
    "1 from t = 0.4 to 0.6, else 0": ((t > 0.4) & (t < 0.6)).float(),
}
rows = [(name, explained(t[:, None], y), explained(hands, y)) for name, y in targets.items()]
view.table(rows, columns=["function of the time", "from t itself", "from the embedding"])

# %% [markdown]
# ## 5. The network: a U-Net
#
# <img src="images/unet.svg" alt="A U-Net. On the left, the noisy picture goes down through three levels, each half as large as the one before, with a residual block on each. In the middle are two blocks at the lowest level. On the right it comes up again by upsampling and convolving. On every level a copy of the left side is handed across to the right. The embedded time enters every block. Below, a residual block: norm, activation, convolution, twice; the time scales and shifts in the middle; what came in is added at the end." width="760">
#
# What goes in is a picture, what comes out is another of the same size, so a network of one size throughout would do. But to see that something is a boat, one has to look at a large part of the picture at once, and on a small picture a 3 × 3 convolution
# sees far. So the **U-Net** ([Ronneberger et al. 2015](https://arxiv.org/abs/1505.04597)) halves the picture several times and enlarges it again. What is lost in halving, such as which pixel exactly was noisy, is handed across on each level.

# %%
from small_unet import ResidualBlock, SmallUNet
from torch import nn

WIDTHS = (16, 48, 96, 96)  # channels at 32 × 32, 16 × 16, 8 × 8 and 4 × 4 pixels
torch.manual_seed(1)
network = SmallUNet(widths=WIDTHS)
rows = []
for name, part in network.named_modules():
    if isinstance(part, (ResidualBlock, nn.Conv2d)) and name.count(".") < 2:
        count = sum(weights.numel() for weights in part.parameters())
        part.register_forward_hook(
            lambda _, inputs, output, name=name, count=count: rows.append(
                (
                    name,
                    *("{} × {} × {}".format(*x.shape[1:]) for x in (inputs[0], output)),
                    f"{count:,}",
                )
            )
        )
with torch.inference_mode():
    network(training[:1], torch.tensor([0.5]))
view.table(rows, columns=["part", "in: channels × height × width", "out", "weights"])

# %% [markdown]
# Follow the numbers down and up again: where `up.0` takes in more channels than `grow.0` gave out, the copy from the left side has joined. Now one block in detail:

# %%
from inspect import getsource

print(getsource(ResidualBlock))

# %% [markdown]
# The last line is what makes it **residual** ([He et al. 2015](https://arxiv.org/abs/1512.03385)): the block computes a *change*, which is added to what came in. So a block that has learned nothing yet does no harm, and the training signal has a straight way from the end
# of the network to its beginning. Does it matter? We stack 2, 8 and 24 convolutions, with and without the addition, and train each for some seconds to remove noise from small patches. Only the addition differs.

# %%
from torch.nn.functional import mse_loss


class Stack(nn.Module):
    """So many convolutions one after the other, each added to what came in, or not."""

    def __init__(self, depth, residual, width=16):
        super().__init__()
        self.residual = residual
        self.first, self.last = nn.Conv2d(3, width, 1), nn.Conv2d(width, 3, 1)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.GroupNorm(4, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1))
            for _ in range(depth)
        )

    def forward(self, found):
        found = self.first(found)
        for layer in self.layers:
            found = found + layer(found) if self.residual else layer(found)
        return self.last(found)


def trained(network, inputs, targets, steps, batch=16, rate=3e-3):
    """Train a network to turn inputs into targets; gives the mean loss of the last ten steps."""
    optimizer, losses = torch.optim.Adam(network.parameters(), lr=rate), []
    for _ in range(steps):
        chosen = torch.randint(len(inputs), (batch,))
        loss = mse_loss(network(inputs[chosen]), targets[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses[-10:]) / 10


patches = training[:, :, 14:22, 12:20]  # 8 × 8 pixels from the middle: walls, roofs, sails
noisy = mixed(patches, torch.randn_like(patches), 0.2)
rows = []
for depth in (2, 8, 24):
    found = []
    for residual in (False, True):
        torch.manual_seed(2)
        found.append(f"{trained(Stack(depth, residual), noisy, patches, steps=100):.3f}")
    rows.append((depth, *found))
view.table(rows, columns=["convolutions", "loss without the addition", "with it"])

# %% [markdown]
# The other detail to look at is the way up. The obvious opposite of a convolution that halves is a *transposed* convolution: every pixel paints a 3 × 3 stamp into a picture of twice the size. The stamps overlap, and not evenly. With all weights and all inputs one, each number
# below counts how many stamps have touched a pixel.


# %%
def by_transposed(before, after):
    """Twice the size, by a transposed convolution."""
    return nn.ConvTranspose2d(before, after, 3, stride=2, padding=1, output_padding=1)


def by_upsampling(before, after):
    """Twice the size: every pixel four times, then a convolution that keeps the size."""
    return nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(before, after, 3, padding=1))


WAYS = {"transposed convolution": by_transposed, "upsample, then convolve": by_upsampling}
with torch.inference_mode():
    for name, way in WAYS.items():
        layer = way(1, 1)
        for weights in layer.parameters():
            weights.fill_(1.0 if weights.dim() == 4 else 0.0)
        print(name, layer(torch.ones(1, 1, 8, 8))[0, 0, 4:8, 4:12].int(), sep="\n")

# %% [markdown]
# A **checkerboard** ([Odena et al. 2016](https://distill.pub/2016/deconv-checkerboard/)). A network can learn weights that even it out, but it starts with the pattern and has to. We let two small networks that differ in nothing else learn to enlarge landscapes from 16 to 32 pixels, and look before and after.
# The number is the pattern: by how much the four places of a 2 × 2 square differ on a picture of a single colour, where they should not differ at all.

# %%
small = nn.functional.avg_pool2d(training, 2)
flat = torch.linspace(-1, 1, 5)[:, None, None, None].expand(5, 3, 16, 16)


@torch.inference_mode()
def pattern(network):
    """Deviation among the places of 2 × 2 squares, on flat pictures, away from the border."""
    inner = network(flat)[:, :, 4:-4, 4:-4]
    places = inner.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).mean((2, 4))
    return places.flatten(2).std(2).mean().item()


rows, captions = [[shown(training[6:7])[0]], [None]], [["the original"], [""]]
for way in WAYS.values():
    torch.manual_seed(3)
    network = nn.Sequential(nn.Conv2d(3, 24, 3, padding=1), nn.SiLU(), way(24, 3))
    for row, steps in ((0, 0), (1, 300)):
        loss = trained(network, small, training, steps, rate=2e-3) if steps else None
        with torch.inference_mode():
            rows[row].append(shown(network(small[6:7]))[0])
        captions[row].append(f"pattern {pattern(network):.3f}")
view.picture_grid(
    rows,
    row_labels=["untrained", "trained"],
    column_labels=["", *WAYS],
    captions=captions,
    alt="The untrained transposed convolution shows a checkerboard, the other way does not",
    width=160,
)

# %% [markdown]
# Hence our U-Net, and Stable Diffusion's, repeat pixels first and convolve then.
#
# ## 6. Train it
#
# The task for each example: draw a picture, noise and a time; mix them; let the network guess the noise; the loss is the mean squared error of its guess. One subtlety makes the training much quicker. At the end of the chain
# the noisy picture *is* nearly the noise, so it is a good guess by itself, and the network need only supply what is missing to it:
#
# $$\hat\varepsilon = \mathrm{noise}(t)\cdot x_t + \mathrm{signal}(t)\cdot \mathrm{network}(x_t, t)$$
#
# (What the network itself puts out is then called $v$; we meet it again in section 11. A network that gives 0 everywhere is a fair start, and ours begins so.)

# %%
BATCH = 32
torch.manual_seed(1)
network = SmallUNet(widths=WIDTHS).to(memory_format=torch.channels_last)


def guess(network, noisy, t):
    """What the network takes for the noise in noisy pictures at the times t."""
    signal, amount = rates(t)
    return amount * noisy + signal * network(noisy, t)


def example_loss(network, clean, t):
    """The mean squared error of the guess, for each picture."""
    noise = torch.randn_like(clean)
    signal, amount = rates(t)
    noisy = (signal * clean + amount * noise).contiguous(memory_format=torch.channels_last)
    return (guess(network, noisy, t) - noise).square().mean((1, 2, 3))


# %% [markdown]
# Beside the weights we keep their **exponential moving average** (**EMA**): after each step, 97% of the average so far and 3% of the new weights. The last weights carry the accidents of the last few batches; the average forgets them.

# %%
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import trange

average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.97))
optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, betas=(0.9, 0.99))
warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, 0.02, total_iters=50)
losses = []
for step in trange(TRAINING_STEPS, desc="training", unit="step", mininterval=2, file=sys.stdout):
    clean = training[torch.randint(len(training), (BATCH,))]
    t = (torch.arange(BATCH) + torch.rand(BATCH)) / BATCH  # all times alike in every batch
    loss = example_loss(network, clean, t).mean()
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)  # no step larger than that
    optimizer.step()
    warm_up.step()
    losses.append(loss.item())
    if step >= TRAINING_STEPS // 10:  # the average need not remember the beginning
        average.update_parameters(network)

# %% [markdown]
# What did it learn? We give both sets of weights the same 128 unseen pictures with the same noise, at several times.


# %%
@torch.inference_mode()
def unseen_loss(network, times):
    """The loss on unseen pictures at each of the times, with noise that is always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return [
            example_loss(network, unseen[:128], torch.full((128,), t)).mean().item() for t in times
        ]


times = torch.linspace(0.02, 0.98, 9).tolist()
both = {"last weights": unseen_loss(network, times), "EMA": unseen_loss(average, times)}
untrained = unseen_loss(SmallUNet(widths=WIDTHS), times)
figure, (left, right) = pyplot.subplots(1, 2, figsize=(9.6, 3.4))
left.plot(losses, linewidth=0.8)
left.set(title="Training", xlabel="step", ylabel="loss")
right.plot(times, untrained, ":", color="#8a8a8a", label="untrained")
for name, values in both.items():
    right.plot(times, values, marker="o", markersize=4, label=name)
right.set(title="On unseen pictures", xlabel="time t")
right.legend()
for axis in (left, right):
    axis.set_yscale("log")
    axis.set_yticks([0.003, 0.01, 0.03, 0.1, 0.3, 1], ["0.003", "0.01", "0.03", "0.1", "0.3", "1"])
    axis.minorticks_off()
view.show(
    figure,
    alt="Left, the loss falls steeply, then slowly and with jitter. Right, the loss by time: high "
    "where there is little noise, low where there is much; lowest for the averaged weights.",
)
means = {name: sum(values) / len(values) for name, values in both.items()}
print(", ".join(f"{name}: {value:.4f}" for name, value in means.items()))

# %% [markdown]
# Mind the shape on the right. Where there is little noise, the noise is hard to find; where there is nothing else, it is easy to point at. Between them lies the work.
#
# ## 7. Reverse diffusion
#
# A guessed noise implies a picture: take the noise away, and divide by the signal. Before we run anything backwards, look at these pictures. An unseen landscape with less and less noise; and what the network takes it for.
#
# Below it stands the *ideal* guess. If there were no landscapes but our 4,000, one could compute it. The less noise it takes to turn one of them into what we see, the more probable it is; the guess with the smallest squared error is the average of all, each weighted by how probable it is.

# %%
darkest, brightest = pictures.min(), pictures.max()


def implied(noisy, noise, t):
    """The pictures that a guessed noise implies."""
    signal, amount = rates(t)
    return ((noisy - amount * noise) / signal).clamp(darkest, brightest)


def ideal(noisy, t):
    """The average of all training pictures, weighted by how probable they make the noisy ones."""
    signal, amount = rates(t)
    far = torch.cdist(noisy.flatten(1), signal[0] * training.flatten(1)[None])[0].square()
    shares = torch.softmax(-far / (2 * amount[0, 0].square()), dim=1)
    return (shares @ training.flatten(1)).view_as(noisy)


rows, errors = [[], [], []], []
for time_left in (1.0, 0.95, 0.9, 0.8, 0.7, 0.5, 0.3, 0.1):
    t = torch.full((64,), time_left)
    signal, amount = rates(t)
    with torch.inference_mode():
        noisy = signal * unseen[:64] + amount * torch.randn_like(unseen[:64])
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        found = [implied(noisy, guess(average, noisy, t), t), ideal(noisy, t)]
    for row, x in zip(rows, (noisy, *found)):
        row += shown(x[5:6])
    off = [(x - unseen[:64]).square().mean().sqrt().item() for x in found]
    errors.append((time_left, *(f"{error:.2f}" for error in off)))
view.picture_grid(
    rows,
    row_labels=["noisy", "network", "ideal"],
    column_labels=[f"t = {time_left}" for time_left, *_ in errors],
    width=84,
)

# %%
view.table(errors, columns=["time", "error of the network", "error of the ideal guess"])

# %% [markdown]
# On the left, the ideal guess is fog: the average of all landscapes, because pure noise says nothing about the picture. So no network, however good, gets from noise to a sharp picture in one step. A **denoising autoencoder**, the ancestor of this method, does one step, and its pictures are foggy. The way out is to take a *small* step towards the fog, and to guess again.
#
# (At $t = 1$ the network's guess is grainy as well: here its small errors grow fifty times, as section 3 computed.) On the right the ideal guess has decided for one of the 4,000, which is the wrong one, since this landscape is none of them. The network is nearer to the truth: it has learned what landscapes have in common. And that is lucky. A model that
# were perfect on its training pictures could draw nothing but these.
#
# Now backwards. At time $t$: guess the noise, compute the picture that it implies, and mix the two again for a slightly earlier time. Then guess anew: the picture has become clearer, and the guess will be better.
# (This is the rule of **DDIM**, [Song et al. 2020](https://arxiv.org/abs/2010.02502); it draws no new noise on the way, so the same noise always becomes the same picture.)


# %%
@torch.inference_mode()
def reverse(network, noise, steps, fresh=0.0):
    """From pure noise to pictures; gives after each step the noisy and the guessed pictures."""
    noisy = noise.contiguous(memory_format=torch.channels_last)
    times = torch.linspace(1, 0, steps + 1)
    for now, then in zip(times, times[1:]):
        t = now.expand(len(noisy))
        picture = implied(noisy, guess(network, noisy, t), t)
        yield noisy, picture
        signal, amount = rates(t)
        noise = (noisy - signal * picture) / amount
        noise = mixed(noise, torch.randn_like(noise), fresh)  # see below
        signal, amount = rates(then.expand(len(noisy)))
        noisy = signal * picture + amount * noise


def sample(network, noise, steps=30, fresh=0.0):
    """The pictures that some noise becomes."""
    *_, (_, picture) = reverse(network, noise, steps, fresh)
    return picture


noise = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(5))
film = list(reverse(average, noise[2:4], 30))
STOPS = (0, 4, 8, 12, 16, 20, 24, 29)
view.picture_grid(
    [
        shown(torch.stack([film[step][kind][row] for step in STOPS]))
        for row in (0, 1)
        for kind in (0, 1)
    ],
    row_labels=["noisy", "guessed"] * 2,
    column_labels=[f"step {step + 1}" for step in STOPS],
    width=84,
)

# %% [markdown]
# And now what we trained for: new landscapes, eight from the last weights and eight from the average, each column from the same noise.

# %%
view.picture_grid(
    [shown(sample(network, noise[:8])), shown(sample(average, noise[:8]))],
    row_labels=["last weights", "EMA"],
    alt="Landscapes drawn by the small network; those of the averaged weights are cleaner",
    width=84,
)

# %% [markdown]
# Skies and seas, trees, sails: much for a minute. But two lights stand in one sky, and hills cannot decide. Something goes wrong early, when all is fog, and each later step carries it along: the noise that is left was computed from the wrong guess.
#
# **Fresh noise.** The first diffusion models did otherwise. Before a step back, part of the guessed noise is exchanged for new noise (`fresh` in the code above). It hides what was settled a moment ago, and the network has to look again. The price: the same start no longer gives the same picture.

# %%
SHARES = {"none fresh": 0.0, "30% fresh": 0.3, "60% fresh": 0.6, "all fresh": 1.0}
torch.manual_seed(9)
drawn_with = {name: sample(average, noise, fresh=share) for name, share in SHARES.items()}
view.picture_grid(
    [shown(found[:8]) for found in drawn_with.values()],
    row_labels=list(SHARES),
    alt="With more fresh noise the landscapes are cleaner: one sun, one mountain, a whole boat; "
    "with all of it fresh some are empty",
    width=84,
)

# %% [markdown]
# How good is that, in numbers? And are these new pictures, or did the network learn the training set by heart? For each picture we look for the nearest of the 4,000 training pictures. Real pictures that were never trained on say what is normal. The other measure is the amount of detail: the mean difference of neighbouring pixels.


# %%
def nearest(pictures):
    """For each picture its distance (root mean square) to the nearest training picture, and which it is."""
    far = torch.cdist(pictures.flatten(1), training.flatten(1)) / (3 * 32 * 32) ** 0.5
    return far.min(dim=1)


def detail(pictures):
    """Mean absolute difference of pixels side by side."""
    return pictures.diff(dim=3).abs().mean().item()


rows = []
for name, found in {**drawn_with, "unseen real ones": unseen}.items():
    low, median, high = np.quantile(nearest(found).values, (0.1, 0.5, 0.9))
    rows.append((name, f"{median:.2f}", f"{low:.2f} to {high:.2f}", f"{detail(found):.3f}"))
view.table(rows, columns=["pictures", "distance to the nearest", "80% of them", "detail"])

# %%
ours = drawn_with["60% fresh"]
distance, which = nearest(ours)
view.picture_grid(
    [shown(ours[:8]), shown(training[which[:8]])],
    row_labels=["drawn", "nearest"],
    captions=[[""] * 8, [f"distance {d:.2f}" for d in distance[:8]]],
    width=84,
)

# %% [markdown]
# Without fresh noise the pictures are further from the training set than real ones, because they are less like landscapes. With it they come about as near as real pictures that the network has never seen: landscapes of the same kind, and not copies. Too much of it also hides what was right, and the pictures become emptier than real ones.
#
# We go on without fresh noise, because the next questions need pictures that can be repeated.
#
# **How many steps?** Every step costs one run of the network. We draw from the same noise in 1 to 60 steps, and measure how far the result is from that of 120.

# %%
COUNTS = (1, 2, 4, 8, 15, 30, 60)
finest = sample(average, noise[:8], 120)
by_steps = {count: sample(average, noise[:8], count) for count in COUNTS}
off = [(by_steps[count] - finest).square().mean().sqrt().item() for count in COUNTS]
view.picture_grid(
    [
        shown(torch.stack([*(by_steps[count][row] for count in COUNTS), finest[row]]))
        for row in (0, 2, 4)
    ],
    column_labels=["1 step", *(f"{count} steps" for count in COUNTS[1:]), "120 steps"],
    width=90,
)

# %%
view.table(
    [(count, f"{error:.2f}") for count, error in zip(COUNTS, off)],
    columns=["steps", "distance from 120 steps"],
)

# %% [markdown]
# One step is the foggy average. The large things are settled within few steps, and from about 30 on you pay for what nobody sees. Better solvers than ours come down to about 20; models *distilled* for it, such as SDXL-Turbo, to between 1 and 4.
#
# **Between two pictures.** Each noise is a picture. What lies between two noises $a$ and $b$? The straight way, $(1-s)\,a + s\,b$, fails: halfway there, the variances of two independent noises add up to a half only, and the network has never seen so weak a noise.
# A walk along the **sphere** keeps the length:
#
# $$b\,\sin(\pi s/2) + a\,\cos(\pi s/2)$$

# %%
a, b = noise[8], noise[12]
ways = torch.linspace(0, 1, 8)
sphere = torch.stack([(s * pi / 2).sin() * b + (s * pi / 2).cos() * a for s in ways])
straight = torch.stack([s * b + (1 - s) * a for s in ways])
view.picture_grid(
    [shown(sample(average, way)) for way in (sphere, straight)],
    row_labels=["sphere", "straight"],
    column_labels=[f"s = {s:.2f}" for s in ways],
    captions=[[f"deviation {x.std():.2f}" for x in way] for way in (sphere, straight)],
    width=84,
)

# %% [markdown]
# On the sphere each stop is a landscape of its own, and the change is gradual. On the straight way the deviation sinks in the middle. What that does to the pictures, we measure at the middle of sixteen such ways.


# %%
others = noise.roll(1, dims=0)
middles = {
    "ends of the ways": drawn_with["none fresh"],
    "middle, on the sphere": sample(average, (noise + others) / 2**0.5),
    "middle, straight": sample(average, (noise + others) / 2),
}
view.table(
    [(name, f"{detail(found):.3f}") for name, found in middles.items()], columns=["", "detail"]
)

# %% [markdown]
# With too little noise to start from, the network finds fewer things in it and draws emptier pictures.
#
#
# ## 8. The price of pixels
#
# Our pictures are 32 pixels wide. What would the same network cost on larger ones? One step for one picture:

# %%
import time

rows = []
for side in (32, 64, 128):
    large = torch.randn(4, 3, side, side).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        average(large, torch.rand(4))  # the first call prepares things
        start = time.perf_counter()
        average(large, torch.rand(4))
        seconds = (time.perf_counter() - start) / 4
    rows.append((f"{side} × {side}", f"{3 * side**2:,}", f"{seconds * 1000:.1f} ms"))
view.table(rows, columns=["pixels", "numbers", "one step for one picture"])

# %% [markdown]
# Four times the pixels, about four times the time, and a network for large pictures would also need to be deeper, to see as far. Stable Diffusion's pictures have 512 × 512 pixels, 256 times as many as ours. The step that made them affordable:
# do not run the diffusion on pixels. Most of a picture's numbers say little: neighbouring pixels are nearly equal. **Compress first, run the diffusion on what is left, and decompress at the end.** That is **latent diffusion** ([Rombach et al. 2021](https://arxiv.org/abs/2112.10752)), and Stable Diffusion is its best-known model.
#
# ## 9. Latents: what an autoencoder keeps
#
# An **autoencoder** is two networks: the *encoder* makes few numbers of a picture, the *decoder* makes a picture of them; both are trained until what comes out resembles what went in. The few numbers are called **latents**. We take the autoencoder of this lab's embedded model,
# a Stable Diffusion in small. Its pictures have 128 × 128 pixels.

# %%
import transformers

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
from diffusers import StableDiffusionPipeline
from diffusers.utils.logging import disable_progress_bar

disable_progress_bar()
pipe = StableDiffusionPipeline.from_pretrained(MODEL_FOLDER, dtype=torch.float32)
pipe.set_progress_bar_config(disable=True)
autoencoder = pipe.vae

# %%
from shared.pretraining.pictures.sampling import description

KINDS = {"single": 1, "pair": 1, "scene": 1}
described = [description(7, number, KINDS) for number in range(348)]
large = np.stack([np.asarray(draw(shown_thing, side=128)) for shown_thing in described])
large = torch.from_numpy(large).permute(0, 3, 1, 2) / 127.5 - 1  # this model wants -1 to 1
to_fit, to_test = large[:300], large[300:]

with torch.inference_mode():
    latents = autoencoder.encode(to_test).latent_dist.mean
    decoded = autoencoder.decode(latents).sample.clamp(-1, 1)
before, after = to_test[0].numel(), latents[0].numel()
print(
    f"{tuple(to_test.shape[1:])}: {before:,} numbers -> {tuple(latents.shape[1:])}: {after:,} numbers"
)
print(
    f"one for every {before / after:.0f}; in Stable Diffusion: {512 * 512 * 3 / (64 * 64 * 4):.0f}"
)


# %%
def as_arrays(pictures):
    """Pictures with values from -1 to 1 as arrays that can be looked at."""
    return list(((pictures.clamp(-1, 1) + 1) / 2).permute(0, 2, 3, 1).numpy())


chosen = [3, 2, 16, 29]
scale = latents.abs().max()
rows = []
for number in chosen:
    maps = [((channel / scale + 1) / 2).numpy() for channel in latents[number]]
    rows.append(
        [*as_arrays(to_test[number : number + 1]), *maps, *as_arrays(decoded[number : number + 1])]
    )
view.picture_grid(
    rows,
    column_labels=["picture", *(f"latents, channel {n}" for n in (1, 2, 3, 4)), "decoded"],
    alt="Pictures, their latents as four small grey maps, and what the decoder makes of these",
    width=124,
)

# %% [markdown]
# The latents are still a picture of sorts, of 16 × 16 points with four channels: what is where stays where it is. That is why a U-Net can work on them.
#
# Is a network needed for this? The classic way to keep few numbers is **PCA** (principal component analysis): find the directions in which the data vary most and keep the coordinates along these. It is the best that *linear* maps can do for the squared error. To compare fairly, PCA gets the same room in the same place: each
# patch of 8 × 8 pixels (192 numbers) becomes 4. Beside it stands the plainest of all ways, a copy with fewer pixels. The measure is the **PSNR** (peak signal-to-noise ratio) in decibels: 6 more mean half the error. And the repository's judge reads shapes, colours and places from the picture
# and says whether the caption still holds.


# %%
def patches(pictures):
    """All patches of 8 × 8 pixels, as rows of 192 numbers."""
    return nn.functional.unfold(pictures, 8, stride=8).transpose(1, 2).flatten(0, 1)


average_patch = patches(to_fit).mean(0)
centred = patches(to_fit) - average_patch
directions = torch.linalg.eigh(centred.T @ centred / len(centred)).eigenvectors.flip(1)


def pca(pictures, count):
    """Pictures of which only `count` numbers for each patch were kept."""
    coordinates = (patches(pictures) - average_patch) @ directions[:, :count]
    found = (coordinates @ directions[:, :count].T + average_patch).unflatten(0, (-1, 256))
    return nn.functional.fold(found.transpose(1, 2), 128, 8, stride=8).clamp(-1, 1)


def fewer_pixels(pictures, side=18):
    """Pictures made smaller and larger again."""
    smaller = nn.functional.interpolate(pictures, side, mode="area")
    return nn.functional.interpolate(smaller, 128, mode="bicubic").clamp(-1, 1)


kept_by = {
    f"18 × 18 pixels: {18 * 18 * 3} numbers": fewer_pixels(to_test),
    "PCA: 1,024 numbers": pca(to_test, 4),
    "autoencoder: 1,024 numbers": decoded,
}
view.picture_grid(
    [as_arrays(pictures[[3, 4, 2, 16, 29]]) for pictures in (to_test, *kept_by.values())],
    row_labels=["original", *kept_by],
    width=124,
)

# %%
from PIL import Image

from shared.pretraining.pictures.captions import caption
from shared.pretraining.pictures.judge import judge

named = [caption(found, Random(number))[1] for number, found in enumerate(described)][300:]


def psnr(pictures, originals):
    """Peak signal-to-noise ratio of each picture, in decibels."""
    return 10 * torch.log10(4 / (pictures - originals).square().mean((1, 2, 3)))


def right(pictures, named):
    """For each picture, whether the judge finds in it all that a caption names."""
    images = [
        Image.fromarray((array * 255).round().astype("uint8")) for array in as_arrays(pictures)
    ]
    return [judge(image, names).right for image, names in zip(images, named)]


rows = [
    (name, f"{psnr(found, to_test).mean():.1f} dB", f"{np.mean(right(found[:24], named[:24])):.0%}")
    for name, found in {"original": to_test, **kept_by}.items()
]
rows[0] = (rows[0][0], "", rows[0][2])
view.table(rows, columns=["48 pictures", "PSNR", "caption still holds, first 24"])

# %% [markdown]
# From the same number of numbers the autoencoder makes edges where PCA makes steps and smears. It can because it is not linear: it knows what edges look like in pictures *like these*. That is also its limit. Pictures of another kind, here squares of random colours, it keeps no better than PCA does, or worse:

# %%
strange = nn.functional.interpolate(torch.rand(8, 3, 43, 43) * 2 - 1, 128)
with torch.inference_mode():
    returned = autoencoder.decode(autoencoder.encode(strange).latent_dist.mean).sample.clamp(-1, 1)
for name, found in {"autoencoder": returned, "PCA": pca(strange, 4)}.items():
    print(f"{name}: {psnr(found, strange).mean():.1f} dB")

# %% [markdown]
#
# **Variational.** Stable Diffusion's autoencoder is a *variational* one, a **VAE** ([Kingma and Welling 2013](https://arxiv.org/abs/1312.6114)). Its encoder gives no point but a small cloud: a mean $\mu$ and a deviation $\sigma$ for each latent; the decoder gets a point drawn from the cloud. So it must
# learn that neighbouring points mean nearly the same picture. A second term of the loss (the *Kullback–Leibler divergence*) pulls all clouds gently towards a normal distribution of mean 0 and variance 1, so that they lie together without gaps.
#
# One obstacle: through "draw a random number" no gradient can flow back to $\mu$ and $\sigma$. The **reparameterisation trick** is the one that you know from section 2: draw $\varepsilon$ from a fixed distribution, and compute $z = \mu + \sigma\varepsilon$. We try it on a function whose
# answer is known: the mean of $z^2$ is $\mu^2 + \sigma^2$, so its slopes are $2\mu$ and $2\sigma$.

# %%
rows = [("expected", 2 * 0.7, 2 * 0.4)]
for way in ("drawn by torch.normal", "reparameterised"):
    mean = torch.full((100_000,), 0.7, requires_grad=True)
    deviation = torch.full((100_000,), 0.4, requires_grad=True)
    if way == "reparameterised":
        z = mean + deviation * torch.randn(100_000)
    else:
        z = torch.normal(mean, deviation)
    z.square().mean().backward()
    rows.append((way, round(mean.grad.sum().item(), 3), round(deviation.grad.sum().item(), 3)))
view.table(rows, columns=["", "slope in the mean", "slope in the deviation"])

# %% [markdown]
# A drawn number has no slope; computed from $\varepsilon$, it has the right one. What do the clouds of this autoencoder look like, and does the decoder mind where in a cloud the point lies?

# %%
with torch.inference_mode():
    clouds = autoencoder.encode(to_test).latent_dist
    drawn_points = autoencoder.decode(clouds.sample()).sample.clamp(-1, 1)
    beyond = autoencoder.decode(clouds.mean + torch.randn_like(clouds.mean)).sample.clamp(-1, 1)
    nowhere = autoencoder.decode(torch.randn(5, 4, 16, 16)).sample
print(f"latents: deviation {latents.std():.2f}; clouds: deviation {clouds.std.mean():.3f}")
for name, found in {
    "from the clouds' means": decoded,
    "from points drawn of the clouds": drawn_points,
    "with noise of deviation 1 added": beyond,
}.items():
    print(f"{name}: {psnr(found, to_test).mean():.1f} dB")

# %%
view.picture_grid(
    [
        as_arrays(drawn_points[[3, 4, 2, 16, 29]]),
        as_arrays(beyond[[3, 4, 2, 16, 29]]),
        as_arrays(nowhere),
    ],
    row_labels=["from the clouds", "far outside", "from pure noise"],
    alt="Points of the clouds decode to the pictures, points far from them to broken ones, "
    "and pure noise to coloured patches",
    width=124,
)

# %% [markdown]
# The last row is what a VAE with large clouds would be asked to do alone: generate, from noise straight to a picture. Each 8 × 8 patch is plausible, and the whole means nothing, because nothing has arranged the latents with one another. Arranging noise into something that means a picture: for that we have a method.
#
# ## 10. Words and pictures in one space: CLIP
#
# A network cannot be steered by letters. What a caption means must become numbers, and best such numbers as have to do with pictures. **CLIP** (contrastive language–image pre-training, [Radford et al. 2021](https://arxiv.org/abs/2103.00020)) trains two encoders together, one for pictures, one for texts, on 400 million
# pictures with captions from the internet. Each gives a vector of fixed length. In a batch of pairs, the right caption must be the one whose vector points most nearly in the picture's direction, and the right picture likewise for the caption. (The same **contrastive** idea is at work in Lab 1's notebook 3, between questions and
# passages.) We train such a pair in seconds: a bag of word vectors, and four layers for the picture.

# %%
things = [description(8, number, {"single": 1, "scene": 1}) for number in range(2756)]
captions = [caption(found, Random(number))[0] for number, found in enumerate(things)]
small = np.stack([np.asarray(draw(found, side=32)) for found in things])
small = torch.from_numpy(small).permute(0, 3, 1, 2) / 127.5 - 1


def tokenized(texts):
    """The numbers of the texts' tokens, each text filled up to the same length."""
    length = pipe.tokenizer.model_max_length
    return pipe.tokenizer(
        texts, padding="max_length", max_length=length, return_tensors="pt"
    ).input_ids


tokens = tokenized(captions)
for text, ids in list(zip(captions, tokens.tolist()))[:3]:
    print(text, "->", [number for number in ids if number != pipe.tokenizer.pad_token_id])

# %%
WIDTH = 64
torch.manual_seed(4)
text_encoder = nn.EmbeddingBag(
    len(pipe.tokenizer), WIDTH, mode="mean", padding_idx=pipe.tokenizer.pad_token_id
)
picture_encoder = nn.Sequential(
    *(nn.Conv2d(3, 32, 3, stride=2, padding=1), nn.SiLU()),
    *(nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.SiLU()),
    *(nn.Conv2d(64, 64, 3, stride=2, padding=1), nn.SiLU()),
    *(nn.Flatten(), nn.Linear(64 * 4 * 4, WIDTH)),
)
sharpening = nn.Parameter(torch.tensor(2.3))  # CLIP learns it too: how decided the choice is


def similarities(pictures, tokens):
    """The cosine between each picture's vector (rows) and each text's (columns)."""
    of_pictures = nn.functional.normalize(picture_encoder(pictures))
    return of_pictures @ nn.functional.normalize(text_encoder(tokens)).T


def contrastive_loss(pictures, tokens):
    """How badly pictures choose their texts, and texts their pictures."""
    scores, own = sharpening.exp() * similarities(pictures, tokens), torch.arange(len(pictures))
    choose = nn.functional.cross_entropy
    return (choose(scores, own) + choose(scores.T, own)) / 2


test = slice(2500, 2756)
with torch.inference_mode():
    untrained_scores = similarities(small[test], tokens[test])
parts = [*text_encoder.parameters(), *picture_encoder.parameters(), sharpening]
optimizer = torch.optim.Adam(parts, lr=2e-3)
for _ in trange(300, desc="two encoders", unit="step", mininterval=2, file=sys.stdout):
    chosen = torch.randint(2500, (96,))
    loss = contrastive_loss(small[chosen], tokens[chosen])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
with torch.inference_mode():
    scores = similarities(small[test], tokens[test])

# %% [markdown]
# The **similarity matrix** of eight unseen pictures and their captions, before and after. The training asks for one thing only: a bright diagonal.

# %%
eight = [0, 1, 2, 3, 4, 5, 6, 7]
figure, axes = pyplot.subplots(1, 2, figsize=(10.4, 4.0), sharey=True)
for axis, name, found in zip(axes, ("untrained", "trained"), (untrained_scores, scores)):
    matrix = found[eight][:, eight].T
    axis.imshow(matrix, cmap="Blues", vmin=0, vmax=0.8)
    for row in range(8):
        for column in range(8):
            value = matrix[row, column].item()
            colour = "white" if value > 0.4 else "#333333"
            shown_value = f"{value:.1f}".replace("-0.0", "0.0")
            axis.text(column, row, shown_value, ha="center", va="center", color=colour, fontsize=8)
    axis.set_title(name, pad=44)
    axis.set_xticks([])
    axis.set_yticks(range(8), [captions[2500 + number] for number in eight], fontsize=9)
    axis.grid(False)
    for place, number in enumerate(eight):
        inset = axis.inset_axes((place / 8 + 0.006, 1.015, 0.113, 0.113))
        inset.imshow(((small[2500 + number] + 1) / 2).permute(1, 2, 0))
        inset.set_axis_off()
view.show(
    figure,
    alt="Similarities of eight pictures and eight captions. Untrained, all alike; trained, high on "
    "the diagonal and for captions that share colours or places.",
)


# %%
def hits(scores, among=16):
    """The share of pictures that choose their own caption, and of captions their own picture, among 16."""
    blocks = [
        scores[start : start + among, start : start + among]
        for start in range(0, len(scores), among)
    ]
    own = torch.arange(among)
    for_pictures = torch.cat([block.argmax(1) == own for block in blocks]).float().mean()
    for_texts = torch.cat([block.argmax(0) == own for block in blocks]).float().mean()
    return f"{for_pictures:.0%}", f"{for_texts:.0%}"


view.table(
    [
        ("by chance", f"{1 / 16:.0%}", f"{1 / 16:.0%}"),
        ("untrained", *hits(untrained_scores)),
        ("trained", *hits(scores)),
    ],
    columns=["256 unseen pairs", "picture finds its caption", "caption finds its picture"],
)

# %% [markdown]
# Two encoders that share a space are good for more than this. They score how well a picture fits a prompt; notebook 1 does that. They search pictures by words, without any labels:

# %%
asked = ["on an orange background", "a boat at night", "a house in the snow"]
ids = tokenized(asked)
with torch.inference_mode():
    best = similarities(small[test], ids).topk(6, dim=0)
view.picture_grid(
    [as_arrays(small[test][best.indices[:, column]]) for column in range(len(asked))],
    row_labels=asked,
    captions=[[f"{score:.2f}" for score in best.values[:, column]] for column in range(len(asked))],
    width=96,
)

# %% [markdown]
# And they sort pictures into classes of which they know nothing but the names (**zero-shot** classification): the class is the one whose text is nearest.

# %%
from shared.pretraining.pictures.vocabulary import COLOURS, SHAPES

QUESTIONS = {
    "background": {colour: f"on a {colour} background" for colour in COLOURS},
    "time": {"day": "by day", "sunset": "at sunset", "night": "at night"},
    "ground": {
        "grass": "on grass",
        "lake": "on a lake",
        "desert": "in the desert",
        "snow": "in the snow",
    },
    "shape": {shape: f"a {shape}" for shape in SHAPES},
}
rows = []
for name, texts in QUESTIONS.items():
    truth = [
        getattr(getattr(found, "thing", found), name, getattr(found, name, None))
        for found in things[2500:]
    ]
    asked_of = [number for number, value in enumerate(truth) if value in texts]
    ids = tokenized(list(texts.values()))
    with torch.inference_mode():
        nearest_text = similarities(small[2500:][asked_of], ids).argmax(1).tolist()
    hit = [list(texts)[c] == truth[number] for c, number in zip(nearest_text, asked_of)]
    rows.append((name, len(texts), f"{1 / len(texts):.0%}", f"{np.mean(hit):.0%}"))
view.table(rows, columns=["what is asked", "classes", "by chance", "right"])

# %% [markdown]
# What tells the pairs of a batch apart most easily is learned first: backgrounds, times of day. A shape is a few pixels' matter, and our training is over before it gets to them. We had 2,500 pairs and seconds; CLIP had 400 million and weeks.
#
# Our bag of words knows no order: to it, "a house left of a tree" and "a tree left of a house" are the same. CLIP's text encoder is a transformer and reads the words in order. Stable Diffusion uses that text encoder, ready-made and frozen, and takes from it not one vector but one for *each token*.
# (The embedded model's text encoder has the same architecture and was trained together with its U-Net.)
#
# ## 11. Stable Diffusion, whole
#
# <img src="images/latent-diffusion.svg" alt="Latent diffusion. A prompt goes through tokenizer and text encoder and becomes one vector for each token. Random latents of 4 by 16 by 16 numbers go into the U-Net, which attends to the text's vectors and predicts the noise, once with the prompt and once without; guidance puts the two together; the scheduler removes some noise; this loop runs twenty times. Then the decoder of the autoencoder makes the picture." width="760">
#
# All the parts are there. Words enter the U-Net by **cross-attention**: on every level each point of the latents looks at all the tokens' vectors, decides how much each concerns it, and takes in a mixture of them.
#
# Training is section 6's, with latents for pixels, and with the caption as a further input. What this network predicts is $v = \mathrm{signal}\cdot\varepsilon - \mathrm{noise}\cdot x_0$, the quantity that you met in section 6; Stable Diffusion 1.5 predicts $\varepsilon$. The scheduler knows which, and does section 7's arithmetic, with a cleverer rule
# (DPM-Solver++) that looks back at the step before. Here is all of it, without a library's pipeline:

# %%
encoder, unet, scheduler = pipe.text_encoder, pipe.unet, pipe.scheduler


def states(texts):
    """One vector for each token of each text."""
    return encoder(tokenized(texts)).last_hidden_state


@torch.inference_mode()
def decode(latents):
    """The pictures of some latents."""
    return autoencoder.decode(latents / autoencoder.config.scaling_factor).sample.clamp(-1, 1)


@torch.inference_mode()
def denoise(prompts, guidance=2.0, steps=20, seeds=None):
    """From random latents to pictures of the prompts; gives the latents of each step."""
    random = [torch.Generator().manual_seed(seed) for seed in seeds or range(len(prompts))]
    latents = torch.cat([torch.randn(1, 4, 16, 16, generator=one) for one in random])
    text, no_text = states(prompts), states([""] * len(prompts))
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        both = unet(torch.cat([latents, latents]), t, torch.cat([no_text, text])).sample
        without, with_text = both.chunk(2)
        guided = without + guidance * (with_text - without)
        latents = scheduler.step(guided, t, latents).prev_sample
        yield latents


@torch.inference_mode()
def paint(prompts, **settings):
    """The finished pictures."""
    *_, latents = denoise(prompts, **settings)
    return decode(latents)


prompts = [
    "a large red ring on a blue background",
    "a green square left of a yellow triangle on a white background",
    "a house and a tree in the snow at night",
]
films = list(denoise(prompts))
STOPS = (0, 8, 12, 15, 17, 19)
view_of = {step: as_arrays(decode(films[step])) for step in STOPS}
view.picture_grid(
    [[view_of[step][row] for step in STOPS] for row in range(len(prompts))],
    row_labels=prompts,
    column_labels=[f"step {step + 1}" for step in STOPS],
    width=112,
)

# %% [markdown]
# Is that really what the library does? The same prompts and seeds through `StableDiffusionPipeline`, in one line:

# %%
library = pipe(
    prompts,
    guidance_scale=2.0,
    num_inference_steps=20,
    generator=[torch.Generator().manual_seed(seed) for seed in range(len(prompts))],
    output_type="np",
).images
ours = np.stack(as_arrays(decode(films[-1])))
print(f"largest difference of any pixel: {np.abs(library - ours).max() * 255:.2f} of 255")

# %% [markdown]
# Do words act where they should? We take noisy latents of one picture, and ask the U-Net twice, with prompts that differ in a single word. Bright is where its answer changes.

# %%
prompt = "a green square left of a yellow triangle on a white background"
changes = {
    "green → red": prompt.replace("green", "red"),
    "yellow → purple": prompt.replace("yellow", "purple"),
    "triangle → circle": prompt.replace("triangle", "circle"),
    "white → black": prompt.replace("white", "black"),
}
when = 7
t = scheduler.timesteps[when + 1]
with torch.inference_mode():
    latent = films[when][1:2].expand(1 + len(changes), -1, -1, -1)
    answers = unet(latent, t, states([prompt, *changes.values()])).sample
    change = (answers[1:] - answers[:1]).square().mean(1).sqrt()
maps = [(one / one.max()).numpy() for one in change]
view.picture_grid(
    [*as_arrays(decode(films[-1][1:2])), *maps],
    column_labels=["the picture", *changes],
    alt="Maps of 16 by 16 points: changing a shape's word changes the answer at that shape",
    width=128,
)

# %% [markdown]
# The change is strongest where the word has its say, and weak elsewhere: no part of the program says where that is.
#
# ## 12. Guidance
#
# One line of `denoise` was not explained. In training, one caption in ten was left away, so the network also knows how to draw *anything*. In sampling it is asked twice, with the text and without, and the difference between the two answers is what the words contribute. **Classifier-free guidance** ([Ho and Salimans 2022](https://arxiv.org/abs/2207.12598))
# exaggerates it by the **guidance scale** $g$:
#
# $$\hat\varepsilon = \hat\varepsilon_{\text{without}} + g\,(\hat\varepsilon_{\text{with}} - \hat\varepsilon_{\text{without}})$$
#
# At $g = 0$ the text is ignored, at 1 it is taken as it is, and beyond that what it contributes is exaggerated. (The prompt for "without" need not be empty. If it names what you do not want, the picture is pushed away from that: a **negative prompt**.) We draw ten prompts at six scales, each prompt from one
# seed, and let the judge look at all of them.

# %%
from shared.pretraining.diffusion.evaluation import prompts as held_back

SCALES = (1, 2, 4, 7, 10, 15)
test_prompts = [*held_back("pair", False, 5), *held_back("single", False, 5)]
texts = [prompt.text for prompt in test_prompts]
by_scale = {scale: paint(texts, guidance=scale) for scale in SCALES}
judged = {
    scale: right(pictures, [prompt.named for prompt in test_prompts])
    for scale, pictures in by_scale.items()
}
SHOWN = (0, 1, 5)
view.picture_grid(
    [as_arrays(torch.stack([by_scale[scale][row] for scale in SCALES])) for row in SHOWN],
    row_labels=[texts[row] for row in SHOWN],
    column_labels=[f"guidance {scale}" for scale in SCALES],
    captions=[["right" if judged[scale][row] else "wrong" for scale in SCALES] for row in SHOWN],
    width=112,
)

# %%
rows = []
for scale, pictures in by_scale.items():
    at_the_edge = (pictures.abs() > 0.999).float().mean()
    rows.append((scale, f"{sum(judged[scale])} of {len(texts)}", f"{at_the_edge:.1%}"))
view.table(
    rows, columns=["guidance", "judged right", "colour values at the very edge of the range"]
)

# %% [markdown]
# Too little, and the picture is pale and obeys half of the prompt. Too much, and colours are driven to the edge of what can be shown, they run, and forms bend. Where the best lies depends on the model: ours has it at 2
# (its [model card](../shared/models/diffusion/README.md) has a count with many more pictures), Stable Diffusion 1.5 at about 7.5, because captions from the web say less about their pictures than ours do, so that what they say needs more weight.
#
# ## 13. The family
#
# Diffusion is not the only way to generate pictures. Each of these had its time, and each has left something in today's models.
#
# | | how it makes a picture | strong | weak |
# |---|---|---|---|
# | **VAE** | decodes a random point of its latent space, in one go | quick; the space is smooth | soft, average pictures (sections 7 and 9 show why) |
# | **GAN** (adversarial network, [2014](https://arxiv.org/abs/1406.2661)) | a *generator* makes pictures in one go, a *discriminator* learns to tell them from real ones, each trains against the other | very sharp, very quick | training is a balance that tips easily; it may draw few kinds of pictures and leave out the rest (*mode collapse*) |
# | **autoregressive** ([PixelRNN 2016](https://arxiv.org/abs/1601.06759), [DALL·E 2021](https://arxiv.org/abs/2102.12092)) | pixels, or tokens that stand for patches, one after the other, as a language model writes | one loss, one architecture for text and pictures | as many network calls as tokens: 1,024 for a picture of the first DALL·E, where diffusion makes 20 or 30 |
# | **diffusion** | from noise, all of the picture at once, in some dozen steps | sharp *and* varied, stable training, can be steered in mid-course | several network calls for each picture |
#
# Stable Diffusion has its autoencoder from the VAEs, and a discriminator in that autoencoder's training from the GANs. Its closest relatives:
#
# - **GLIDE** ([2021](https://arxiv.org/abs/2112.10741)): diffusion on pixels with a text encoder trained along with it, and an upscaler behind it. It compared guidance by CLIP with classifier-free guidance; the latter won. It also inpainted.
# - **DALL·E 2** ([2022](https://arxiv.org/abs/2204.06125)): makes a picture's CLIP vector first. A **prior**, itself a diffusion model, turns the vector of the text into one that a fitting *picture* might have; a decoder then diffuses a picture that has this vector, and two upscalers enlarge it from 64 to 1,024 pixels.
# - **Imagen** ([2022](https://arxiv.org/abs/2205.11487)): shows that a large language model that was trained on text alone serves better than CLIP's text encoder, and that making it larger helps more than a larger U-Net. A cascade on pixels: 64, 256, 1,024.
# - **Diffusion transformers** ([Peebles and Xie 2022](https://arxiv.org/abs/2212.09748)): the U-Net's place is taken by a transformer, for which the latents are cut into patches as a text is into tokens. It grows more predictably with compute; Stable Diffusion 3 and most newer models are built so.
#
# All of them are this notebook with other parts: what the noise is added to, which network guesses it, and what the words become before they reach it.
#
# One more thing to keep in mind. Such a model draws what its training pictures and captions were like. Ours knows houses with one window; a model of the internet's pictures knows the internet's prejudices. Guidance makes the typical more typical. So ask of every such model what it was trained on, and what is missing there; and look at many pictures of one prompt before you trust it with people.
#
# ## 14. Clean up
#
# There is nothing to delete: this notebook deployed nothing. In Studio, stop the space when you leave; it is billed until then.
#
# ## What you learned
#
# - $x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\varepsilon$: a thousand small steps and one jump are the same thing.
# - A schedule decides how the time is spent between picture and noise. The network is told the time by waves.
# - A U-Net looks at much of the picture and keeps its details; residual blocks hand on what came in; upsampling before convolving avoids checkerboards.
# - Training is guessing noise. The averaged weights are better than the last.
# - Backwards, the first guess is the average of everything, and each step narrows it down. Some 20 to 30 steps do. Fresh noise on the way mends early mistakes.
# - An autoencoder keeps far more than PCA in the same room. A VAE makes its room smooth; the reparameterisation trick lets it learn.
# - Contrastive training puts words and pictures into one space; guidance exaggerates what the words contribute.
#
# **Check yourself** (answers in [solutions/0-how-diffusion-works.md](solutions/0-how-diffusion-works.md)):
#
# 1. In $x_t$ the noise has half of the variance. By which factor is the picture multiplied?
# 2. The training never walks along a chain. Why may it draw a time at random for every example?
# 3. After 20 training steps the EMA weights draw worse than the last weights. Is something broken?
# 4. A colleague interpolates between two noises by $(a + b)/2$ and gets pale pictures. Which factor repairs it?
# 5. An autoencoder with eight times the latents gives 6 dB more. Why not use it?
# 6. Why can guidance 1 be computed in half the time of guidance 2?
#
# **Try it**, with answers in the same file:
#
# - *How much must PCA keep?* In section 9, raise the count for PCA until its PSNR is that of the autoencoder. How many numbers is that?
# - *More fresh noise.* Draw with all noise fresh in 10, 30 and 300 steps. What happens to the detail, and why?
# - *No copies across.* Train with `TRAINING_STEPS = 150`. Then let the U-Net forget what it kept (`kept.append(0 * found)` in `small_unet.py`), restart the kernel, and train as long again. What does the loss on unseen pictures say, and at which times most?
# - *Less than nothing.* `paint` the three prompts of section 11 at guidance 0 and −2.
#
# **Next:** [notebook 1](1-deploy-stable-diffusion.ipynb) deploys a Stable Diffusion and turns every knob that it has.
