"""Schedules as functions of the step."""

import pytest

from kantor.config import Adam, Decay, HeadStart, InstanceNoise, Penalty, Training
from kantor.training.schedules import critic_updates, factor, learning_rate, noise_deviation, penalty_share


@pytest.mark.parametrize(
    ("settings", "values"),
    [
        ({"schedule": "constant"}, (1, 1, 1, 1)),
        ({"schedule": "linear"}, (1, 0.5, 0, 0)),
        ({"schedule": "linear", "final": 0.2}, (1, 0.6, 0.2, 0.2)),
        ({"schedule": "cosine"}, (1, 0.5, 0, 0)),
        ({"schedule": "cosine", "final": 0.2}, (1, 0.6, 0.2, 0.2)),
        ({"schedule": "exponential"}, (1, 0.1, 0.01, 0.01)),
        ({"schedule": "exponential", "final": 0.25}, (1, 0.5, 0.25, 0.25)),
    ],
)
def test_a_decay_at_its_start_half_way_at_its_end_and_after(
    settings: dict[str, object], values: tuple[float, ...]
) -> None:
    decay = Decay.model_validate(settings)
    found = [factor(decay, progress) for progress in (0, 0.5, 1, 1.7)]
    assert found == pytest.approx(values, abs=1e-12)


def test_the_learning_rate_rises_and_falls() -> None:
    adam = Adam(learning_rate=2.0, warm_up=4, schedule="linear")
    rates = [learning_rate(adam, step, 10) for step in range(10)]
    assert rates == pytest.approx([0.5, 0.9, 1.2, 1.4, 1.2, 1.0, 0.8, 0.6, 0.4, 0.2])


def test_the_critic_has_a_head_start() -> None:
    training = Training.model_validate({"dataset": "d", "objective": {"kind": "wgan"}, "head_start": {"steps": 3}})
    assert training.head_start == HeadStart(steps=3, n_critic=100)
    assert [critic_updates(training, step) for step in range(5)] == [100, 100, 100, 5, 5]


def test_instance_noise_falls_over_its_own_steps() -> None:
    noise = InstanceNoise(deviation=0.4, steps=4)
    assert [noise_deviation(noise, step, 100) for step in (0, 2, 4, 50)] == pytest.approx([0.4, 0.2, 0, 0])
    whole = InstanceNoise(deviation=0.4)
    assert noise_deviation(whole, 50, 100) == pytest.approx(0.2)


def test_a_penalty_falls_over_the_run() -> None:
    falling = Penalty(kind="r1r2", weight=4.0, schedule="cosine", final=0.1)
    assert [penalty_share(falling, step, 100) for step in (0, 50, 100)] == pytest.approx([1, 0.55, 0.1])
    assert [penalty_share(penalty, 50, 100) for penalty in (Penalty(), None)] == [1, 1]
