"""What a run is: every section with its defaults, and the YAML they are read from. No TensorFlow.
In: YAML and --section.field=value. Out: a Config, or all mistakes in one InputError; all ask."""
