"""launch.tpu_vm against a gcloud on the PATH that records its calls and gives prepared answers."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lake import InputError
from launch import gcloud, machines, tpu_vm

ROOT = Path(__file__).parents[2]
FLAGS = json.loads((ROOT / "tests" / "launch" / "gcloud_flags.json").read_text())
pytestmark = pytest.mark.usefixtures("one_sdist")
WORDS = ["--config=configs/unetpp.yaml", "--lake=gs://bucket/lakes/siim/1.0.0"]
WORDS += ["--workdir=gs://bucket/runs/unetpp", "--project=my-project", "--zone=us-west4-a"]
FAKE = f"""#!{sys.executable} -IS
import json, os, sys, time
from pathlib import Path

folder = Path(os.environ["FAKE_GCLOUD"])
with (folder / "calls").open("a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")


def next_answer(name, default):
    path = folder / name
    answers = json.loads(path.read_text()) if path.exists() else []
    path.write_text(json.dumps(answers[1:]))
    return answers[0] if answers else default


verb = sys.argv[4]
if verb == "describe":
    print(next_answer("states", "ACTIVE"))
elif verb == "ssh" and "trainer.task" in sys.argv[-1]:
    code = next_answer("codes", 0)
    if code == "sleep":
        time.sleep(60)
    sys.exit(code)
else:
    sys.exit(next_answer(verb, 0))
"""


@pytest.fixture
def set_answers(tmp_path, monkeypatch):
    """Put a fake gcloud on the PATH; return a function that sets its answers by their names."""
    fake = tmp_path / "bin" / "gcloud"
    fake.parent.mkdir()
    fake.write_text(FAKE)
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_GCLOUD", str(tmp_path))
    monkeypatch.setattr(tpu_vm, "POLL_SECONDS", 0.01)

    def set_them(**answers: list) -> None:
        for name, values in answers.items():
            (tmp_path / name).write_text(json.dumps(values))

    return set_them


def calls(folder: Path) -> list[list[str]]:
    path = folder / "calls"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def verbs(folder: Path) -> list[str]:
    """Return gcloud's verbs in the order of the calls, `train` for the ssh that trains; without the
    questions for the state."""
    return [
        "train" if "trainer.task" in call[-1] else call[3]
        for call in calls(folder)
        if call[3] != "describe"
    ]


def machine(*words: str) -> gcloud.TpuVm:
    flags = tpu_vm.parser().parse_args([*WORDS, "--accelerator=v5litepod-8", *words])
    return tpu_vm.machine_of(flags)


def rent(*words: str, restarts: int = 3) -> int:
    files = [Path("radlake-0.1.0.tar.gz"), Path("tpu.txt"), Path("config.yaml")]
    job = tpu_vm.training_command(tpu_vm.parser().parse_args([*WORDS, "--accelerator=v2-8"]))
    vm = machine(*words)
    with tpu_vm.delete_at_end(vm):
        return tpu_vm.train(vm, files, job, restarts)


def test_rents_installs_trains_and_deletes(set_answers, tmp_path):
    set_answers(states=["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"])
    assert rent() == 0
    assert verbs(tmp_path) == ["create", "scp", "ssh", "train", "delete"]


def test_goes_on_after_exit_code_42_on_the_same_machine(set_answers, tmp_path):
    set_answers(codes=[142, 142, 0])
    assert rent() == 0
    assert verbs(tmp_path) == ["create", "scp", "ssh", "train", "train", "train", "delete"]


@pytest.mark.parametrize("code", [142, 1, 255], ids=["saved", "gcloud lost it", "ssh lost it"])
@pytest.mark.parametrize(("words", "gone"), [([], "SUSPENDED"), (["--now"], "PREEMPTED")])
def test_rents_another_machine_where_this_one_is_taken(set_answers, tmp_path, code, words, gone):
    set_answers(codes=[code, 0], states=["READY", gone, "READY"])
    assert rent(*words) == 0
    once = ["create", "scp", "ssh", "train", "delete"]
    assert verbs(tmp_path) == once * 2


def test_an_error_of_the_run_is_not_repeated(set_answers, tmp_path):
    set_answers(codes=[102])
    assert rent() == 2
    assert verbs(tmp_path) == ["create", "scp", "ssh", "train", "delete"]


def test_gives_up_after_so_many_restarts(set_answers, tmp_path):
    set_answers(codes=[142, 142, 142])
    with pytest.raises(InputError, match="--restarts=1"):
        rent(restarts=1)
    assert verbs(tmp_path) == ["create", "scp", "ssh", "train", "train", "delete"]


@pytest.mark.parametrize("failing", ["create", "scp", "ssh"])
def test_what_cannot_be_set_up_is_deleted(set_answers, tmp_path, failing):
    set_answers(**{failing: [1]})
    with pytest.raises(InputError, match="exit code 1 of gcloud compute tpus"):
        rent()
    assert verbs(tmp_path)[-2:] == [failing, "delete"]


def test_a_machine_that_is_refused_is_deleted(set_answers, tmp_path):
    set_answers(states=["ACCEPTED", "FAILED"])
    with pytest.raises(InputError, match="is FAILED instead of ready"):
        rent()
    assert verbs(tmp_path) == ["create", "delete"]


def test_a_machine_that_could_not_be_deleted_is_said_with_its_command(set_answers, capfd):
    set_answers(delete=[1])
    vm = machine()
    with tpu_vm.delete_at_end(vm):
        pass
    assert f"NOT DELETED, it may cost money: {shlex.join(vm.delete())}" in capfd.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_deletes_the_machine(set_answers, tmp_path, number):
    set_answers(codes=["sleep"])
    code = (
        "import signal, sys, tests.launch.test_tpu_vm\n"
        # A shell lets its background jobs ignore SIGINT, and the tests may run in one.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "try: tests.launch.test_tpu_vm.rent()\n"
        "except KeyboardInterrupt: sys.exit(130)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, start_new_session=True)
    deadline = time.monotonic() + 60
    while "train" not in verbs(tmp_path):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(process.pid, number)  # as a terminal does: the launcher and its gcloud
    assert process.wait(60) == 130
    assert verbs(tmp_path)[-2:] == ["train", "delete"]


def test_every_flag_is_one_that_gcloud_has():
    for accelerator in machines.TPU_VMS:
        for now in ([], ["--now"]):
            more = ["--spot", "--internal_ips", "--network=n", "--subnetwork=s"]
            words = [*WORDS, f"--accelerator={accelerator}", *now, *more, "--service_account=a@b"]
            flags = tpu_vm.parser().parse_args(words)
            one = tpu_vm.machine_of(flags)
            files = [Path("a.tar.gz"), Path("tpu.txt"), Path("config.yaml")]
            for line in tpu_vm.plan(one, files, tpu_vm.training_command(flags), 3).splitlines():
                if not line.startswith("#"):
                    check(shlex.split(line))


def check(command: list[str]) -> None:
    name = " ".join(command[1:5])
    options = {word.partition("=")[0] for word in command[5:] if word.startswith("--")}
    assert options <= {*FLAGS[name], *FLAGS["all commands"]}, command


def test_an_argument_arrives_over_there_as_it_was_given(tmp_path):
    nasty = ["printf", "%s\n", "$(touch oops)", "a b", "'", '"', "; exit 3", "--lake=gs://b/a*"]
    command = machine().ssh(nasty)[-1].removeprefix("--command=")
    process = subprocess.run(["sh", "-c", command], capture_output=True, text=True, cwd=tmp_path)
    assert process.stdout.splitlines() == nasty[2:]
    assert not list(tmp_path.iterdir())


def test_a_dry_run_calls_nothing_and_prints_every_command(set_answers, tmp_path, capsys):
    assert tpu_vm.main([*WORDS, "--accelerator=v6e-8", "--spot", "--dry_run"]) == 0
    assert not calls(tmp_path)
    output = capsys.readouterr().out
    assert "# roles of whoever launches: roles/tpu.admin, roles/iam.serviceAccountUser" in output
    assert "Compute Engine account: roles/storage.objectUser on the buckets\n" in output
    lines = [line for line in output.splitlines() if not line.startswith("#")]
    words = [shlex.split(line)[4] for line in lines]
    assert words == ["create", "describe", "scp", "ssh", "ssh", "delete"]


def test_a_batch_that_does_not_divide_over_the_chips_is_refused(capsys):
    assert tpu_vm.main([*WORDS, "--accelerator=v5p-8", "--data.batch_size=6", "--dry_run"]) == 2
    assert "does not divide over 4 replicas (v5p-8)" in capsys.readouterr().err


def test_a_yes_rents_trains_and_deletes(set_answers, tmp_path):
    set_answers()
    assert tpu_vm.main([*WORDS, "--accelerator=v6e-8", "--yes"]) == 0
    assert verbs(tmp_path) == ["create", "scp", "ssh", "train", "delete"]


def test_nothing_is_rented_without_a_yes(set_answers, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", (tmp_path / "nobody").open("w+"))
    assert tpu_vm.main([*WORDS, "--accelerator=v6e-8"]) == 2
    assert "add --yes" in capsys.readouterr().err
    assert not calls(tmp_path)
