"""The test cluster itself: what jobs may rely on, and that nothing is left of it."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cluster = Any  # conftest's class, which an importlib-mode test cannot import

pytestmark = pytest.mark.slow


def test_nodes_are_hosts_of_their_own(cluster: Cluster) -> None:
    said = cluster.run("srun", "-N2", "bash", "-c", "echo $(hostname) $(hostname -I); echo here > /tmp/mine").stdout
    hosts = dict(line.split() for line in said.splitlines())
    assert sorted(hosts) == cluster.nodes
    assert len(set(hosts.values())) == 2
    for node in cluster.nodes:
        assert cluster.on(node, "cat", "/tmp/mine").strip() == "here"
        cluster.on(node, "rm", "/tmp/mine")
    assert not Path("/tmp/mine").exists()


def test_memory_is_limited_where_cgroups_allow(cluster: Cluster) -> None:
    greedy = "x = bytearray(600 << 20); x[::4096] = b'1' * len(x[::4096])"
    done = cluster.run("srun", "-N1", "--mem=200", "python", "-c", greedy, check=False)
    limited = "limits of jobs held" in cluster.script("status").stdout
    assert limited == ("Out Of Memory" in done.stderr), done.stderr
    assert limited == (done.returncode != 0)


def test_a_node_comes_back_after_a_power_cut(cluster: Cluster) -> None:
    cluster.kill(cluster.nodes[1])
    assert cluster.script("on", cluster.nodes[1], "true").returncode == 2
    cluster.up()
    assert len(cluster.run("srun", "-N2", "hostname").stdout.split()) == 2


def test_up_twice_is_up_once_and_nothing_is_left(new_cluster: Callable[[str], Cluster]) -> None:
    other = new_cluster(f"t{os.getpid() % 10**7}o")
    assert other.script("status").returncode == 3
    other.up(1)
    other.up(1)
    assert other.script("up", "3").returncode == 2
    assert other.run("srun", "-N1", "hostname").stdout.split() == [f"{other.name}1"]
    other.down()
    assert not other.directory.exists()
    assert other.name not in subprocess.run(["ip", "link"], capture_output=True, text=True, check=True).stdout
    # The bracket keeps ps from finding itself.
    running = subprocess.run(["ps", "axww", "-o", "stat=,args="], capture_output=True, text=True, check=True).stdout
    assert not [line for line in running.splitlines() if other.name in line and "Z" not in line.split()[0]]
    assert not list(Path("/sys/fs/cgroup").glob(f"*/slurm_{other.name}*"))
