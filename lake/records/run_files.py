"""Names of what trainer/ writes that says of which images or lakes it is: of a run, a cache, an
export. lake/inspection/traces/ reads them."""

SEEN = "images.npz"  # in a workdir: which images the run saw, trainer/data/seen.py
SEEN_IMAGES, SEEN_PATIENTS = ("trained", "chosen"), "patients"  # its arrays, of stable_hash
LAKE = "lake.json"  # in a workdir, and in what `lake write` wrote: of which lake it is
CACHE = "checksums.json"  # in a cache of decoded images, trainer/data/cache.py
EVENTS = "events.out.tfevents"  # in names of TensorBoard's files
