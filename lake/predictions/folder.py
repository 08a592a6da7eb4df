"""TODO"""

import urllib.parse

from lake import Reject

# The tables of a prediction, whoever makes it.
SUBMISSION_CSV, PREDICTIONS_CSV, REJECTS_CSV = "submission.csv", "predictions.csv", "rejects.csv"


PREDICTION_COLUMNS = ("ImageId", "probability", "lesion_px", "area_mm2")


REJECT_COLUMNS = ("path", "image_id", "what", "reason", "message")


def reject_row(path: str, image_id: str, reject: Reject, what: str = "image") -> dict:
    """One line of rejects.csv: `what` could not be made."""
    found = {"path": path, "image_id": image_id, "what": what}
    return found | {"reason": reject.reason, "message": reject.message}


def file_name(image_id: str, suffix: str) -> str:
    """Of an image's own file; what no file name can hold of its id is escaped, as in a URL."""
    return f"{urllib.parse.quote(image_id, safe='# ')}{suffix}"
