"""What TensorBoard's HParams tab shows first."""

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import backend_context, metadata

from trainer.config import files
from trainer.config.network import NETWORKS
from trainer.config.run import Config
from trainer.display.board import Board


@pytest.mark.parametrize("kind", NETWORKS)
def test_hparams_begins_with_what_matters_whatever_runs_are_compared(kind, tmp_path):
    unet = Config(model={"kind": "unet"})
    config = unet.model_copy(update={"model": NETWORKS[kind](kind=kind)})
    names = files.hyperparameter_names(config)
    assert {*files.hyperparameters(config)} <= {*names}
    assert names == files.hyperparameter_names(unet)
    board = Board(tmp_path, step=0)
    board.config(files.hyperparameters(config), names, "model:", {"command": "train"})
    board.flush()
    events = EventAccumulator(str(tmp_path)).Reload()
    content = events.SummaryMetadata(metadata.EXPERIMENT_TAG).plugin_data.content
    experiment = metadata.parse_experiment_plugin_data(content)
    backend_context._sort_and_reduce_to_hparams_limit(experiment)  # as for its table
    columns = [info.name for info in experiment.hparam_infos]
    assert len(columns) == len(names)
    assert columns[:6] == [
        *("data.batch_size", "data.side", "model.encoder", "model.kind"),
        *("optimizer.learning_rate", "train.seed"),
    ]
    scores = [info.name.tag for info in experiment.metric_infos]
    assert scores[:2] == [
        "best/dice_positives_at_half_network_size",
        "best/dice_mean_at_half_network_size",
    ]
    assert all(score.startswith("best/") for score in scores)
    session = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    assert metadata.parse_session_start_info_plugin_data(session).hparams["model.kind"]
