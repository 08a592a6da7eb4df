"""What Beam works out anew at every step of a pipeline, worked out once.

Each of a pipeline's 140 transforms has Beam parse all options of the command line again, five
times, and read the signatures of 29 methods, eight times over. That is more than half of the CPU
time of converting a few images, and of building any job.
"""

import functools
import types
import weakref

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms import core


class Options(PipelineOptions):
    """Beam's options, which are parsed once for each class that somebody views them as. All views
    share their values already, so that what one sets the others have."""

    def view_as(self, cls):
        views = self.__dict__.setdefault("_views", {})
        if cls not in views:
            views[cls] = super().view_as(cls)
        return views[cls]

    def __getstate__(self) -> dict:
        """Return the state for copies and pickles: without the views, as Beam leaves a secret out
        of the values."""
        return {key: value for key, value in super().__getstate__().items() if key != "_views"}


def remember_signatures() -> None:
    """Have Beam read the signature of each function once."""
    # The function is Beam's own affair: a version without it is as slow as Beam is.
    read = getattr(core, "get_function_args_defaults", None)
    if read and not hasattr(read, "__wrapped__"):  # not yet
        core.get_function_args_defaults = _remembering(read)


def _remembering(read):
    """Return `read`, Beam's (function or method) -> (names, defaults), with a memory."""
    functions, methods = weakref.WeakKeyDictionary(), weakref.WeakKeyDictionary()

    @functools.wraps(read)
    def remember(callable_) -> tuple[list, list]:
        """Return the names and defaults of a function, read at its first call alone."""
        if type(callable_) is types.FunctionType:
            memory, key = functions, callable_
        elif type(callable_) is types.MethodType and type(callable_.__func__) is types.FunctionType:
            memory, key = methods, callable_.__func__
        else:
            return read(callable_)
        if key not in memory:
            memory[key] = read(callable_)
        names, defaults = memory[key]
        return list(names), list(defaults)

    return remember
