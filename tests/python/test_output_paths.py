"""What a path into models and stages is called outside of them, or which model has to expose it."""

import pytest

import mithril as ml
from support import compile_on, random


def test_paths_into_models_and_stages():
    """Any path to a connection leads to its name, or to the model that has to expose it."""
    stage, last, model = ml.Model(), ml.Model(), ml.Model()
    block = ml.Model()
    block |= ml.Linear(4)(input="x", output=ml.IOKey("h", expose=True))
    block |= ml.Relu()(input="h", output="y")
    stage |= block(x="x", y="y", name="block")
    last |= ml.Linear(3)(input="y", output=ml.IOKey("h", expose=True))
    last |= ml.Relu()(input="h", output="z")
    model |= ml.Pipeline([stage, last], name="p")(input="x", output="o")
    assert model.outputs == ["p.h", "p.stage_1.h", "o"]
    for path, name in {"p.stage_0.block.h": "p.h", "p.stage_1.h": None, "p.stage_1.z": "o"}.items():
        if name is None:
            assert compile_on((2,), model, outputs=[path]).outputs == [path]
            continue
        with pytest.raises(ml.MithrilError, match=rf"name outside of it, '{name}'\n(.*\n)*  fix: name it '{name}'"):
            compile_on((2,), model, outputs=[path])
        compiled = compile_on((2,), model, outputs=[name])
        x = {"x": random(3, 5)}
        assert list(compiled.evaluate(compiled.get_parameters(x), x)) == [name]
    with pytest.raises(ml.MithrilError, match=r"'y' is a connection inside of p.stage_0\n(.*\n)*  fix: expose 'y'"):
        compile_on((2,), model, outputs=["p.stage_0.block.y"])  # the next stage takes it
