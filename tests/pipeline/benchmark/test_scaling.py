"""The benchmark of data parallelism, on real ranks: started by itself, and by MPI's launcher."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kantor.benchmark import scaling
from kantor.benchmark.step import StepCase
from kantor.machine.ranks import Ranks
from kantor_kernels.benchmark import read_rows
from kantor_kernels.testing import assert_close

TINY = scaling.Plan(StepCase(16, width=8, depth=2, latent=4), ranks=2, rounds=1, steps=1, sizes=(8,), repetitions=2)
MPIEXEC = Path(sys.executable).with_name("mpiexec")


@pytest.mark.slow
def test_ranks_of_this_machine_are_timed_with_and_without_communication() -> None:
    said: list[str] = []
    outcome = scaling.run(Ranks(), TINY, said.append)
    assert not outcome.failures
    steps = {(row.case.split()[0], row.size, row.backend): row for row in outcome.rows if row.metric == "time"}
    for kind in ("strong", "weak"):
        assert steps[kind, 1, "kantor"].ratio is None
        both, alone = steps[kind, 2, "kantor"], steps[kind, 2, "no communication"]
        assert both.ratio is not None
        assert both.p50 is not None
        assert alone.p50 is not None
        assert both.ratio == pytest.approx(alone.p50 / both.p50)  # of one round
    # One sum of the gradients for each of 5 critic updates and the generator's.
    assert [row.p50 for row in outcome.rows if row.metric == "collectives"] == [6.0, 6.0]
    # 8 bytes, and both gradients of one bucket each.
    assert len([row for row in outcome.rows if row.case == "all_reduce, 2 ranks"]) == 3
    assert len(said) == len(outcome.rows)


@pytest.mark.slow
@pytest.mark.skipif(not MPIEXEC.exists(), reason="no mpiexec beside this Python (pip install mpich)")
def test_ranks_of_mpi_are_measured_together(tmp_path: Path) -> None:
    kantor = str(Path(sys.executable).with_name("kantor"))
    command = [str(MPIEXEC), "-n", "2", kantor, "benchmark", "--quick", "--expect-ranks", "2", "--out", str(tmp_path)]
    done = subprocess.run([*command, "--ops", "scaling"], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert {row.size for row in read_rows(tmp_path / "scaling.csv") if row.ours} == {1, 2}
    assert "Training on several ranks" in (tmp_path / "index.html").read_text()
    refused = subprocess.run([*command, "--ops", "pairwise"], capture_output=True, text=True, timeout=300, check=False)
    assert refused.returncode == 2
    assert "--ops scaling" in refused.stderr


def test_ranks_that_end_elsewhere_are_seen() -> None:
    # Half of every batch, with nobody to add the other half: what lost communication would look like.
    cpu = torch.device("cpu")
    half, whole = (scaling.weights_after_a_step(TINY.step.training(cpu, "float64", 0, world)) for world in (2, 1))
    with pytest.raises(AssertionError, match="weights"):
        assert_close("weights", half, whole, rtol=1e-8, atol=1e-10)


def test_crowded_hosts_are_named() -> None:
    assert scaling.crowd([("a", [0]), ("b", [0])]) == ""
    assert scaling.crowd([("a", [0, 1, 2]), ("a", [0, 1, 2])]) == ""
    assert "no core to spare" in scaling.crowd([("a", [0]), ("a", [1])])
    assert "4 ranks share 2 cores" in scaling.crowd([("a", [0, 1])] * 4)
