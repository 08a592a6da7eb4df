"""Everything for a human eye: TensorBoard, panels, plots, overlays, progress.
In: scores, images and masks. Out: event files, PNG bytes, lines on the console."""
