"""The mistakes of test_errors.py, fourth part: shared weights, outputs that something reads, dtypes, options that
say nothing."""

import numpy as np

import mithril as ml
from error_cases import LINEAR, X, case, chain, run
from support import compile_on, random


# ---------------------------------------------------------------- shared weights and outputs
def tied(weight, dimension=11, width=6, **options):
    model = ml.Model()
    model |= ml.Embedding(11, width, name="embed")(input="ids", output="h")
    model |= ml.Linear(dimension, weight=weight, name="head", **options)(input="h", output="logits")
    run(model, {"ids": np.zeros((2, 3), np.int32)})


@case
def shares_an_unknown_parameter(fixed):
    tied("embed.weight" if fixed else "embde.weight")


@case
def shares_a_parameter_of_other_sizes(fixed):
    tied("embed.weight", 11 if fixed else 12)


@case
def splits_a_shared_weight(fixed):
    tied("embed.weight", **({} if fixed else {"weight_shard_spec": (None, 0)}))


@case
def shares_what_is_shared(fixed):
    model = ml.Model()
    model |= ml.Embedding(11, 6, name="embed")(input="ids", output="h")
    model |= ml.Linear(11, weight="embed.weight", name="head")(input="h", output="logits")
    model |= ml.Linear(11, weight="embed.weight" if fixed else "head.weight", name="second")(input="h", output="again")
    run(model, {"ids": np.zeros((2, 3), np.int32)})


def chain_of_sharing(**weight):
    """Modules in a row, each with the weight of its name in `weight`, None: its own."""
    model = ml.Model()
    for i, (name, shared) in enumerate(weight.items()):
        model |= ml.Linear(6, weight=shared, name=name)(input=f"x{i}" if i else "x", output=f"x{i + 1}")
    run(model)


@case
def shares_in_a_circle(fixed):
    chain_of_sharing(a=None if fixed else "b.weight", b="a.weight")


@case
def shares_its_own_weight(fixed):
    chain_of_sharing(a=None if fixed else "a.weight")


@case
def leads_to_a_circle(fixed):
    """The module in the circle is told, not the one that leads there."""
    chain_of_sharing(a="b.weight", b=None if fixed else "c.weight", c="b.weight")


@case
def shares_over_several_modules(fixed):
    chain_of_sharing(a="d.weight" if fixed else "b.weight", b="d.weight" if fixed else "c.weight", c="d.weight", d=None)


@case
def leads_to_an_unknown_parameter(fixed):
    chain_of_sharing(a="c.weight" if fixed else "b.weight", b="c.weight" if fixed else "e.weight", c=None)


@case
def shares_by_the_name_of_a_later_use(fixed):
    module = ml.Linear(6)
    model = ml.Model()
    model |= module(input="x", output="h")
    model |= module(input="h", output="i")
    model |= ml.Linear(6, weight="linear_0.weight" if fixed else "linear_1.weight")(input="i", output="y")
    run(model)


@case
def one_object_for_other_sizes(fixed):
    module = ml.Linear(5)
    model = ml.Model()
    model |= module(input="x", output="h")
    model |= (module.copy() if fixed else module)(input="h", output="y")
    run(model)


def pair(expose=None):
    """Two modules; the connection between them has a name and is exposed, or not."""
    between = "linear_0.output" if expose is None else ml.IOKey("h", expose=expose)
    model = ml.Model()
    model |= ml.Linear(3)(input="x", output=between)
    model |= ml.Relu()(input=between, output="y")
    return model


@case
def no_output_of_the_name(fixed):
    run(pair(), outputs=["linear_0.output" if fixed else "linear_0.out"])


@case
def an_input_as_output(fixed):
    run(chain(ml.Identity() if fixed else ml.Relu(), ml.Linear(3)), outputs=["identity_0.output" if fixed else "x"])


@case
def a_parameter_as_output(fixed):
    run(LINEAR, outputs=["y"] if fixed else ["y", "linear_0.weight"])


@case
def the_input_of_a_block_as_output(fixed):
    run(pair(), outputs=["linear_0.output" if fixed else "relu_0.input"])


@case
def an_output_by_another_than_its_name(fixed):
    run(LINEAR, outputs=["y" if fixed else "linear_0.output"])


@case
def a_connection_inside_of_a_submodel_as_output(fixed):
    model = ml.Model()
    model |= pair(expose=fixed)(x="x", y="y", name="block")
    run(model, outputs=["block.h"])


@case
def a_connection_by_its_path(fixed):
    """Two models deep, where it is exposed: here it has the name of a port."""
    outer, model = ml.Model(), ml.Model()
    outer |= pair(expose=True)(x="x", y="y", name="inner")
    model |= outer(x="x", y="y", name="outer")
    run(model, outputs=["outer.h" if fixed else "outer.inner.h"])


@case
def a_connection_inside_of_a_stage_as_output(fixed):
    model = ml.Model()
    model |= ml.Pipeline([pair(expose=fixed)], name="p")(input="x", output="y")
    run(model, outputs=["p.h" if fixed else "p.stage_0.h"])


@case
def no_outputs_at_all(fixed):
    run(LINEAR, outputs=["y"] if fixed else [])


@case
def an_output_twice(fixed):
    run(LINEAR, outputs=["y"] if fixed else ["y", "y"])


@case
def outputs_of_another_kind(fixed):
    run(LINEAR, outputs=["y"] if fixed else [1])


@case
def a_gradient_of_an_input_that_no_output_needs(fixed):
    model = ml.Model()
    model |= ml.Linear(3)(input="x", output="y")
    model |= ml.SquaredError()(input="y", target="t", output="loss")
    compiled = compile_on((1,), model, outputs=["y"])
    slope = {"y": random(4, 3)}
    compiled.evaluate(compiled.get_parameters({"x": X}), {"x": X}, slope, ["x"] if fixed else ["t"])


# ---------------------------------------------------------------- dtypes, as the user's data has them
@case
def bytes_as_floats(fixed):
    run(LINEAR, {"x": np.ones((4, 6), np.float32 if fixed else np.uint8)})


@case
def short_integers_of_two_bytes_as_floats(fixed):
    """In the order of another machine."""
    run(chain(ml.Relu()), {"x": np.ones((4, 6), np.float32 if fixed else ">i2")})


@case
def doubles_as_ids(fixed):
    run(chain(ml.Embedding(11, 6)), {"x": np.ones((2, 3), np.int64 if fixed else np.float64)})


@case
def bytes_beside_floats(fixed):
    model = ml.Model()
    model |= ml.Concat(axis=0)(inputs=["x", "z"], output="y")
    run(model, {"x": np.ones((4, 6), np.float32), "z": np.ones((2, 6), np.float32 if fixed else np.uint8)})


# ---------------------------------------------------------------- options
@case
def a_number_too_small_for_float32(fixed):
    ml.LayerNorm(epsilon=1.1754944e-38 if fixed else 1e-46)


@case
def an_option_that_needs_another(fixed):
    ml.MultiHeadAttention(2, rotary=fixed, rope_base=500.0)


@case
def a_base_of_no_angles(fixed):
    ml.PositionalEncoding(8, kind="rotary", base=10000 if fixed else -1)
