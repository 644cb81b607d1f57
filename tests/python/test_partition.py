"""partition_policy: which device each operator gets, against all contiguous cuts and their formula; that explicit
placement stays and orders its neighbours; and that a cut changes no value and no gradient."""

import itertools

import numpy as np
import pytest

import mithril as ml
from mithril.backends import CBackend, JaxBackend, ReferenceBackend, TorchBackend
from support import close, random, shaken

KINDS = [ReferenceBackend, CBackend, TorchBackend]
POLICIES = ["parameters", "operators", "balanced"]
WIDTHS = (40, 3, 96, 8, 8, 24, 1)


def chain(widths=WIDTHS, **placed):
    """Lopsided: linear_k and relu_k in turn; placed={"linear_2": {"device_id": 1}}."""
    model = ml.Model()
    for k, width in enumerate(widths):
        model += ml.Linear(width, **placed.get(f"linear_{k}", {}))(**({"input": "x"} if k == 0 else {}), output=f"h{k}")
        model += ml.Relu(**placed.get(f"relu_{k}", {}))(output=f"y{k}")
    return model


def compiled_for(model, mesh, policy, inputs, kind=ReferenceBackend, **options):
    if kind is TorchBackend:
        pytest.importorskip("torch")
    compiled = ml.compile(model, kind(device_mesh=mesh, partition_policy=policy, **options))
    compiled.get_parameters(inputs)
    return compiled


def homes(compiled):
    """The device of each linear_k, by where its weight lies."""
    layout = compiled.get_parameter_layout()
    found = {}
    for name, array in layout.items():
        if name.endswith(".weight"):
            found[name.removesuffix(".weight")] = tuple(shard.device_id for shard in array.addressable_shards)
    return found


def best_cuts(weights, devices, allowed=lambda item, device: True, load=None):
    """All cuts in order of which the largest part is smallest and, of those, the squares' sum least."""
    load = load or [0] * devices
    found, best = [], None
    for cut in itertools.combinations_with_replacement(range(devices), len(weights)):
        if not all(allowed(item, device) for item, device in enumerate(cut)):
            continue
        parts = list(load)
        for item, device in enumerate(cut):
            parts[device] += weights[item]
        worth = max(parts), sum(part**2 for part in parts)
        if best is None or worth < best:
            found, best = [], worth
        if worth == best:
            found.append(cut)
    return found


def bytes_of(widths, before):
    """Of linear_0, relu_0, linear_1, ... in a chain."""
    return [n for a, b in zip((before, *widths), widths) for n in ((a * b + b) * 4, 0)]


@pytest.mark.parametrize("mesh", [(1,), (2,), (3,), (4,), (2, 2), (20,)])
@pytest.mark.parametrize("kind", KINDS)
def test_equal_parameters(mesh, kind):
    compiled = compiled_for(chain(), mesh, "parameters", {"x": random(5, 8)}, kind)
    devices = min(int(np.prod(mesh)), 7)
    got = homes(compiled)
    cuts = [cut[::2] for cut in best_cuts(bytes_of(WIDTHS, 8), devices)]
    assert tuple(got[f"linear_{k}"][0] for k in range(7)) in cuts and all(len(on) == 1 for on in got.values())


@pytest.mark.parametrize("mesh", [(1,), (2,), (3,), (4,), (2, 2), (20,)])
def test_equal_operators(mesh):
    compiled = compiled_for(chain(), mesh, "operators", {"x": random(5, 8)})
    devices = min(int(np.prod(mesh)), 14)
    got = homes(compiled)
    each, more = divmod(14, devices)
    row = [device for device in range(devices) for _ in range(each + (device < more))]
    assert [got[f"linear_{k}"] for k in range(7)] == [(device,) for device in row[::2]]


MACHINE = """flops float32 1e9
memory_rate 1e9
kernel_latency 1e-6
link_rate 1e9
link_latency 1e-6
"""


def seconds(rows, widths, before):
    """Of linear_k: a product and a bias that is added, then relu_k; by the machine above."""
    kernel = lambda flops, elements: 1e-6 + max(flops, 4 * elements) / 1e9
    found = []
    for a, b in zip((before, *widths), widths):
        product = kernel(2 * rows * a * b, rows * a + a * b + rows * b)
        found += [product + kernel(rows * b, 2 * rows * b + b), kernel(rows * b, 2 * rows * b)]
    return found


@pytest.mark.parametrize("mesh", [(2,), (3,), (4,)])
def test_equal_time(mesh, tmp_path):
    (tmp_path / "machine.txt").write_text(MACHINE)
    options = {"machine": str(tmp_path / "machine.txt")}
    for rows in (2, 64):
        compiled = compiled_for(chain(), mesh, "balanced", {"x": random(rows, 8)}, **options)
        got = homes(compiled)
        weights = [round(s * 1e12) for s in seconds(rows, WIDTHS, 8)]
        cuts = [cut[::2] for cut in best_cuts(weights, mesh[0])]
        assert tuple(got[f"linear_{k}"][0] for k in range(7)) in cuts


def test_policies_cut_otherwise():
    cuts = {
        policy: str(homes(compiled_for(chain(), (3,), policy, {"x": random(64, 8)}))) for policy in [None, *POLICIES]
    }
    assert len(set(cuts.values())) == 4, cuts


# ---------------------------------------------------------------- what the user placed
def test_explicit_placement_stays():
    placed = {
        "linear_1": {"device_id": 3},
        "linear_4": {"weight_shard_spec": (None, 0)},
        "linear_5": {"device_mesh": (4,)},
    }
    for policy in POLICIES:
        got = homes(compiled_for(chain(**placed), (4,), policy, {"x": random(5, 8)}))
        assert got["linear_1"] == (3,) and got["linear_4"] == got["linear_5"] == (0, 1, 2, 3)
        assert all(len(got[f"linear_{k}"]) == 1 for k in (0, 1, 2, 3, 6))


def test_what_a_split_operator_leads_to_stays_split():
    """Between two split products neither the activation nor a sum of two of them goes to one device; a norm, which has
    parameters, does, and so does what reads it."""

    def model(middle):
        made = ml.Model()
        made |= ml.Linear(16, weight_shard_spec=(None, 0))(input="x", output="a")
        made |= ml.Linear(16, weight_shard_spec=(None, 0))(input="x", output="b")
        made |= ml.Relu()(input="a", output="c")
        made |= ml.Multiply()(inputs=["c", "b"], output="d")
        if middle:
            made |= ml.LayerNorm()(input="d", output="n")
            made |= ml.Gelu()(input="n", output="e")
        made |= ml.Linear(16, weight_shard_spec=(0, None))(input="e" if middle else "d", output="y")
        return made

    for policy in POLICIES:
        texts = [
            compiled_for(model(False), (4,), p, {"x": random(4, 16)}, CBackend).program_text() for p in (None, policy)
        ]
        assert texts[0] == texts[1] and texts[0].count("\nchannel") == 1
        compiled = compiled_for(model(True), (4,), policy, {"x": random(4, 16)})
        assert len(homes(compiled)["layer_norm_0"]) == 1


@pytest.mark.parametrize("placed", list(itertools.combinations(range(7), 2)))
@pytest.mark.parametrize("devices", [(0, 2), (1, 1), (2, 0), (1, 3)])
def test_anchors(placed, devices):
    """Those before an operator on one device are on devices up to its own, those behind it on its own and later ones;
    unless two are placed against the order. What is placed counts."""
    on = dict(zip(placed, devices))
    model = chain(**{f"linear_{k}": {"device_id": d} for k, d in on.items()})
    got = homes(compiled_for(model, (4,), "parameters", {"x": random(5, 8)}))
    weights, load = bytes_of(WIDTHS, 8), [0] * 4
    for k, device in on.items():
        load[device] += weights[2 * k]
    free = [item for item in range(14) if item % 2 or item // 2 not in on]
    ordered = devices[0] <= devices[1]

    def allowed(item, device):
        return not ordered or all(device <= d if free[item] < 2 * k else device >= d for k, d in on.items())

    cuts = best_cuts([weights[item] for item in free], 4, allowed, load)
    have = {2 * k: got[f"linear_{k}"][0] for k in range(7)}
    assert {k: have[2 * k] for k in on} == on
    assert any(all(cut[free.index(item)] == have[item] for item in have if item in free) for cut in cuts)


def test_a_pipeline_orders_its_neighbours():
    def stage(width):
        model = ml.Model()
        model |= ml.Linear(width)(input="input", output="output")
        return model

    model = ml.Model()
    model |= ml.Linear(8)(input="x", output="a")
    model += ml.Pipeline(stages=[stage(6), stage(7)], device_assignment=[1, 2], microbatch_size=2)(output="b")
    model += ml.Linear(5)(output="y")
    x = random(4, 3)
    for policy in POLICIES:
        compiled = compiled_for(model, (4,), policy, {"x": x})
        got = homes(compiled)
        assert got["pipeline_0.stage_0.linear_0"] == (1,) and got["pipeline_0.stage_1.linear_0"] == (2,)
        assert got["linear_0"] == (0,) and got["linear_1"] == (3,)
        params = shaken(compiled.get_parameters({"x": x}))
        want = x
        for name in ("linear_0", "pipeline_0.stage_0.linear_0", "pipeline_0.stage_1.linear_0", "linear_1"):
            want = want @ params[f"{name}.weight"] + params[f"{name}.bias"]
        close(compiled.evaluate(params, {"x": x})["y"], want)


# ---------------------------------------------------------------- plans of one model
def test_later_plans_keep_the_cut(tmp_path):
    """Parameters lie where the first plan puts them: other shapes and gradients change nothing."""
    (tmp_path / "machine.txt").write_text(MACHINE)
    options = {"machine": str(tmp_path / "machine.txt")}
    compiled = compiled_for(chain(), (4,), "balanced", {"x": random(2, 8)}, **options)
    first = homes(compiled)
    other = homes(compiled_for(chain(), (4,), "balanced", {"x": random(512, 8)}, **options))
    assert first != other
    x = random(512, 8)
    params = compiled.get_parameters({"x": x})
    compiled.evaluate(params, {"x": x}, output_gradients={"y6": np.ones((512, 1), np.float32)})
    assert homes(compiled) == first
    crossed = [line for line in compiled.program_text().splitlines() if line.startswith("channel")]
    assert len(crossed) == 2 * (len({device for on in first.values() for device in on}) - 1), crossed


def shared_and_branched():
    """A tied table, one module used twice, submodels, a branch that skips several operators, and a loss."""
    inner = ml.Model()
    inner |= ml.Linear(6)(input="i", output="up")
    inner += ml.Gelu()(output="o")
    twice = ml.Linear(6, name="twice")
    model = ml.Model()
    model |= ml.Embedding(11, 6, name="table")(input="ids", output="e")
    model |= twice(input="e", output="t0")
    model |= inner(i="t0", o="s0")
    model |= twice(input="s0", output="t1")
    model |= ml.LayerNorm()(input="t1", output="n")
    model |= inner(i="n", o="s1")
    model |= ml.Add()(inputs=["e", "s1"], output="sum")
    model |= ml.Linear(11, bias=False, weight="table.weight", name="head")(input="sum", output="logits")
    model |= ml.CrossEntropy()(input="logits", target="ids", output="loss")
    return model


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("mesh", [(2,), (3,), (4,), (2, 4), (9,)])
@pytest.mark.parametrize("kind", KINDS)
def test_shared_weights_branches_and_losses(policy, mesh, kind):
    ids = np.random.default_rng(0).integers(0, 11, (3, 5)).astype(np.int32)
    single = ml.compile(shared_and_branched(), ReferenceBackend(device_mesh=(1,)))
    params = shaken(single.get_parameters({"ids": ids}))
    seed = {"loss": np.float32(1.5)}
    want, slopes = single.evaluate(params, {"ids": ids}, seed)
    compiled = compiled_for(shared_and_branched(), mesh, policy, {"ids": ids}, kind)
    got, gradients = compiled.evaluate(params, {"ids": ids}, seed)
    close(got["loss"], want["loss"])
    assert list(gradients) == list(slopes) == list(params)
    for name in slopes:
        close(gradients[name], slopes[name], 2e-4)
    ml.verify_plan(compiled.program_text())
    assert len({device for on in homes(compiled).values() for device in on}) > 1


def test_what_a_part_shares_weighs_once():
    """Three products of 4, then two of 5: where the three have weights of their own, both parts begin and end there;
    where they share one, there is room for one more in their part."""

    def homes_of(**second):
        model = ml.Model()
        for k, (width, options) in enumerate([(16, {}), (16, second), (16, second), (20, {}), (16, {})]):
            wires = {"input": "x"} if k == 0 else {}
            model += ml.Linear(width, bias=False, name=f"linear_{k}", **options)(**wires, output=f"h{k}")
        return homes(compiled_for(model, (2,), "parameters", {"x": random(4, 16)}))

    own, shared = homes_of(), homes_of(weight="linear_0.weight")
    assert (own["linear_3"], own["linear_4"]) == ((1,), (1,))
    assert (shared["linear_3"], shared["linear_4"]) == ((0,), (1,)) and shared["linear_0"] == (0,)


# ---------------------------------------------------------------- errors
def test_errors():
    with pytest.raises(ValueError, match="partition_policy='equal'.*\n?.*parameters"):
        CBackend(device_mesh=(2,), partition_policy="equal")
    with pytest.raises(TypeError, match="partition_policy"):
        JaxBackend(device_mesh=(2,), partition_policy="parameters")
