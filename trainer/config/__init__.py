"""What a run is: sections with every default, and the YAML they are read from. No TensorFlow.
In: YAML and --section.field=value. Out: a frozen Config, or every mistake in one InputError."""
