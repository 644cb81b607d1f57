"""What users of the published Mithril package and of the guide look for and this version does not have: one clear
error for each, which says what to write instead; and the language that errors speak: C's in the library, Python's in
the package."""

import copy
import importlib.util
import pathlib
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest

import mithril as ml
import mithril.backends
from mithril.backends import CBackend, JaxBackend
from support import one_block, random

ROOT = pathlib.Path(__file__).resolve().parents[2]
BACKEND = CBackend(device_mesh=(2,))
X = random(2, 3)


def linear(**options):
    return one_block(ml.Linear(4, **options), input="x", output="y")


def check(error, *words):
    assert isinstance(error, ml.MithrilError) and error.what and error.fix and error.fix in str(error), (
        f"{type(error).__name__}: {error}"
    )
    assert all(word in str(error) for word in words), str(error)


# ---------------------------------------------------------------- options and keywords
LATER = """checkpointing activation_offload offload_threshold weight_dtype activation_dtype compute_dtype allow_tf32
    auto_partition partition_objective max_memory_per_device
    partition_hooks activation_checkpointing gradient_checkpointing recompute remat offload cpu_offload
    activation_offloading mixed_precision amp param_dtype reduce_dtype profile profiling optimizer zero_stage
    auto_partitioning automatic_partitioning visualize""".split()
PUBLISHED = """jit file_path constant_keys data_keys trainable_keys discard_keys inference safe_shapes safe_names
    use_short_namings""".split()


@pytest.mark.parametrize("option", LATER + PUBLISHED)
def test_options(option):
    """An option of the guide that comes later, or of the published package, is told by name wherever it is given."""
    why = "is not in this version" if option in LATER else "is of the published Mithril package"
    compiled = ml.compile(linear(), BACKEND)
    for use in (
        lambda: ml.compile(linear(), BACKEND, **{option: True}),
        lambda: CBackend(device_mesh=(2,), **{option: True}),
        lambda: ml.Linear(4, **{option: True}),
        lambda: compiled.randomize_params(**{option: True}),
    ):
        with pytest.raises(TypeError) as caught:
            use()
        check(caught.value, f"'{option}' {why}", "leave it out")


@pytest.mark.parametrize("function", ["randn", "zeros", "ones"])
@pytest.mark.parametrize("keyword", ["shape", "size", "dims"])
def test_sizes_are_given_by_themselves(function, keyword):
    make = getattr(BACKEND, function)
    with pytest.raises(TypeError) as caught:
        make(**{keyword: (2, 3)})
    check(caught.value, f"{function}(): the keyword '{keyword}'", f"backend.{function}(2, 3)")
    assert make(2, 3).shape == make((2, 3)).shape == (2, 3)


def test_options_that_exist_are_not_elsewhere():
    for row in re.findall(r'\{"option", "([^"]*)"', (ROOT / "src/base/absent.c").read_text()):
        for option in row.split():
            documented = "".join(ml._mithril._backend_option_doc(engine) for engine in ("native", "pjrt", "reference"))
            assert not re.search(rf"^\s*{option}:", documented + ml._mithril._compile_option_doc(), re.M), option
    for place in ("package", "backends"):
        for row in re.findall(rf'\{{"{place}", "([^"]*)"', (ROOT / "src/base/absent.c").read_text()):
            assert not set(row.split()) & set(ml.__all__ if place == "package" else mithril.backends.__all__)


def test_keywords_of_randomize_params():
    compiled = ml.compile(linear(), BACKEND)
    for keyword, words in (
        ("excluded_keys", "arrays of your own"),
        ("shards", "shard_specs"),
        ("colour", "'inputs', 'seed'"),
    ):
        with pytest.raises(TypeError) as caught:
            compiled.randomize_params({"x": X}, **{keyword: {}})
        check(caught.value, "randomize_params", keyword, words)
    assert list(compiled.randomize_params({"x": X})) == ["linear_0.weight", "linear_0.bias"]


# ---------------------------------------------------------------- attributes
@pytest.mark.parametrize(
    "look, name, word",
    [
        (lambda o: o.model.cout, "Model.cout", "output="),
        (lambda o: o.model.cin, "Model.cin", "input="),
        (lambda o: o.model.set_shapes(x=[2, 3]), "Model.set_shapes", "shapes="),
        (lambda o: o.model.set_types(x=int), "Model.set_types", "int32"),
        (lambda o: o.model.set_cout("y"), "Model.set_cout", "output="),
        (lambda o: o.model.expose_keys("y"), "Model.expose_keys", "expose=True"),
        (lambda o: o.model.set_differentiability(x=True), "Model.set_differentiability", "input_gradients"),
        (lambda o: o.model.y, "'y'", "a connection is a name"),
        (lambda o: o.model.input_keys, "Model.input_keys", "model.inputs"),
        (lambda o: o.model.add_loss(0), "Model.add_loss", "CrossEntropy"),
        (lambda o: o.model.evaluate({}), "Model.evaluate", "ml.compile"),
        (lambda o: o.module.output, "Linear.output", 'output="h"'),
        (lambda o: o.module.weight, "weight", "is a name"),
        (lambda o: o.block.cout, "Block.cout", 'output="h"'),
        (
            lambda o: o.compiled.get_partition_map(),
            "CompiledModel.get_partition_map is not in this version",
            "addressable_shards",
        ),
        (lambda o: o.compiled.evaluate_all({}), "CompiledModel.evaluate_all", "output_gradients"),
        (lambda o: o.backend.arange(4), "arange", "backend.array"),
        (lambda o: o.key.mean(), "IOKey.mean", "ml.Mean"),
        (lambda o: o.key.shape, "IOKey.shape", "shapes="),
        (lambda o: ml.profile(o.backend), "mithril.profile is not in this version", "get_communication_usage"),
        (lambda o: ml.visualize.plot_partition_map(1), "mithril.visualize is not in this version", "program_text"),
        (lambda o: ml.NumpyBackend, "mithril.NumpyBackend", "ReferenceBackend"),
        (lambda o: ml.JaxBackend, "mithril.JaxBackend", "from mithril.backends"),
        (lambda o: ml.float32, "mithril.float32", "texts"),
        (lambda o: ml.models.Linear, "mithril.models", "from mithril import"),
        (lambda o: ml.TrainModel, "mithril.TrainModel", "CrossEntropy"),
        (lambda o: ml.Lineer, "mithril.Lineer", "did you mean ml.Linear?"),
        (lambda o: ml.Convolution2D, "mithril.Convolution2D", "ml.modules"),
    ],
)
def test_attributes(look, name, word):
    class objects:
        model, module, block, backend, key = linear(), ml.Linear(4), ml.Linear(4)(input="x"), BACKEND, ml.IOKey("x")
        compiled = ml.compile(linear(), BACKEND)

    with pytest.raises(AttributeError) as caught:
        look(objects)
    check(caught.value, name, word)


def test_attributes_that_are_not_set():
    """What was said where an object was made stays; subclasses have attributes of their own, whose errors stay
    theirs."""

    class Mine(ml.Model):
        @property
        def fixed(self):
            return 3

    for made, name, word in (
        (ml.Linear(4), "dimension", "ml.Linear(4, bias=False)"),
        (ml.Linear(4)(input="x"), "input", "make another"),
        (ml.Model(), "training", "model |= block"),
    ):
        for change in (lambda: setattr(made, name, 3), lambda: delattr(made, name)):
            with pytest.raises(AttributeError) as caught:
                change()
            check(caught.value, f"{type(made).__name__}.{name} can't be", word)
    mine = Mine()
    mine.kept = 3
    assert mine.kept == 3
    with pytest.raises(AttributeError) as caught:
        mine.fixed = 4
    assert not isinstance(caught.value, ml.MithrilError) and "fixed" in str(caught.value)
    del mine.kept
    assert not hasattr(mine, "kept")


def test_attributes_that_protocols_ask_for():
    """hasattr and getattr work as ever, subclasses have attributes of their own, and their errors stay theirs."""

    class Mine(ml.Model):
        def __init__(self):
            self.kept = 3

        @property
        def broken(self):
            return {}["nothing"].x if False else (1).nowhere

    mine = Mine()
    assert (
        mine.kept == 3
        and not hasattr(mine, "cout")
        and getattr(ml.Linear(4), "output", 5) == 5
        and not hasattr(ml, "profile")
    )
    with pytest.raises(AttributeError, match="'int' object has no attribute 'nowhere'"):
        mine.broken
    key = ml.IOKey("x")
    assert (
        copy.copy(key) == pickle.loads(pickle.dumps(key)) == "x"
        and f"{key}1" == "x1"
        and {key: 1}["x"] == 1
        and key.upper() == "X"
    )
    outputs = ml.compile(one_block(ml.Relu(), input=key, output=ml.IOKey("y")), BACKEND).evaluate({}, {"x": X})
    assert np.array_equal(outputs["y"], np.maximum(X, 0))


@pytest.mark.parametrize(
    "line, name, word",
    [
        ("from mithril import Backend", "mithril.Backend", "mithril.backends"),
        ("from mithril import Tensor", "mithril.Tensor", "ports are named"),
        ("from mithril import JaxBackend", "mithril.JaxBackend", "mithril.backends"),
        ("from mithril import Lineer", "mithril.Lineer", "did you mean ml.Linear?"),
        ("from mithril import Linear, MaxPool2D", "mithril.MaxPool2D", "ml.modules"),
        ("from mithril.models import Linear, Model", "mithril.models", "from mithril import Linear"),
        ("import mithril.models", "mithril.models", "from mithril import Linear"),
        ("import mithril.framework.common", "mithril.framework", "from mithril import Linear"),
        ("from mithril.utils import x", "mithril.utils", "from mithril import Linear"),
        ("import mithril.backends.with_autograd", "mithril.backends.with_autograd", "from mithril.backends import"),
        (
            "from mithril.backends.with_manualgrad.numpy_backend import NumpyBackend",
            "mithril.backends.with_manualgrad",
            "CBackend",
        ),
        ("from mithril.backends import CudaBackend", "mithril.backends.CudaBackend", 'backend="cuda"'),
        ("from mithril.backends import JaxBackend, CBackends", "mithril.backends.CBackends", "did you mean CBackend?"),
    ],
)
def test_imports(line, name, word):
    """Both ImportError and ModuleNotFoundError, as Python's own would be, so that what guards against an old package
    works."""
    with pytest.raises(ModuleNotFoundError) as caught:
        exec(line)
    check(caught.value, name, word)


def test_imports_that_are_no_ones():
    """What no table knows stays Python's error, what is looked for without being needed stays quiet, and the package
    may be imported anew."""
    for line in (
        "import mithril.nonsense",
        "from mithril import nonsense",
        "import mithril_nonsense",
        "import mithril.__nothing__",
    ):
        with pytest.raises(ImportError) as caught:
            exec(line)
        assert not isinstance(caught.value, ml.MithrilError)
    assert importlib.util.find_spec("mithril.nonsense") is None and importlib.util.find_spec("mithril.safetensors")
    for module in (ml, mithril.backends):
        assert not hasattr(module, "GpuBackend") and getattr(module, "MlxBackend", None) is None
        assert not hasattr(module, "__wrapped__")
    script = """import sys
n = len(sys.meta_path)
import mithril
del sys.modules["mithril"], sys.modules["mithril._elsewhere"]
import mithril
assert len(sys.meta_path) == n + 1
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_backends():
    for name, word in (
        ("CudaBackend", "JaxBackend"),
        ("CBackends", "did you mean CBackend?"),
        ("Elsewhere", "CBackend, JaxBackend"),
    ):
        with pytest.raises(AttributeError) as caught:
            getattr(mithril.backends, name)
        check(caught.value, f"mithril.backends.{name} is not in this version", word)
    for name in ("CpuBackend", "NumpyBackend", "MlxBackend"):
        with pytest.raises(ImportError) as caught:
            exec(f"from mithril.backends import {name}")
        check(caught.value, name, "CBackend(device_mesh=...)")
    with pytest.raises(TypeError) as caught:
        mithril.backends.Backend(device_mesh=(2,))
    check(caught.value, "no engine", "CBackend(device_mesh=(4,))")
    for what in (ml.Linear(4), ml.Linear(4)(input="x")):
        with pytest.raises(TypeError) as caught:
            ml.compile(what, BACKEND)
        check(caught.value, "is a module, no model", "model = ml.Model()")


# ---------------------------------------------------------------- operators
KEY, MODULE, BLOCK, MODEL = ml.IOKey("x"), ml.Linear(4), ml.Linear(4)(input="x"), linear()


@pytest.mark.parametrize("operand", [KEY, MODULE, BLOCK, MODEL], ids=["IOKey", "Module", "Block", "Model"])
def test_operators(operand):
    """Connections are composed by name: an operator is never what Python would make of it, of IOKey's characters,
    say."""
    for operate, sign, advice in (
        (lambda a, b: a + b, "+", "Add"),
        (lambda a, b: a - b, "-", "Subtract"),
        (lambda a, b: a * b, "*", "Multiply"),
        (lambda a, b: a / b, "/", "Divide"),
        (lambda a, b: a @ b, "@", "MatMul"),
        (lambda a, b: a**b, "**", "ml.Multiply"),
        (lambda a, b: a % b, "%", "outside of the model"),
        (lambda a, b: a // b, "//", "outside of the model"),
        (lambda a, b: a | b, "|", "model |= ml.Relu()"),
        (lambda a, b: a & b, "&", "outside of the model"),
        (lambda a, b: a ^ b, "^", "outside of the model"),
        (lambda a, b: a << b, "<<", "outside of the model"),
        (lambda a, b: a >> b, ">>", "outside of the model"),
        (lambda a, b: -a, "unary -", "no module changes the sign alone"),
        (lambda a, b: +a, "unary +", "outside of the model"),
        (lambda a, b: ~a, "~", "outside of the model"),
        (lambda a, b: abs(a), "abs()", "outside of the model"),
        (lambda a, b: a[0], "[]", "ml.Slice"),
        (lambda a, b: a[:, None], "[]", "ml.Slice"),
    ):
        for other in (operand, KEY, 2, X):
            for a, b in ((operand, other), (other, operand)):
                if a is other and (sign not in "+-*/@" or other is X):  # NumPy answers for its arrays on the left
                    continue
                with pytest.raises(TypeError) as caught:
                    operate(a, b)
                check(caught.value, f"'{sign}' does nothing to them", advice)
    with pytest.raises(TypeError):
        operand | "y"


def test_operators_that_compose_stay():
    model = ml.Model()
    model |= ml.Linear(4)(input="x", output="h")
    model += ml.Relu()(output="y")
    assert "outputs: y" in repr(model)
    with pytest.raises(TypeError, match="composed by name"):
        module = ml.Linear(4)
        module += ml.Relu()


@pytest.mark.parametrize(
    "keywords", [{"shape": [4]}, {"type": int}, {"value": 1}, {"differentiable": True}, {"colour": 1}]
)
def test_a_key_is_a_name(keywords):
    with pytest.raises(TypeError) as caught:
        ml.IOKey("x", **keywords)
    check(caught.value, *keywords)
    for arguments in ((), (3,), ("x", [4])):
        with pytest.raises(TypeError) as caught:
            ml.IOKey(*arguments)
        check(caught.value, "IOKey takes a name")
    with pytest.raises(TypeError) as caught:
        ml.IOKey("x", expose="yes")
    check(caught.value, "expose='yes' is not a bool")


# ---------------------------------------------------------------- specs of another rank
@pytest.mark.parametrize(
    "make",
    [
        lambda: ml.Linear(4, weight_shard_spec=(0,)),
        lambda: ml.Linear(4, weight_shard_spec=(0, None, None)),
        lambda: ml.Linear(4, weight_shard_spec=()),
        lambda: ml.Linear(4, shard_specs={"bias": (0, None)}),
        lambda: ml.Embedding(9, 4, weight_shard_spec=(None,)),
        lambda: ml.LayerNorm(shard_specs={"weight": (0, None)}),
        lambda: ml.MoE(4, 8, shard_specs={"experts.up.bias": (0,)}),
        lambda: ml.MoE(4, 8, weight_shard_spec=(0,)),
        lambda: ml.MultiHeadAttention(2, shard_specs={"query.weight": (None,)}),
    ],
)
def test_specs_of_another_rank_are_refused_at_once(make):
    with pytest.raises(ValueError) as caught:
        make()
    check(caught.value, "dimensions" if "MoE" in str(caught.value) else "dimension")


def test_specs_of_every_parameter():
    """What a type declares of its parameters is so: a spec of as many entries as each has dimensions is taken."""
    made = {
        "Linear": (ml.Linear(4), X),
        "Embedding": (ml.Embedding(9, 4), np.array([[1, 2]])),
        "LayerNorm": (ml.LayerNorm(), X),
        "RMSNorm": (ml.RMSNorm(), X),
        "FeedForward": (ml.FeedForward(8, gated=True), X),
        "MoE": (ml.MoE(4, 8, gated=True), X),
        "MultiHeadAttention": (ml.MultiHeadAttention(2), random(2, 3, 4)),
        "PositionalEncoding": (ml.PositionalEncoding(8, kind="learned"), random(2, 3, 4)),
    }
    for name, (module, x) in made.items():
        params = ml.compile(one_block(module, input="x", output="y"), BACKEND).get_parameters({"x": x})
        specs = {parameter.split(".", 1)[1]: (None,) * array.ndim for parameter, array in params.items()}
        options = {
            "Linear": (4,),
            "Embedding": (9, 4),
            "FeedForward": (8,),
            "MoE": (4, 8),
            "MultiHeadAttention": (2,),
            "PositionalEncoding": (8,),
        }
        more = (
            {"gated": True}
            if name in ("FeedForward", "MoE")
            else {"kind": "learned"}
            if name == "PositionalEncoding"
            else {}
        )
        getattr(ml, name)(*options.get(name, ()), shard_specs=specs, **more)
        for parameter, spec in specs.items():
            with pytest.raises(ValueError, match="dimension"):
                getattr(ml, name)(*options.get(name, ()), shard_specs={parameter: (*spec, None)}, **more)


# ---------------------------------------------------------------- whose language
def texts():
    """The texts of errors in the library: what stands between quotes in calls of F(...)."""
    for path in sorted((ROOT / "src").rglob("*.c")):
        for call in re.finditer(r'\bF\(((?:\s*(?:"(?:[^"\\]|\\.)*"|PRI\w+))+)', path.read_text()):
            yield path, "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', call[1]))
    for text in re.findall(r'"((?:[^"\\]|\\.)*)"', (ROOT / "src/base/absent.c").read_text()):
        yield ROOT / "src/base/absent.c", text


def test_the_librarys_errors_are_not_in_python():
    found = list(texts())
    assert len(found) > 500
    python = re.compile(
        r"\bml\.|\bget_parameters\(|\bprogram_text|\bexplain\(|\bget_memory_usage|JaxBackend|CBackend|\|=|\+=|Model\(\)"
        r"|\.astype|numpy|\bself\b|\bstr\b|\bdict\b"
    )
    wrong = [(path.name, text) for path, text in found if path.name != "absent.c" and python.search(text)]
    assert not wrong


def test_every_function_that_errors_name_has_a_name_in_python():
    known = set(re.findall(r'\{"(mth_\w+|MTH_\w+)", "', (ROOT / "python/_mithril.c").read_text()))
    used = {
        word
        for _, text in texts()
        for word in re.findall(r"\b(?:mth_\w+|MTH_[A-Z]\w+)", text)
        if not word.startswith("mth__")
    }
    assert used and used <= known and known - used == set(), (used - known, known - used)


def test_errors_in_python_name_pythons_functions():
    compiled = ml.compile(linear(), BACKEND)
    with pytest.raises(KeyError, match=r"get_parameters\(\) has it") as caught:
        compiled.evaluate({}, {"x": X})
    assert "mth_" not in str(caught.value) and "mth_" not in caught.value.fix
    with pytest.raises(ValueError, match="use JaxBackend, or read the program: program_text()"):
        compiled.stablehlo({"x": X})
