"""An evaluation -> report.html: one page that needs no network, for a reader without this program.

The template and its parts are in page/. Charts are SVG in the page; the scripts draw outlines at
other thresholds, look scores up in a table of all thresholds, and sort the table of images. A page
is at most about MOST_MEGABYTES, however many images there are.
"""

import base64
import hashlib
from pathlib import Path

import jinja2
import numpy as np
from markupsafe import Markup

from trainer.config.score_names import EVALUATED_WORDS, evaluated
from trainer.display import panel
from trainer.evaluation import (
    bootstrap,
    charts,
    diagrams,
    figures,
    headline,
    image_table,
    threshold_grid,
)
from trainer.evaluation.bootstrap import FEWEST_PATIENTS
from trainer.evaluation.gallery import FALSE_ALARMS, SIDE, GalleryImage
from trainer.evaluation.outlines import STEPS
from trainer.evaluation.results import Evaluation, SplitScores
from trainer.evaluation.table import cell, score_names
from trainer.scoring import digits
from trainer.scoring.ratios import ratio

PAGE = Path(__file__).parent / "page"
SCRIPTS = ("outlines.js", "thresholds.js", "pictures.js", "table.js")
MOST_MEGABYTES = 10
# Scores that follow the sliders, and those of subgroups.
MOVED = ("dice_mean", "dice_positives", "sensitivity", "specificity", "ppv", "npv")
BY_GROUP = ("images", "positives", "dice_mean", "dice_positives", "auc", "sensitivity")
BY_GROUP += ("specificity",)
FIRST_REMARKS = 2  # that are seen at once
MOST_RUNS = 6  # whose training is drawn


def page(evaluation: Evaluation, images: dict[int, GalleryImage]) -> str:
    """Return the HTML of the last split's scores beside the others'; `images`: those of its
    galleries, by place in the split."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    heat_map, names = _heat_map(evaluation), score_names(evaluation)
    split, last = list(evaluation.splits.items())[-1]
    rows = figures.rows(last.outcomes, images)
    table = image_table.from_outcomes(last.outcomes)
    script = "\n".join((PAGE / name).read_text() for name in SCRIPTS)
    return environment.get_template("report.html").render(
        evaluation=evaluation,
        split=split,
        last=last,
        chosen_on=evaluation.chosen_on,
        values=last.scores.values,
        tiles=headline.tiles(last.scores),
        units=bootstrap.unit(last.outcomes.predictions.groups),
        fewest=FEWEST_PATIENTS,
        rows=rows,
        table=table,
        sliders=threshold_grid.sliders(evaluation.decision) if evaluation.decision else {},
        heat_map=heat_map,
        moved=[name for name in MOVED if name in last.scores.values],
        by_group=[name for name in BY_GROUP if name in last.scores.values],
        confusion=headline.confusion(last.outcomes),
        charts=_charts(last),
        trainings=[(folder, *diagrams.training(folder)) for folder in _folders(evaluation)],
        names=names,
        findings=headline.findings(last.outcomes),
        descriptions={name: evaluated(name) for name in names},
        how=EVALUATED_WORDS,
        cell=cell,
        plot=charts.PLOT,
        first_remarks=FIRST_REMARKS,
        duration=_duration,
        side=SIDE,
        false_alarms=FALSE_ALARMS,
        colours={"truth": panel.TRUTH_COLOUR, "predicted": panel.PREDICTION_COLOUR},
        data=_data(evaluation, rows, table, heat_map),
        script=Markup(script),  # noqa: S704 - files of this package
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _folders(evaluation: Evaluation) -> list[Path]:
    return [folder for folder, _ in evaluation.configs][:MOST_RUNS]


def _duration(seconds: float) -> str:
    """Return a length of time as text, in its two largest units."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _charts(split: SplitScores) -> list:
    """Return the charts of a split, those that have something to show."""
    if not split.curves:
        return []
    values, outcomes = split.scores.values, split.outcomes
    places = outcomes.compared_places
    is_called = outcomes.is_called[places]
    hits = (is_called & (outcomes.predictions.labels[places] > 0)).sum()
    precision = float(ratio(hits, is_called.sum()))
    answers = values["sensitivity"], values["specificity"], precision
    return [
        *diagrams.ranking(split.curves, *answers),
        *diagrams.thresholds(split.curves),
        *diagrams.masks(outcomes),
    ]


def _heat_map(evaluation: Evaluation) -> dict | None:
    """Return the mean dice on the split that the thresholds were chosen on, or on the first where
    they are of another lake, for each top and bottom at the frozen other thresholds; None without
    masks."""
    split, chosen_on = next(iter(evaluation.splits.items()))
    if evaluation.decision is None or evaluation.decision.triplet is None:
        return None
    if not len(chosen_on.outcomes.predictions.counts.truth):
        return None
    sliders = threshold_grid.sliders(evaluation.decision)
    scores = threshold_grid.scores(chosen_on.outcomes)["dice_mean"]
    lengths = [len(sliders[name].values) for name in ("top", "area", "bottom")]
    gate = sliders["lesion"].position if "lesion" in sliders else 0
    cells = np.reshape(scores, (-1, *lengths))[gate][:, sliders["area"].position]  # [T, K]
    decimals = digits.decimals(chosen_on.scores.samples["dice_mean"])
    return {
        "split": split,
        "tops": sliders["top"].values,
        "bottoms": sliders["bottom"].values,
        "cells": cells.tolist(),
        "decimals": decimals,
        "scores": scores,
    }


def _data(
    evaluation: Evaluation, rows: dict, table: image_table.ImageTable, heat_map: dict | None
) -> dict:
    """Return the data that the page's scripts need, as JSON has it."""
    *_, last = evaluation.splits.values()
    outcomes = last.outcomes
    labels = outcomes.predictions.labels[outcomes.compared_places]
    grid = None
    if evaluation.decision is not None and len(labels):
        grid = {
            "sliders": {
                name: slider._asdict()
                for name, slider in threshold_grid.sliders(evaluation.decision).items()
            },
            "scores": threshold_grid.scores(outcomes),
            "positives": int((labels > 0).sum()),
            "negatives": int((labels <= 0).sum()),
            "prevalence": evaluation.options.prevalence,
            "decimals": {
                name: digits.decimals(number) for name, number in last.scores.samples.items()
            },
            "heat_map": heat_map and {name: heat_map[name] for name in ("scores", "decimals")},
        }
    return {
        "grid": grid,
        "steps": STEPS,
        "figures": [figure.redraw for row in rows.values() for figure in row],
        "columns": [_column(column) for column in table.columns],
    }


def _column(column: image_table.Column) -> dict:
    """Return a column for table.js; one in which nothing is known has no values."""
    is_known = any(value is not None for value in column.values)
    values = column.values if is_known else []
    return {**column._asdict(), "values": values, "is_shown": column.is_shown}
