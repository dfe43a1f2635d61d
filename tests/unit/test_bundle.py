import hashlib
import json
import math
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stance import BundleError, load
from stance.bundle import bundle_tensors, load_bundle, put_first_look, save_bundle
from tests.unit.test_first_look import first_look


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def resign(folder: Path) -> None:
    """Make the manifest fit, as someone who tampers with care would."""
    names = json.loads((folder / "manifest.json").read_text())
    hashes = {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in names}
    (folder / "manifest.json").write_text(json.dumps(hashes))


def edit(folder: Path, name: str, **changes) -> None:
    values = json.loads((folder / name).read_text())
    values.update(changes)
    (folder / name).write_text(json.dumps(values))
    if name != "manifest.json":
        resign(folder)


def flip_byte(folder):
    path = folder / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-7] ^= 1
    path.write_bytes(data)


def pickled_weights(folder):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (folder.parent / "executed",))

    (folder / "weights.safetensors").write_bytes(pickle.dumps(Evil()))
    resign(folder)


def added_pickle(folder):
    (folder / "training_args.bin").write_bytes(pickle.dumps({}))


def traversal(folder):
    edit(folder, "manifest.json", **{"../../etc/passwd": "0" * 64})


def symlink(folder):
    target = folder.parent / "weights"
    (folder / "weights.safetensors").rename(target)
    (folder / "weights.safetensors").symlink_to(target)


def huge_header(folder):
    path = folder / "weights.safetensors"
    path.write_bytes((2**62).to_bytes(8, "little") + path.read_bytes()[8:])
    resign(folder)


def truncated(folder):
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    resign(folder)


def missing_tensor(folder):
    tensors = load_file(folder / "weights.safetensors")
    tensors.pop("head.weight")
    save_file(tensors, folder / "weights.safetensors")
    resign(folder)


def wrong_shape(folder):
    tensors = load_file(folder / "weights.safetensors")
    name = next(n for n in tensors if n.startswith("encoder."))
    tensors[name] = torch.zeros(3)
    save_file(tensors, folder / "weights.safetensors")
    resign(folder)


def huge_json(folder):
    (folder / "bundle.json").write_text('{"a": "' + "x" * 2_000_000 + '"}')
    resign(folder)


def foreign(folder):
    spec = json.loads((folder / "bundle.json").read_text())
    edit(folder, "bundle.json", encoder={**spec["encoder"], "model_type": "llama"})


def remote_code(folder):
    spec = json.loads((folder / "bundle.json").read_text())
    auto = {"AutoModel": "evil.EvilModel"}
    edit(folder, "bundle.json", encoder={**spec["encoder"], "model_type": "evil", "auto_map": auto})


def looks(**changes):
    """A first look with some tensors changed (given a function) or gone (None)."""

    def change(folder):
        put_first_look(folder, first_look(folder))
        path = folder / "weights.safetensors"
        tensors = load_file(path)
        for name, of in changes.items():
            tensor = tensors.pop(f"first_look.{name}", None)
            if of is not None:
                tensors[f"first_look.{name}"] = of(tensor).contiguous()
        save_file(tensors, path)
        resign(folder)

    return change


def set_field(**changes):
    def change(folder):
        edit(folder, "bundle.json", **changes)

    return change


HOSTILE = {
    "a flipped byte": (flip_byte, "altered since it was saved"),
    "weights missing": (lambda f: (f / "weights.safetensors").unlink(), "missing"),
    "tokenizer missing": (lambda f: (f / "tokenizer.json").unlink(), "missing"),
    "manifest missing": (lambda f: (f / "manifest.json").unlink(), "no manifest"),
    "manifest not JSON": (lambda f: (f / "manifest.json").write_text("{"), "not readable"),
    "manifest a list": (lambda f: (f / "manifest.json").write_text("[]"), "expected an object"),
    "a pickle as weights": (pickled_weights, "not a safetensors file"),
    "an added pickle": (added_pickle, "unexpected file 'training_args.bin'"),
    "an added script": (lambda f: (f / "model.py").write_text("x"), "unexpected file"),
    "path traversal": (traversal, "lists"),
    "a symlink": (symlink, "not a plain file"),
    "a huge header": (huge_header, "not a safetensors file"),
    "truncated weights": (truncated, "not a safetensors file"),
    "a missing tensor": (missing_tensor, "head does not fit"),
    "a tensor of another shape": (wrong_shape, "could not be built"),
    "huge JSON": (huge_json, "larger than"),
    "another architecture": (foreign, "unsupported architecture 'llama'"),
    "remote code": (remote_code, "unsupported architecture 'evil'"),
    "a newer format": (set_field(format_version=99), "pip install -U peace-stance"),
    "an unknown field": (set_field(extra=1), "unknown field 'extra'"),
    "labels no list": (set_field(classes_="none"), "expected at least two labels"),
    "one label": (set_field(classes_=["none"]), "expected at least two labels"),
    "more labels than the head": (set_field(classes_=list("abcdef")), "head does not fit"),
    "temperature zero": (set_field(temperature=0.0), "out of range"),
    "a word as length": (set_field(max_length_tokens="long"), "expected int"),
    "a first look without weights": (looks(weights=None), "damaged first look"),
    "a first look of few weights": (looks(weights=lambda t: t[:100]), "damaged first look"),
    "a first look of many weights": (looks(weights=lambda t: t.repeat(9)), "damaged first look"),
    "a first look in two dimensions": (looks(weights=lambda t: t[None]), "damaged first look"),
    "a first look of whole numbers": (looks(weights=lambda t: t.int()), "damaged first look"),
    "a first look without number": (looks(weights=lambda t: t * math.nan), "damaged first look"),
    "a first look of two thresholds": (looks(threshold=lambda t: t.repeat(2)), "damaged first"),
    "a first look without threshold": (looks(threshold=None), "damaged first look"),
    "a first look with more": (looks(extra=lambda _: torch.zeros(1)), "damaged first look"),
    "a first look of other labels": (looks(proba=lambda t: t[:2]), "damaged first look"),
    "a first look that says a stance": (looks(proba=lambda t: t.flip(0)), "its answer is"),
    "a first look of no shares": (looks(proba=lambda t: t * 2), "its answer is"),
    "a first look uncalibrated": (
        looks(**{f"calibration.{name}": None for name in ("proba", "y", "group")}),
        "damaged first look",
    ),
    "a first look of odd calibration": (
        looks(**{"calibration.y": lambda t: t[:1]}),
        "damaged calibration",
    ),
    "a first look of narrow calibration": (
        looks(**{"calibration.proba": lambda t: t[:, :2]}),
        "damaged first look",
    ),
    "a broken tokenizer": (
        lambda f: ((f / "tokenizer.json").write_text("{}"), resign(f)),
        "not a tokenizer",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_folder_gets_one_error_and_runs_nothing(name, bundle):
    change, expected = HOSTILE[name]
    change(bundle)
    with pytest.raises(BundleError) as caught:
        load(bundle)
    assert expected in str(caught.value)
    assert str(bundle) in str(caught.value)
    assert not (bundle.parent / "executed").exists()


def test_no_such_model_lists_the_shipped_ones():
    with pytest.raises(BundleError, match="no model 'nothing'"):
        load("nothing")


def test_saving_and_loading_keeps_every_bit(bundle, tmp_path):
    model, spec, tokenizer, calibration, _ = load_bundle(bundle)
    save_bundle(
        tmp_path / "again", bundle_tensors(model, spec), spec, tokenizer, "card", calibration
    )
    model2, spec2, _, calibration2, _ = load_bundle(tmp_path / "again")
    assert spec2 == spec
    assert (calibration2.proba == calibration.proba).all()
    assert (calibration2.group == calibration.group).all()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, model2.state_dict()[name]), name


def test_a_first_look_changes_nothing_else_and_can_be_taken_away(bundle):
    before = {p.name: p.read_bytes() for p in bundle.iterdir()}
    put_first_look(bundle, first_look(bundle))
    changed = {p.name for p in bundle.iterdir() if p.read_bytes() != before[p.name]}
    assert changed == {"weights.safetensors", "manifest.json"}
    found, wanted = load_bundle(bundle).first_look, first_look(bundle)
    assert (found.weights == wanted.weights).all()
    assert found.threshold == pytest.approx(wanted.threshold)
    assert found.proba == pytest.approx(wanted.proba)
    assert (found.calibration.y == wanted.calibration.y).all()
    put_first_look(bundle, None)
    assert {p.name: p.read_bytes() for p in bundle.iterdir()} == before
    assert [p.name for p in bundle.parent.iterdir()] == ["bundle"]
    flip_byte(bundle)
    with pytest.raises(BundleError, match="altered"):
        put_first_look(bundle, wanted)


def test_bundle_of_a_packaged_base_leaves_out_what_the_package_has(tiny_config, tmp_path):
    from stance.encoder import encoder_config, find_base, load_tokenizer
    from stance.model import ModelSpec, new_model

    base = find_base("minilm")
    spec = ModelSpec(("a", "b"), "minilm", base.sha256, encoder_config(base.folder), 101, 102, 0)
    torch.manual_seed(0)
    model = new_model(base, spec, 0.1)
    tokenizer = load_tokenizer(base.folder)
    save_bundle(tmp_path / "b", bundle_tensors(model, spec), spec, tokenizer, "card")
    assert set(load_file(tmp_path / "b" / "weights.safetensors")) == {"head.bias", "head.weight"}
    again, *_ = load_bundle(tmp_path / "b")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_saving_over_a_bundle_replaces_it(bundle):
    model, spec, tokenizer, *_ = load_bundle(bundle)
    save_bundle(bundle, bundle_tensors(model, spec), spec, tokenizer, "another card")
    assert (bundle / "README.md").read_text() == "another card"
    assert [p.name for p in bundle.parent.iterdir()] == ["bundle"]


def test_changes_of_low_rank_are_stored_thin_and_come_back(tmp_path):
    from stance.encoder import encoder_config, find_base, load_tokenizer
    from stance.model import ModelSpec, new_model

    base = find_base("minilm")
    spec = ModelSpec(("a", "b"), "minilm", base.sha256, encoder_config(base.folder), 101, 102, 0)
    torch.manual_seed(0)
    model = new_model(base, spec, 0.1)
    weight = model.encoder.encoder.layer[0].intermediate.dense.weight
    change = torch.randn(weight.shape[0], 2) @ torch.randn(2, weight.shape[1]) / 100
    with torch.no_grad():
        weight += change
    tensors = bundle_tensors(model, spec, rank=2)
    assert tensors["encoder.encoder.layer.0.intermediate.dense.weight.left"].shape[1] == 2
    save_bundle(tmp_path / "b", tensors, spec, load_tokenizer(base.folder), "card")
    again, *_ = load_bundle(tmp_path / "b")
    found = again.encoder.encoder.layer[0].intermediate.dense.weight
    assert torch.allclose(found, weight, atol=1e-5)
    del tensors["encoder.encoder.layer.0.intermediate.dense.weight.right"]
    save_bundle(tmp_path / "torn", tensors, spec, load_tokenizer(base.folder), "card")
    with pytest.raises(BundleError, match="does not fit the base weights"):
        load_bundle(tmp_path / "torn")
