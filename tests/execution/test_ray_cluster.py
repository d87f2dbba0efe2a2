"""Work on the nodes of a Ray cluster: the same bytes, whatever becomes of the nodes."""

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import sleep

import pytest

from rebasin_cli.commands.align.command import AlignRequest
from rebasin_cli.commands.align.plan import plan_align
from rebasin_cli.commands.align.run import AlignTask, by_weights
from rebasin_cli.execution.answer import pack, unpack
from rebasin_cli.options.selection import Selection
from rebasin_cli.progress import silent
from tests.cli.build import mlp, save
from tests.cli.harness import image, plain_environment, rebasin, until
from tests.commands.barrier.barrier_files import ON_DATA, write_user
from tests.execution.nets import MODEL, WIDTHS, bytes_in, models, started
from tests.execution.test_processes import timeless

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
STORE = 80 << 20  # bytes of each node's object store


@pytest.fixture(scope="module")
def cluster() -> Iterator[object]:
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": STORE}
    made = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    for _ in range(2):
        made.add_node(**node)
    yield made
    made.shutdown()


def found_by(cluster) -> dict[str, str]:
    """Return the environment in which Ray, and the cluster, are found."""
    path = os.pathsep.join([str(Path(ray.__file__).parents[1]), plain_environment()["PYTHONPATH"]])
    return {"RAY_ADDRESS": cluster.address, "PYTHONPATH": path}


def nodes_told(folder: Path) -> list[int]:
    told = folder / "nodes.txt"
    return [int(line) for line in told.read_text().split()] if told.exists() else []


def ended(process) -> bool:
    return process.poll() is not None


def raylet(node) -> int:
    return node.all_processes["raylet"][0].process.pid


def test_a_node_that_dies_in_the_middle_changes_nothing(cluster, tmp_path):
    names = models(tmp_path, 7)
    align = ("align", *names, *MODEL, "--save-permutation")
    local = rebasin(*align, "here/", "-o", "here/", cwd=tmp_path)
    assert local.code == 0, local.err
    doomed = next(node for node in cluster.worker_nodes)
    spread = (*align, "there/", "-o", "there/", "--executor", "ray")
    with started(*spread, cwd=tmp_path, env=found_by(cluster)) as process:
        until(lambda: raylet(doomed) in nodes_told(tmp_path) or ended(process))
        cluster.remove_node(doomed, allow_graceful=False)
        out, err = process.communicate()
    assert process.returncode == 0, err
    assert out == local.out.replace("here/", "there/")
    assert len(nodes_told(tmp_path)) > len(names) - 1, "one was begun anew"
    assert bytes_in(tmp_path / "there") == bytes_in(tmp_path / "here")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_work_that_is_stopped_leaves_nothing_on_any_node(cluster, tmp_path, number, code):
    names = models(tmp_path, 7)
    (tmp_path / "nodes.txt").touch()
    before = image(tmp_path).keys()
    argv = ("align", *names, *MODEL, "--executor", "ray")
    with started(*argv, cwd=tmp_path, env=found_by(cluster)) as process:
        until(lambda: bool(nodes_told(tmp_path)) or ended(process))
        process.send_signal(number)
        out, err = process.communicate()
    assert process.returncode == code, err
    assert out == "0.safetensors\n"
    assert "Traceback" not in err
    assert image(tmp_path).keys() - {"__pycache__"} == before
    told = nodes_told(tmp_path)
    sleep(2)
    assert nodes_told(tmp_path) == told, "no node goes on"


def test_an_error_on_a_node_is_that_of_the_local_run(cluster, tmp_path):
    names = models(tmp_path, 2)
    state = mlp(1, WIDTHS)
    save(tmp_path / names[1], {**state, "2.weight": state["2.weight"] * float("nan")})
    argv = ("align", *names, "--spec", "mlp", "--json")
    local = rebasin(*argv, cwd=tmp_path)
    with started(*argv, "--executor", "ray", cwd=tmp_path, env=found_by(cluster)) as process:
        out, err = process.communicate()
    assert local.code == 3
    assert (process.returncode, out, err) == (local.code, local.out, local.err)


def test_points_of_a_line_come_from_all_nodes(cluster, tmp_path):
    argv = ("lerp", *models(tmp_path, 2), "--align", "--spec", "mlp", "--steps", "4")
    local = rebasin(*argv, "-o", "here/", cwd=tmp_path)
    spread = (*argv, "-o", "there/", "--executor", f"ray://{cluster.address}")
    env = {**found_by(cluster), "RAY_ADDRESS": ""}
    with started(*spread, cwd=tmp_path, env=env) as process:
        out, err = process.communicate()
    assert (process.returncode, out) == (0, local.out.replace("here/", "there/")), err
    assert bytes_in(tmp_path / "there") == bytes_in(tmp_path / "here")


def test_points_of_a_barrier_are_judged_by_nodes_as_here(cluster, tmp_path):
    write_user(tmp_path)
    argv = (*ON_DATA, "--steps", "3", "--renormalize", "repair", "--json")
    local = rebasin(*argv, cwd=tmp_path)
    with started(*argv, "--executor", "ray", cwd=tmp_path, env=found_by(cluster)) as process:
        out, err = process.communicate()
    assert process.returncode == local.code == 0, err
    here, there = (list(map(json.loads, text.splitlines())) for text in (local.out, out))
    assert list(map(timeless, there)) == list(map(timeless, here))


def test_a_task_that_is_carried_out_twice_writes_the_same_over_the_first(tmp_path):
    paths = [tmp_path / name for name in models(tmp_path, 2)]
    plan = plan_align(AlignRequest(paths, executor="ray", selection=Selection(spec="mlp")))
    packed = pack(AlignTask(replace(plan, items=()), plan.items[0], by_weights, alone=True))
    for _ in range(2):
        unpack(packed)(plan.machine, silent)
        written = (tmp_path / "1.aligned.safetensors").read_bytes()
        assert rebasin("align", *paths, "--spec", "mlp", "-f", cwd=tmp_path).code == 0
        assert (tmp_path / "1.aligned.safetensors").read_bytes() == written
