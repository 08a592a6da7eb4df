"""Everything for a human eye: TensorBoard, trackers, panels, plots, overlays, progress.
In: scores, images, masks. Out: event files, pixels, console lines; training to prediction ask."""
