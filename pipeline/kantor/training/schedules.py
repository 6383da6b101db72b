"""What changes over a run as a function of the step alone, so that a resumed run goes on as it was."""

import math

from kantor.config import Decay, InstanceNoise, Optimiser, Penalty, Training


def factor(decay: Decay, progress: float) -> float:
    """What is left of a value, 1 at progress 0 and `final` at progress 1 and later."""
    final = decay.final if decay.final is not None else 0.01 if decay.schedule == "exponential" else 0.0
    progress = min(progress, 1.0)
    match decay.schedule:
        case "constant":
            return 1.0
        case "linear":
            return 1 - (1 - final) * progress
        case "cosine":
            return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2
        case "exponential":
            return final**progress


def learning_rate(optimiser: Optimiser, step: int, steps: int) -> float:
    """Of generator update `step` (from 0) out of `steps`."""
    rise = min(1.0, (step + 1) / optimiser.warm_up) if optimiser.warm_up else 1.0
    return optimiser.learning_rate * rise * factor(optimiser, step / steps)


def critic_updates(settings: Training, step: int) -> int:
    """How many critic updates come before generator update `step`."""
    start = settings.head_start
    return settings.n_critic if start is None or step >= start.steps else start.n_critic


def noise_deviation(noise: InstanceNoise, step: int, steps: int) -> float:
    """Of the instance noise at generator update `step`."""
    return noise.deviation * factor(noise, step / (noise.steps or steps))


def penalty_share(penalty: Penalty | None, step: int, steps: int) -> float:
    """What is left of the weight of an objective's penalty at generator update `step`."""
    return 1.0 if penalty is None else factor(penalty, step / steps)
