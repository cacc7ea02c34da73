"""What every SageMaker operation is handed beside its request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .moto_services import MotoServices
from .records import Store
from .state import StateFolder
from .telemetry import Telemetry
from .warm_pools import WarmPools

if TYPE_CHECKING:
    from .fleets import Fleets
    from .training_runs import TrainingRun
    from .tuning_runs import TuningRun


@dataclass
class Context:
    """The server's parts.

    `container_environment` lets the code in a container call this server; `endpoints_changed` is called after an
    endpoint was made or forgotten.
    """

    region: str
    state: StateFolder
    store: Store
    moto: MotoServices
    telemetry: Telemetry
    container_environment: dict[str, str]
    endpoints_changed: Callable[[], None]
    fleets: dict[str, Fleets] = field(default_factory=dict)
    training_runs: dict[str, TrainingRun] = field(default_factory=dict)
    warm_pools: WarmPools = field(init=False)
    tuning_runs: dict[str, TuningRun] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.warm_pools = WarmPools(self.store.lock)


Operation = Callable[[Context, dict[str, Any]], dict[str, Any]]
"""An operation of the control plane: takes the validated request, returns the answer's members, raises faults."""
