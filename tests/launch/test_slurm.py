"""launch.slurm: the batch script, what is refused, and what Slurm's answers are read as. The jobs
themselves are in tests/whole/test_slurm_jobs.py."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from launch import batch_script, slurm, slurm_job

ROOT = Path(__file__).parents[2]
TRAIN = ["radlake", "train", "--config=unetpp_small", "--lake=l/n/1.0.0"]
LINE = (
    "JobId=4 ArrayJobId=3 ArrayTaskId=0 JobName=a UserId=root(0) JobState={} Reason={} "
    "Dependency=(null) Requeue=1 Restarts=1 BatchFlag=1 Reboot=0 ExitCode={} Command=/a/b.sbatch"
)


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def script_of(words: list[str], capsys) -> str:
    assert slurm.main([*words[: words.index("--")], "--dry_run", *words[words.index("--") :]]) == 0
    return capsys.readouterr().out


def options_of(script: str) -> list[str]:
    return re.findall(r"^#SBATCH (.*)$", script, re.MULTILINE)


def words_of_command(script: str) -> list[str]:
    """Return the words that bash makes of the script's command, in job 2 of an array."""
    command = re.search(r"^command=\($.*?^\)$", script, re.MULTILINE | re.DOTALL)[0]
    code = f'{command}\nprintf "%s\\n" "${{command[@]}}"'
    process = subprocess.run(["bash", "-c", code], env={"SLURM_ARRAY_TASK_ID": "2"}, text=True,
                             capture_output=True, check=True)  # fmt: skip
    return process.stdout.splitlines()


def test_the_script_has_what_was_asked_for_and_bash_takes_it(capsys):
    machines = ["--nodes=2", "--gpus_per_node=a100:8", "--cpus_per_node=64", "--memory_gb=200"]
    job = ["--time=1-00:00:00", "--partition=gpu", "--sbatch=--qos=long", "--save_seconds=120"]
    command = [*TRAIN, "--workdir", "my runs/it's", "--data.batch_size=16"]
    script = script_of([*machines, *job, "--", *command], capsys)
    logs = ROOT / "slurm"
    assert options_of(script) == [
        *("--job-name=radlake-train", "--nodes=2", "--ntasks-per-node=1", "--gres=gpu:a100:8"),
        *("--cpus-per-task=64", "--mem=200G", "--time=1-00:00:00", "--partition=gpu"),
        *(f"--chdir={ROOT}", f"--output={logs}/radlake-train-%j.log", "--open-mode=append"),
        *("--signal=TERM@120", "--requeue", "--qos=long"),
    ]
    assert words_of_command(script) == command
    assert "srun --kill-on-bad-exit=0 --wait=600 --cpus-per-task=64 " in script
    assert "# batch: 16 images; 16 replicas on 2 nodes with 8 GPUs each; 1 images each" in script
    assert "# lake: not looked at" in script and not logs.exists()
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize(
    ("text", "numbers", "values"),
    [
        ("fold=0..4", "0-4", [0, 1, 2, 3, 4]),
        ("seed=1,5,7%2", "1,5,7%2", [1, 5, 7]),
        ("fold=3", "3", [3]),
    ],
)
def test_an_array_is_one_job_per_number(text, numbers, values):
    assert slurm.array(text)[1:] == (numbers, values)


def test_each_job_of_an_array_has_its_number(capsys):
    command = [*TRAIN, "--workdir=my runs/fold {fold}", "--data.fold={fold}"]
    script = script_of(["--array=fold=0..4%2", "--", *command], capsys)
    assert "--array=0-4%2" in options_of(script)
    assert words_of_command(script)[-2:] == ["--workdir=my runs/fold 2", "--data.fold=2"]
    assert "job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID\n" in script
    assert any(option.endswith("radlake-train-%A_%a.log") for option in options_of(script))


def test_jobs_of_an_array_may_read_one_run(capsys):
    words = ["predict", "--workdir=w", "--input={part}", "--output=predictions/{part}"]
    script = script_of(["--array=part=0..2", "--", "radlake", *words], capsys)
    assert words_of_command(script)[-1] == "--output=predictions/2"


def test_a_container_runs_the_command_and_sees_its_folders(capsys):
    words = ["--container=/images/a b.sif", "--bind=/scratch", "--gpus_per_node=1", "--"]
    command = ["radlake", "predict", "--workdir=w", "--input", "a*.dcm", "--output=o"]
    apptainer = ["apptainer", "exec", "--nv", "--bind=/scratch", "/images/a b.sif"]
    assert words_of_command(script_of([*words, *command], capsys)) == [*apptainer, *command]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--nodes=2 -- radlake convert --images=a", "only train works on several machines"),
        ("--nodes=2 -- python -m beam.predict --model=m", "give predict_files one with many"),
        ("--array=fold=0..4 -- radlake evaluate --workdir=w", "the command has no {fold}"),
        (
            "--array=fold=0..1 -- radlake train --config=unetpp --lake=l --workdir=w "
            "--data.fold={fold}",
            "--workdir w: the jobs of --array would all write there",
        ),
        (
            "--array=n=0..1 -- radlake convert --images {n} --output l/n/1.0.0",
            "such as --output l/n/1.0.0_{n}",
        ),
        ("--logs=a%b -- radlake show l", "Slurm replaces % in names"),
        ("--bind=/a -- radlake show l", "--bind is for the folders of a --container"),
        (
            "--nodes=3 -- python -m trainer.task train --config=unetpp --lake=l --workdir=w",
            "data.batch_size=8 does not divide over 3 replicas (3 nodes, on CPUs)",
        ),
        (
            "-- radlake train --config=unetpp --lake=l --workdir=w --train.epoch=1",
            "train.epoch: unknown key; did you mean epochs?",
        ),
    ],
)
def test_what_would_go_wrong_in_the_job_is_refused_before_it(words, message, capsys):
    assert slurm.main(["--dry_run", *shlex.split(words)]) == 2
    assert message in capsys.readouterr().err


def test_a_fold_that_the_lake_lacks_is_refused(lake, capsys):
    train = ["radlake", "train", "--config=unetpp_small", f"--lake={lake}"]
    command = [*train, "--workdir=w{fold}", "--data.fold={fold}"]
    assert slurm.main(["--dry_run", "--array=fold=0..4", "--", *command]) == 2
    assert "has no folds, data.fold=0 asks for one" in capsys.readouterr().err
    assert slurm.main(["--dry_run", "--", *train, "--workdir=w"]) == 0
    assert "# lake: phantoms 1.0.0: test 8, train 24, val 8" in capsys.readouterr().out


def test_a_machine_without_slurm_is_one_message(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert slurm.main([f"--logs={tmp_path / 'logs'}", "--", "radlake", "show", "l"]) == 2
    assert "there is no sbatch on the PATH" in capsys.readouterr().err
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize(
    ("worker_codes", "code"),
    [([0, 0], 0), ([42, 42], 42), ([42, 137], 137), ([2, 42], 2), ([1, 137], 1), ([143, 42], 143)],
)
def test_of_several_exit_codes_a_mistake_counts_and_then_a_lost_worker(worker_codes, code, capsys):
    """srun, which ends with the highest of its tasks, is done here by bash."""
    script = script_of(["--nodes=2", "--", "true"], capsys)
    worker = re.search(r"bash -c '(.*?)' worker", script, re.DOTALL)[1]
    decode = re.search(r"^case \$code in .*$", script, re.MULTILINE)[0]
    ends = [
        subprocess.run(["bash", "-c", worker, "worker", "bash", "-c", f"exit {one}"]).returncode
        for one in worker_codes
    ]
    process = subprocess.run(["bash", "-c", f"code={max(ends)}\n{decode}\nexit $code"])
    assert process.returncode == code
    condition = re.search(r"^if (.*); then$", script, re.MULTILINE)[1]
    is_repeated = subprocess.run(["bash", "-c", f"code={code}; {condition}"]).returncode == 0
    assert is_repeated == (code in (42, 137, 143))


@pytest.mark.parametrize(
    ("state", "exit_code", "has_ended", "code"),
    [
        ("RUNNING", "0:0", False, 0),
        ("PENDING", "42:0", False, 42),
        ("COMPLETED", "0:0", True, 0),
        ("FAILED", "2:0", True, 2),
        ("CANCELLED", "0:15", True, -15),
        ("TIMEOUT", "0:0", True, 1),
    ],
)
def test_what_slurm_says_of_a_job(state, exit_code, has_ended, code):
    number, task = slurm_job.read_task(LINE.format(state, "BeginTime", exit_code))
    assert (number, task.title, task.reason) == ("4", "3_0", "BeginTime")
    assert (task.state, task.has_ended, task.exit_code) == (state, has_ended, code)


def test_a_log_is_printed_line_by_line_as_it_grows(tmp_path, capsys):
    log = slurm_job.Log(tmp_path / "log", "3_0")
    log.show()
    for text, output in (("one\ntw", "3_0: one\n"), ("o\n", "3_0: two\n"), ("end", "")):
        with log.path.open("a") as file:
            file.write(text)
        log.show()
        assert capsys.readouterr().out == output
    log.show(is_whole=True)
    assert capsys.readouterr().out == "3_0: end\n"


def test_the_signal_and_the_requeue_are_those_that_slurm_knows():
    assert batch_script.GOES_ON == 42
