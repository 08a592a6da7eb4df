"""What Beam works out once: the same as it works out every time."""

import copy
import functools
import inspect
import pickle

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions, TypeOptions
from apache_beam.transforms import core

from beam.running import read_once

FLAGS = ["--runner=DirectRunner", "--no_pipeline_type_check", "--project=a", "--job_name=b"]


class Keep(beam.DoFn):
    """A transform with a parameter that Beam fills in and one that has a default."""

    def process(self, element, limit=3, window=beam.DoFn.WindowParam):
        yield element


@pytest.fixture
def reads(monkeypatch) -> list:
    """The functions whose signature was read, from here on."""
    names = []
    read = inspect.unwrap(core.get_function_args_defaults)

    def reading(callable_):
        names.append(callable_)
        return read(callable_)

    monkeypatch.setattr(core, "get_function_args_defaults", reading)
    read_once.remember_signatures()
    return names


def plain(callable_) -> tuple[list, list]:
    """Return the names and defaults of a function's parameters, as Python itself tells."""
    parameters = inspect.signature(callable_).parameters.values()
    parameters = [one for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD]
    defaults = [one.default for one in parameters if one.default is not one.empty]
    return [one.name for one in parameters], defaults


@pytest.mark.parametrize(
    "callable_",
    [Keep.process, Keep().process, lambda row, key=1: row, functools.partial(lambda a, b: a, 1)],
    ids=["function", "method", "lambda", "partial"],
)
def test_signatures_are_those_that_python_reads(reads, callable_):
    for _ in range(3):
        names, defaults = core.get_function_args_defaults(callable_)
        assert (names, defaults) == plain(callable_)
        names.clear()  # what one caller does with them is not the next one's
        defaults.clear()
    assert len(reads) == (3 if isinstance(callable_, functools.partial) else 1)


def test_a_pipeline_reads_each_signature_once(reads):
    read_once.remember_signatures()  # again: nothing more
    root = beam.Pipeline(options=read_once.Options([]))
    _ = (
        root
        | beam.Create([1, 2])
        | beam.ParDo(Keep())
        | beam.Map(lambda element: (element, 1))
        | beam.combiners.Count.Globally()
    )
    root.to_runner_api()
    functions = [getattr(one, "__func__", one) for one in reads]
    assert len(functions) == len(set(functions)) > 29


def test_views_are_those_of_beam_and_parsed_once(monkeypatch):
    options, beams = read_once.Options(FLAGS), PipelineOptions(FLAGS)
    sections = PipelineOptions.__subclasses__()
    for section in set(sections) - {read_once.Options}:
        view = options.view_as(section)
        assert type(view) is section and options.view_as(section) is view
        names = view._visible_option_list()
        wanted = beams.view_as(section)
        assert [getattr(view, name) for name in names] == [getattr(wanted, name) for name in names]
    assert options.view_as(TypeOptions).pipeline_type_check is False
    assert options.get_all_options() == beams.get_all_options()


def test_what_one_view_sets_the_others_have_and_a_copy_is_apart():
    options = read_once.Options(FLAGS)
    options.view_as(GoogleCloudOptions).project = "c"
    duplicate = copy.deepcopy(options)
    duplicate.view_as(GoogleCloudOptions).project = "d"
    projects = [one.view_as(GoogleCloudOptions).project for one in (options, duplicate)]
    assert projects == ["c", "d"] and options.get_all_options()["project"] == "c"


def test_a_secret_that_beam_leaves_out_of_pickles_stays_out():
    options = read_once.Options([*FLAGS, "--impersonate_service_account=somebody"])
    assert options.view_as(GoogleCloudOptions).impersonate_service_account == "somebody"
    content = pickle.loads(pickle.dumps(options))  # noqa: S301
    assert content.view_as(GoogleCloudOptions).impersonate_service_account is None
    assert content.view_as(GoogleCloudOptions).project == "a"
