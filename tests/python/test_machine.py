"""The option machine=: what plans assume of devices."""

import os
import re
import time

import numpy as np
import pytest

import mithril as ml
from mithril.backends import CBackend, ReferenceBackend

FIGURES = "flops float32 50e9\nmemory_rate 10e9\nkernel_latency 0\nlink_rate 5e9\nlink_latency 20e-6\n"


def model():
    m = ml.Model()
    m |= ml.Linear(64, weight_shard_spec=(None, 0))(input="x", output="h")
    m += ml.Linear(64, weight_shard_spec=(0, None))(output="y")
    return m


def plan(**options):
    compiled = ml.compile(model(), CBackend(device_mesh=(4,), **options))
    return compiled.program_text({"x": np.ones((8, 64), np.float32)})


@pytest.mark.parametrize("backend", [CBackend, ReferenceBackend])
def test_describe_names_it(backend, tmp_path):
    assert "machine: nominal (built in)" in backend(device_mesh=(2,)).describe()
    for name in ("nominal", "v100", "a100", "h100", "tpu_v5p"):
        assert f"machine: {name} (built in)" in backend(device_mesh=(2, 2), machine=name).describe()
    file = tmp_path / "mine.txt"
    file.write_text(FIGURES)
    assert f"machine: {file}\n" in backend(device_mesh=(2,), machine=str(file)).describe()


def test_the_nominal_machine_is_the_default(tmp_path):
    file = tmp_path / "same.txt"
    file.write_text(FIGURES)
    assert plan() == plan(machine="nominal") == plan(machine=str(file))


def test_a_name_or_a_file_that_is_wrong(tmp_path):
    with pytest.raises(ValueError) as caught:
        CBackend(device_mesh=(2,), machine="h10")
    assert "h100" in caught.value.fix
    with pytest.raises(OSError, match="absent.txt"):
        CBackend(device_mesh=(2,), machine=str(tmp_path / "absent.txt"))
    file = tmp_path / "bad.txt"
    file.write_text(FIGURES.replace("memory_rate", "memory_rat"))
    with pytest.raises(ValueError, match=r"bad.txt, line 2.*memory_rat") as caught:
        CBackend(device_mesh=(2,), machine=str(file))
    assert "memory_rate" in caught.value.fix


def test_a_plan_that_no_device_holds_is_refused(tmp_path):
    file = tmp_path / "small.txt"
    file.write_text(FIGURES + "device_memory 8192\n")
    with pytest.raises(MemoryError, match=r"device 0 needs \d+ bytes.*8192") as caught:
        plan(machine=str(file))
    assert "more devices" in caught.value.fix
    file.write_text(FIGURES + "device_memory 1e6\n")
    assert plan(machine=str(file)) == plan()


@pytest.mark.parametrize("engine", ["native", "xla"], indirect=True)
def test_a_plan_is_measured_by_what_its_engine_uses(engine, tmp_path):
    """With a byte less than the engine reports it is refused, by name and with the same figure; with as many it
    runs."""
    x = {"x": np.arange(8 * 64, dtype=np.float32).reshape(8, 64) / 512}
    free = ml.compile(model(), engine(device_mesh=(4,)))
    needs = max(of["total"] for of in free.get_memory_usage(inputs=x))
    file = tmp_path / "small.txt"

    def run(device_memory):
        file.write_text(FIGURES + f"device_memory {device_memory}\n")
        compiled = ml.compile(model(), engine(device_mesh=(4,), machine=str(file)))
        return np.asarray(compiled.evaluate(compiled.get_parameters(x), x)["y"])

    want = free.evaluate(free.get_parameters(x), x)["y"]
    np.testing.assert_array_equal(run(needs), np.asarray(want))
    with pytest.raises(MemoryError, match=rf"device \d needs {needs} bytes.* has {needs - 1}\n"):
        run(needs - 1)


def test_slower_links_make_another_plan(tmp_path):
    """Sequence parallelism pays where the links of the group are slow beside the rest, by the cost model alone."""
    fast, slow = tmp_path / "fast.txt", tmp_path / "slow.txt"
    fast.write_text(FIGURES)
    slow.write_text(FIGURES.replace("link_rate 5e9", "link_rate 5e6").replace("memory_rate 10e9", "memory_rate 1e5"))
    m = ml.Model()
    m |= ml.Linear(64, weight_shard_spec=(None, 0))(input="x", output="h")
    m += ml.Linear(64, weight_shard_spec=(0, None))()
    m += ml.LayerNorm()(output="n")
    m += ml.Linear(64, weight_shard_spec=(None, 0))(output="y")
    x = {"x": np.ones((4, 32, 64), np.float32)}
    texts = [ml.compile(m, CBackend(device_mesh=(4,), machine=str(f))).program_text(x) for f in (fast, slow)]
    assert texts[0] != texts[1] and "reduce_scatter" in texts[1]


def test_calibrate_measures_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    begin = time.process_time()
    text = CBackend(device_mesh=(4,), machine="calibrate").describe()
    took = time.process_time() - begin
    path = re.search(r"machine: (\S+machine_native_\d+_cores\.txt)", text)[1]
    assert path.startswith(str(tmp_path)) and took < 20
    kept, written = open(path).read(), os.stat(path).st_mtime_ns
    figures = dict(line.split(None, 1) for line in kept.splitlines() if line[0] != "#")
    assert 1e8 < float(figures["flops"].split()[1]) < 1e14 and float(figures["link_rate"]) > 1e7
    assert int(figures["cores"]) >= 1
    begin = time.process_time()
    assert CBackend(device_mesh=(2,), machine="calibrate").describe().count(path) == 1
    assert time.process_time() - begin < took / 2
    assert open(path).read() == kept and os.stat(path).st_mtime_ns == written
    own = tmp_path / "own.txt"
    assert f"machine: {own}" in CBackend(device_mesh=(2,), machine=f"calibrate:{own}").describe()
    assert own.exists()
    with pytest.raises(OSError, match="can't write"):
        CBackend(device_mesh=(2,), machine=f"calibrate:{tmp_path}/no/such/folder.txt")


@pytest.mark.parametrize("where", ["{}", "calibrate:{}"])
def test_a_pipe_is_no_machine_file(where, tmp_path):
    """Opening it must not wait for a writer."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ml.MithrilError, match="can't be read: it is a pipe"):
        CBackend(device_mesh=(2,), machine=where.format(tmp_path / "pipe"))
