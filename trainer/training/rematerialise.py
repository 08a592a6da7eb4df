"""A network run block by block: only what enters and leaves a block is kept, and the backward pass
computes what is inside once more. Less memory, more time; the same gradients and moving statistics.

A keras.Model in, a callable in its place out. Its layers, weights and names stay as they are.

    x_0_0 ─> x_1_0 ─> x_0_1 ─> …    a block: the consecutive layers whose names start alike, from
                                    pooling or upsampling and concatenation to the last activation

An encoder of keras.applications is one layer of our networks; its own blocks take its place.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

import keras
import tensorflow as tf

# How the layers of a block begin: DenseNet's and ResNet's conv2_block3_, Inception-ResNet's
# block35_4_, EfficientNet's block2a_, VGG's and Xception's block2_, MobileNet's block_2_ and
# expanded_conv_2_, ConvNeXt's convnext_tiny_stage_0_block_2_, and ours, such as x_0_1_ and
# decoder_2_. Any other layer belongs to the block before it.
BLOCK = re.compile(
    r"(conv\d+_block\d+|block\d+_\d+|block\d+[a-z]?|expanded_conv(_\d+)?"
    r"|convnext_[a-z]+_stage_\d+_block_\d+|[a-z]+(_\d+)+)(?=_)"
)


class Call(NamedTuple):
    """A layer, or an operation, at a place where the graph calls it."""

    graph: keras.Model  # the network that it is in
    name: str
    inputs: list[keras.KerasTensor]
    outputs: list[keras.KerasTensor]


class Block(NamedTuple):
    """Consecutive calls, as a model of the network's own layers."""

    model: keras.Model  # [input, …] -> [output, …]
    inputs: list[int]  # ids of the tensors, as _blocks identifies them
    outputs: list[int]


def rematerialise(network: keras.Model) -> Callable:
    """Return a function (images, training=…) with the network's outputs, which keeps in memory only
    what passes between blocks."""
    blocks, identify = _blocks(network)

    def forward(images, training: bool):
        by_id = {identify(network.input): images}
        for block in blocks:
            inputs = [by_id[key] for key in block.inputs]
            by_id |= zip(block.outputs, _run_block(block.model, inputs, training), strict=True)
        return keras.tree.map_structure(lambda output: by_id[identify(output)], network.output)

    return forward


def _run_block(model: keras.Model, inputs: list, training: bool) -> list[tf.Tensor]:
    """Return the model's outputs, which are computed again for their gradient.

    That must change nothing, so the model becomes a function of its weights and of its state
    (moving statistics, dropout's seed), and the new state is assigned here, once.
    """
    weights = [tf.convert_to_tensor(weight) for weight in model.trainable_variables]
    state = [tf.convert_to_tensor(variable) for variable in model.non_trainable_variables]
    new_states = []

    def pure(inputs: list, weights: list):
        outputs, new_state = model.stateless_call(weights, state, inputs, training=training)
        new_states.append(new_state)
        return keras.tree.flatten(outputs)

    outputs = tf.recompute_grad(pure)(inputs, weights)
    for variable, value in zip(model.non_trainable_variables, new_states[0], strict=True):
        variable.assign(value)
    return outputs


def _blocks(network: keras.Model) -> tuple[list[Block], Callable]:
    """Return the network's blocks in the order of their computation, and a function from a
    tensor to its id."""
    calls, aliases = _calls(network)

    def identify(tensor: keras.KerasTensor) -> int:
        key = id(tensor)
        while key in aliases:
            key = aliases[key]
        return key

    # From the last block to the first: a block must return those of its tensors that later blocks
    # take, or the network returns; `first_use` has, for each of these, the first such block.
    groups = _groups(calls)
    first_use = {identify(output): len(groups) for output in network.outputs}
    blocks = []
    for number, group in reversed(list(enumerate(groups))):
        results = {identify(x): x for call in group for x in call.outputs}
        arguments = {identify(x): x for call in group for x in call.inputs}
        inputs = {key: x for key, x in arguments.items() if key not in results}
        # TensorFlow computes a block again once it has the first output's gradient. The first is to
        # be the one whose gradient comes last, so that no block is computed too early.
        by_use = sorted(first_use, key=first_use.get)
        outputs = {key: results[key] for key in by_use if key in results}
        first_use |= dict.fromkeys(inputs, number)
        model = keras.Model(list(inputs.values()), list(outputs.values()))
        blocks.append(Block(model, list(inputs), list(outputs)))
    return blocks[::-1], identify


def _groups(calls: list[Call]) -> list[list[Call]]:
    """Return the calls of each block; one whose name tells no block stays with the one before."""
    groups, last = [], (None, "")
    for call in calls:
        match = BLOCK.match(call.name)
        if match or call.graph is not last[0]:
            block = (call.graph, match[0] if match else "")
        else:
            block = last
        if block != last:
            groups.append([])
        groups[-1].append(call)
        last = block
    return groups


def _calls(network: keras.Model) -> tuple[list[Call], dict[int, int]]:
    """Return the calls in an order in which each comes after those that it needs, one branch after
    the other; and the tensors that are aliases: a nested network's input is an alias of the tensor
    that the network is called with."""
    calls, aliases = [], {}
    for node in _nodes(network.outputs):
        inner = node.operation
        if not isinstance(inner, keras.Model):
            calls.append(Call(network, inner.name, node.input_tensors, node.output_tensors))
            continue
        inner_calls, inner_aliases = _calls(inner)
        calls += inner_calls
        aliases |= inner_aliases
        aliases |= zip(map(id, inner.inputs), map(id, node.input_tensors), strict=True)
        aliases |= zip(map(id, node.output_tensors), map(id, inner.outputs), strict=True)
    return calls, aliases


def _nodes(outputs: list[keras.KerasTensor]) -> list:
    """Return the graph's nodes that lead to the outputs, depth first; Keras's own order takes the
    layers of parallel blocks in turn.

    Not a recursion, because of the 800 layers of EfficientNet-B7: a node stays on the stack until
    all those that it needs are in the list.
    """
    nodes, visited, stack = [], set(), [_node(output) for output in reversed(outputs)]
    while stack:
        inputs = [_node(x) for x in stack[-1].input_tensors if id(_node(x)) not in visited]
        if inputs and id(stack[-1]) not in visited:
            stack += reversed(inputs)
            continue
        node = stack.pop()
        if id(node) not in visited and not node.is_input:
            nodes.append(node)
        visited.add(id(node))
    return nodes


def _node(tensor: keras.KerasTensor):
    """Return the node that computes a tensor."""
    operation, call, _ = tensor._keras_history
    return operation._inbound_nodes[call]
