"""An Evaluation -> the table that evaluate prints, at most 80 columns wide."""

import itertools
import math
import textwrap

from trainer.config.score_names import AUC_OF, EVALUATED, EVALUATED_WORDS, WIDEST, evaluated
from trainer.evaluation import bootstrap
from trainer.evaluation.results import Evaluation
from trainer.evaluation.scores import Scores
from trainer.scoring import digits

COLUMNS = 80
CELL = 23  # columns of a score with its interval, such as 0.782 [0.755, 0.809]


def table(evaluation: Evaluation) -> str:
    """Return the title, one line per score, the thresholds, and what to keep in mind."""
    splits = evaluation.splits
    lines = [*_wrap(evaluation.title), *_header(list(splits))]
    for name in score_names(evaluation):
        cells = "".join(f"{cell(split.scores, name):<{CELL}}" for split in splits.values())
        lines.append(f"{evaluated(name).words:<{WIDEST + 1}}{cells}")
    lines += _wrap(_intervals_line(evaluation))
    if evaluation.decision:
        lines += _wrap(f"thresholds chosen on {evaluation.choice}: {evaluation.decision}")
    if evaluation.remarks:
        lines.append("Keep in mind:")
    for remark in evaluation.remarks:
        lines += _wrap(remark.text, "- ")
    return "\n".join(line.rstrip() for line in lines)


def score_names(evaluation: Evaluation) -> list[str]:
    """Return the names of all scores that any split has, in the order of EVALUATED; behind these
    those of single findings, in the order of the network's."""
    names = [name for split in evaluation.splits.values() for name in split.scores.values]
    of_findings = [name for name in dict.fromkeys(names) if name.startswith(AUC_OF)]
    return [name for name in EVALUATED if name in names] + of_findings


def cell(scores: Scores, name: str) -> str:
    """Return a score with its interval as text, with as many digits as the images behind it
    support; "-" if it is not defined."""
    value, ends = scores.values.get(name, math.nan), scores.intervals.get(name)
    if isinstance(value, int):
        return f"{value}"
    if math.isnan(value):
        return "-"
    number = scores.samples[name]
    is_length = name.startswith("hd95")
    text = (digits.length if is_length else digits.share)(value, number)
    if not ends or math.isnan(ends[0]):
        return text
    end_text = digits.length if is_length else digits.end
    return f"{text} [{', '.join(end_text(end, number) for end in ends)}]"


def _header(names: list[str]) -> list[str]:
    """Return the names of the splits above their columns, long ones in several lines."""
    columns = [textwrap.wrap(name, CELL - 1) for name in names]
    rows = itertools.zip_longest(*columns, fillvalue="")
    return [" " * (WIDEST + 1) + "".join(f"{text:<{CELL}}" for text in row) for row in rows]


def _intervals_line(evaluation: Evaluation) -> str:
    """Return the line that explains the numbers and the brackets."""
    names, options = score_names(evaluation), evaluation.options
    text = f"dice, IoU, HD95: {EVALUATED_WORDS}" if "dice_mean" in names else ""
    tolerances = {
        "surface_dice_mm": f"{options.tolerance_mm:g} mm",
        "surface_dice_px": f"{options.tolerance_px:g} px",
    }
    if near := [words for name, words in tolerances.items() if name in names]:
        text += f"; surface dice: the share of the outlines within {' or '.join(near)}"
    *_, last = evaluation.splits.values()
    if not last.scores.intervals:
        return text
    unit = bootstrap.unit(last.outcomes.predictions.groups)
    brackets = f"[ ]: 95% intervals, from {options.replicates:,} draws of {unit}"
    return "; ".join(filter(None, (text, brackets)))


def _wrap(text: str, mark: str = "") -> list[str]:
    """Return lines of at most COLUMNS, the first with a mark, the others indented below it."""
    return textwrap.wrap(
        text,
        COLUMNS,
        initial_indent=mark,
        subsequent_indent=" " * len(mark),
        break_on_hyphens=False,
        break_long_words=False,
    )
