"""What a training does beside its arithmetic costs less than a twentieth of it, at batch 512 and 128 x 4 networks.

`pytest -s` prints the table. CPU time of one thread is compared, which waiting for other processes does not lengthen;
checkpoints, which wait for the disk, by the clock.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from kantor.benchmark.step import StepCase
from kantor.results import TrainingRow
from kantor.training import loop
from kantor.training.state import Checkpoints

STEP = StepCase(512)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def seconds(call: Callable[[], object], repetitions: int = 15, clock: Callable[[], float] = time.thread_time) -> float:
    """The median time of a call."""
    times = []
    for _ in range(repetitions):
        began = clock()
        call()
        times.append(clock() - began)
    return statistics.median(times)


@pytest.mark.slow
def test_feed_metrics_average_and_checkpoints_cost_less_than_a_twentieth(tmp_path: Path) -> None:
    training = STEP.training(torch.device("cpu"), "float32")
    settings, state, feed = training.settings, training.state, training.feed
    updates = STEP.updates
    whole = seconds(training.step)

    critic_loss = training.objective.critic_loss(
        state.critic, loop._next_batch(settings, state, feed, training.view, state.generator)
    )
    last = loop.LastUpdate(critic_loss, critic_loss.loss)
    row = TrainingRow(
        step=1, seconds=1.0, critic_loss=1.0, generator_loss=1.0, distance=1.0, penalty=1.0, gradient_norm=1.0,
        critic_learning_rate=1e-3, generator_learning_rate=1e-3,
    )  # fmt: skip
    metrics = tmp_path / "metrics.jsonl"

    def log() -> None:
        last.joined()
        with metrics.open("a", encoding="utf-8") as file:
            file.write(row.model_dump_json() + "\n")

    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    checkpoints.directory.mkdir()
    parts = {
        "real rows": updates * seconds(lambda: feed.rows(7), 200),
        "points of the penalty": updates * seconds(lambda: feed.eps(7), 200),
        "average": seconds(lambda: loop._average(state.averaged, state.generator, 0.999), 200),
        "metrics": seconds(log, 50) / settings.log_every,
        "checkpoints": seconds(lambda: checkpoints.save(state), 5, time.perf_counter) / settings.checkpoint_every,
    }
    noise = updates * seconds(lambda: feed.noise(7), 100)
    print(f"\ngenerator step {1e3 * whole:.2f} ms; drawing its noise {noise / whole:.1%}")
    for name, part in parts.items():
        print(f"{name}: {1e6 * part:.0f} us, {part / whole:.2%}")
    print(f"together: {sum(parts.values()) / whole:.2%}")
    assert sum(parts.values()) < 0.05 * whole
