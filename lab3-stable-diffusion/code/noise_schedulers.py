"""The schedulers that a request may name: how to go from noise to a picture in few steps, with any trained model."""

import copy
import inspect

from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)

# What a model's own scheduler may not say, and whose defaults suit models of pixels, not of latents, is said here.
_SCHEDULERS = {
    "dpm++": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "use_karras_sigmas": False}),
    "dpm++_karras": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True}),
    "dpm++_sde": (DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": False}),
    "ddim": (DDIMScheduler, {"clip_sample": False, "set_alpha_to_one": False}),
    "ddpm": (DDPMScheduler, {"clip_sample": False}),
    "euler": (EulerDiscreteScheduler, {}),
    "euler_a": (EulerAncestralDiscreteScheduler, {}),
    "heun": (HeunDiscreteScheduler, {}),
    "pndm": (PNDMScheduler, {"skip_prk_steps": True}),
    "unipc": (UniPCMultistepScheduler, {}),
    "lcm": (LCMScheduler, {"clip_sample": False}),
}
NAMES = tuple(_SCHEDULERS)


class SchedulerFactory:
    """Makes schedulers with the noise levels that a model was trained on.

    Args:
        own: the model's scheduler, used where a request names none.
    """

    def __init__(self, own):
        self._templates = {None: own}

    def new(self, name: str | None, steps: int):
        """A scheduler of a name of `NAMES` (None: the model's own), set to `steps` steps."""
        if name not in self._templates:
            kind, options = _SCHEDULERS[name]
            self._templates[name] = kind.from_config(self._templates[None].config, **options)
        scheduler = copy.deepcopy(self._templates[name])
        scheduler.set_timesteps(steps)
        return scheduler


def step_arguments(scheduler, generator) -> dict:
    """What `scheduler.step` takes beside prediction, timestep and sample: the random numbers, where it adds noise."""
    return {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
