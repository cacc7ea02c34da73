"""The recipe of the embedded upscaler: pictures of the project's generator, four times enlarged."""
