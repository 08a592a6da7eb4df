"""Everything for a human eye: TensorBoard, panels, plots, overlays, progress.
In: scores, images and masks. Out: event files, RGB pixels, console lines; all verbs ask."""
