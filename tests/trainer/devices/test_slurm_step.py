"""Who a process is among the tasks of Slurm's srun: hosts, ports, GPUs, and what is refused."""

import itertools
import shutil
import subprocess

import pytest

from lake import InputError
from trainer.devices import slurm, strategy, workers

# As Slurm 22.05 sets them for `srun -N2 --ntasks=3`, in the second task.
STEP = {
    "SLURM_JOB_ID": "1017",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "n[9-10]",
    "SLURM_STEP_NUM_TASKS": "3",
    "SLURM_STEP_TASKS_PER_NODE": "2,1",
    "SLURM_PROCID": "1",
    "SLURM_NODEID": "0",
    "SLURM_LOCALID": "1",
}
LISTS = {
    "gpu": ["gpu"],
    "n[8-11]": ["n8", "n9", "n10", "n11"],
    "n[08-10,12],login-1": ["n08", "n09", "n10", "n12", "login-1"],
    "rack[0-1]node[3-4]": ["rack0node3", "rack0node4", "rack1node3", "rack1node4"],
    "a1,b[2]-ib,c": ["a1", "b2-ib", "c"],
}


@pytest.fixture
def task(monkeypatch):
    """Makes this process the task of a step: STEP with other values."""

    def be(**changes: str) -> None:
        monkeypatch.delenv("TF_CONFIG", raising=False)
        for name, value in (STEP | changes).items():
            monkeypatch.setenv(name, value)

    return be


def test_the_tasks_of_srun_are_the_workers(task):
    task()
    worker = workers.from_environment()
    port = 15000 + 16 * 31 * 1017 % 16000
    # n9 comes before n10, as the tasks do: the order is Slurm's, not that of texts.
    assert worker.addresses == (f"n9:{port}", f"n9:{port + 1}", f"n10:{port + 2}")
    assert (worker.number, worker.count, worker.is_chief) == (1, 3, False)
    assert (worker.local_number, worker.num_local) == (1, 2)
    task(SLURM_PROCID="2", SLURM_NODEID="1", SLURM_LOCALID="0")
    worker = workers.from_environment()
    assert (worker.address, worker.local_number, worker.num_local) == (f"n10:{port + 2}", 0, 1)


def test_tf_config_goes_before_and_one_task_is_alone(task, monkeypatch):
    task(SLURM_STEP_NUM_TASKS="1")
    assert workers.from_environment() == workers.ALONE
    task()
    cluster = '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}'
    monkeypatch.setenv("TF_CONFIG", cluster)
    assert workers.from_environment().addresses == ("a:1", "b:1")


def test_jobs_and_steps_of_one_machine_have_ports_of_their_own():
    places = itertools.product(range(7000, 7030), range(3), range(16))
    ports = {slurm.port(*place) for place in places}
    assert len(ports) == 30 * 3 * 16 and min(ports) >= 15000 and max(ports) < 32768


@pytest.mark.parametrize("text", LISTS)
def test_hosts_of_a_node_list(text):
    assert slurm.hosts(text) == LISTS[text]
    if shutil.which("scontrol"):
        listing = subprocess.run(["scontrol", "show", "hostnames", text], capture_output=True)
        if listing.returncode == 0:  # some versions need a slurm.conf even for this
            assert listing.stdout.decode().split() == LISTS[text]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"SLURM_STEP_NODELIST": "n[1-"}, r"ValueError: 'n\[1-' is no list of hosts"),
        ({"SLURM_STEP_TASKS_PER_NODE": "2x"}, "'2x' is no list of numbers of tasks"),
        ({"SLURM_STEP_NODELIST": "n9"}, "malformed .IndexError"),
        ({"SLURM_PROCID": "3"}, "malformed .IndexError"),
        ({"SLURM_STEP_NUM_TASKS": "4"}, "has not dealt its 4 tasks.*--distribution=block"),
        # srun --distribution=cyclic
        ({"SLURM_NODEID": "1", "SLURM_LOCALID": "0"}, "has not dealt its 3 tasks"),
    ],
)
def test_a_step_that_is_wrong_is_refused(task, changes, message):
    task(**changes)
    with pytest.raises(InputError, match=message):
        workers.from_environment()


def test_messages_say_how_workers_are_started(task):
    task()
    worker = workers.from_environment()
    with pytest.raises(InputError, match="but srun names 3 workers; start one"):
        strategy.create_strategy("tpu", None, 8, worker=worker)
    assert worker.start_rule == "with one srun"
    assert workers.Worker(0, ("a:1", "b:1")).start_rule == "with the same TF_CONFIG"


def test_tasks_of_one_machine_share_its_gpus():
    assert [*slurm.gpus_of_task(8, 0, 1, {})] == [*range(8)]
    assert [[*slurm.gpus_of_task(4, number, 2, {})] for number in range(2)] == [[0, 1], [2, 3]]
    # srun --gpus-per-task=2: each task sees its own alone
    assert [*slurm.gpus_of_task(2, 1, 2, {"SLURM_GPUS_PER_TASK": "2"})] == [0, 1]
    with pytest.raises(InputError, match="the 2 tasks of this machine cannot share its 1 GPUs"):
        slurm.gpus_of_task(1, 1, 2, {})


def test_tensorflow_is_told_where_the_tasks_are(task):
    task()
    resolver = strategy._resolver(workers.from_environment(), num_gpus=2)
    assert resolver.cluster_spec().as_dict()["worker"][2].startswith("n10:")
    assert (resolver.task_type, resolver.task_id, resolver.rpc_layer) == ("worker", 1, "grpc")
    assert resolver.num_accelerators() == {"GPU": 2}
