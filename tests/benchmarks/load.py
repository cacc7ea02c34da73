"""Closed-loop load: each client sends its next request when the last one is answered."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import median


def requests_per_second(send: Callable[[str], object], prompts: list[str], clients: int) -> float:
    """Send each prompt once, from `clients` threads that start together; returns prompts per second."""
    shares = [prompts[client::clients] for client in range(clients)]
    barrier = threading.Barrier(clients + 1)

    def run(share: list[str]) -> None:
        barrier.wait()
        for prompt in share:
            send(prompt)

    with ThreadPoolExecutor(clients) as pool:
        runs = [pool.submit(run, share) for share in shares]
        barrier.wait()
        start = time.perf_counter()
        for finished in runs:
            finished.result()
        return len(prompts) / (time.perf_counter() - start)


def median_result(call: Callable[[str], float], prompts: list[str], clients: int) -> float:
    """Median of what `call` returns for each prompt, `clients` of them at a time."""
    with ThreadPoolExecutor(clients) as pool:
        return median(pool.map(call, prompts))


def median_seconds(call: Callable[[], object], times: int) -> float:
    """Median duration of a call."""
    durations = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        durations.append(time.perf_counter() - start)
    return median(durations)
