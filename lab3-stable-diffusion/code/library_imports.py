"""The large libraries, imported quickly: to be imported before any other module of the handlers.

A container starts 2.5 s sooner (of 6) without collecting garbage among a million new objects and without three packages
that the libraries load where they are installed, for what is not used here: a search that generates text faster
(scikit-learn), and noise levels by a beta distribution (SciPy).
"""

import gc
import sys
import time

_BEGIN = time.perf_counter()
_absent = [name for name in ("pandas", "scipy", "sklearn") if name not in sys.modules]
# A module of None looks as if it were not installed.
sys.modules.update(dict.fromkeys(_absent))
_collecting = gc.isenabled()
gc.disable()
try:
    from transformers.utils import logging

    logging.set_verbosity_error()  # else a dozen lines on torchvision, which is not used
    import diffusers  # noqa: F401
    import peft.tuners.lora  # noqa: F401
    import torch  # noqa: F401
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline  # noqa: F401
finally:
    for _name in _absent:
        del sys.modules[_name]
    # What was imported stays, so later collections leave it out.
    gc.freeze()
    if _collecting:
        gc.enable()

SECONDS = time.perf_counter() - _BEGIN
