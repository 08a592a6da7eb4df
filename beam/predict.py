"""python -m beam.predict: image files and an export of trainer.task -> masks, on any Beam runner.

beam/prediction/pipeline.py is the whole pipeline. Apache Beam, which takes seconds to import, comes
in after options and paths are checked.
"""

if __name__ == "__main__":  # before the rest is imported, which takes a while
    from lake import signals

    signals.arm()

import importlib.util
import sys
import time
from pathlib import Path

from beam.prediction.options import PredictionOptions, claim, from_flags, parser, with_threads
from beam.running import progress, startup
from beam.running.alone import alone_in
from beam.running.options import check_beam_arguments, is_beams, is_local_runner, names_in_source
from lake import InputError, signals, storage
from lake.terminal import cli

COMMAND = "beam.predict"


def run(argv: list[str]) -> str:
    """Predict, and return what to print; raise InputError or Stopped."""
    start = time.monotonic()
    flags, beam_arguments = cli.parse(parser(), argv, is_beams, names_in_source())
    is_local = is_local_runner(beam_arguments)
    if is_local and importlib.util.find_spec("tensorflow") is None:
        raise InputError("beam.predict needs TensorFlow; pip install 'radlake[train-cpu]'")
    with storage.temporary_folder() as temporary:
        progress_file = str(Path(temporary, "progress")) if is_local else None
        options = from_flags(flags, progress_file)
        check_beam_arguments(beam_arguments, COMMAND)
        from lake.predictions.folder import LOCK, LOCK_WORDS

        with alone_in(options.folder, LOCK, *LOCK_WORDS):
            return _predict(flags.images, options, beam_arguments, start)


def _predict(
    pattern: str, options: PredictionOptions, beam_arguments: list[str], start: float
) -> str:
    """Predict the files of a pattern, and return what to print; `start`: when the command began."""
    with startup.lasting_objects():
        from beam.prediction import finish, pipeline
        from beam.running import runners

        beam_options, runner = runners.parse(beam_arguments)
        options = with_threads(options, beam_options)
        signals.set_repeat("the same command goes on with the shards that are finished")
        claim(options)
        root = runners.pipeline(beam_options)
        pipeline.build(root, pattern, options)
    if options.progress_file:  # on this machine
        with progress.Line(options.progress_file, "predicting"):
            runners.run_locally(root)
    elif not runners.run_remotely(root, runner, beam_options, detach=False):
        from lake.predictions.folder import SUMMARY

        return f"{options.folder}: {SUMMARY} will be there when the job has ended"
    return finish.table(options, time.monotonic() - start)


def main(argv: list[str]) -> int:
    return cli.exit_code(lambda: run(argv))


if __name__ == "__main__":
    cli.begin()
    cli.end(main(sys.argv[1:]))
