"""Which NEFF of a run is the kernel's: by what it takes, never by its name or age."""

import os

import pytest

from npuscope.backends.neuron_neffs import choose_neff
from npuscope.errors import MeasurementError
from tests.standins.neuronx_cc import neff_of
from tests.writers.neff import neff_bytes

WANTED = {"x": 1024, "w": 4096}
OUTPUT = ((4, 128), "bfloat16")


def write(path, uuid="", **shapes):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(neff_of({name: (shape, "bfloat16") for name, shape in shapes.items()}, OUTPUT, uuid or path.name))
    return path


def choose(folder, *paths, wanted=WANTED, **options):
    return choose_neff(paths, wanted, output_dir=folder, what="the run", **options)


def test_the_one_that_takes_the_inputs_is_chosen_whatever_its_age(tmp_path):
    fitting = write(tmp_path / "a.neff", x=(4, 128), w=(16, 128))
    others = [write(tmp_path / "b.neff", x=(4, 128)), write(tmp_path / "c.neff", x=(4, 128), w=(16, 129))]
    os.utime(fitting, (1, 1))
    chosen = choose(tmp_path, *others, fitting)
    assert (chosen.path, chosen.input_names) == (fitting, ("x", "w"))
    assert chosen.bindings == (("x", "x"), ("w", "w"))
    assert chosen.notes == ("2 other NEFFs of this run take other inputs",)


def test_inputs_of_other_names_are_told_apart_by_bytes_alone(tmp_path):
    chosen = choose(tmp_path, write(tmp_path / "a.neff", input0=(16, 128), input1=(4, 128)))
    assert dict(chosen.bindings) == {"x": "input1", "w": "input0"}


def test_inputs_of_one_size_stay_unbound(tmp_path):
    path = write(tmp_path / "a.neff", input0=(16, 128), input1=(16, 128), input2=(4, 128))
    chosen = choose(tmp_path, path, wanted={"x": 1024, "gate": 4096, "up": 4096})
    assert dict(chosen.bindings) == {"x": "input2"}
    assert chosen.notes[0].startswith("gate and up have the size of another input")


@pytest.mark.parametrize(
    ("extra_bytes", "fits"),
    [((), False), ((256,), False), ((256, 1024), True), ((256, 1024, 77), True)],
)
def test_further_inputs_are_those_that_the_caller_hands_over(tmp_path, extra_bytes, fits):
    path = write(tmp_path / "a.neff", x=(4, 128), w=(16, 128), norm=(1, 128), out=(4, 128))
    if fits:
        assert choose(tmp_path, path, extra_bytes=extra_bytes).path == path
    else:
        with pytest.raises(
            MeasurementError, match=r"wrote no NEFF that takes 2 inputs of 1,024, 4,096 bytes; it wrote a\.neff$"
        ):
            choose(tmp_path, path, extra_bytes=extra_bytes)


def test_a_scalar_of_the_framework_is_no_other_graph(tmp_path):
    assert choose(tmp_path, write(tmp_path / "a.neff", x=(4, 128), w=(16, 128), constant=(1,))).notes == ()


def test_a_copy_in_a_cache_is_the_same_compilation(tmp_path):
    first = write(tmp_path / "a.neff", "one", x=(4, 128), w=(16, 128))
    copy = write(tmp_path / "cache" / "model.neff", "one", x=(4, 128), w=(16, 128))
    chosen = choose(tmp_path, first, copy)
    assert (chosen.path, chosen.notes) == (first, ())


def test_two_compilations_that_take_the_same_are_refused_with_their_names(tmp_path):
    paths = [write(tmp_path / name, x=(4, 128), w=(16, 128)) for name in ("a.neff", "cache/b.neff")]
    with pytest.raises(
        MeasurementError, match=r"wrote 2 NEFFs that take .* nothing tells which: a\.neff, cache/b\.neff"
    ):
        choose(tmp_path, *paths)


def test_no_neff_is_an_error(tmp_path):
    with pytest.raises(MeasurementError, match=r"the run wrote no NEFF$"):
        choose(tmp_path)


def test_one_without_a_table_of_tensors_is_taken_with_a_note_if_it_is_the_only_one(tmp_path):
    path = tmp_path / "a.neff"
    path.write_bytes(neff_bytes({"neff.json": b"{}"}))
    chosen = choose(tmp_path, path)
    assert (chosen.path, chosen.input_names, chosen.bindings) == (path, (), ())
    assert "tells no inputs" in chosen.notes[0]
    with pytest.raises(MeasurementError, match="wrote no NEFF that takes"):
        choose(tmp_path, path, write(tmp_path / "b.neff", x=(4, 128)))


def test_a_damaged_one_is_told(tmp_path):
    path = tmp_path / "a.neff"
    path.write_bytes(bytes(2000))
    with pytest.raises(MeasurementError, match=r"the run wrote a NEFF that cannot be read: .*a\.neff, byte 8"):
        choose(tmp_path, path)


def test_an_error_names_a_few_of_many(tmp_path):
    paths = [write(tmp_path / f"{index}.neff", x=(index + 1, 1)) for index in range(9)]
    with pytest.raises(MeasurementError, match=r"5\.neff and 3 more$"):
        choose(tmp_path, *paths)
