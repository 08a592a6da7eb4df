"""A network run block by block, keeping what enters and leaves a block: the backward pass computes
what is inside once more. Memory against time; the same gradients and moving statistics.

A keras.Model in, a callable in its place out. Its layers, weights and names stay as they are.

    x_0_0 ─> x_1_0 ─> x_0_1 ─> …    a block: the consecutive layers whose names start alike, from
                                    pooling or upsampling and concatenation to the last activation

An encoder of keras.applications is one layer of ours; its own blocks are taken instead of it.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

import keras
import tensorflow as tf

# How the layers of a block begin: DenseNet's and ResNet's conv2_block3_, Inception-ResNet's
# block35_4_, EfficientNet's block2a_, VGG's and Xception's block2_, MobileNet's block_2_, and ours,
# such as x_0_1_ and decoder_2_. Any other layer belongs to the block before it.
BLOCK = re.compile(r"(conv\d+_block\d+|block\d+_\d+|block\d+[a-z]?|[a-z]+(_\d+)+)(?=_)")


class Step(NamedTuple):
    """A layer, or an operation, where the graph calls it."""

    graph: keras.Model  # the network that it is in
    name: str
    inputs: list[keras.KerasTensor]
    outputs: list[keras.KerasTensor]


class Block(NamedTuple):
    model: keras.Model  # of the network's own layers, [input, …] -> [output, …]
    inputs: list[int]  # numbers of the tensors, as _steps gives them
    outputs: list[int]


def blockwise(network: keras.Model) -> Callable:
    """(images, training=…) -> the network's outputs, as the network itself gives them."""
    blocks, number = _blocks(network)

    def forward(images, training: bool):
        tensors = {number(network.input): images}
        for block in blocks:
            inputs = [tensors[name] for name in block.inputs]
            tensors |= zip(block.outputs, _recomputed(block.model, inputs, training), strict=True)
        return keras.tree.map_structure(lambda output: tensors[number(output)], network.output)

    return forward


def _recomputed(model: keras.Model, inputs: list, training: bool) -> list[tf.Tensor]:
    """The model's outputs. Computing them again must change nothing, so the block is a function of
    its weights and of its state (moving statistics, dropout's seed), which is assigned here."""
    weights = [tf.convert_to_tensor(weight) for weight in model.trainable_variables]
    state = [tf.convert_to_tensor(variable) for variable in model.non_trainable_variables]
    new_state = []

    def pure(inputs: list, weights: list):
        outputs, found = model.stateless_call(weights, state, inputs, training=training)
        new_state.append(found)
        return keras.tree.flatten(outputs)

    outputs = tf.recompute_grad(pure)(inputs, weights)
    for variable, value in zip(model.non_trainable_variables, new_state[0], strict=True):
        variable.assign(value)
    return outputs


def _blocks(network: keras.Model) -> tuple[list[Block], Callable]:
    """The network's blocks in the order of their computation, and the number of a tensor."""
    steps, same = _steps(network)

    def number(tensor: keras.KerasTensor) -> int:
        found = id(tensor)
        while found in same:
            found = same[found]
        return found

    groups = _groups(steps)
    wanted_at = {number(output): len(groups) for output in network.outputs}
    blocks = []
    for at, group in reversed(list(enumerate(groups))):
        made = {number(x): x for step in group for x in step.outputs}
        taken = {number(x): x for step in group for x in step.inputs}
        inputs = {key: x for key, x in taken.items() if key not in made}
        # TensorFlow computes a block again once it has the first output's gradient: the first is
        # to be the one whose gradient comes last, so that no block is computed too early.
        outputs = {key: made[key] for key in sorted(wanted_at, key=wanted_at.get) if key in made}
        wanted_at |= dict.fromkeys(inputs, at)
        model = keras.Model(list(inputs.values()), list(outputs.values()))
        blocks.append(Block(model, list(inputs), list(outputs)))
    return blocks[::-1], number


def _groups(steps: list[Step]) -> list[list[Step]]:
    """The steps of each block; one whose name says nothing stays with the step before it."""
    groups, last = [], (None, "")
    for step in steps:
        named = BLOCK.match(step.name)
        if named or step.graph is not last[0]:
            block = (step.graph, named[0] if named else "")
        else:
            block = last
        if block != last:
            groups.append([])
        groups[-1].append(step)
        last = block
    return groups


def _steps(network: keras.Model) -> tuple[list[Step], dict[int, int]]:
    """Every step behind those that it needs, one branch after the other; and which tensors are
    others: a nested network's input is what it is called with."""
    steps, same = [], {}
    for node in _nodes(network.outputs):
        inner = node.operation
        if not isinstance(inner, keras.Model):
            steps.append(Step(network, inner.name, node.input_tensors, node.output_tensors))
            continue
        inner_steps, inner_same = _steps(inner)
        steps += inner_steps
        same |= inner_same
        same |= zip(map(id, inner.inputs), map(id, node.input_tensors), strict=True)
        same |= zip(map(id, node.output_tensors), map(id, inner.outputs), strict=True)
    return steps, same


def _nodes(outputs: list[keras.KerasTensor]) -> list:
    """The calls that lead to the outputs, depth first: Keras's own order deals the layers of
    parallel blocks in turn. (A stack, for the 800 layers of EfficientNet-B7.)"""
    nodes, done, stack = [], set(), [_maker(output) for output in reversed(outputs)]
    while stack:
        missing = [_maker(x) for x in stack[-1].input_tensors if id(_maker(x)) not in done]
        if missing and id(stack[-1]) not in done:
            stack += reversed(missing)
            continue
        node = stack.pop()
        if id(node) not in done and not node.is_input:
            nodes.append(node)
        done.add(id(node))
    return nodes


def _maker(tensor: keras.KerasTensor):
    operation, call, _ = tensor._keras_history
    return operation._inbound_nodes[call]
