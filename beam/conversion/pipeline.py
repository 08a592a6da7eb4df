"""The whole pipeline of a conversion, each of whose transforms is in the module that it is named
with. In: the options, and the columns of the label file. Out: a finished lake in their folder."""

import apache_beam as beam

from beam.conversion import carried, compared, erasures, finish, labelling, listing, plan, shards
from beam.conversion.options import ConversionOptions
from lake.labels.columns import Layout


def build(root: beam.Pipeline, options: ConversionOptions, layout: Layout | None) -> None:
    """Pipe the whole conversion: from the root to a finished lake in `options.folder`."""
    inputs = root | listing.ReadHeaders(options)
    # inputs.headers: (id by which labels know it, Header)
    labels = inputs | labelling.ReadLabels(options, layout)
    # labels.rows: (id, Row)
    outcomes = {"headers": inputs.headers, "rows": labels.rows} | labelling.Join(options, layout)
    # outcomes.images: LabelledImage
    if options.erased:
        outcomes = root | erasures.LeaveErased(outcomes, options)
    # Of all images: an append goes on with the new ones.
    bits = outcomes.images | shards.LakeBits(options)  # 8 or 16
    carry = None
    if options.base:
        carry = root | compared.Compare(outcomes, options)
        outcomes = carry.outcomes
    planned = outcomes.images | plan.Plan(options, outcomes.tally, carry and carry.places)
    # planned.entries: ((split, shard, shards), (key, fold, LabelledImage))
    names = planned.entries | shards.WriteShards(options, bits, carry and carry.is_needed)
    if carry:
        carried_names = carry.changes | carried.CarryShards(
            planned.assignment, carry.is_needed, options
        )
        names = (names, carried_names) | "All shards" >> beam.Flatten()
    # names: the shard's name
    _ = names | finish.Finish(inputs, labels, outcomes, bits, options)
